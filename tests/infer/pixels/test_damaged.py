"""Images damaged at random: each gives pixels or an ImageError of one line, the same ones every time, and in bounds.

The digest of all outcomes is computed in processes of their own, whose fresh memory is filled with different bytes:
pixels that a decoder left as it found them would differ.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Photos
from helpers import encode
from image_files import mutate
from numpy.typing import NDArray
from paths import ROOT, SUPPORT
from PIL import Image

from infer.pixels.decode import ImageError, decode
from infer.pixels.header import LARGEST_PIXELS

MUTANTS = 1000


def sources() -> dict[str, bytes]:
    """A small picture in every kind that is decoded."""
    y, x = np.mgrid[:37, :53]
    pixels = np.stack([x * 4, y * 6, (x * y) % 256, 255 - x], -1).astype(np.uint8)
    rgb = np.ascontiguousarray(pixels[..., :3])
    image = Image.fromarray(rgb)
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(rgb[::-1].copy())], "duration": 50}
    return {
        "JPEG": encode(image, "JPEG"),
        "JPEG progressive": encode(image, "JPEG", progressive=True),
        "JPEG grey": encode(image.convert("L"), "JPEG"),
        "JPEG CMYK": encode(image.convert("CMYK"), "JPEG"),
        "PNG": encode(image, "PNG"),
        "PNG palette": encode(image.quantize(16), "PNG", transparency=3),
        "PNG with alpha": encode(pixels, "PNG"),
        "WebP": encode(image, "WEBP"),
        "WebP lossless": encode(pixels, "WEBP", lossless=True),
        "WebP animated": encode(image, "WEBP", lossless=True, **frames),
        "GIF": encode(image.quantize(32), "GIF", transparency=3),
        "GIF animated": encode(image.quantize(32), "GIF", **frames),
        "BMP": encode(image, "BMP"),
        "TIFF": encode(image, "TIFF", compression="tiff_lzw"),
        "PPM": encode(image, "PPM"),
    }


def mutants() -> list[tuple[str, bytes]]:
    kinds = list(sources().items())
    rng = np.random.default_rng(20140904)
    return [(name, mutate(data, rng)) for name, data in (kinds[i % len(kinds)] for i in range(MUTANTS))]


def outcome(data: bytes) -> NDArray[np.uint8] | str:
    try:
        return decode(data, name="x.JPEG")
    except ImageError as error:
        return str(error)


def digest() -> str:
    """Of every seventh mutant, which are of all kinds: filling memory makes each take a hundred times as long."""
    all_of_them = hashlib.sha256()
    for _, data in mutants()[::7]:
        found = outcome(data)
        all_of_them.update(found.encode() if isinstance(found, str) else repr(found.shape).encode() + found.tobytes())
    return all_of_them.hexdigest()


def test_pixels_or_one_line() -> None:
    found: dict[str, Counter[str]] = {name: Counter() for name in sources()}
    for name, data in mutants():
        result = outcome(data)
        if isinstance(result, str):
            assert result.startswith("x.JPEG: ")
            assert len(result.splitlines()) == 1
            found[name]["refused"] += 1
        else:
            assert result.dtype == np.uint8
            assert result.ndim == 3
            assert result.shape[2] == 3
            assert 0 < result.shape[0] * result.shape[1] <= LARGEST_PIXELS
            found[name]["decoded"] += 1
    assert all(counts["refused"] for counts in found.values()), found  # each kind is damaged beyond repair at times
    assert sum(counts["decoded"] for counts in found.values()) > MUTANTS / 20, found  # and is not at others


@pytest.mark.processes
def test_the_same_every_time_whatever_was_in_memory() -> None:
    command = [sys.executable, "-c", "import test_damaged; print(test_damaged.digest())"]
    paths = os.pathsep.join([str(Path(__file__).parent), str(SUPPORT), str(ROOT / "tests"), str(ROOT)])
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, "MALLOC_PERTURB_": fill},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libjpeg and libpng say there what they met
            text=True,
        )
        for fill in ("85", "170")
    ]
    said = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len(said[0]) == 64
    assert said[0] == said[1]


def with_scans(progressive: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again, up to so many scans in all."""
    last = progressive.rindex(b"\xff\xda")
    more = count - progressive.count(b"\xff\xda")
    return progressive[:-2] + more * progressive[last:-2] + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_refused_as_in_cpp(photos: Photos) -> None:
    """A file of some kilobytes that would take hours. What follows a picture, or looks like a scan, is none."""
    photo = np.ascontiguousarray(photos["cat"][:40, :50])
    progressive, plain = (encode(photo, "JPEG", progressive=own) for own in (True, False))
    expected = decode(progressive)
    assert decode(with_scans(progressive, 500)).shape == expected.shape
    with pytest.raises(ImageError, match="is a JPEG of more than 500 scans: save it anew"):
        decode(with_scans(progressive, 501))

    # another file behind it, and a comment of such bytes before it
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 1200) + 600 * b"\xff\xda"
    for scans in (600 * b"\xff\xda\x00\x08", b""):
        for data, whole in ((progressive, expected), (plain, decode(plain))):
            assert (decode(data[:2] + comment + data[2:] + scans) == whole).all()
    assert (decode(plain[:-2] + 600 * plain[plain.rindex(b"\xff\xda") : -2] + b"\xff\xd9") == decode(plain)).all()
