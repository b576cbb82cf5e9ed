"""Images that a model was trained on are known again, whatever file it lies in and however the run is cut."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import slim_spec, write_checkpoint

from evaluation.errors import RunError
from evaluation.ilsvrc import main
from evaluation.run import loop
from export.to_onnx import export_onnx
from infer.data.dataset import VAL, open_dataset
from infer.data.known_images import (
    MOST_KEPT,
    TRAINED_ON,
    KnownImages,
    image_number,
    known_images,
    with_trained_on,
)
from infer.open import open_engine
from trainer.checkpoint import load
from trainer.loop.train import train
from trainer.recipes import RECIPES

TINY = dataclasses.replace(RECIPES["mini-a"], name="tiny", width=1 / 16, fc_width=16, epochs=1, batch=8)


def evaluate(engines: list[Path], data: Path, out: Path, *more: str) -> list[str]:
    """Evaluates by the central crop; returns the remarks of the report on images that were trained on."""
    named = [word for engine in engines for word in ("--engine", str(engine))]
    assert main([*named, "--data", str(data), "--protocol", "center", "--out", str(out), *more]) == 0
    remarks = json.loads((out / "report.json").read_text())["remarks"]
    return [remark for remark in remarks if "trained on" in remark]


@pytest.fixture(scope="module")
def folders(miniature_dir: Path) -> Path:
    """Training images in class folders."""
    return miniature_dir / "ILSVRC2012_img_train"


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY, folders, tmp_path_factory.mktemp("trained"))


def test_a_model_meets_its_own_images_in_every_file(
    trained: Path, folders: Path, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(open_dataset(folders).items)
    said = f"tiny was trained on {count} of these {count} images: its error on them says little"
    assert evaluate([trained], folders, tmp_path / "pt") == [said]
    assert said in capsys.readouterr().err.splitlines()
    assert said in (tmp_path / "pt" / "report.html").read_text()
    assert evaluate([trained], miniature_dir, tmp_path / "val") == []

    onnx = export_onnx(load(trained), tmp_path / "tiny.onnx").path
    assert evaluate([trained, onnx], folders, tmp_path / "two", "--limit", "20") == [said.replace(str(count), "20")]
    with closing(open_engine(onnx)) as engine:
        assert known_images(engine.spec) == known_images(load(trained).spec)


def marked(folder: Path, data: Path, count: int, seen: int, name: str = "slim-a") -> Path:
    """A net that says that it was trained on so many images, of which the first `count` of a data set's are."""
    numbers = [image_number(item.read_bytes()) for item in open_dataset(data).items[:count]]
    others = [image_number(str(number).encode()) for number in range(seen - count)]
    known = KnownImages().with_more([*numbers, *others])
    return write_checkpoint(folder / f"{name}.pt", with_trained_on(slim_spec("A", name=name), known))


def test_an_unfinished_run_counts_what_it_did_before(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = marked(tmp_path, miniature_dir, 22, 100)
    arguments = ["--engine", str(engine), "--data", str(miniature_dir), "--protocol", "dense", "--out"]
    real = loop.read_image

    def read_image(item: Any, **rules: Any) -> Any:
        if item.name.endswith("18.JPEG"):
            raise RunError("away")
        return real(item, **rules)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "read_image", read_image)
        assert main([*arguments, str(tmp_path / "out")]) == 1
    assert main([*arguments, str(tmp_path / "out"), "--resume"]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    found = [json.loads((tmp_path / out / "report.json").read_text())["remarks"] for out in ("out", "whole")]
    assert found[0] == found[1] == ["slim-a was trained on 22 of these 24 images: its error on them says little"]


@pytest.mark.processes
def test_engines_and_processes_are_counted_each(miniature_dir: Path, tmp_path: Path) -> None:
    engines = [
        marked(tmp_path, miniature_dir, 3, 3, "one"),
        marked(tmp_path, miniature_dir, 0, 50, "none"),
        marked(tmp_path, miniature_dir, 24, 24, "all"),
    ]
    said = [f"{name} was trained on {count} of these 24 images" for name, count in (("one", 3), ("all", 24))]
    remarks = evaluate(engines, miniature_dir, tmp_path / "out", "--device", "0,1")
    assert [remark.partition(":")[0] for remark in remarks] == said


def test_of_many_images_the_number_is_an_estimate(miniature_dir: Path, tmp_path: Path) -> None:
    engine = marked(tmp_path, miniature_dir, 24, 2 * MOST_KEPT)
    assert evaluate([engine], miniature_dir, tmp_path / "out") == [
        "slim-a was trained on about 24 of these 24 images: its error on them says little"
    ]
    few = marked(tmp_path, miniature_dir, 0, 2 * MOST_KEPT, "few")
    assert evaluate([few], miniature_dir, tmp_path / "few") == []


def test_an_image_that_is_there_twice_counts_twice(miniature_copy: Path, tmp_path: Path) -> None:
    engine = marked(tmp_path, miniature_copy, 1, 1)
    first, second, *_ = sorted((miniature_copy / VAL).iterdir())
    second.write_bytes(first.read_bytes())
    assert evaluate([engine], miniature_copy, tmp_path / "out") == [
        "slim-a was trained on 2 of these 24 images: its error on them says little"
    ]


def test_what_is_damaged_is_one_line(miniature_dir: Path, tmp_path: Path, one_line: Any) -> None:
    engine = write_checkpoint(tmp_path / "a.pt", slim_spec("A", source={TRAINED_ON: "\x1b[31m"}))
    arguments = ["--engine", str(engine), "--data", str(miniature_dir), "--protocol", "center"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert one_line().startswith("slim-a: source.trained_on is no sample of images (5 letters, not a limit and")
