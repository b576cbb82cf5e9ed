"""libverydeep against Python: posteriors of every protocol, pixels of the decoders, the app. `make cpp` builds it."""

from __future__ import annotations

import ctypes
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Photos
from helpers import encode, noise
from PIL import Image

from infer.image import ImageError, decode
from infer.onnx_engine import OnnxEngine
from infer.views import PROTOCOLS, default_scales, plan_views

ROOT = Path(__file__).resolve().parents[1]
CPP = ROOT / "infer" / "cpp"
BUILD = os.environ.get("VERYDEEP_CPP", "")
Exported = Callable[..., Path]

built = pytest.mark.skipif(not BUILD, reason="VERYDEEP_CPP names no build of infer/cpp: make cpp")


def test_golden_files_are_what_python_gives() -> None:
    """So that a change of Python's plans is a change of C++'s tests."""
    done = subprocess.run([sys.executable, CPP / "tests" / "golden.py"], capture_output=True, text=True, check=True)
    assert done.stdout == (CPP / "tests" / "golden.json").read_text()


class Options(ctypes.Structure):
    _fields_ = (
        ("protocol", ctypes.c_char_p),
        ("scales", ctypes.POINTER(ctypes.c_int)),
        ("scale_count", ctypes.c_size_t),
        ("device", ctypes.c_int),
        ("cuda", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("self_test", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    found = ctypes.CDLL(str(Path(BUILD) / "libverydeep.so"))
    found.vd_last_error.restype = ctypes.c_char_p
    found.vd_class_count.restype = ctypes.c_size_t
    yield found


def posterior(library: Any, engine: Path, protocol: str, scales: list[int], pixels: np.ndarray[Any, Any]) -> Any:
    """By the C interface."""
    wanted = (ctypes.c_int * len(scales))(*scales)
    options = Options(protocol.encode(), wanted, len(scales), 0, 0, 0, 1)
    classifier = ctypes.c_void_p()
    assert library.vd_open(str(engine).encode(), ctypes.byref(options), ctypes.byref(classifier)) == 0, (
        library.vd_last_error()
    )
    count = library.vd_class_count(classifier)
    result = np.zeros(count)
    status = library.vd_posterior(
        classifier,
        pixels.ctypes.data_as(ctypes.c_void_p),
        pixels.shape[0],
        pixels.shape[1],
        ctypes.c_ssize_t(pixels.strides[0]),
        0,
        result.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_size_t(count),
    )
    assert status == 0, library.vd_last_error()
    library.vd_close(classifier)
    return result


@built
@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    ("net", "interface"),
    [("A", "views"), ("A", "images"), ("A", "nchw"), ("A-LRN", "views"), ("D", "views"), ("googlenet", "views")],
)
def test_posteriors_are_pythons(
    library: Any, exported: Exported, photos: Photos, net: str, interface: str, protocol: str
) -> None:
    path = exported(net, interface=interface)
    engine = OnnxEngine(path)
    for pixels in (photos["cat"][:130, :201], photos["portrait"][:333, :150], noise((97, 97))):
        pixels = np.ascontiguousarray(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        scales = list(default_scales(engine.spec, protocol))
        plan = plan_views(engine.spec, protocol, size, scales)
        views = engine.run(engine.load([pixels]), [plan])["posterior"].astype(np.float64)
        expected = np.array([view.weight for view in plan.views]) @ views
        assert np.abs(posterior(library, path, protocol, scales, pixels) - expected).max() < 1e-6


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
    whole = found["plain.jpg"]
    found |= {f"cut{n}.jpg": whole[: len(whole) * n // 10] for n in (1, 5, 9)}
    found |= {"cut.png": found["plain.png"][:900], "text.jpg": b"no image", "empty.jpg": b""}
    return found


@built
@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_pixels_are_pythons(photos: Photos, tmp_path: Path, exif: Any) -> None:
    images = encoded(photos)
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    command = [Path(BUILD) / "tests" / "verydeep-pixels", *(["--exif"] if exif == "apply" else [])]
    done = subprocess.run([*command, *(tmp_path / name for name in images)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(images)
    refused = 0
    for (name, data), line in zip(images.items(), lines, strict=True):
        try:
            pixels = decode(data, exif=exif)
        except ImageError as error:
            assert line == f"{tmp_path / name}: {str(error).split(': ', 1)[1]}" or name == "text.jpg", line
            refused += 1
        else:
            assert line == f"{pixels.shape[0]} {pixels.shape[1]} {digest(pixels):016x}", name
    assert refused == 6


def digest(pixels: np.ndarray[Any, Any]) -> int:
    """FNV-1a, as tests/pixels.cpp has it."""
    found = 0xCBF29CE484222325
    for byte in pixels.tobytes():
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found


def app(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(BUILD) / "verydeep-classify", *map(str, arguments)], capture_output=True, text=True)


@built
def test_the_app_prints_what_python_prints(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    """All images of the miniature, each decoded by its own decoder; one cannot be."""
    folder = miniature_dir / "ILSVRC2012_img_val"
    (tmp_path / "bad.JPEG").write_bytes(b"damaged")
    arguments = [folder, tmp_path / "bad.JPEG", "--engine", exported("A"), "--protocol", "ten-crop", "--json"]
    ours = app(*arguments)
    theirs = subprocess.run(
        [sys.executable, "-m", "infer", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert ours.returncode == theirs.returncode == 1
    assert "bad.JPEG" in ours.stderr and len(ours.stderr.splitlines()) == 1
    rows, expected = ([json.loads(line) for line in done.stdout.splitlines()] for done in (ours, theirs))
    assert len(rows) == len(expected) == 25
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        assert [row[key] for key in ("image", "model", "protocol")] == [
            other[key] for key in ("image", "model", "protocol")
        ]
        assert (row["status"] == "ok") == (other["status"] == "ok")
        for one, two in zip(row["predictions"], other["predictions"], strict=True):
            assert (one["index"], one["wnid"], one["name"]) == (two["index"], two["wnid"], two["name"])
            assert abs(one["probability"] - two["probability"]) < 1e-6


@built
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "expected an image and --engine FILE"),
        (["a.jpg"], 2, "expected an image and --engine FILE"),
        (["a.jpg", "--engine"], 2, "--engine: expected a value"),
        (["a.jpg", "--engine", "x", "--top", "0"], 2, "--top: expected a positive number"),
        (["a.jpg", "--engine", "x", "--scales", "72,x"], 2, "--scales: expected a whole number, got 'x'"),
        (["a.jpg", "--engine", "x", "--fast"], 2, "unknown option --fast"),
        (["a.jpg", "--engine", "/none.onnx"], 1, "/none.onnx: no such file"),
        (["a.jpg", "--engine", "/bin/sh"], 1, "unknown kind of engine"),
    ],
)
def test_usage_errors_of_the_app(arguments: list[str], status: int, said: str) -> None:
    done = app(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr.splitlines()[0]


@built
def test_damaged_models_are_one_line(exported: Exported, tmp_path: Path) -> None:
    whole = exported("A").read_bytes()
    path = tmp_path / "x.onnx"
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = bytearray(whole[: len(whole) * number // 12] if number % 2 else whole)
        for place in rng.integers(0, max(1, len(damaged)), 40 if number % 2 == 0 else 0):
            damaged[place] ^= 255
        path.write_bytes(damaged)
        done = app("none.jpg", "--engine", path)
        assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, (number, done)
