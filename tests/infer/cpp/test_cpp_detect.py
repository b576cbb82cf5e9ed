"""verydeep-classify --detect against `python -m infer --detect`: regions, objects. `make cpp` builds it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import WNIDS, encode, noise, slim_spec, write_checkpoint
from onnx import numpy_helper

from export.to_onnx import export_onnx
from infer.__main__ import main as infer
from infer.boxes.detecting import Suppression, classify_regions, find_objects
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.pixels.regions import inside
from trainer.checkpoint import load, save

BUILD = os.environ.get("VERYDEEP_CPP", "")
pytestmark = pytest.mark.skipif(not BUILD, reason="VERYDEEP_CPP names no build of infer/cpp: make cpp")
CLASSES = (*WNIDS, "background")
LEAST = "0.105"
"""A little more than the eleventh of a net that knows nothing."""
BOXES = 60


def app(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(BUILD) / "verydeep-classify", *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained: of regions with each interface, and a MultiBox net whose boxes are here and there."""
    folder = tmp_path_factory.mktemp("nets")
    regions = load(write_checkpoint(folder / "det.pt", slim_spec("A", classes=CLASSES, name="det")))
    found = {}
    for interface in ("views", "images", "nchw"):
        found[interface] = folder / f"{interface}.onnx"
        export_onnx(regions, found[interface], interface=interface)  # type: ignore[arg-type]

    spec = slim_spec("googlenet", task="multibox", boxes=BOXES, fixed_size=True, name="multibox")
    multibox = load(write_checkpoint(folder / "multibox.pt", spec))
    weights, rng = dict(multibox.weights), np.random.default_rng(5)
    (bias,) = (name for name, own in weights.items() if name.endswith("bias") and len(own) == 5 * BOXES)
    corners = rng.uniform(-0.1, 0.7, (BOXES, 2))
    own = np.concatenate([corners, corners + rng.uniform(0.1, 0.6, (BOXES, 2)), rng.normal(0, 1, (BOXES, 1))], 1)
    weights[bias] = weights[bias].new_tensor(own.reshape(-1))
    save(dataclasses.replace(multibox, weights=weights), folder / "multibox.pt")
    found["multibox"] = folder / "multibox.onnx"
    export_onnx(load(folder / "multibox.pt"), found["multibox"])

    found["classifier"] = folder / "a.onnx"
    export_onnx(load(write_checkpoint(folder / "a.pt", slim_spec("A"))), found["classifier"])
    return found


@pytest.fixture(scope="module")
def images(scenes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five scenes of the miniature, and sizes that are odd."""
    folder, paths = tmp_path_factory.mktemp("images"), sorted((scenes_dir / "ILSVRC2013_DET_val").iterdir())[:5]
    for height, width in ((90, 130), (333, 9), (8, 700), (61, 61)):
        paths.append(folder / f"{height}x{width}.png")
        paths[-1].write_bytes(encode(noise((height, width)), "PNG"))
    return paths


def same(ours: Any, theirs: Any) -> int:
    """How many objects two lines have, the same ones."""
    assert list(ours) == list(theirs)
    assert [ours[key] for key in ("image", "status", "model", "arithmetic")] == [
        theirs[key] for key in ("image", "status", "model", "arithmetic")
    ]
    assert len(ours["objects"]) == len(theirs["objects"])
    for mine, other in zip(ours["objects"], theirs["objects"], strict=True):
        assert list(mine) == list(other)
        assert [mine[key] for key in ("index", "wnid", "name")] == [other[key] for key in ("index", "wnid", "name")]
        assert other["score"] == pytest.approx(mine["score"], abs=1e-6)
        assert other["box"] == pytest.approx(mine["box"], abs=1e-3)
    return len(ours["objects"])


def test_objects_in_proposals_are_pythons(
    nets: dict[str, Path], images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*map(str, images), "--engine", str(nets["views"]), "--detect", "--multibox", str(nets["multibox"])]
    words += ["--least", LEAST, "--json"]
    done = app(*words, "--self-test")
    assert (done.returncode, done.stderr) == (0, "")
    assert infer([*words, "--proposals", "multibox"]) == 0
    lines = [list(map(json.loads, text.splitlines())) for text in (capsys.readouterr().out, done.stdout)]
    assert all(line["proposals"] == "multibox" for both in lines for line in both)
    counts = [same(*both) for both in zip(*lines, strict=True)]
    assert len(counts) == 9 and min(counts) >= 3 and sum(counts) > 60, counts


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_objects_in_given_regions_are_pythons(
    interface: str, nets: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    """Of every call's size, at every edge, and of boxes that are none."""
    engine = OnnxEngine(nets[interface])
    for path in images:
        image = decode(path.read_bytes(), name="a")
        size = (image.shape[0], image.shape[1])
        rng = np.random.default_rng(len(path.name))
        corners, sides = rng.uniform(-0.3, 1.1, (150, 2)), rng.uniform(-0.01, 0.8, (150, 2)) ** 2
        boxes = np.concatenate([corners, corners + sides], 1) * [size[1], size[0], size[1], size[0]]
        (tmp_path / "boxes.csv").write_text(
            "xmin,ymin,xmax,ymax\n" + "\n".join(",".join(map(repr, box)) for box in boxes.tolist()) + "\n"
        )
        seen = boxes[inside(boxes, size)]
        assert 20 < len(seen) < 150
        (posterior,), _ = classify_regions([engine], [image], seen).collect(len(CLASSES))
        right = find_objects(posterior, seen, Suppression(least=float(LEAST)))

        words = [path, "--engine", nets[interface], "--detect", "--regions", tmp_path / "boxes.csv", "--least", LEAST]
        done = app(*words, "--json")
        assert done.returncode == 0, done.stderr
        line = json.loads(done.stdout)
        found = line["objects"]
        assert line["proposals"] == "given" and len(found) == len(right.classes) > 3
        assert [one["index"] for one in found] == right.classes.tolist()
        assert [one["box"] for one in found] == right.boxes.tolist()
        np.testing.assert_allclose([one["score"] for one in found], right.scores, atol=1e-6)


def test_words_and_an_image_without_an_object(
    nets: dict[str, Path], images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for least in (LEAST, "1"):
        words = [str(images[0]), "--engine", str(nets["views"]), "--detect", "--multibox", str(nets["multibox"])]
        words += ["--least", least]
        done = app(*words)
        assert infer([*words, "--proposals", "multibox"]) == 0
        assert done.stdout == capsys.readouterr().out
    assert done.stdout == f"{images[0]}: no object of 1 or more\n"
    (tmp_path / "far.csv").write_text("1000,1000,1010,1010\n")
    done = app(images[0], "--engine", nets["views"], "--detect", "--regions", tmp_path / "far.csv", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["objects"] == []


def test_one_bad_image_among_others(nets: dict[str, Path], images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    words = [tmp_path / "bad.jpg", tmp_path / "none.jpg", images[0], "--engine", nets["views"], "--json"]
    done = app(*words, "--detect", "--multibox", nets["multibox"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and [row["status"] == "ok" for row in rows] == [False, False, True]
    assert len(done.stderr.splitlines()) == 2 and rows[0]["objects"] == []


def test_the_self_test_finds_other_boxes(nets: dict[str, Path], images: list[Path], tmp_path: Path) -> None:
    words = [images[0], "--engine", nets["views"], "--detect", "--self-test", "--multibox"]
    model = onnx.load(nets["multibox"])
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    for change, said in [(0.001, "a box differs by 0.00"), (None, "its expectations are damaged")]:
        expected = json.loads(metadata["self_test"])
        values = expected["mean_box"][3]
        values[2] = change if change is None else values[2] + change * max(1, abs(values[2]))
        onnx.helper.set_model_props(model, {**metadata, "self_test": json.dumps(expected)})
        onnx.save(model, tmp_path / "other.onnx")
        done = app(*words, tmp_path / "other.onnx")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
        assert said in done.stderr and "self-test of multibox on onnxruntime-fp32" in done.stderr

    # an edge that is no number, behind which others are right
    onnx.helper.set_model_props(model, metadata)
    (bias,) = (own for own in model.graph.initializer if list(own.dims) == [5 * BOXES])
    values = numpy_helper.to_array(bias).copy()
    values[2] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    done = app(*words, tmp_path / "nan.onnx")
    assert done.returncode == 1 and "a box differs by nan from the FP32 net" in done.stderr


def test_nets_in_half_precision_that_are_not_rounded_are_named(
    nets: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    half = tmp_path / "half.onnx"
    export_onnx(load(nets["multibox"].with_suffix(".pt")), half, precision="fp16")
    words = [images[0], "--engine", nets["views"], "--detect", "--multibox", half]
    rounded = app(*words)
    assert (rounded.returncode, rounded.stderr) == (0, "")
    (tmp_path / "half.check.onnx").unlink()
    done = app(*words)
    assert done.returncode == 0
    assert f"{half}: fp16 weights, fp32 arithmetic: ONNX Runtime does not round" in done.stderr


Words = Callable[[dict[str, Path]], list[object]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda nets: ["--detect"], "expected --multibox FILE or --regions FILE.csv, one of them"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--regions", "a.csv"], "one of them"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--least", "0"], "expected a posterior above 0"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--least", "nan"], "expected a posterior above 0"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--least", "0.5x"], "at most 1, got 0.5x"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--protocol", "center"], "leave out --protocol"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--scales", "90"], "leave out --protocol"),
        (lambda nets: ["--detect", "--multibox", nets["multibox"], "--box-engine", "b.onnx"], "and --box-engine"),
        (lambda nets: ["--detect", "--regions", "a.csv", "another.png"], "--regions are of one IMAGE"),
        (lambda nets: ["--multibox", nets["multibox"]], "--multibox is for --detect: add it"),
        (lambda nets: ["--regions", "a.csv"], "--regions is for --detect: add it"),
        (lambda nets: ["--least", "0.5"], "--least is for --detect: add it"),
    ],
)
def test_what_does_not_go_together(words: Words, said: str, nets: dict[str, Path], images: list[Path]) -> None:
    done = app(images[0], "--engine", nets["views"], *words(nets))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
    assert said in done.stderr


def test_other_nets_and_files_are_one_line(nets: dict[str, Path], images: list[Path], tmp_path: Path) -> None:
    files = {
        "empty": "",
        "words": "1,2,3,4\n1,2,x,4\n",
        "three": "1,2,3\n",
        "five": "1,2,3,4,5\n",
        "inf": "1,2,inf,4\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    detect, regions = ["--detect", "--multibox", nets["multibox"]], ["--engine", nets["views"], "--detect", "--regions"]
    for words, said in [
        (["--engine", nets["classifier"], *detect], "its last class is 'n99000009', expected 'background': a net of"),
        (
            ["--engine", nets["views"], "--detect", "--multibox", nets["classifier"]],
            "slim-a is no MultiBox net, it has",
        ),
        (["--engine", nets["multibox"], *detect], "multibox is a MultiBox net, which has no posterior: give it as"),
        (["--engine", nets["multibox"]], "multibox is a MultiBox net, which has no posterior: give it as"),
        (["--engine", nets["views"], "--detect", "--multibox", tmp_path / "none.onnx"], "none.onnx: no such file"),
        ([*regions, tmp_path / "none.csv"], "none.csv: no such file, expected regions as .csv"),
        ([*regions, tmp_path], f"{tmp_path}: no such file, expected regions as .csv"),
        ([*regions, tmp_path / "empty.csv"], "has no rows, expected rows xmin,ymin,xmax,ymax"),
        ([*regions, tmp_path / "words.csv"], "row 2 is '1,2,x,4', expected rows xmin,ymin,xmax,ymax"),
        ([*regions, tmp_path / "three.csv"], "row 1 is '1,2,3', expected rows"),
        ([*regions, tmp_path / "five.csv"], "row 1 is '1,2,3,4,5', expected rows"),
        ([*regions, tmp_path / "inf.csv"], "row 1 is '1,2,inf,4', expected rows"),
    ]:
        done = app(images[0], *words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
        assert said in done.stderr
