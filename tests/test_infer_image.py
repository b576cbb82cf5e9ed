"""infer/image.py: every kind of file a data set holds becomes u8 RGB by the stated rule, and the rest is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Photos
from helpers import encode
from numpy.typing import NDArray
from PIL import Image

from infer.image import ImageError, decode, image_size, read

EXIF_ORIENTATION = 0x0112


@pytest.fixture
def photo(photos: Photos) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photos["astronaut"][:201, :300])


def with_orientation(photo: NDArray[np.uint8], value: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = value
    return encode(photo, "JPEG", exif=exif)


def pillow(data: bytes, mode: str = "RGB") -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def check(got: NDArray[np.uint8], expected: NDArray[Any]) -> None:
    assert got.dtype == np.uint8
    assert got.shape == expected.shape
    assert np.count_nonzero(got != expected) == 0


def test_jpeg_equals_pillows_decoder(photo: NDArray[np.uint8]) -> None:
    data = encode(photo, "JPEG", quality=92)
    check(decode(data), pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_rgb_comes_back(photo: NDArray[np.uint8], kind: str) -> None:
    check(decode(encode(photo, kind)), photo)


def test_webp_comes_back(photo: NDArray[np.uint8]) -> None:
    check(decode(encode(photo, "WEBP", lossless=True)), photo)


def test_grey_jpeg_becomes_three_equal_channels(photo: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(photo).convert("L"), "JPEG")
    check(decode(data), np.repeat(pillow(data, "L")[..., None], 3, 2))


def test_cmyk_jpeg_is_c_times_k(photo: NDArray[np.uint8]) -> None:
    """Adobe stores CMYK inverted, and Pillow inverts it back; OpenCV's integers: k - ((255 - c) * k >> 8)."""
    data = encode(Image.fromarray(photo).convert("CMYK"), "JPEG")
    image = Image.open(io.BytesIO(data))
    assert image.mode == "CMYK"
    stored = 255 - np.asarray(image).astype(int)
    ink, k = stored[..., :3], stored[..., 3:]
    got = decode(data)
    check(got, k - ((255 - ink) * k >> 8))
    assert np.abs(got - ink * k / 255).max() <= 1
    assert np.abs(got.astype(int) - photo).mean() < 5  # the picture, not its negative


def test_palette_png_gives_its_colours(photo: NDArray[np.uint8]) -> None:
    image = Image.fromarray(photo).quantize(64)
    check(decode(encode(image, "PNG")), np.asarray(image.convert("RGB")))


def test_rgba_png_drops_alpha(photo: NDArray[np.uint8]) -> None:
    alpha = np.arange(photo[..., 0].size).reshape(photo.shape[:2]) % 256
    check(decode(encode(np.dstack([photo, alpha.astype(np.uint8)]), "PNG")), photo)


def test_16_bit_png_loses_its_lower_8(photo: NDArray[np.uint8]) -> None:
    deep = photo.astype(np.uint16) * 256 + photo[::-1]
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    check(decode(data), photo)
    grey = encode(Image.fromarray(deep[..., 0]), "PNG")
    check(decode(grey), np.repeat(photo[..., :1], 3, 2))


def test_png_named_jpeg_is_decoded_by_its_content(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "n02105855_2933.JPEG"
    path.write_bytes(encode(photo, "PNG"))
    check(read(path), photo)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda p: p), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90)],
)
def test_exif_rotation_is_ignored_unless_asked_for(photo: NDArray[np.uint8], orientation: int, turn: Any) -> None:
    data = with_orientation(photo, orientation)
    plain = pillow(data)  # Pillow leaves it alone
    check(decode(data), plain)
    check(decode(data, exif="ignore"), plain)
    check(decode(data, exif="apply"), turn(plain))


def damaged(photo: NDArray[np.uint8]) -> dict[str, tuple[bytes, str]]:
    jpeg, png, webp = encode(photo, "JPEG"), encode(photo, "PNG"), encode(photo, "WEBP")
    return {
        "empty": (b"", "is empty (0 bytes)"),
        "text": (
            b"<html>not found</html>\n" * 50,
            "is not an image we can decode",
        ),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "truncated or damaged JPEG"),
        "JPEG without its end": (jpeg[:-2], "truncated or damaged JPEG"),
        "JPEG of 10 bytes": (jpeg[:10], "truncated or damaged JPEG"),
        "half a PNG": (png[: len(png) // 2], "truncated or damaged PNG"),
        "half a WebP": (webp[: len(webp) // 2], "truncated or damaged WebP"),
    }


KINDS = ("empty", "text", "half a JPEG", "JPEG without its end", "JPEG of 10 bytes", "half a PNG", "half a WebP")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_whole_image_is_named_in_one_line(photo: NDArray[np.uint8], tmp_path: Path, kind: str) -> None:
    data, message = damaged(photo)[kind]
    path = tmp_path / "ILSVRC2012_val_00000001.JPEG"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(ImageError) as caught:
        decode(data, name="val/1.JPEG")
    assert str(caught.value) == f"val/1.JPEG: {message}"


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.JPEG", tmp_path):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: cannot be read (")
        assert "\n" not in str(caught.value)


def test_an_image_beyond_the_decoders_size_limit_is_refused_in_one_line() -> None:
    data = bytearray(encode(np.zeros((1, 1, 3), np.uint8), "BMP"))
    data[18:26] = (200_000).to_bytes(4, "little") * 2  # width, height
    with pytest.raises(ImageError, match=r"^huge\.bmp: ") as caught:
        decode(bytes(data), name="huge.bmp")
    assert "\n" not in str(caught.value)


def test_no_decoder_prints_about_damaged_files(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """In a process of its own, where nobody imported OpenCV first; the C libraries write to the file descriptor."""
    for number, (data, _) in enumerate(damaged(photo).values()):
        (tmp_path / f"{number}.JPEG").write_bytes(data)
    code = (
        "import pathlib, sys; from infer.image import ImageError, read\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: read(path)\n"
        "    except ImageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(KINDS)
    assert done.stderr == ""


# Sizes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_size_is_that_of_the_pixels(photo: NDArray[np.uint8], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encode(photo, kind))
    assert image_size(path) == (201, 300)


def test_size_comes_from_the_header_alone(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encode(photo, "JPEG")[:700])
    assert image_size(path) == (201, 300)
    with pytest.raises(ImageError):
        read(path)


def test_size_is_the_stored_one(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(with_orientation(photo, 6))
    assert image_size(path) == (201, 300)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header, with a right checksum, says that it is so large."""
    data = bytearray(encode(np.zeros((1, 1, 3), np.uint8), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_of_size(10_000, 10_000))
    assert image_size(path) == (10_000, 10_000)
    path.write_bytes(png_of_size(60_000, 60_000))
    tracemalloc.start()
    for function in (image_size, read):
        with pytest.raises(ImageError, match=r"x\.png: .*is 60000x60000 px, more than the 100000000 pixels we decode"):
            function(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no image", "is not an image we can decode"),
        (b"\xff\xd8\xff", "truncated or damaged JPEG"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "truncated or damaged PNG"),
        (png_of_size(0, 5), "truncated or damaged PNG"),
        (b"RIFF1234WEBPVP8?", "truncated or damaged WebP"),
        (b"RIFF1234AVI LIST", "is not an image we can decode"),
        (b"P6 10 ten 255\n", "truncated or damaged PPM"),
    ],
)
def test_no_size(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=rf"x\.jpg: is not an image whose size we can read \({reason}"):
        image_size(path)
    with pytest.raises(ImageError, match=rf"^cat/1\.jpg: is not an image whose .* \({reason}"):
        image_size(path, name="cat/1.jpg")
    with pytest.raises(ImageError, match=r"y\.jpg: is not an image .* \(cannot be read \(No such file"):
        image_size(tmp_path / "y.jpg")
