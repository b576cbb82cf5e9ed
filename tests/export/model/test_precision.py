"""Half precision, seen through the check graph: how far scores move, and that overflow shows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import loud_checkpoint

from export.model.precision import HALF_MAX, check_graph, half_tensors
from export.to_onnx import export_onnx, main
from infer.onnx_engine import OnnxEngine
from infer.views import plan_views
from trainer.checkpoint import load, save

Exported = Callable[..., Path]
NETS = {"A-LRN": 0.02, "C": 0.05, "googlenet": 0.02}
"""Largest class-score error in standard deviations that half precision may cost a random slim net: about twice what
was measured (0.004, 0.024 and 0.006)."""


def scores(path: Path, image: Any) -> Any:
    engine = OnnxEngine(path)
    plan = plan_views(engine.spec, "ten-crop", image.shape[:2])
    return engine.run(engine.load([image]), [plan], ["score_map"])["score_map"]


@pytest.mark.parametrize("net", NETS)
def test_score_error_of_half_precision(net: str, exported: Exported, photos: Any, tmp_path: Path) -> None:
    model = onnx.load(exported(net, precision="fp16"))
    checked = check_graph(model)
    onnx.checker.check_model(checked)
    onnx.save(checked, tmp_path / "check.onnx")
    single, half = scores(exported(net), photos["china"]), scores(tmp_path / "check.onnx", photos["china"])
    error = np.abs(single - half).max() / single.std()
    assert 1e-5 < error < NETS[net]  # zero would mean that nothing was rounded


def test_every_half_tensor_is_rounded(exported: Exported) -> None:
    model = onnx.load(exported("A", precision="fp16"))
    halves = half_tensors(model)
    rounded = [node.output[0] for node in check_graph(model).graph.node if node.name.endswith(".back")]
    assert sorted(rounded) == sorted(halves)
    assert len(halves) > 20


def test_overflow_is_seen(slim_checkpoint: Exported, photos: Any, tmp_path: Path) -> None:
    """Two layers whose gains cancel: exact in FP32, beyond the largest half in between."""
    loud = loud_checkpoint(slim_checkpoint("A"), tmp_path / "loud.pt")
    export_onnx(loud, tmp_path / "single.onnx", outputs=["score_map"])
    export_onnx(loud, tmp_path / "half.onnx", precision="fp16", outputs=["score_map"])
    onnx.save(check_graph(onnx.load(tmp_path / "half.onnx")), tmp_path / "check.onnx")
    image = photos["china"]
    assert max(float(t.abs().max()) for t in loud.weights.values()) < HALF_MAX  # it is the activations that do not fit
    assert np.isfinite(scores(tmp_path / "single.onnx", image)).all()
    assert not np.isfinite(scores(tmp_path / "check.onnx", image)).all()


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1e7, r"conv3_1\.weight has weights beyond 65504, where half precision ends: use --precision fp32, or .*calib"),
        (float("nan"), r"conv3_1\.weight has weights that are no numbers: train or import the net again"),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    factor: float, said: str, slim_checkpoint: Exported, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    checkpoint = load(slim_checkpoint("A"))
    loud = {**checkpoint.weights, "conv3_1.weight": checkpoint.weights["conv3_1.weight"] * factor}
    save(dataclasses.replace(checkpoint, weights=loud), tmp_path / "loud.pt")
    assert main([str(tmp_path / "loud.pt"), "--precision", "fp16"]) == 1
    assert re.search(said, one_line())
    assert not (tmp_path / "loud.onnx").exists()
