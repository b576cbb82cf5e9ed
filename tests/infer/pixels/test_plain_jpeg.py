"""infer/pixels/plain_jpeg.py: whichever decoder it is, pixels, errors and statuses are OpenCV's."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Photos
from helpers import encode
from image_files import encoded, mutate
from numpy.typing import NDArray
from PIL import Image

from infer.pixels import decode as decode_module
from infer.pixels.decode import ImageError, decode
from infer.pixels.plain_jpeg import Decoder, equal_decoder, samples
from infer.spec import Exif

SUBSAMPLINGS = {"4:1:1": 0x411111, "4:2:0": 0x221111, "4:2:2": 0x211111, "4:4:0": 0x121111, "4:4:4": 0x111111}
SIZES = ((1, 1), (1, 9), (9, 1), (8, 8), (17, 33), (31, 29), (75, 100))
MUTANTS = 4000


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    equal_decoder.cache_clear()
    yield
    equal_decoder.cache_clear()


def outcome(data: bytes, exif: Exif) -> NDArray[np.uint8] | str:
    try:
        return decode(data, exif=exif)
    except ImageError as error:
        return str(error)


def by_opencv(data: bytes, exif: Exif, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8] | str:
    with monkeypatch.context() as without:
        without.setattr(decode_module, "decode_plain", lambda *_: None)
        return outcome(data, exif)


def check(found: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asserts that each file has one outcome by both decoders, for both ways of treating EXIF."""
    different = []
    for (name, data), exif in itertools.product(found.items(), ("ignore", "apply")):
        now, before = outcome(data, exif), by_opencv(data, exif, monkeypatch)
        if type(now) is not type(before) or not np.array_equal(now, before):
            different.append((name, exif))
    assert different == []


def plain_decodes(data: bytes, monkeypatch: pytest.MonkeyPatch, exif: Exif = "ignore") -> bool:
    """Whether libjpeg-turbo alone decodes it: then OpenCV is not asked."""
    assert equal_decoder() is not None
    asked: list[bytes] = []
    opencv = decode_module._decoded
    with monkeypatch.context() as watched:
        watched.setattr(decode_module, "_decoded", lambda *args: asked.append(args[0]) or opencv(*args))
        outcome(data, exif)
    return not asked


def zoo(photo: NDArray[np.uint8]) -> dict[str, bytes]:
    """JPEGs of every subsampling, quality and coding that OpenCV and Pillow write, of odd and smallest sizes."""
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    found: dict[str, bytes] = {}
    for (height, width), (kind, full) in itertools.product(SIZES, {"photo": photo, "noise": noise}.items()):
        pixels = np.ascontiguousarray(full[:height, :width])
        size = f"{kind} {height}x{width}"
        for name, quality, progressive, restart in itertools.product(SUBSAMPLINGS, (5, 75, 100), (0, 1), (0, 3)):
            options = {
                cv2.IMWRITE_JPEG_QUALITY: quality,
                cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
                cv2.IMWRITE_JPEG_RST_INTERVAL: restart,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR: SUBSAMPLINGS[name],
            }
            flat = [number for pair in options.items() for number in pair]
            found[f"{size} {name} {options}"] = cv2.imencode(".jpg", pixels, flat)[1].tobytes()
        image = Image.fromarray(pixels)
        found[f"{size} RGB by Adobe's marker"] = encode(image, "JPEG", keep_rgb=True, quality=90)
        found[f"{size} CMYK"] = encode(image.convert("CMYK"), "JPEG")
        found[f"{size} grey"] = encode(image.convert("L"), "JPEG", progressive=height % 2 == 0)
    return found


@pytest.fixture
def photo(photos: Photos) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photos["astronaut"][30:105, 150:250])


def test_all_plain_jpegs_have_opencvs_pixels_and_are_not_decoded_by_it(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = zoo(photo)
    check(found, monkeypatch)
    left = {name for name, data in found.items() if not plain_decodes(data, monkeypatch)}
    assert left == {name for name in found if "CMYK" in name}


def test_odd_files_have_opencvs_outcome(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    check(encoded(photos), monkeypatch)


def test_damaged_files_have_opencvs_outcome(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(23)
    whole = list(zoo(photo[:31, :33]).values())
    check({str(n): mutate(whole[int(rng.integers(len(whole)))], rng) for n in range(MUTANTS)}, monkeypatch)


@pytest.mark.parametrize("progressive", [False, True])
def test_files_that_end_early_or_late_have_opencvs_outcome(
    photo: NDArray[np.uint8], progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(photo, "JPEG", progressive=progressive, quality=60)
    found = {f"cut at {end}": whole[:end] for end in range(0, len(whole), 3)}
    found |= {f"ended at {end}": whole[:end] + b"\xff\xd9" for end in range(0, len(whole), 3)}
    found |= {f"then {more!r}": whole + more for more in (b"\0", b"\xff", b"\xff\xd8", whole, b"text" * 99)}
    found |= {"no marker of JFIF": whole[:2] + whole[20:], "no end": whole[:-2]}
    check(found, monkeypatch)


def test_flipped_bits_have_opencvs_outcome(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libjpeg only warns OpenCV may still have pixels."""
    whole = encode(photo[:24, :24], "JPEG", subsampling=2, quality=85)
    found = {}
    for place, bit in itertools.product(range(2, len(whole)), (0, 3, 7)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        found[f"{place}, {bit}"] = bytes(flipped)
    check(found, monkeypatch)


def test_a_rotation_that_is_to_be_applied_is_opencvs(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated, plain = encode(photo, "JPEG", exif=exif), encode(photo, "JPEG")
    assert not plain_decodes(rotated, monkeypatch, "apply")
    assert plain_decodes(rotated, monkeypatch, "ignore")
    assert plain_decodes(plain, monkeypatch, "apply")


def test_arithmetic_coding_and_lossless_are_opencvs(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the frame header: what either library makes of these is its own affair."""
    whole = encode(photo, "JPEG")
    frame = whole.index(b"\xff\xc0") + 1
    for marker in (0xC3, 0xC9, 0xCA):
        changed = whole[:frame] + bytes([marker]) + whole[frame + 1 :]
        assert not plain_decodes(changed, monkeypatch)


def test_without_the_package_opencv_decodes(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo, "JPEG")
    expected = decode(data)
    equal_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert equal_decoder() is None
    assert np.array_equal(decode(data), expected)


def one_level_off(decoder: Decoder) -> Decoder:
    return lambda data, colours: decoder(data, colours) ^ 1


def raising(error: type[Exception]) -> Callable[[Decoder], Decoder]:
    def wrap(_: Decoder) -> Decoder:
        def fail(data: bytes, colours: str) -> Any:
            raise error

        return fail

    return wrap


@pytest.mark.parametrize("change", [one_level_off, raising(ValueError), raising(MemoryError)])
def test_a_version_with_other_pixels_is_never_used(
    photo: NDArray[np.uint8], change: Callable[[Decoder], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(photo, "JPEG")
    decoder = equal_decoder()
    assert decoder is not None
    expected = decode(data)

    equal_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=change(decoder)))
    assert equal_decoder() is None
    assert np.array_equal(decode(data), expected)


def test_one_sample_that_differs_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = equal_decoder()
    assert decoder is not None
    for one in samples():
        equal_decoder.cache_clear()

        def other(data: bytes, colours: str, one: bytes = one) -> NDArray[np.uint8]:
            return decoder(data, colours) ^ (data == one)

        monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=other))
        assert equal_decoder() is None


def test_no_memory_for_it_leaves_the_image_to_opencv(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo, "JPEG")
    decoder = equal_decoder()
    assert decoder is not None
    expected = decode(data)

    def full(given: bytes, colours: str) -> NDArray[np.uint8]:
        if given == data:
            raise MemoryError
        return decoder(given, colours)

    equal_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(decode_jpeg=full))
    assert np.array_equal(decode(data), expected)
    assert not plain_decodes(data, monkeypatch)
