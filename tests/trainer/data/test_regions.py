"""Regions that a net learns from: their labels, the batches, and a run from a classifier to a net of regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_sets import make_scenes, write_proposals
from helpers import Checkpoints

from infer.boxes.proposed import ProposedImage
from infer.data.annotations import Box
from infer.data.dataset import DatasetError, open_dataset
from infer.data.detection import DetectionData, Object, open_detection
from infer.pixels.decode import decode
from infer.pixels.regions import make_picture, plan_regions
from infer.pixels.render import render
from infer.views import default_scales, plan_views
from trainer import checkpoint as checkpoints
from trainer.__main__ import main
from trainer.checkpoint import Checkpoint
from trainer.data.batches import share_draws
from trainer.data.examples import Examples
from trainer.data.regions import BACKGROUND_CLASS, ProposalFiles, RegionItems, label_regions, open_regions
from trainer.loop.execution import Execution
from trainer.loop.fine_tuning import fit_recipe
from trainer.loop.train import TrainingError, train
from trainer.recipe import RecipeError, override
from trainer.recipes import RECIPES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProposalFiles]:
    folder = tmp_path_factory.mktemp("scenes")
    data = make_scenes(folder / "data")
    files = [write_proposals(data, split, folder / f"{split}.parquet") for split in ("train", "val")]
    return data, ProposalFiles(*files)


def image_of(objects: list[Object], boxes: list[list[float]]) -> tuple[DetectionData, ProposedImage]:
    data = DetectionData(Path("d"), "voc", "train", ("cat", "dog"), (), [], (tuple(objects),), (None,))
    proposed = np.array(boxes, np.float32).reshape(-1, 4)
    return data, ProposedImage("a", "ok", (100, 100), proposed, np.zeros(len(proposed), np.float32), [])


def test_a_region_has_the_class_of_the_object_that_it_covers() -> None:
    """Intersections over union, boxes ending inclusive: 0.5 is enough, an object that does not count is nobody's."""
    cat, dog = Object(0, Box(1, 1, 20, 20)), Object(1, Box(41, 41, 60, 60))
    hard, crowd = Object(1, Box(71, 1, 90, 20), ignored=True), Object(0, Box(1, 71, 20, 90), crowd=True)
    data, image = image_of(
        [cat, dog, hard, crowd],
        [
            [1, 1, 20, 10],  # half of the cat: 0.5
            [1, 1, 20, 9],  # less
            [41, 41, 60, 55],
            [71, 1, 90, 20],
            [1, 71, 20, 90],
            [30, 30, 35, 35],
            [200, 200, 220, 220],  # outside: no region
        ],
    )
    labels, boxes = label_regions(data, 0, image, background=2)
    assert labels.tolist() == [0, 1, 0, 2, 1, -1, -1, 2]  # the objects' own boxes first
    assert boxes[:2].tolist() == [[1, 1, 20, 20], [41, 41, 60, 60]]
    labels, boxes = label_regions(*image_of([], [[1, 1, 9, 9]])[:1], 0, image_of([], [[1, 1, 9, 9]])[1], background=2)
    assert labels.tolist() == [2]


def test_a_quarter_of_each_batch_shows_objects() -> None:
    labels = np.array([0, 1] * 20 + [2] * 120)
    draws = share_draws((0, 0), labels, 16, sampling="regions")  # [batches, 1, 16]
    assert draws.shape == (10, 1, 16) and sorted(draws.reshape(-1).tolist()) == list(range(160))
    assert ((labels[draws] < 2).sum(-1) == 4).all()
    halves = [share_draws((0, 0), labels, 16, rank=rank, world=2, sampling="regions") for rank in (0, 1)]
    assert np.array_equal(np.concatenate(halves, -1), draws)


def test_regions_of_a_data_set(scenes: tuple[Path, ProposalFiles]) -> None:
    data, files = scenes
    training, validation = open_regions(data, files, limit=None, seed=3)
    assert training.classes[-1] == BACKGROUND_CLASS and len(training.classes) == 11
    items = training.items
    assert isinstance(items, RegionItems)
    objects = (items.labels < 10).sum()
    assert len(items) == 4 * objects and objects >= sum(map(len, open_detection(data, "train").objects))
    assert validation is not None and len(validation.items) % 4 == 0
    again, _ = open_regions(data, files, limit=None, seed=3)
    assert Examples(again).listing_digest == Examples(training).listing_digest
    other, _ = open_regions(data, files, limit=None, seed=4)
    assert Examples(other).listing_digest != Examples(training).listing_digest

    # a crop is what evaluation sees of the region
    spec = RECIPES["mini-vgg-det"].spec(training.classes, (), (120.0, 115.0, 100.0))
    pixels, label, place = Examples(training).centers(spec)[5]  # type: ignore[misc]
    item = items[5]
    image = decode(item.read_bytes(), name=item.name)
    view = plan_regions(np.array([item.box]), image.shape[:2], spec).views[0]  # type: ignore[arg-type]
    assert np.array_equal(pixels.numpy(), render(make_picture(image, spec), [view], spec)[0])
    assert (label, place) == (item.label, 5)


def test_an_image_of_another_size_than_its_proposals_is_refused(scenes: tuple[Path, ProposalFiles]) -> None:
    """Its regions would be of other places, with the labels of these."""
    data, files = scenes
    training, _ = open_regions(data, files, limit=None, seed=3)
    items = training.items
    assert isinstance(items, RegionItems)
    spec = RECIPES["mini-vgg-det"].spec(training.classes, (), (120.0, 115.0, 100.0))
    height, width = items[0].image_px
    items.sizes_px[items.places[0]] = width + 1, height
    with pytest.raises(DatasetError, match=rf"of an image of {width + 1}x{height} px, not {height}x{width}: make them"):
        Examples(training).centers(spec)[0]


def test_what_cannot_be_learnt_from(scenes: tuple[Path, ProposalFiles], tmp_path: Path) -> None:
    data, files = scenes
    assert files.validation is not None
    with pytest.raises(DatasetError, match=r"no proposals for an image of .*, expected those of its train"):
        open_regions(data, ProposalFiles(files.validation), limit=None, seed=0)
    nowhere = write_proposals(data, "train", tmp_path / "none.parquet", near=0, anywhere=0)
    with pytest.raises(DatasetError, match="no proposal is background of"):
        open_regions(data, ProposalFiles(nowhere), limit=None, seed=0)
    for setting, message in (
        ("batch=30", "a multiple of 4"),
        ("val_split=0.2", "not for regions"),
        ("sampling=all", "sampling"),
    ):
        with pytest.raises(RecipeError, match=message):
            override(RECIPES["mini-vgg-det"], [setting])


@pytest.mark.parametrize(("net", "recipe"), [("A", "mini-vgg-det"), ("googlenet", "mini-googlenet-det")])
def test_a_run(
    scenes: tuple[Path, ProposalFiles], slim_checkpoint: Checkpoints, tmp_path: Path, net: str, recipe: str, capsys: Any
) -> None:
    data, files = scenes
    words = [
        "--recipe",
        recipe,
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--init",
        str(slim_checkpoint(net)),
    ]
    words += ["--set", "epochs=1", "batch=64", "iterations=2"]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "learns from proposals, expected --proposals FILE: python -m evaluation.proposals" in capsys.readouterr().err
    assert main([*words, "--proposals", str(files.training), "--val-proposals", str(files.validation)]) == 0
    assert "regions of objects and" in capsys.readouterr().err
    done = checkpoints.load(tmp_path / "run" / "ckpt.pt")
    assert done.spec.task == "classify" and done.spec.classes[-1] == BACKGROUND_CLASS
    assert done.spec.name == ("mini-vgg-a-det" if net == "A" else "mini-googlenet-det")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["validation_top1_error_percent"] <= 100

    # What it leaves for the exporter is what evaluation sees.
    left = open_dataset(tmp_path / "run" / "regions" / "val", "named")
    assert set(left.classes) <= set(done.spec.classes) and len(left.items) > 100
    image = decode(left.items[0].read_bytes(), name="a")
    plan = plan_views(done.spec, "center", image.shape[:2], default_scales(done.spec, "center"))  # type: ignore[arg-type]
    assert np.array_equal(render(image, plan.views, done.spec)[0], image) and image.shape[0] == done.spec.crop_px


def test_a_run_that_died_ends_the_same(
    scenes: tuple[Path, ProposalFiles], slim_checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, files = scenes
    init = slim_checkpoint("A")
    recipe = fit_recipe(
        override(RECIPES["mini-vgg-det"], ["epochs=1", "batch=64", "iterations=4"]), checkpoints.load(init).spec
    )
    whole = checkpoints.load(train(recipe, data, tmp_path / "whole", init=init, proposals=files))

    save = checkpoints.save

    def save_and_die(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.steps_of_epoch == 2:
            raise KeyboardInterrupt

    often = Execution(save_minutes=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save", save_and_die)
        train(recipe, data, tmp_path / "died", init=init, proposals=files, execution=often)
    died = checkpoints.load(train(recipe, data, tmp_path / "died", resume=True, proposals=files, execution=often))
    assert all((whole.weights[name] == died.weights[name]).all() for name in whole.weights)
    with pytest.raises(TrainingError, match=r"was trained on other images, or other labels|was trained on"):
        other = ProposalFiles(write_proposals(data, "train", tmp_path / "other.parquet", near=3))
        train(recipe, data, tmp_path / "died", resume=True, proposals=other)


def test_classification_takes_no_proposals(scenes: tuple[Path, ProposalFiles], tmp_path: Path, capsys: Any) -> None:
    data, files = scenes
    words = ["--recipe", "mini-a", "--data", str(data), "--out", str(tmp_path), "--proposals", str(files.training)]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--proposals: is for nets of regions" in capsys.readouterr().err
