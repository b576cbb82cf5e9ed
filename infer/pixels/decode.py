"""The only file that decodes images: bytes to u8 RGB [h, w, 3], by one rule each (docs/data.md), or an ImageError.

OpenCV decodes, whatever the file is called. Grey becomes three equal channels, a palette its colours, 16 bits lose
their lower 8, alpha is dropped, CMYK (taken as Adobe writes it, inverted) is c*k/255 by OpenCV's integers; of several
pictures the first counts. EXIF rotation is ignored, as the authors' tools of 2014 did, unless the spec says "apply".
A truncated file is an error. Kinds and sizes are read from the header (header.py) before anything is decoded.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..data.folder import File, Stored, printable
from ..errors import Refused
from ..spec import Exif
from .header import LARGEST_PIXELS, HeaderError, damaged, read_header

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its decoders report what ImageError already says
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(LARGEST_PIXELS))  # should it read another size than we do

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
HEADER_BYTES = 1 << 16
"""Enough of most files to know their size: EXIF and a colour profile come before it."""


class ImageError(Refused):
    """A file that is not a whole image; the message is one line and names the file where it is known."""


def decode(data: bytes, *, exif: Exif = "ignore", name: str = "image") -> Pixels:
    """u8 RGB [h, w, 3] of an encoded image (JPEG, PNG, WebP, ...). Raises ImageError."""
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if exif == "ignore" else 0)
    try:
        kind = read_header(data).kind
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            pixels = None
        if pixels is None:  # the rest of the image is not what its header promised
            raise damaged(kind)
    except HeaderError as error:
        raise ImageError(f"{name}: {error}") from None
    return pixels.astype(np.uint8, copy=False)


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
    """(height, width) of an encoded image as it is stored, from its header alone. Raises ImageError."""
    file = File(image) if isinstance(image, Path) else image
    name = name or printable(str(file.path))
    try:
        try:
            header = read_header(file.read_bytes(HEADER_BYTES))
        except HeaderError:
            header = read_header(file.read_bytes())  # it may say so further on
    except (OSError, HeaderError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name}: is not an image whose size we can read ({reason})") from None
    return header.height, header.width
