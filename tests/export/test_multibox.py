"""MultiBox nets on their way to engines: the same boxes from torch and ONNX Runtime, self-tests, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import network_input, noise, random_net, slim_spec, write_checkpoint

from export.to_onnx import export_onnx
from export.to_onnx import main as to_onnx
from infer.boxes.multibox import found_boxes, plan_whole, propose
from infer.engine import AnswerError, EngineError
from infer.model_file import CHECK
from infer.open import open_engine
from infer.pixels.regions import make_picture
from infer.pixels.render import render
from infer.spec import ModelSpec, SpecError
from infer.views import plan_views
from trainer.checkpoint import load
from trainer.nets.zoo import build_net
from trainer.torch_engine import TorchEngine

BOXES = 7


def spec_of_boxes(**changes: Any) -> ModelSpec:
    return slim_spec("googlenet", **{"task": "multibox", "boxes": BOXES, "fixed_size": True, **changes})


def exported(folder: Path, **options: Any) -> Path:
    export_onnx(load(write_checkpoint(folder / "m.pt", spec_of_boxes())), folder / "m.onnx", **options)
    return folder / "m.onnx"


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_boxes_of_the_whole_image_are_those_of_the_net(interface: Any, precision: Any, tmp_path: Path) -> None:
    engine = open_engine(exported(tmp_path, interface=interface, precision=precision), self_test=interface != "nchw")
    spec, images = engine.spec, [noise((90, 130)), noise((300, 200))]
    assert spec.outputs == ("boxes", "pixel_sums") and spec.channels == 5 * BOXES

    pictures = [make_picture(image, spec) for image in images]
    plans = [plan_whole((image.shape[0], image.shape[1]), spec) for image in images]
    found = engine.run(engine.load(pictures), plans, ("boxes", "pixel_sums"))
    with torch.inference_mode():
        views = [render(picture, plan.views, spec)[0] for picture, plan in zip(pictures, plans, strict=True)]
        raw = np.stack([random_net(spec)(network_input(view, spec))[0].numpy().reshape(BOXES, 5) for view in views])
    expected = np.concatenate([raw[..., :4], 1 / (1 + np.exp(-raw[..., 4:]))], 2)
    assert found["boxes"].shape == (2, BOXES, 5) and found["boxes"].dtype == np.float32
    error = np.abs(found["boxes"] - expected).max() / np.std(expected)
    assert error < (1e-4 if precision == "fp32" else 0.02)

    reference = TorchEngine(load(tmp_path / "m.pt"))
    again = reference.run(reference.load(pictures), plans, ("boxes", "pixel_sums"))
    assert np.abs(again["boxes"] - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert np.array_equal(again["pixel_sums"], found["pixel_sums"])


def test_the_view_is_the_whole_picture_without_its_frame(tmp_path: Path) -> None:
    spec, image = spec_of_boxes(), noise((90, 130))
    (view,) = plan_whole((90, 130), spec).views
    height, width = make_picture(image, spec).shape[:2]
    assert view.box == (0, 0, height - 1, width - 1) and view.size_px == (96, 96)


def test_proposals_are_boxes_of_the_image_the_surest_first(tmp_path: Path) -> None:
    engine = open_engine(exported(tmp_path))
    found = propose(engine, noise((90, 130)))
    assert (np.diff(found.scores) <= 0).all() and len(found.boxes) == len(found.scores) <= BOXES
    assert (found.boxes[:, :2] >= 1).all() and (found.boxes[:, 2:] <= [130, 90]).all()
    assert len(propose(engine, noise((90, 130)), most=1).boxes) <= 1


def test_an_answer_becomes_boxes_within_the_image() -> None:
    answer = [
        [0.1, 0.2, 0.5, 0.6, 0.3],
        [-0.5, 0.5, 0.5, 2.0, 0.9],  # reaches beyond the image
        [0.11, 0.2, 0.5, 0.6, 0.2],  # the first once more, less sure
        [0.5, 0.5, 0.4, 0.6, 0.8],  # no box
        [np.nan, 0, 1, 1, 0.8],
        [1.2, 0.1, 1.4, 0.6, 0.8],  # outside
    ]
    found = found_boxes(np.array(answer, np.float32), (100, 200))
    np.testing.assert_allclose(found.boxes, [[1, 51, 100, 100], [21, 21, 100, 60]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.3], atol=1e-6)


def test_an_answer_without_a_number_is_no_answer() -> None:
    """Not an image without boxes."""
    answer = np.full((6, 5), np.nan, np.float32)
    with pytest.raises(AnswerError, match="MultiBox: the model's answer is not finite"):
        found_boxes(answer, (100, 200))
    answer[0] = 0.1, 0.2, 0.5, 0.6, 0.3
    assert len(found_boxes(answer, (100, 200)).boxes) == 1


def test_the_self_test_finds_other_boxes(tmp_path: Path) -> None:
    path = exported(tmp_path)
    model = onnx.load(path)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    expected = json.loads(metadata["self_test"])
    assert np.shape(expected["mean_box"]) == (16, 5 * BOXES)
    expected["mean_box"][3][2] += 0.001 * max(1, abs(expected["mean_box"][3][2]))
    onnx.helper.set_model_props(model, {**metadata, "self_test": json.dumps(expected)})
    onnx.save(model, path)
    with pytest.raises(EngineError, match=r"self-test of slim-googlenet on onnxruntime-fp32: a box differs by 0\.00"):
        open_engine(path, self_test=True)


def test_a_multibox_net_is_no_classifier_and_no_box_net(tmp_path: Path) -> None:
    engine = open_engine(exported(tmp_path))
    plan = plan_views(engine.spec, "center", (130, 130))
    with pytest.raises(EngineError, match=r"is a MultiBox net, which has no posterior, only boxes, pixel_sums: it"):
        engine.run(engine.load([noise((130, 130))]), [plan])
    with pytest.raises(SpecError, match="multibox: is of googlenet, got D"):
        build_net(slim_spec("D", task="multibox", boxes=3, fixed_size=True))


def test_a_classifier_proposes_nothing(tmp_path: Path) -> None:
    export_onnx(load(write_checkpoint(tmp_path / "a.pt", slim_spec("A"))), tmp_path / "a.onnx")
    with pytest.raises(EngineError, match=r"slim-a is no MultiBox net, it has no boxes: expected one of a recipe like"):
        propose(open_engine(tmp_path / "a.onnx"), noise((90, 130)))


def test_a_graph_of_other_boxes_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path)
    model = onnx.load(path)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    metadata["spec"] = spec_of_boxes(boxes=8, outputs=("boxes", "pixel_sums")).to_json()
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    with pytest.raises(EngineError, match="its boxes has 7 values, expected 8 boxes that its spec names"):
        open_engine(path)


def test_the_command_exports_in_half_with_its_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "m.pt", spec_of_boxes())
    assert to_onnx([str(checkpoint), "-o", str(tmp_path / "half.onnx"), "--precision", "fp16"]) == 0
    engine = open_engine(tmp_path / "half.onnx", self_test=True)
    assert engine.spec.precision == "fp16" and (tmp_path / f"half{CHECK}").exists()
    assert to_onnx([str(checkpoint), "-o", str(tmp_path / "x.onnx"), "--outputs", "score_map"]) == 1
    assert "a box net, which has no score_map: leave it out of --outputs" in capsys.readouterr().err
