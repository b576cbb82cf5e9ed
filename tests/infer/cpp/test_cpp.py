"""libverydeep against Python: posteriors of every protocol, pixels of the decoders, the app. `make cpp` builds it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from conftest import Photos
from helpers import encode, noise, slim_spec, write_checkpoint
from image_files import encoded
from onnx import helper, numpy_helper
from paths import ROOT

from export.model.check import write_check
from export.to_onnx import export_onnx
from infer.errors import one_line
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError, decode
from infer.views import PROTOCOLS, default_scales, plan_views
from trainer import miniature
from trainer.checkpoint import load

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


@built
def test_a_jpeg_of_many_scans_is_refused(photos: Photos, tmp_path: Path) -> None:
    """A file of some kilobytes that would take hours: each scan goes over the whole image."""
    whole = encoded(photos)["progressive.jpg"]
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "many.jpg").write_bytes(whole[:last] + 500 * whole[last:-2] + b"\xff\xd9")
    done = subprocess.run([Path(BUILD) / "tests" / "verydeep-pixels", tmp_path / "many.jpg"], capture_output=True)
    assert b"is a JPEG of more than 500 scans" in done.stdout


def digest(pixels: np.ndarray[Any, Any]) -> int:
    """FNV-1a, as tests/pixels.cpp has it."""
    found = 0xCBF29CE484222325
    for byte in pixels.tobytes():
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found


def app(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(BUILD) / "verydeep-classify", *map(str, arguments)], capture_output=True, text=True)


def in_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def lines_agree(ours: Iterable[str], theirs: Iterable[str], *, names: bool = True) -> int:
    """How many lines of JSON there are, the same by C++ and by Python (but for the names of the images, if so said)."""
    count = 0
    for one, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert one.keys() == other.keys()
        for key in ("model", "arithmetic", "protocol", *(["image"] if names else [])):
            assert one[key] == other[key]
        assert (one["status"] == "ok") == (other["status"] == "ok")
        for mine, its in zip(one["predictions"], other["predictions"], strict=True):
            assert [mine[key] for key in ("index", "wnid", "name")] == [its[key] for key in ("index", "wnid", "name")]
            assert abs(mine["probability"] - its["probability"]) < 1e-6
        count += 1
    return count


@built
def test_the_app_prints_what_python_prints(exported: Exported, tmp_path: Path) -> None:
    """The same five classes of 200 JPEGs and a PNG of the miniature, each decoded by its own decoder; and a file that
    cannot be."""
    miniature.make(tmp_path / "miniature", train_digits=1, val_digits=201)
    (tmp_path / "bad.JPEG").write_bytes(b"damaged")
    images = tmp_path / "miniature" / "ILSVRC2012_img_val"
    arguments = [images, tmp_path / "bad.JPEG", "--engine", exported("A"), "--protocol", "ten-crop", "--json"]
    ours, theirs = app(*arguments), in_python(*arguments)
    assert ours.returncode == theirs.returncode == 1
    assert "bad.JPEG" in ours.stderr and len(ours.stderr.splitlines()) == 1
    assert lines_agree(ours.stdout.splitlines(), theirs.stdout.splitlines()) == 202


def video_in(build: Path) -> bool:
    return (build / "libverydeep-video.so").exists()


videos = pytest.mark.skipif(not BUILD or not video_in(Path(BUILD)), reason="this build has no OpenCV")


@videos
def test_frames_are_images(exported: Exported, photos: Photos, tmp_path: Path) -> None:
    """Numbered PNGs as a video, which loses nothing."""
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photos["cat"][9 * number : 9 * number + 90, :120])
    ours = app("--video", tmp_path / "%d.png", "--engine", exported("A"), "--json")
    theirs = in_python(tmp_path, "--engine", exported("A"), "--json")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert lines_agree(ours.stdout.splitlines(), theirs.stdout.splitlines(), names=False) == 5
    assert [json.loads(line)["image"] for line in ours.stdout.splitlines()] == [
        f"{tmp_path / '%d.png'}#{number}" for number in range(5)
    ]


@videos
def test_a_video_file(exported: Exported, photos: Photos, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (120, 90))
    for number in range(7):
        writer.write(photos["cat"][9 * number : 9 * number + 90, :120])
    writer.release()
    done = app("--video", tmp_path / "x.avi", "--engine", exported("A"))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"{tmp_path / 'x.avi'}#{n}" for n in range(7)]


@built
@pytest.mark.parametrize("source", [("--video", "/none.avi"), ("--video", __file__), ("--camera", "97")])
def test_what_is_no_video(exported: Exported, source: tuple[str, str]) -> None:
    done = app(*source, "--engine", exported("A"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert source[1] in done.stderr
    assert ("no frame of a video can be read" if video_in(Path(BUILD)) else "was built without OpenCV") in done.stderr


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
        (["a.jpg", "--engine", "x", "--video", "x.avi"], 2, "expected images, --video or --camera: one of them"),
        (["--camera", "front", "--engine", "x"], 2, "--camera: expected a whole number, got 'front'"),
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


@built
def test_a_box_net_is_no_classifier(tmp_path: Path) -> None:
    checkpoint = load(write_checkpoint(tmp_path / "boxes.pt", slim_spec("D", task="box-scr")))
    export_onnx(checkpoint, tmp_path / "boxes.onnx")
    (tmp_path / "a.png").write_bytes(encode(noise((90, 130)), "PNG"))
    app = [Path(BUILD) / "verydeep-classify", tmp_path / "a.png", "--engine", tmp_path / "boxes.onnx"]
    done = subprocess.run(app, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "slim-d is a box net, which has no posterior" in done.stderr


@built
def test_the_app_says_names_of_others_as_python_does(exported: Exported, tmp_path: Path) -> None:
    """No control character, and nothing that turns text around, reaches the terminal."""
    words = ["two\nlines", "left\u202eright", "end\u2028", "é\u2066", "tab\t", "\u200bnone", *"abcd"]
    model = changed_model(exported("A"), tmp_path / "m.onnx", class_names=words)
    image = tmp_path / "a\x1b[2J\nb\x7f\x9b\u202e.png"
    image.write_bytes(encode(noise((80, 90)), "PNG"))
    done = app(image, "--engine", model, "--top", "10")
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    for name in (str(image), *words):
        assert one_line(name) in done.stdout
    assert one_line(done.stdout.rstrip("\n")) == done.stdout.rstrip("\n")


@built
@pytest.mark.parametrize("count", [3, 11])
def test_the_app_refuses_other_classes_than_the_graph_has(count: int, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise((80, 90)), "PNG"))
    model = changed_model(exported("A"), tmp_path / "m.onnx", classes=[f"c{i}" for i in range(count)])
    for command in (app, in_python):
        done = command(tmp_path / "a.png", "--engine", model)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert f"expected {count} for the {count} classes" in done.stderr


@built
def test_the_app_has_no_answer_that_is_no_number(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise((80, 90)), "PNG"))
    model = onnx.load(exported("A"))
    bias = next(one for one in model.graph.initializer if one.name == "fc8.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "m.onnx")
    done = app(tmp_path / "a.png", "--engine", tmp_path / "m.onnx")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "slim-a: the model's answer is not finite (NaN or infinite)\n"


@built
def test_int8_on_a_cpu_is_what_python_says(exported: Exported, tmp_path: Path) -> None:
    """One of ours by its check graph, or as it is written; one that others quantised as ONNX Runtime has it."""
    (tmp_path / "a.png").write_bytes(encode(noise((80, 90)), "PNG"))
    model, arguments = tmp_path / "m.onnx", [tmp_path / "a.png", "--engine", tmp_path / "m.onnx", "--json"]
    changed_model(exported("A", precision="fp16"), model, precision="int8")
    graph = onnx.load(model)
    said = {prop.key: prop.value for prop in graph.metadata_props}

    for ours, beside, arithmetic in (
        (True, True, "int8 + fp16, rounded by m.check.onnx"),
        (True, False, "int8 + fp32"),
        (False, False, "int8"),
    ):
        helper.set_model_props(graph, said | ({"int8": "{}"} if ours else {}))
        onnx.save(graph, model)
        if beside:
            write_check(model)
        else:
            (tmp_path / "m.check.onnx").unlink(missing_ok=True)
        found, right = app(*arguments), in_python(*arguments)
        assert lines_agree(found.stdout.splitlines(), right.stdout.splitlines()) == 1
        assert json.loads(found.stdout)["arithmetic"] == json.loads(right.stdout)["arithmetic"] == arithmetic
        for done in (found, right):
            assert ("slim-a: int8 + fp32: ONNX Runtime does not round" in done.stderr) == (arithmetic == "int8 + fp32")


@built
def test_half_precision_on_a_cpu_is_what_python_says(exported: Exported, tmp_path: Path) -> None:
    """By the check graph beside the model; without one with a label; by that of another model not at all."""
    (tmp_path / "a.png").write_bytes(encode(noise((80, 90)), "PNG"))
    model, check = tmp_path / "m.onnx", tmp_path / "m.check.onnx"
    shutil.copy(exported("A", precision="fp16"), model)
    arguments = [tmp_path / "a.png", "--engine", model, "--json"]

    write_check(model)
    rounded = in_python(*arguments).stdout
    assert lines_agree(app(*arguments).stdout.splitlines(), rounded.splitlines()) == 1
    assert json.loads(rounded)["arithmetic"] == "fp16, rounded by m.check.onnx"

    shutil.move(check, tmp_path / "kept")
    ours, theirs = app(*arguments), in_python(*arguments)
    assert lines_agree(ours.stdout.splitlines(), theirs.stdout.splitlines()) == 1
    assert json.loads(ours.stdout)["arithmetic"] == "fp16 weights, fp32 arithmetic"
    assert json.loads(ours.stdout)["predictions"] != json.loads(rounded)["predictions"]
    for done in (ours, theirs):
        assert "slim-a: fp16 weights, fp32 arithmetic: ONNX Runtime does not round" in done.stderr

    shutil.move(tmp_path / "kept", check)
    changed_model(model, model, name="other")
    for done in (app(*arguments), in_python(*arguments)):
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
        assert "m.check.onnx: was not made of m.onnx as it is now" in done.stderr


def changed_model(model: Path, path: Path, **changes: Any) -> Path:
    """The model with fields of its spec changed."""
    loaded = onnx.load(model)
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    spec = {**json.loads(metadata["spec"]), **changes}
    helper.set_model_props(loaded, {**metadata, "spec": json.dumps(spec)})
    onnx.save(loaded, path)
    return path


@built
def test_the_cuda_provider_computes_fp32_as_fp32(exported: Exported, tmp_path: Path) -> None:
    """By a double of the provider that prints its options: no GPU is here, and TF32 is the provider's default."""
    double = next(Path(BUILD).rglob("*verydeep-fake-cuda-provider.so"))
    (tmp_path / "image.png").write_bytes(encode(noise((90, 130)), "PNG"))
    command = [
        f"{BUILD}/verydeep-classify",
        tmp_path / "image.png",
        "--engine",
        exported("A"),
        "--cuda",
        "--device",
        "3",
    ]
    environment = {**os.environ, "LD_PRELOAD": str(double)}
    done = subprocess.run([*map(str, command), "--json"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    options = ["device_id=3", "use_tf32=0", "cudnn_conv_algo_search=HEURISTIC"]
    assert done.stderr.splitlines() == [f"fake_cuda_provider: {option}" for option in options]
