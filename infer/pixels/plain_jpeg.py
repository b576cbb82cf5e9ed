"""Plain JPEGs by libjpeg-turbo alone (simplejpeg), a little faster than through OpenCV, whose pixels it must give.

Knows nothing of other files: whatever is not plain, or not whole, is left to decode.py. A JPEG is plain if it is of
one or three components of 8 bits in Huffman coding, baseline or progressive, as nearly all are. Where libjpeg-turbo has
the slightest remark about a file it is taken for damaged, so that what a damaged file becomes is OpenCV's alone.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ..spec import Exif
from .header import Header, jpeg_frame

Decoder = Callable[[bytes, str], NDArray[np.uint8]]
"""Takes a JPEG and the name of a colour space; gives pixels, u8 [h, w, 3]."""

HUFFMAN = (0xC0, 0xC1, 0xC2)
"""Frame headers of baseline, extended and progressive JPEGs in Huffman coding (ITU-T T.81, table B.1)."""
APP1 = re.compile(rb"\xff\xe1")
"""Marker of the segment that may have an EXIF rotation. Among a scan's data 0xFF is followed by other bytes."""
REFUSALS = (ValueError, RuntimeError, MemoryError)
"""What simplejpeg raises: the first also for what libjpeg only warns of."""


def decode_plain(data: bytes, header: Header, exif: Exif) -> NDArray[np.uint8] | None:
    """u8 RGB [h, w, 3] of a plain JPEG that has nothing to rotate, the pixels that OpenCV gives; else None."""
    if not is_plain(data, header, exif):
        return None
    decoder = equal_decoder()
    if decoder is None:
        return None
    try:
        pixels = decoder(data, "RGB")
    except REFUSALS:
        return None
    return pixels if pixels.shape == (header.height, header.width, 3) else None


def is_plain(data: bytes, header: Header, exif: Exif) -> bool:
    """True for a plain JPEG, whose header this is, that has nothing to rotate."""
    if header.kind != "JPEG" or (exif == "apply" and APP1.search(data)):
        return False
    frame = jpeg_frame(data)
    return data[frame] in HUFFMAN and data[frame + 8 : frame + 9] in (b"\1", b"\3")


@functools.cache
def equal_decoder() -> Decoder | None:
    """simplejpeg's decoder, if it is installed and gives OpenCV's pixels of every JPEG of `samples`.

    Each of the two packages brings its own libjpeg-turbo, in versions that other releases may set apart.
    """
    try:
        decoder: Decoder = importlib.import_module("simplejpeg").decode_jpeg
    except (ImportError, AttributeError, RuntimeError, ValueError):  # the last two where it was built for another NumPy
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        for sample in samples():
            pixels = cv2.imdecode(np.frombuffer(sample, np.uint8), flags)
            if pixels is None or not np.array_equal(decoder(sample, "RGB"), pixels):
                return None
    except (*REFUSALS, cv2.error):
        return None
    return decoder


def samples() -> list[bytes]:
    """Small JPEGs of every kind in which versions of libjpeg could differ.

    They are of every subsampling, of odd sizes, grey, with restarts, and progressive, these also without their last
    scans, since libjpeg smoothes the blocks of such.
    """
    y, x = np.mgrid[:39, :53]
    noise = np.random.default_rng(0).integers(0, 90, (39, 53))
    colours = np.stack([x * 4, y * 5, (x * y + noise) % 256], 2).astype(np.uint8)
    subsamplings = (
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    )

    found = [_encode(colours[..., 0], quality=80)]
    for subsampling in subsamplings:
        found.append(_encode(colours, quality=90, subsampling=subsampling, restart_interval=5))
        progressive = _encode(colours, quality=40, subsampling=subsampling, is_progressive=1)
        scans = [scan.start() for scan in re.finditer(b"\xff\xda", progressive)]
        found += [progressive, *(progressive[:place] + b"\xff\xd9" for place in scans[1:])]
    return found


def _encode(
    pixels: NDArray[np.uint8],
    *,
    quality: int,
    subsampling: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    restart_interval: int = 0,
    is_progressive: int = 0,
) -> bytes:
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: subsampling,
        cv2.IMWRITE_JPEG_RST_INTERVAL: restart_interval,
        cv2.IMWRITE_JPEG_PROGRESSIVE: is_progressive,
    }
    return cv2.imencode(".jpg", pixels, [number for pair in options.items() for number in pair])[1].tobytes()
