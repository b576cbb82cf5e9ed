"""Image files of every kind that docs/data.md has a rule for, and damage to them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from helpers import encode
from numpy.typing import NDArray
from PIL import Image

Photos = dict[str, NDArray[np.uint8]]


def encoded(photos: Photos) -> dict[str, bytes]:
    """JPEGs and PNGs of every kind that docs/data.md has a rule for."""
    photo = photos["cat"][:101, :153]
    grey = photo.mean(2).astype(np.uint8)
    found = {"plain.jpg": encode(photo, "JPEG"), "plain.png": encode(photo, "PNG"), "grey.png": encode(grey, "PNG")}

    def save(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[name] = buffer.getvalue()

    image = Image.fromarray(photo)
    for subsampling in (0, 1, 2):
        save(f"subsampling{subsampling}.jpg", image, "JPEG", subsampling=subsampling, quality=77)
    save("progressive.jpg", image, "JPEG", progressive=True)
    save("grey.jpg", Image.fromarray(grey), "JPEG")
    save("cmyk.jpg", image.convert("CMYK"), "JPEG")
    save("palette.png", image.quantize(17), "PNG")
    save("alpha.png", image.convert("RGBA"), "PNG")
    save("one-bit.png", image.convert("1"), "PNG")
    save("sixteen.png", Image.fromarray((np.arange(70 * 90).reshape(70, 90) * 10).astype(np.uint16)), "PNG")
    save("transparent.png", image.quantize(17), "PNG", transparency=3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"exif{orientation}.jpg", image, "JPEG", exif=exif)
    found |= rotations(found["plain.jpg"], found["plain.png"])
    whole = found["plain.jpg"]
    found |= {f"cut{n}.jpg": whole[: len(whole) * n // 10] for n in (1, 5, 9)}
    found |= {"cut.png": found["plain.png"][:900], "text.jpg": b"no image", "empty.jpg": b""}
    return found


def rotations(jpeg: bytes, png: bytes) -> dict[str, bytes]:
    """EXIF as it should not be, but is: in either byte order and any place, twice, cut off, of another kind."""

    def tiff(value: int, *before: tuple[int, int, int, int], order: str = "<", magic: int = 42, kind: int = 3) -> bytes:
        entries = [*before, (0x0112, kind, 1, value if order == "<" or kind == 4 else value << 16)]
        packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
        head = struct.pack(order + "HIH", magic, 8, len(entries))
        return (b"II" if order == "<" else b"MM") + head + packed + bytes(4)

    def segments(*payloads: bytes) -> bytes:
        inside = b"".join(b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload for payload in payloads)
        return jpeg[:2] + inside + jpeg[2:]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    name, six = b"Exif\0\0", tiff(6)
    found = {
        "big-endian.jpg": segments(name + tiff(5, order=">")),
        "long.jpg": segments(name + tiff(6, kind=4)),
        "long-big-endian.jpg": segments(name + tiff(6, order=">", kind=4)),
        "none.jpg": segments(name + tiff(0)),
        "nine.jpg": segments(name + tiff(9)),
        "xmp-first.jpg": segments(b"http://ns.adobe.com/xap/1.0/\0<x/>", name + six),
        "one-then-six.jpg": segments(name + tiff(1), name + six),
        "damaged-then-six.jpg": segments(name + b"II", name + six),
        "nameless.jpg": segments(b"abcdef" + six),
        "other-magic.jpg": segments(name + tiff(6, magic=43)),
        "other-order.jpg": segments(name + b"IM" + six[2:]),
        "twice-in-one.jpg": segments(name + tiff(6, (0x0112, 3, 1, 3))),
        "after-a-text.jpg": segments(name + tiff(6, (0x010F, 2, 4, 0))),
        "after-a-damaged-text.jpg": segments(name + tiff(6, (0x010F, 2, 400, 9000))),
        **{f"cut-exif{n}.jpg": segments(name + six[:-n]) for n in (4, 6, 8, 20)},
        "far-directory.jpg": segments(name + six[:4] + b"\xff\0\0\0" + six[8:]),
        "end-damaged.jpg": jpeg[:-1] + b"\xca",
        "end-of-file.png": png[:-12] + chunk(b"eXIf", six) + png[-12:],
        "named.png": png[:33] + chunk(b"eXIf", name + six) + png[33:],
    }
    found |= {f"exif{n}.png": png[:33] + chunk(b"eXIf", tiff(n, order="<>"[n % 2])) + png[33:] for n in range(10)}
    return found


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three of: cut, flipped bits, overwritten bytes, bytes put in, bytes taken out."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, count = int(rng.integers(len(changed) + 1)), int(rng.integers(1, 40))
        match int(rng.integers(5)):
            case 0:
                del changed[place:]
            case 1:
                for at in rng.integers(0, max(1, len(changed)), 4)[: len(changed)]:
                    changed[at] ^= 1 << int(rng.integers(8))
            case 2:
                changed[place : place + count] = rng.bytes(count)
            case 3:
                changed[place:place] = rng.bytes(count)
            case _:
                del changed[place : place + count]
    return bytes(changed)
