"""The only file that opens images: bytes to u8 RGB [h, w, 3], by one stated rule each, or an ImageError.

OpenCV decodes, whatever the file is called. Grey becomes three equal channels, a palette its colours, 16 bits lose
their lower 8, alpha is dropped, CMYK (taken as Adobe writes it, inverted) is c*k/255 by OpenCV's integers. EXIF
rotation is ignored, as the authors' tools of 2014 did, unless the spec says "apply". A truncated file is an error.
Sizes are read by Pillow, since OpenCV has no reader of headers.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its decoders report what ImageError already says

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Exif = Literal["ignore", "apply"]


class ImageError(ValueError):
    """A file that is not a whole image; the message is one line and names the file where it is known."""


def decode(data: bytes, *, exif: Exif = "ignore", name: str = "image") -> Pixels:
    """u8 RGB [h, w, 3] of an encoded image (JPEG, PNG, WebP, ...). Raises ImageError."""
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes)")
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if exif == "ignore" else 0)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{name}: {str(error.err or error).strip()}") from None
    if pixels is None:
        known = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
        raise ImageError(f"{name}: " + (f"truncated or damaged {known}" if known else "is not an image we can decode"))
    return pixels.astype(np.uint8, copy=False)


def read(path: Path, *, exif: Exif = "ignore") -> Pixels:
    """`decode` of a file. Raises ImageError, also when the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    return decode(data, exif=exif, name=str(path))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an encoded image as it is stored, from its header alone. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may be a bomb, were it decoded
            with PIL.Image.open(path) as image:
                return image.height, image.width
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # what its parsers raise
        raise ImageError(f"{path}: is not an image whose size we can read ({error})") from None


_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP"}
