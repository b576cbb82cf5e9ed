"""A MultiBox net from a data set to proposals: trained, gone on with, exported, and run by evaluation.proposals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluation.proposals.__main__ import main as propose
from export.to_onnx import main as to_onnx
from infer.boxes.proposed import read_proposals
from trainer.checkpoint import Checkpoint, load
from trainer.data.examples import open_multibox_examples
from trainer.data.multibox import MultiBoxTargets
from trainer.loop.start import make_initial_net, make_spec
from trainer.loop.train import TrainingError, train
from trainer.recipe import RecipeError, override
from trainer.recipes import RECIPES

RECIPE = override(
    RECIPES["mini-googlenet-multibox"], ["width=0.0625", "batch=4", "epochs=2", "boxes=6", "learning_rate=0.0005"]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rectangles in COCO's shape: 12 images to learn from, 8 to be tried on."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (folder / "annotations").mkdir()
    for split, count in (("train", 12), ("val", 8)):
        (folder / f"{split}2017").mkdir()
        images, instances = [], []
        for number in range(count):
            pixels = rng.integers(20, 26, (60, 80, 3), np.uint8)
            x, y, width, height = (int(rng.integers(*ends)) for ends in ((2, 40), (2, 30), (16, 36), (14, 28)))
            pixels[y : y + height, x : x + width] += np.array(rng.integers(80, 220, 3), np.uint8)
            cv2.imwrite(str(folder / f"{split}2017/{number:03d}.png"), pixels)
            images.append({"id": number, "file_name": f"{number:03d}.png", "height": 60, "width": 80})
            known = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0}
            instances.append({**known, "bbox": [x, y, width, height]})
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        content = {"images": images, "annotations": instances, "categories": categories}
        (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(RECIPE, data, tmp_path_factory.mktemp("run") / "whole")


def start(data: Path, source: Checkpoint | None = None) -> tuple[MultiBoxTargets, torch.nn.Module]:
    examples, _ = open_multibox_examples(data, RECIPE, {})
    assert isinstance(examples.target, MultiBoxTargets)
    spec = make_spec(RECIPE, examples.dataset, None)
    return examples.target, make_initial_net(RECIPE, spec, source, examples.target)


def test_a_net_begins_with_its_priors(data: Path) -> None:
    targets, net = start(data)
    net.eval()
    with torch.no_grad():
        answer = net(torch.zeros(1, 3, 96, 96)).reshape(6, 5)
    np.testing.assert_allclose(answer[:, :4], targets.priors, atol=0.02)
    np.testing.assert_allclose(torch.sigmoid(answer[:, 4]), 1 / 6, atol=0.02)


def test_its_trunk_begins_with_a_classifiers_layers(data: Path) -> None:
    classifier = dataclasses.replace(RECIPES["mini-googlenet"], width=RECIPE.width)
    spec = make_spec(classifier, open_multibox_examples(data, RECIPE, {})[0].dataset, None)
    other = make_initial_net(dataclasses.replace(classifier, seed=5), spec, None)
    weights = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith("auxiliary")}
    targets, net = start(data, Checkpoint(spec, weights))

    own = net.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights if not name.startswith("classifier"))
    np.testing.assert_allclose(own["classifier.bias"].reshape(6, 5)[:, :4], targets.priors, atol=1e-6)


def test_a_run_says_what_it_covers_and_goes_on_to_the_same_weights(data: Path, trained: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(0 <= row["validation_iou50_error_percent"] <= 100 for row in rows)
    checkpoint = load(trained)
    spec = checkpoint.spec
    assert (spec.task, spec.boxes, spec.fixed_size, spec.classes) == ("multibox", 6, True, ("a", "b"))

    again = load(train(RECIPE, data, tmp_path / "again"))
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in checkpoint.weights.items())
    with pytest.raises(TrainingError, match="another recipe or other settings"):
        train(override(RECIPE, ["boxes=7"]), data, trained.parent, resume=True)
    assert train(RECIPE, data, trained.parent, resume=True) == trained


def test_the_exported_net_proposes(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.onnx"
    assert to_onnx([str(trained), "-o", str(model)]) == 0
    options = ["--data", str(data), "--method", "selective-search,multibox", "--multibox", str(model)]
    tables = [tmp_path / f"{jobs}.parquet" for jobs in (1, 2)]
    for jobs, table in enumerate(tables, start=1):
        assert propose([*options, "-o", str(table), "--jobs", str(jobs)]) == 0
    assert tables[0].read_bytes() == tables[1].read_bytes()

    said = capsys.readouterr().out
    assert "| selective-search + multibox |" in said and "| multibox " in said
    for row in read_proposals(tables[0]):
        own = [score for score, method in zip(row.scores.tolist(), row.methods, strict=True) if method == "multibox"]
        assert 0 < len(own) <= 6 and own == sorted(own, reverse=True) and all(0 < score < 1 for score in own)

    assert propose([*options, "-o", str(tmp_path / "few.parquet"), "--most", "2", "--jobs", "1"]) == 0
    assert all(row.methods.count("multibox") <= 2 for row in read_proposals(tmp_path / "few.parquet"))


def test_a_net_of_another_kind_proposes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_text("no model")
    options = ["--data", str(data), "--method", "multibox", "--multibox", str(tmp_path / "x.onnx")]
    assert propose([*options, "-o", str(tmp_path / "p.parquet"), "--jobs", "1"]) == 1
    assert "x.onnx" in capsys.readouterr().err


def test_what_cannot_be_learnt_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="12 different boxes to learn from for 50 priors: --set boxes=N"):
        train(override(RECIPE, ["boxes=50"]), data, tmp_path / "run")
    with pytest.raises(RecipeError, match="--labels is for classification"):
        train(RECIPE, data, tmp_path / "run", reading={"labels": tmp_path})
    with pytest.raises(RecipeError, match="boxes is above 0 for multibox, and for nothing else, got 0"):
        override(RECIPE, ["boxes=0"])
