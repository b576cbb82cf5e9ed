"""`python -m infer --detect`: the objects of photographs by a net of regions, in words, JSON and a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import WNIDS, Checkpoints
from PIL import Image

from export.to_onnx import export_onnx
from infer.__main__ import main
from infer.boxes.detecting import Suppression, find_objects
from infer.boxes.proposals import selective_search
from infer.detect import Detector
from infer.engine import NOT_FINITE
from infer.errors import UsageError
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.pixels.regions import make_picture, plan_regions
from trainer.checkpoint import load

CLASSES = (*WNIDS, "background")
OneLine = Callable[[], str]


@pytest.fixture(scope="module")
def model(slim_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detect") / "det.onnx"
    export_onnx(load(slim_checkpoint("A", classes=CLASSES, name="det")), path)
    return path


@pytest.fixture(scope="module")
def scene(scenes_dir: Path) -> Path:
    return sorted((scenes_dir / "ILSVRC2013_DET_val").iterdir())[4]


def test_the_objects_are_those_of_the_parts(model: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Selective search, each region by the engine, non-maximum suppression: put together by hand."""
    assert main([str(scene), "--engine", str(model), "--detect", "--least", "0.105", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    image, engine = decode(scene.read_bytes(), name="a"), OnnxEngine(model)
    boxes = selective_search(image)
    plan = plan_regions(boxes, image.shape[:2], engine.spec)  # type: ignore[arg-type]
    posterior = engine.run(engine.load([make_picture(image, engine.spec)]), [plan])["posterior"]
    right = find_objects(posterior, boxes, Suppression(least=0.105))
    assert len(right.classes) > 3
    assert [one["index"] for one in line["objects"]] == right.classes.tolist()
    assert np.allclose([one["box"] for one in line["objects"]], right.boxes)
    assert np.allclose([one["score"] for one in line["objects"]], right.scores)
    assert (line["status"], line["proposals"], line["objects"][0]["wnid"]) == (
        "ok",
        "selective-search",
        CLASSES[right.classes[0]],
    )


def test_a_picture_and_words(model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.png"
    words = [str(scene), "--engine", str(model), "--detect"]
    assert main([*words, "--least", "0.105", "--picture", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{scene}: n99") and " % at " in said
    with Image.open(out) as drawn, Image.open(scene) as image:
        assert drawn.size == image.size and np.asarray(drawn).tobytes() != np.asarray(image.convert("RGB")).tobytes()
    assert main([*words, "--least", "1"]) == 0
    assert capsys.readouterr().out == f"{scene}: no object of 1 or more\n"


def test_one_bad_image_among_others(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    words = [str(tmp_path / "bad.jpg"), str(tmp_path / "none.jpg"), str(scene), "--engine", str(model)]
    assert main([*words, "--detect", "--json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["status"] == "ok" for row in rows] == [False, False, True]
    assert len(captured.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--proposals", "multibox"], "need its engine, --multibox MODEL.onnx"),
        (["--multibox", "m.onnx"], "need its engine, --multibox MODEL.onnx"),
        (["--proposals", "all"], "expected selective-search, multibox or both"),
        (["--least", "0"], "expected a posterior above 0"),
        (["--protocol", "dense"], "leave out --protocol"),
        (["--picture", "a.gif"], "expected a picture's name"),
    ],
)
def test_what_does_not_go_together(model: Path, scene: Path, more: list[str], message: str, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(scene), "--engine", str(model), "--detect", *more])
    assert message in one_line()


def test_other_nets_and_other_options(
    exported: Callable[..., Path], model: Path, scene: Path, one_line: OneLine
) -> None:
    assert main([str(scene), "--engine", str(exported("A")), "--detect"]) == 1
    assert "expected 'background': a net of regions" in one_line()
    with pytest.raises(SystemExit, match="2"):
        main([str(scene), "--engine", str(model), "--picture", "a.png"])
    assert "--picture is for --detect: add it" in one_line()


@pytest.mark.parametrize("option", [("--detect", "--picture"), ("--maps",)])
def test_a_picture_does_not_replace_the_image(
    model: Path, scene: Path, tmp_path: Path, option: tuple[str, ...], one_line: OneLine
) -> None:
    image = tmp_path / "photo.jpg"
    image.write_bytes(scene.read_bytes())
    (tmp_path / "link.jpg").symlink_to(image)
    with pytest.raises(SystemExit, match="2"):
        main([str(image), "--engine", str(model), *option, str(tmp_path / "link.jpg")])
    assert "is the image itself, which would be lost" in one_line()
    assert image.read_bytes() == scene.read_bytes()


@pytest.mark.parametrize("gain", [1.0, 1e12])
def test_answers_that_are_not_finite_are_said(
    slim_checkpoint: Checkpoints, scene: Path, tmp_path: Path, gain: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a net that overflows; an image is not one without objects then."""
    checkpoint = load(slim_checkpoint("A", classes=CLASSES, name="det"))
    weights = {name: own * gain if name.endswith("weight") else own for name, own in checkpoint.weights.items()}
    export_onnx(dataclasses.replace(checkpoint, weights=weights), tmp_path / "loud.onnx")
    words = [str(scene), str(scene), "--engine", str(tmp_path / "loud.onnx"), "--detect", "--json"]
    assert main(words) == (0 if gain == 1 else 1)
    captured = capsys.readouterr()
    statuses = [json.loads(line)["status"] for line in captured.out.splitlines()]
    if gain == 1:
        assert statuses == ["ok"] * 2
    else:
        assert statuses == [f"det: {NOT_FINITE}"] * 2
        assert captured.err.count("not finite") == 2


def test_proposals_by_one_name_or_several(model: Path) -> None:
    """A name is no sequence of letters."""
    assert Detector(model, proposals="selective-search").methods == ("selective-search",)
    assert Detector(model, proposals=("selective-search",)).methods == ("selective-search",)
    with pytest.raises(UsageError, match="need its engine, --multibox"):
        Detector(model, proposals="multibox")
    for wrong in ("edge-boxes", ("selective-search", "edge-boxes"), ()):
        with pytest.raises(UsageError, match="expected selective-search or multibox"):
            Detector(model, proposals=wrong)  # type: ignore[arg-type]


def test_an_image_without_a_proposal(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(model)
    monkeypatch.setattr("infer.detect.selective_search", lambda image: np.empty((0, 4)))
    assert detector.detect(np.zeros((40, 50, 3), np.uint8)) == []
    detector.close()
