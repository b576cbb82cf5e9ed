"""trainer/loop/train.py: what each setting of a recipe does to a run, on 64 images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_checkpoint

import trainer.loop.train
from infer.data.dataset import TRAIN, open_dataset
from trainer.checkpoint import Checkpoint, load
from trainer.data.colours import Statistics, measure
from trainer.loop.start import make_spec
from trainer.loop.train import TrainingError, train
from trainer.loop.validation import Validation
from trainer.recipe import Phase, Recipe
from trainer.recipes import RECIPES

PHASES = (Phase(1.0, (82, 90), dropout=False),)
TINY = dataclasses.replace(RECIPES["mini-a"], name="tiny", width=1 / 16, fc_width=16, epochs=2, batch=8, phases=PHASES)


def run(recipe: Recipe, data: Path, out: Path, **more: Any) -> tuple[Checkpoint, list[dict[str, float]]]:
    checkpoint = load(train(recipe, data, out, **more))
    return checkpoint, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def layers_that_differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name, tensor in one.items() if not torch.equal(tensor, other[name])}


def test_iterations_end_a_run_within_an_epoch(miniature_dir: Path, tmp_path: Path) -> None:
    checkpoint, rows = run(dataclasses.replace(TINY, epochs=1, iterations=11), miniature_dir, tmp_path)
    assert [(row["epoch"], row["iteration"]) for row in rows] == [(1, 8), (2, 11)]
    assert (checkpoint.finished, checkpoint.epochs_done) == (True, 2)


def test_a_plateau_lowers_the_rate_and_ends_the_run(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors that stall: the rate is divided by ten twice, and where it would be a third time the run ends."""
    errors = iter([50.0, 40.0, 41.0, 40.0, 45.0, 39.0, 60.0, 60.0])
    nothing = torch.empty(0)

    def validate(run: object, centers: object) -> Validation:
        return Validation({"top1": next(errors), "top5": 1.0}, 1.0, nothing.long(), nothing)

    monkeypatch.setattr(trainer.loop.train, "validate", validate)
    recipe = dataclasses.replace(TINY, schedule="plateau", patience=1, lr_drops=2, iterations=1000, learning_rate=0.01)
    checkpoint, rows = run(recipe, miniature_dir, tmp_path)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.0001])
    assert (checkpoint.finished, checkpoint.plateau[:2]) == (True, (3, 40.0))


def test_a_plateau_needs_images_to_be_tried_on(miniature_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature_dir / TRAIN, tmp_path / "train")
    recipe = dataclasses.replace(TINY, schedule="plateau", iterations=8)
    with pytest.raises(TrainingError, match="there are no labelled validation images of the same classes: add val/"):
        train(recipe, tmp_path / "train", tmp_path / "out")
    _, rows = run(dataclasses.replace(TINY, epochs=1), tmp_path / "train", tmp_path / "out")
    assert not any("validation" in name for name in rows[0])


def test_polyaks_average_is_what_is_saved_and_tried(miniature_dir: Path, tmp_path: Path) -> None:
    """With a decay of 1 it is the plain mean of the iterates; the net that is trained is another."""
    recipe = dataclasses.replace(TINY, epochs=1, average="polyak", average_decay=1.0)
    iterates: list[dict[str, torch.Tensor]] = []
    step = trainer.loop.train.TrainingState.step

    def remember(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        iterates.append({name: tensor.clone() for name, tensor in self.net.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.loop.train.TrainingState, "step", remember)
        averaged, _ = run(recipe, miniature_dir, tmp_path / "average")
    plain, _ = run(dataclasses.replace(recipe, average="none"), miniature_dir, tmp_path / "plain")
    assert len(iterates) == 8
    for name, tensor in averaged.weights.items():
        mean = torch.stack([iterate[name].double() for iterate in iterates]).mean(0)
        assert torch.allclose(tensor.double(), mean, atol=1e-6), name
        assert torch.equal(averaged.iterate[name], plain.weights[name])
    assert plain.iterate == {}


def test_googlenets_crops_reach_the_run(miniature_dir: Path, tmp_path: Path) -> None:
    googlenets = {"crop": "area", "interpolation": "random", "photometric": True, "color_sigma": 0.0}
    for name, changes in (("plain", {}), ("googlenet", googlenets)):
        run(dataclasses.replace(TINY, epochs=1, batch=32, **changes), miniature_dir, tmp_path / name)
    one, other = (load(tmp_path / name / "ckpt.pt").weights for name in ("plain", "googlenet"))
    assert layers_that_differ(one, other)


def test_the_exponential_schedule_in_a_run(miniature_dir: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=4, schedule="exponential", lr_every_epochs=2, lr_factor=0.5, batch=32)
    _, rows = run(recipe, miniature_dir, tmp_path)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.015, 0.015, 0.0075, 0.0075])


def test_statistics_that_are_given_are_the_specs(miniature_dir: Path, tmp_path: Path) -> None:
    colors = dataclasses.replace(measure(open_dataset(miniature_dir, "train"), 4), mean_rgb=(1.0, 2.0, 3.0))
    checkpoint, _ = run(dataclasses.replace(TINY, epochs=1, batch=64), miniature_dir, tmp_path, statistics=colors)
    assert checkpoint.spec.preprocessing.mean_rgb == (1.0, 2.0, 3.0)
    assert json.loads(checkpoint.spec.source["colors"]) == json.loads(colors.to_json())
    assert Statistics(**json.loads(checkpoint.spec.source["colors"])).images == colors.images


def test_other_images_are_refused_by_resume(miniature_copy: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(TINY, epochs=1), miniature_copy, tmp_path)
    next((miniature_copy / TRAIN).rglob("*.JPEG")).unlink()
    with pytest.raises(TrainingError, match=r"was trained on 64 images of 10 classes, .* has 63 of 10: resume with"):
        train(dataclasses.replace(TINY, epochs=1), miniature_copy, tmp_path, resume=True)


def test_as_many_other_images_are_refused_too(miniature_copy: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=1)
    train(recipe, miniature_copy, tmp_path)
    path = next((miniature_copy / TRAIN).rglob("*.JPEG"))
    path.rename(path.with_name("another.JPEG"))
    with pytest.raises(TrainingError, match=r"was trained on other images, or other labels, than .* has: resume with"):
        train(recipe, miniature_copy, tmp_path, resume=True)


def test_other_colours_are_refused_by_resume(miniature_dir: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=1)
    colors = measure(open_dataset(miniature_dir, "train"), 4)
    path = train(recipe, miniature_dir, tmp_path, statistics=colors)
    assert train(recipe, miniature_dir, tmp_path, statistics=colors, resume=True) == path
    others = dataclasses.replace(colors, mean_rgb=(1.0, 2.0, 3.0))
    with pytest.raises(TrainingError, match=r"was made with other --statistics: resume with the same, or use a new"):
        train(recipe, miniature_dir, tmp_path, statistics=others, resume=True)


@pytest.mark.parametrize("kind", ["scr", "pcr"])
def test_a_box_net_starts_from_the_classifier_and_learns(kind: str, miniature_dir: Path, tmp_path: Path) -> None:
    base = RECIPES[f"mini-d-loc-{kind}"]
    recipe = dataclasses.replace(base, net="A", width=1 / 16, fc_width=16, epochs=3, batch=16, learning_rate=3e-4)
    spec = make_spec(dataclasses.replace(TINY, name="a"), open_dataset(miniature_dir, "train"), None)
    given = write_checkpoint(tmp_path / "a.pt", spec)
    checkpoint, rows = run(recipe, miniature_dir, tmp_path / kind, init=given)
    assert checkpoint.spec.task == f"box-{kind}" and checkpoint.spec.source["fine_tuned"] == "all"
    assert checkpoint.weights["fc8.weight"].shape[0] == (4 if kind == "scr" else 40)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert all(0 <= row["validation_iou50_error_percent"] <= 100 for row in rows)
    assert "validation_top1_error_percent" not in rows[0]


def test_only_the_fully_connected_layers_may_be_trained(miniature_dir: Path, tmp_path: Path) -> None:
    spec = make_spec(dataclasses.replace(TINY, name="a"), open_dataset(miniature_dir, "train"), None)
    given = write_checkpoint(tmp_path / "a.pt", spec)
    changes: dict[str, Any] = {"net": "A", "width": 1 / 16, "fc_width": 16, "epochs": 1, "batch": 32}
    recipe = dataclasses.replace(RECIPES["mini-d-loc-scr"], train_layers="fully-connected", **changes)
    checkpoint, _ = run(recipe, miniature_dir, tmp_path / "out", init=given)
    start = load(given).weights
    kept = {name: tensor for name, tensor in checkpoint.weights.items() if not name.startswith("fc8")}
    assert layers_that_differ(kept, start) == {"fc6", "fc7"}
    assert {name.split(".")[0] for name in checkpoint.momentum} == {"fc6", "fc7", "fc8"}
    assert checkpoint.spec.source["fine_tuned"] == "first two FC"
    again = load(train(recipe, miniature_dir, tmp_path / "out", init=given, resume=True))
    assert layers_that_differ(again.weights, checkpoint.weights) == set()
