"""--val-split: the same share of each class ever after; photographs that a camera turned are said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from photo_sets import MINI, fitted, photo_folders, weights_for
from PIL import Image

from trainer.__main__ import main
from trainer.checkpoint import load
from trainer.loop.train import TrainingError, train


def test_the_validation_images_are_the_same_ever_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 20, "dog": 10, "hen": 2, "one": 1})
    recipe = fitted(MINI, weights, "batch=4", "iterations=1", "val_split=0.2")
    first = load(train(recipe, data, tmp_path / "a", init=weights))
    of_class = {
        name: sum(held.startswith(f"{name}/") for held in first.held_out) for name in ("cat", "dog", "hen", "one")
    }
    assert of_class == {"cat": 4, "dog": 2, "hen": 1, "one": 0}
    assert "--val-split keeps none of 1 classes of one image (one)" in capsys.readouterr().err
    assert (tmp_path / "a" / "held-out.txt").read_text().splitlines() == list(first.held_out)
    assert first.images == 33 - 7

    # a run that is done, and found so, has the list again
    (tmp_path / "a" / "held-out.txt").unlink()
    train(recipe, data, tmp_path / "a", init=weights, resume=True)
    assert (tmp_path / "a" / "held-out.txt").read_text().splitlines() == list(first.held_out)

    # another seed of training keeps the same, another of the split others; weights of a run keep what they kept
    again = load(train(dataclasses.replace(recipe, seed=5), data, tmp_path / "b", init=weights))
    other = load(train(dataclasses.replace(recipe, split_seed=1), data, tmp_path / "c", init=weights))
    onward = load(
        train(dataclasses.replace(recipe, split_seed=1), data, tmp_path / "d", init=tmp_path / "a" / "ckpt.pt")
    )
    assert again.held_out == first.held_out == onward.held_out
    assert other.held_out != first.held_out

    # an image more moves one at most
    Image.new("RGB", (96, 80), (1, 2, 3)).save(data / "cat" / "new.png")
    more = load(train(recipe, data, tmp_path / "e", init=weights))
    assert len(set(more.held_out) - set(first.held_out)) <= 1


def test_a_split_that_cannot_be(miniature_dir: Path, tmp_path: Path, one_line: Callable[[], str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    words = [
        "--recipe",
        "mini-vgg-finetune",
        "--init",
        str(weights),
        "--out",
        str(tmp_path / "o"),
        "--val-split",
        "0.2",
    ]
    assert main([*words, "--data", str(miniature_dir)]) == 1
    assert "has validation images of its own: leave out --val-split 0.2" in one_line()
    with pytest.raises(SystemExit, match="2"):
        main([*words[:-1], "20", "--data", str(miniature_dir)])
    assert "val_split is a share below 1, got 20.0" in one_line()
    single = photo_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    assert main([*words, "--data", str(single)]) == 1
    assert "--val-split needs a class of two images at least" in one_line()


def test_another_share_is_another_run(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 10, "dog": 10})
    recipe = fitted(MINI, weights, "batch=4", "epochs=1", "val_split=0.2")
    train(recipe, data, tmp_path / "out", init=weights)
    with pytest.raises(TrainingError, match="was made by another recipe or other settings"):
        train(dataclasses.replace(recipe, val_split=0.3), data, tmp_path / "out", init=weights, resume=True)


def test_photographs_that_were_turned_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.new("RGB", (96, 80), (number, 2, 3)).save(data / "cat" / f"turned{number}.jpg", exif=exif)
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--final-protocol", "none"]
    words += ["--set", "batch=4", "iterations=1"]
    assert main([*words, "--out", str(tmp_path / "ignored")]) == 0
    line = "3 of 11 images were turned by their camera, and are used as stored: --exif apply turns them"
    assert line in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "applied"), "--exif", "apply"]) == 0
    assert "turned by their camera" not in capsys.readouterr().err
