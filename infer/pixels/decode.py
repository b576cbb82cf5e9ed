"""The only file that decodes images: bytes to u8 RGB [h, w, 3], by one rule each (docs/data.md), or an ImageError.

OpenCV decodes, whatever the file is called; of plain JPEGs libjpeg-turbo alone where its pixels are the same
(plain_jpeg.py): which of the two it was changes no pixel, no error and no status. Grey becomes three equal channels, a
palette its colours, 16 bits lose their lower 8, alpha is dropped, CMYK (taken as Adobe writes it, inverted) is c*k/255
by OpenCV's integers; of several pictures the first counts. EXIF rotation is ignored, as the authors' tools of 2014 did,
unless the spec says "apply". A truncated file is an error. Kinds and sizes are read from the header (header.py) before
anything is decoded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..data.folder import File, OwnFault, Stored, printable
from ..errors import Refused
from ..spec import Exif
from .header import LARGEST_PIXELS, Header, HeaderError, damaged, read_header

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its decoders report what ImageError already says
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(LARGEST_PIXELS))  # should it read another size than we do

import cv2
import numpy as np
from numpy.typing import NDArray

from .plain_jpeg import decode_plain

Pixels = NDArray[np.uint8]
HEADER_BYTES = 1 << 16
"""Enough of most files to know their size: EXIF and a colour profile come before it."""


DECODER_BYTES = 12
"""Bytes a pixel that a decoder needs at most: three channels of 16 bits, and a progressive JPEG's coefficients."""
SPARE_BYTES = 64 << 20


class ImageError(Refused):
    """A file that is not a whole image; the message is one line and names the file where it is known."""


def decode(data: bytes, *, exif: Exif = "ignore", name: str = "image") -> Pixels:
    """u8 RGB [h, w, 3] of an encoded image (JPEG, PNG, WebP, ...).

    Raises ImageError, and MemoryError where there is too little memory to say what the image is.
    """
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if exif == "ignore" else 0)
    try:
        header = read_header(data)
        pixels: NDArray[Any] | None = decode_plain(data, header, exif)
        if pixels is None:
            pixels = _decoded(data, flags)
        if pixels is None:
            _require_memory(header, name)
            pixels = _decoded(data, flags)  # the memory may have been another thread's until now
        if pixels is None:  # the rest of the image is not what its header promised
            raise damaged(header.kind)
    except HeaderError as error:
        raise ImageError(f"{name}: {error}") from None
    return pixels.astype(np.uint8, copy=False)


def _decoded(data: bytes, flags: int) -> NDArray[Any] | None:
    """What OpenCV makes of the bytes: None for what is damaged, and, without a difference, where memory runs out."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _require_memory(header: Header, name: str) -> None:
    """Raises MemoryError unless there is room for all that a decoder allocates for an image of this size."""
    wanted = DECODER_BYTES * header.height * header.width + SPARE_BYTES
    try:
        np.empty(wanted, np.uint8)
    except MemoryError:
        raise MemoryError(f"{name}: no memory to decode {header.width}x{header.height} px") from None


def decoded_bytes(data: bytes) -> int:
    """Bytes of the pixels that an image decodes to, by its header; 0 for what is not decoded."""
    try:
        header = read_header(data)
    except HeaderError:
        return 0
    return 3 * header.height * header.width


def read(path: Path, *, exif: Exif = "ignore") -> Pixels:
    """`decode` of a file. Raises ImageError, also when the file cannot be read."""
    name = printable(str(path))
    try:
        data = File(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from None
    return decode(data, exif=exif, name=name)


def image_size(image: Path | Stored, *, name: str = "") -> tuple[int, int]:
    """(height, width) of an encoded image as it is stored, from its header alone.

    Raises ImageError for what is the image's own fault, OSError where it cannot be read now.
    """
    file = File(image) if isinstance(image, Path) else image
    name = name or printable(str(file.path))
    try:
        try:
            header = read_header(file.read_bytes(HEADER_BYTES))
        except HeaderError:
            header = read_header(file.read_bytes())  # it may say so further on
    except (OwnFault, HeaderError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name}: is not an image whose size we can read ({reason})") from None
    return header.height, header.width
