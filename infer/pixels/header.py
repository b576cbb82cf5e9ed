"""Kind and size of an encoded image from its first bytes, and which kinds we decode.

Decoding allocates what the header asks for, so sizes are bounded here.

By hand and not by Pillow, so that Python and the C++ library (infer/cpp/src/decode.cpp) accept the same files. Pillow
reads more than a header: it refuses a PNG for a text of 1 MB, and of files damaged at random some WebP and TIFF that
OpenCV decodes; and its rules change with its versions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from ..errors import Refused
from ..files import POINTER, is_pointer
from ..spec import Size

LARGEST_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded, into 300 MB. ILSVRC-2012's own are below a third of it."""
MOST_JPEG_SEGMENTS = 100_000
MOST_SCANS = 500
"""Scans of a JPEG, each of which costs the whole image's time and few bytes: kMostScans of infer/cpp/src/decode.cpp."""


class HeaderError(Refused):
    """No image that we decode; a phrase to stand after its name."""


class Header(NamedTuple):
    kind: str
    height: int
    width: int


def read_header(data: bytes) -> Header:
    """Kind and size as stored (before any EXIF rotation) of an image, of which `data` is at least the beginning.

    Raises HeaderError for what is not an image of our kinds, or is of a variety or size that we do not decode.
    """
    if not data:
        raise HeaderError("is empty (0 bytes)")
    if is_pointer(data):
        raise HeaderError(f"is {POINTER}")
    kind = next((kind for kind, (magic, _) in KINDS.items() if re.match(magic, data, re.DOTALL)), None)
    if kind is None:
        raise HeaderError("is not an image we can decode")

    try:
        height, width = KINDS[kind][1](data)
    except (struct.error, IndexError):  # the data end where the header goes on
        raise damaged(kind) from None
    if height <= 0 or width <= 0:
        raise damaged(kind)
    if height * width > LARGEST_PIXELS:
        raise HeaderError(f"is {width}x{height} px, more than the {LARGEST_PIXELS} pixels we decode: make it smaller")
    return Header(kind, height, width)


def damaged(kind: str) -> HeaderError:
    """The error of an image that ends too early or contradicts itself."""
    return HeaderError(f"truncated or damaged {kind}")


def _jpeg(data: bytes) -> Size:
    """Size in the first frame header."""
    place = jpeg_frame(data)
    bits, height, width = struct.unpack_from(">BHH", data, place + 3)
    if bits != 8:
        raise HeaderError(f"is a JPEG of {bits} bits, of which we decode 8: convert it to PNG")
    is_progressive = data[place] in PROGRESSIVE
    if not is_progressive or len(SCAN.findall(data, place)) > MOST_SCANS:  # where some may be other bytes
        _check_scans(data, place + 1, components=data[place + 8 : place + 9], is_progressive=is_progressive)
    return height, width


def jpeg_frame(data: bytes) -> int:
    """Place of the first frame header (ITU-T T.81, B.2.2), of its marker's second byte, by way of the segments before.

    Raises HeaderError, and struct.error or IndexError where the data end too early.
    """
    place = 2
    for _ in range(MOST_JPEG_SEGMENTS):
        place = data.find(b"\xff", place)
        if place < 0:
            break
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return place

        place += 1
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            break
        if marker > 0x01 and not 0xD0 <= marker <= 0xD8:  # the others have no length
            place += struct.unpack_from(">H", data, place)[0]
    raise damaged("JPEG")


PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
"""Frame headers of progressive JPEGs (ITU-T T.81, table B.1)."""
SCAN = re.compile(rb"\xff\xda")
"""Start of a scan. Searched as an expression, which takes a third of the time of bytes.count."""
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""A marker among a scan's data, in which 0xFF is followed by 0 or by the number of a restart."""


def _check_scans(data: bytes, place: int, *, components: bytes, is_progressive: bool) -> None:
    """Raises HeaderError for a JPEG of too many scans, from its frame header at `place` on.

    As libjpeg has it, an image whose first scan has all its components, and is not progressive, ends with that scan.
    """
    scans = 0
    place += int.from_bytes(data[place : place + 2], "big")
    while found := MARKER.search(data, place):
        place = found.end()
        marker = found[1][0]
        if marker == 0xD9:  # end of image
            return
        if marker == 0xDA:
            scans += 1
            if scans == 1 and not is_progressive and data[place + 2 : place + 3] >= components:
                return
            if scans > MOST_SCANS:
                raise HeaderError(f"is a JPEG of more than {MOST_SCANS} scans: save it anew")
        if marker != 0xD8:
            place += int.from_bytes(data[place : place + 2], "big")


def _png(data: bytes) -> Size:
    if data[12:16] != b"IHDR":
        raise damaged("PNG")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _webp(data: bytes) -> Size:
    """Lossy (RFC 6386, 9.1), lossless (RFC 9649, 3.4), or extended with its own canvas (RFC 9649, 2.7)."""
    match data[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return height & 0x3FFF, width & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        case b"VP8X" if len(data) >= 30:
            return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    raise damaged("WebP")


def _bmp(data: bytes) -> Size:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return abs(height), width


TIFF_WIDTH, TIFF_HEIGHT = 256, 257
TIFF_PLAIN: dict[int, tuple[int, tuple[int, ...]]] = {
    258: (1, (1, 2, 4, 8)),  # bits per sample
    262: (-1, (0, 1, 2, 3)),  # photometric interpretation: grey, grey, RGB, palette
    274: (1, (1,)),  # orientation
    338: (-1, (-1,)),  # extra samples, such as alpha
    339: (1, (1,)),  # sample format
}
"""Tags of a plain picture: the value that a missing one stands for, and the values that are decoded."""


def _tiff(data: bytes) -> Size:
    """Size of the first page (TIFF 6.0, section 2). Decoders agree about plain 8-bit pictures; others are refused."""
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, place)

    tags: dict[int, int] = {}
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        letter, size = ("H", 2) if kind == 3 else ("I", 4)
        if tag in (TIFF_WIDTH, TIFF_HEIGHT, *TIFF_PLAIN):
            at = entry + 8 if size * values <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
            tags.setdefault(tag, struct.unpack_from(f"{order}{letter}", data, at)[0])  # as libtiff, the first counts

    if any(tags.get(tag, usual) not in allowed for tag, (usual, allowed) in TIFF_PLAIN.items()):
        raise HeaderError("is a TIFF with alpha, a rotation, other colours or more than 8 bits: convert it to PNG")
    return tags.get(TIFF_HEIGHT, 0), tags.get(TIFF_WIDTH, 0)


def _netpbm(data: bytes) -> Size:
    """Size among the numbers after the magic, with comments between them; only levels of 8 or 16 bits are decoded."""
    count = 2 if data[1:2] in b"14" else 3  # bitmaps have no grey levels
    numbers = re.sub(rb"(?<=\s)#[^\r\n]*", b"", data[2:4096]).split(maxsplit=count)[:count]
    if len(numbers) < count or not all(n.isdigit() and len(n) < 10 for n in numbers):
        raise damaged("PPM")

    width, height, *largest = map(int, numbers)
    if largest and largest[0] not in (255, 65535):
        raise HeaderError(f"is a PPM whose largest value is {largest[0]}, not 255 or 65535: convert it to PNG")
    return height, width


KINDS: dict[str, tuple[bytes, Callable[[bytes], Size]]] = {
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "WebP": (rb"RIFF....WEBP", _webp),
    "GIF": (rb"GIF8[79]a", _gif),
    "BMP": (rb"BM", _bmp),
    "TIFF": (rb"II\*\0|MM\0\*", _tiff),
    "PPM": (rb"P[1-6][\s#]", _netpbm),  # and its relatives PGM and PBM
}
"""Kinds that are decoded: how their files begin, and the function that finds the size."""
