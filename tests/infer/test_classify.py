"""Classifier and `python -m infer`: the same answer from path, bytes and pixels; JSON; what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_engines import make_box_engine
from helpers import encode, noise
from PIL import Image

from infer import Classifier, EngineError, ImageError
from infer.__main__ import main
from infer.pixels.decode import read
from infer.views import PlanError, plan_views
from trainer.torch_engine import TorchEngine

Exported = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("protocol", ["center", "multicrop+dense"])
def test_path_bytes_and_pixels_agree_with_torch(
    protocol: str, exported: Exported, slim_checkpoint: Exported, photos: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encode(photos["cat"], "PNG"))
    classifier = Classifier(exported("D"), protocol=protocol, scales=[80])
    answers = [classifier(source, top=3) for source in (path, str(path), path.read_bytes(), photos["cat"])]
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]) == 3
    engine = TorchEngine.open(slim_checkpoint("D"))
    plan = plan_views(engine.spec, protocol, photos["cat"].shape[:2], [80])
    posterior = engine.run(engine.load([photos["cat"]]), [plan])["posterior"]
    mean = np.array([view.weight for view in plan.views]) @ posterior
    best = answers[0][0]
    assert best.index == mean.argmax()
    assert best.wnid == engine.spec.classes[best.index]
    assert best.probability == pytest.approx(mean.max(), abs=1e-5)


def test_what_a_classifier_refuses(exported: Exported, tmp_path: Path) -> None:
    classifier = Classifier(exported("A"))
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.jpg: is not an image"):
        classifier(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="too small to show anything"):
        classifier(noise((1, 1)))
    with pytest.raises(ImageError, match=r"expected uint8 \[height, width, 3\]"):
        classifier(np.zeros((64, 64), np.uint8))
    with pytest.raises(PlanError, match="unknown protocol 'all'"):
        Classifier(exported("A"), protocol="all")
    with pytest.raises(PlanError, match="scale 10 px is below the crop"):
        Classifier(exported("A"), scales=[10])
    with pytest.raises(EngineError, match="no such file"):
        Classifier(tmp_path / "none.onnx")


def test_a_folder_without_images_is_an_error(exported: Exported, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert main([str(tmp_path), "--engine", str(exported("A"))]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: no images below it; left out: 1 .txt\n"


def test_json_of_a_folder_and_a_broken_file(exported: Exported, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for number in range(20):  # more than one batch
        (folder / f"{number:02d}.png").write_bytes(encode(noise((70 + number, 99), number), "PNG"))
    (folder / "05.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("not an image by its name")
    assert main([str(tmp_path / "photos"), "--engine", str(exported("A")), "--json", "--top", "2"]) == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == [f"{n:02d}.png" for n in range(20)]
    assert list(lines[0]) == ["image", "status", "model", "arithmetic", "protocol", "predictions"]
    assert list(lines[0]["predictions"][0]) == ["index", "wnid", "name", "probability"]
    assert [line["status"] == "ok" for line in lines] == [n != 5 for n in range(20)]
    assert lines[5]["predictions"] == []
    left_out, broken = captured.err.splitlines()
    assert left_out == f"{tmp_path / 'photos'}: left out: 1 .txt" and "05.png" in broken
    classifier = Classifier(exported("A"))
    for number in (0, 7, 19):  # alone as in a batch
        alone = classifier(read(folder / f"{number:02d}.png"), top=1)[0]
        assert alone.index == lines[number]["predictions"][0]["index"]
        assert alone.probability == pytest.approx(lines[number]["predictions"][0]["probability"], abs=1e-6)


def test_text_for_people(exported: Exported, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise((80, 80)), "PNG"))
    assert main([str(tmp_path / "a.png"), "--engine", str(exported("A")), "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(str(tmp_path / "a.png")) and out.rstrip().endswith("%")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--engine", "none.onnx"], 1, "none.onnx: no such file"),
        (["--engine", "MODEL", "--scales", "ten"], 2, "expected whole numbers"),
        (["--engine", "MODEL", "--scales", "10"], 2, "below the crop"),
        (["--engine", "MODEL", "--top", "0"], 2, "expected a positive number"),
        (["--engine", "MODEL", "--protocol", "all"], 2, "invalid choice"),
        (["--engine", "MODEL", "--device", "cuda:1"], 2, "expected a GPU's number like 0"),
        (
            ["--engine", "MODEL", "--runtime-cache", "kernels"],
            1,
            "runtime_cache, cuda_graphs and lazy_kernels are of plans",
        ),
        (["--engine", "MODEL", "--boxes", "out.png"], 2, "--boxes OUT.png and --box-engine BOXES.onnx go together"),
        (
            ["--engine", "MODEL", "--boxes", "out.tif", "--box-engine", "b.onnx"],
            2,
            "expected a picture's name, ending in",
        ),
        (
            ["--engine", "MODEL", "--boxes", "out.png", "--box-engine", "MODEL"],
            1,
            "is a classifier, which has no box_map",
        ),
        (["--engine", "MODEL", "--lazy-kernels"], 1, "lazy_kernels are of plans"),
        (["--engine", "MODEL", "--cuda-graphs"], 1, "runtime_cache, cuda_graphs and lazy_kernels are of plans"),
    ],
)
def test_usage_errors(
    arguments: list[str], status: int, message: str, exported: Exported, one_line: Callable[[], str]
) -> None:
    arguments = [str(exported("A")) if word == "MODEL" else word for word in arguments]
    try:
        assert main(["x.jpg", *arguments]) == status
    except SystemExit as stop:
        assert stop.code == status
    assert message in one_line()


def test_boxes_are_drawn_and_told(exported: Exported, tmp_path: Path, capsys: Capture) -> None:
    """A box net whose every window sees its own middle half; the picture has the image's size, JSON the boxes."""
    (tmp_path / "a.png").write_bytes(encode(noise((90, 130)), "PNG"))
    engine = exported("A")
    boxes = make_box_engine(engine, tmp_path / "boxes.onnx", [0.0, 0.0, 0.5, 0.5])
    out = tmp_path / "out.png"
    options = ["--engine", str(engine), "--box-engine", str(boxes), "--scales", "80", "--top", "3", "--json"]
    assert main([str(tmp_path / "a.png"), *options, "--boxes", str(out)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["protocol"] == "dense" and len(line["predictions"]) == 3
    for prediction in line["predictions"]:
        xmin, ymin, xmax, ymax = prediction["box"]
        assert 1 <= xmin < xmax <= 130 and 1 <= ymin < ymax <= 90
        assert (xmax - xmin) == pytest.approx(32 * 90 / 80 - 1, abs=1)
    assert np.asarray(Image.open(out)).shape == (90, 130, 3)
    assert main([str(tmp_path / "a.png"), *options, "--boxes", str(tmp_path / "a.png" / "no.png")]) == 1
    assert "cannot be written" in capsys.readouterr().err
