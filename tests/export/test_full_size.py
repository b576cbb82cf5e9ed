"""All seven nets at full size: FP32 ONNX against torch in every interface, the cost of half precision, and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import FULL_SIZE, full_spec, write_checkpoint
from onnx import numpy_helper
from parity import TOLERANCE, score_error

from export.to_onnx import export_onnx
from infer import self_test
from infer.onnx_engine import OnnxEngine
from infer.views import View, ViewPlan, plan_views, rescaled_px
from trainer.checkpoint import load

pytestmark = pytest.mark.slow
HALF_TOLERANCE = 0.05
"""Class-score error of half precision in standard deviations; the largest measured here is in docs/precision.md."""


@pytest.fixture(autouse=True)
def _no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has tests of its own and takes a quarter of a minute at full size."""
    monkeypatch.setattr(self_test, "record", lambda engine: "null")


def three_sizes(image: Any) -> list[ViewPlan]:
    """The smallest allowed, an odd one, a larger one; one of them mirrored."""
    plans = []
    for scale, mirrored in ((224, False), (237, True), (320, False)):
        box = (0, 0, *rescaled_px(image.shape[:2], scale, "nearest")) if scale > 224 else (0, 0, 224, 224)
        plans.append(ViewPlan("one", image.shape[:2], (View(scale, box, mirrored=mirrored),)))
    return plans


@pytest.fixture(scope="module", params=FULL_SIZE)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("full") / "full.pt"
    yield write_checkpoint(path, full_spec(request.param))
    path.unlink()  # half a gigabyte each


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_full_size_scores_are_torchs(checkpoint: Path, interface: Any, photos: Any, tmp_path: Path) -> None:
    path, image = tmp_path / "m.onnx", photos["cat"]
    export_onnx(load(checkpoint), path, interface=interface, outputs=["score_map"])
    plans = three_sizes(image)
    assert score_error(OnnxEngine(path), checkpoint, image, plans) < TOLERANCE
    if interface == "views":
        model = onnx.load(path)
        weights = next(i for i in model.graph.initializer if i.name.endswith("weight"))
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.001), weights.name))
        onnx.save(model, path)
        assert score_error(OnnxEngine(path), checkpoint, image, plans[:1]) > TOLERANCE
    path.unlink()


def test_half_precision_at_full_size(
    checkpoint: Path, photos: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    scores = []
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        export_onnx(load(checkpoint), path, precision=precision, outputs=["score_map"])  # type: ignore[arg-type]
        engine = OnnxEngine(path)  # of FP16 its check graph, which rounds
        plan = plan_views(engine.spec, "ten-crop", photos["china"].shape[:2])
        scores.append(engine.run(engine.load([photos["china"]]), [plan], ["score_map"])["score_map"])
        path.unlink()
    error = float(np.abs(scores[0] - scores[1]).max() / scores[0].std())
    print(f"half precision, {load(checkpoint).spec.net}: class-score error {error:.4f} of the standard deviation")
    assert 1e-5 < error < HALF_TOLERANCE
