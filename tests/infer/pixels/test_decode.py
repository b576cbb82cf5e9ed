"""infer/pixels/decode.py: every kind of file a data set holds becomes u8 RGB by the stated rule, or is refused."""

from __future__ import annotations

import io
import os
import socket
import struct
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
from paths import ROOT
from PIL import Image

import infer.pixels.decode as decode_module
from infer.pixels.decode import ImageError, decode, image_size, read

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


def shades(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Alpha of every degree."""
    return (np.arange(photo[..., 0].size).reshape(photo.shape[:2]) % 256).astype(np.uint8)


def animation(photo: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """The photo, then its mirror image."""
    frames = [Image.fromarray(photo), Image.fromarray(np.ascontiguousarray(photo[:, ::-1]))]
    if kind == "GIF":
        frames = [frame.quantize(64) for frame in frames]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)


def equal_to_pillow(photo: NDArray[np.uint8]) -> dict[str, bytes]:
    """Kinds of which the rule is what Pillow's `convert("RGB")` gives."""
    image = Image.fromarray(photo)
    grey, palette, one_bit = image.convert("L"), image.quantize(64), image.convert("1")
    rgba = np.dstack([photo, shades(photo)])
    return {
        "JPEG 4:4:4": encode(photo, "JPEG", subsampling=0),
        "JPEG 4:2:2": encode(photo, "JPEG", subsampling=1),
        "JPEG 4:2:0": encode(photo, "JPEG", subsampling=2, quality=30),
        "JPEG progressive": encode(photo, "JPEG", progressive=True),
        "JPEG of RGB": encode(photo, "JPEG", keep_rgb=True),
        "JPEG with garbage after it": encode(photo, "JPEG") + b"garbage\xff\xd8" * 99,
        "JPEG with garbage in front of a segment": encode(photo, "JPEG").replace(b"\xff\xdb", b"\0\0\xff\xff\xdb", 1),
        "PNG grey": encode(grey, "PNG"),
        "PNG grey and alpha": encode(Image.merge("LA", (grey, Image.fromarray(shades(photo)))), "PNG"),
        "PNG 1 bit": encode(one_bit, "PNG"),
        "PNG 2 bit palette": encode(image.quantize(4), "PNG"),
        "PNG palette, one transparent": encode(palette, "PNG", transparency=3),
        "PNG of one transparent colour": encode(photo, "PNG", transparency=tuple(photo[0, 0].tolist())),
        "PNG animated": animation(photo, "PNG"),
        "WebP lossy": encode(photo, "WEBP", quality=80),
        "WebP lossy with alpha": encode(rgba, "WEBP", quality=80),
        "WebP lossless with alpha": encode(rgba, "WEBP", lossless=True, exact=True),
        "WebP animated": animation(photo, "WEBP"),
        "GIF": encode(palette, "GIF"),
        "GIF grey": encode(grey, "GIF"),
        "GIF interlaced": encode(palette, "GIF", interlace=True),
        "GIF animated": animation(photo, "GIF"),
        "BMP grey": encode(grey, "BMP"),
        "BMP palette": encode(palette, "BMP"),
        "BMP 1 bit": encode(one_bit, "BMP"),
        "BMP with alpha": encode(rgba, "BMP"),
        "TIFF grey": encode(grey, "TIFF"),
        "TIFF palette": encode(palette, "TIFF"),
        "TIFF 1 bit": encode(one_bit, "TIFF"),
        "TIFF LZW": encode(photo, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": encode(photo, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF fax": encode(one_bit, "TIFF", compression="group4"),
        "TIFF of two pages": animation(photo, "TIFF"),
        "PGM": encode(grey, "PPM"),
        "PBM": encode(one_bit, "PPM"),
        "PPM in text": b"P3 #\n2 # two\n1\n255 1 2 3 4 5 255\n",
    }


@pytest.mark.parametrize("kind", list(equal_to_pillow(np.zeros((8, 8, 3), np.uint8))))
def test_equal_to_pillow(photo: NDArray[np.uint8], tmp_path: Path, kind: str) -> None:
    data = equal_to_pillow(np.ascontiguousarray(photo[40:101, 60:151]))[kind]
    expected = pillow(data)
    check(decode(data), expected)
    (tmp_path / "x.JPEG").write_bytes(data)
    assert image_size(tmp_path / "x.JPEG") == expected.shape[:2]


def test_transparent_pixels_of_a_gif_have_its_background_colour(photo: NDArray[np.uint8]) -> None:
    image = Image.fromarray(photo).quantize(64)
    indices = np.asarray(image)
    expected = np.asarray(image.convert("RGB")).copy()
    assert (indices == 3).any()
    expected[indices == 3] = np.reshape(image.getpalette() or [], (-1, 3))[5]
    check(decode(encode(image, "GIF", transparency=3, background=5)), expected)


def cmyk_rule(stored: NDArray[np.uint8]) -> NDArray[np.int64]:
    """OpenCV's integers for c*k/255 of what an Adobe file stores."""
    ink, k = stored[..., :3].astype(int), stored[..., 3:].astype(int)
    return k - ((255 - ink) * k >> 8)


def test_cmyk_without_adobes_marker_is_taken_to_be_inverted_too(photo: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(photo).convert("CMYK"), "JPEG")
    start = data.index(b"Adobe") - 4
    plain = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    assert b"Adobe" not in plain
    check(decode(plain), decode(data))
    check(decode(plain), cmyk_rule(255 - np.asarray(Image.open(io.BytesIO(plain)))))


def test_ycck_jpeg_is_the_cmyk_it_stands_for(photo: NDArray[np.uint8]) -> None:
    """A CMYK file of the components Y, Cb, Cr, K, inverted as Adobe's are, then told in its marker to be YCCK."""
    ycc = np.asarray(Image.fromarray(255 - photo).convert("YCbCr"))
    k = np.full_like(photo[..., :1], 255)
    data = bytearray(encode(Image.fromarray(255 - np.dstack([ycc, k]), "CMYK"), "JPEG", quality=98, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    image = Image.open(io.BytesIO(data))
    assert image.mode == "CMYK"
    got = decode(bytes(data))
    check(got, cmyk_rule(255 - np.asarray(image)))
    assert np.abs(got.astype(int) - photo).mean() < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_rgb_loses_its_lower_8_or_is_refused(photo: NDArray[np.uint8], kind: str) -> None:
    deep = photo.astype(np.uint16) * 256 + photo[::-1]
    data = cv2.imencode(f".{kind.lower()}", deep[..., ::-1])[1].tobytes()
    if kind == "TIFF":  # rounded in another way by OpenCV
        with pytest.raises(ImageError, match="is a TIFF with alpha, a rotation, other colours or more than 8 bits"):
            decode(data)
    else:
        check(decode(data), photo)


def refused(photo: NDArray[np.uint8]) -> dict[str, tuple[bytes, str]]:
    """Whole images of which decoders do not agree."""
    image = Image.fromarray(photo)
    rgba = Image.fromarray(np.dstack([photo, shades(photo)]))
    tiff = "is a TIFF with alpha, a rotation, other colours or more than 8 bits: convert it to PNG"
    twelve_bits = bytearray(encode(photo, "JPEG"))
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    return {
        "TIFF with alpha": (encode(rgba, "TIFF"), tiff),
        "TIFF rotated": (encode(photo, "TIFF", tiffinfo={EXIF_ORIENTATION: 6}), tiff),
        "TIFF CMYK": (encode(image.convert("CMYK"), "TIFF"), tiff),
        "TIFF Lab": (encode(image.convert("LAB"), "TIFF"), tiff),
        "TIFF 16 bit": (encode(Image.fromarray(photo[..., 0].astype(np.uint16)), "TIFF"), tiff),
        "TIFF float": (encode(Image.fromarray(photo[..., 0].astype(np.float32)), "TIFF"), tiff),
        "PGM of 100 levels": (b"P5 2 1 100\n\1\2", "is a PPM whose largest value is 100, not 255 or 65535"),
        "JPEG of 12 bits": (bytes(twelve_bits), "is a JPEG of 12 bits, of which we decode 8"),
        "JPEG 2000": (encode(photo, "JPEG2000"), "is not an image we can decode"),
        "PSD": (b"8BPS\0\1" + bytes(100), "is not an image we can decode"),
    }


@pytest.mark.parametrize("kind", list(refused(np.zeros((8, 8, 3), np.uint8))))
def test_refused(photo: NDArray[np.uint8], kind: str) -> None:
    data, message = refused(np.ascontiguousarray(photo[40:101, 60:151]))[kind]
    with pytest.raises(ImageError, match=rf"^1\.JPEG: {message}"):
        decode(data, name="1.JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM"])
def test_30_000_px_wide(kind: str) -> None:
    wide = np.zeros((4, 30_000, 3), np.uint8)
    wide[:, ::7] = 200
    data = encode(wide, kind)
    check(decode(data), pillow(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_an_image_cut_anywhere_is_an_error(photo: NDArray[np.uint8], kind: str) -> None:
    small = Image.fromarray(np.ascontiguousarray(photo[:24, :40]))
    data = encode(small.quantize(16) if kind == "GIF" else small, kind)
    decode(data)
    for end in [*range(0, min(64, len(data))), *range(64, len(data), 41), *range(len(data) - 20, len(data))]:
        with pytest.raises(ImageError) as caught:
            decode(data[:end])
        assert str(caught.value).startswith(("image: truncated or damaged", "image: is "))


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


def test_what_is_no_file_is_named_and_nothing_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to would be waited for until the end of days."""
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "folder.JPEG").mkdir()
    (tmp_path / "loop.JPEG").symlink_to("loop.JPEG")
    (tmp_path / "broken.JPEG").symlink_to("nothing.JPEG")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.JPEG")
    reasons = {
        "pipe": "is a pipe, not a file",
        "folder": "Is a directory",
        "loop": "Too many levels of symbolic links",
        "broken": "No such file or directory",
        "socket": "is a socket, not a file",
    }
    for name, reason in reasons.items():
        path = tmp_path / f"{name}.JPEG"
        with pytest.raises(ImageError, match=rf"{name}\.JPEG: .*cannot be read \({reason}\)"):
            read(path)
        if name in ("loop", "broken"):  # which may be another file tomorrow
            with pytest.raises(OSError, match=reason):
                image_size(path)
            continue
        with pytest.raises(ImageError, match=rf"{name}\.JPEG: .*cannot be read \({reason}\)"):
            image_size(path)


def test_for_want_of_memory_no_image_is_called_damaged(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV answers the same to both: without room for a decoder nobody knows, with room it is asked again."""
    data, decoded = encode(photo, "PNG"), decode_module._decoded
    answers = iter([None, decoded(data, cv2.IMREAD_COLOR_RGB)])
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "_decoded", lambda *_: next(answers))
        assert np.array_equal(decode(data), decoded(data, cv2.IMREAD_COLOR_RGB))

    monkeypatch.setattr(decode_module, "_decoded", lambda *_: None)
    with pytest.raises(ImageError, match="a: truncated or damaged PNG"):
        decode(data, name="a")
    monkeypatch.setattr(decode_module, "DECODER_BYTES", 1 << 40)
    with pytest.raises(MemoryError, match=rf"a: no memory to decode {photo.shape[1]}x{photo.shape[0]} px"):
        decode(data, name="a")


def test_a_file_that_we_may_not_read(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "secret.JPEG"
    path.write_bytes(encode(photo, "JPEG"))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # whom nothing is forbidden
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match=r"secret\.JPEG: cannot be read \(Permission denied\)"):
            read(path)
    finally:
        os.seteuid(user)


def test_a_name_of_several_lines_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\u2028\x1b[31m\udcff.JPEG"
    path.write_bytes(b"")
    for function in (read, image_size):
        with pytest.raises(ImageError, match=r"a\\nb\\u2028\\x1b\[31m\\udcff\.JPEG: .*is empty") as caught:
            function(path)
        assert len(str(caught.value).splitlines()) == 1
        str(caught.value).encode()


def test_an_image_beyond_the_decoders_size_limit_is_refused_in_one_line() -> None:
    data = bytearray(encode(np.zeros((1, 1, 3), np.uint8), "BMP"))
    data[18:26] = (200_000).to_bytes(4, "little") * 2  # width, height
    with pytest.raises(ImageError, match=r"^huge\.bmp: ") as caught:
        decode(bytes(data), name="huge.bmp")
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_no_decoder_prints_about_damaged_files(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """In a process of its own, where nobody imported OpenCV first; the C libraries write to the file descriptor."""
    for number, (data, _) in enumerate(damaged(photo).values()):
        (tmp_path / f"{number}.JPEG").write_bytes(data)
    code = (
        "import pathlib, sys; from infer.pixels.decode import ImageError, read\n"
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


@pytest.mark.processes
def test_opencv_itself_has_the_limit() -> None:
    """In a process of its own, where nobody imported it first: it may see another size in a file than we do."""
    code = (
        "import infer.pixels.decode, cv2, numpy, sys\n"
        "try: print(cv2.imdecode(numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8), 1))\n"
        "except cv2.error as error: print('pixels' in str(error).lower())\n"
    )
    data = png_of_size(10_000, 10_001)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, cwd=ROOT, check=True)
    assert (done.stdout, done.stderr) == (b"True\n", b"")


def test_the_size_may_stand_far_into_the_file(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    jpeg, path = encode(photo, "JPEG"), tmp_path / "x.jpg"
    path.write_bytes(jpeg[:2] + (b"\xff\xe5\xea\x60" + bytes(59_998)) * 3 + jpeg[2:])
    assert image_size(path) == (201, 300)
    check(read(path), pillow(jpeg))
    path.write_bytes(encode(photo, "TIFF", compression="tiff_lzw"))
    assert int.from_bytes(path.read_bytes()[4:8], "little") > 1 << 16
    assert image_size(path) == (201, 300)


def test_sizes_that_decoders_could_read_in_two_ways(tmp_path: Path) -> None:
    """Of a doubled tag the first counts, as for libtiff; a comment in a PPM begins after a blank."""
    tiff = encode(np.full((4, 6, 3), 7, np.uint8), "TIFF")
    (count,) = struct.unpack_from("<H", tiff, 8)
    tags = [tiff[at : at + 12] for at in range(10, 10 + 12 * count, 12)]
    tags.insert(1, struct.pack("<HHII", 256, 4, 1, 3))
    twice = tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:]
    twice += struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    (tmp_path / "x.tiff").write_bytes(twice)
    assert image_size(tmp_path / "x.tiff") == (4, 6)
    assert decode(twice).shape == (4, 6, 3)
    with pytest.raises(ImageError, match="truncated or damaged PPM"):
        decode(b"P6\n2#3\n4\n255\n" + bytes(300))


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
    with pytest.raises(FileNotFoundError):
        image_size(tmp_path / "y.jpg")
