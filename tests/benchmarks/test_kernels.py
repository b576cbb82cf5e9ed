"""benchmarks/kernels.py: the other ways to write a net compute what the net does, and the tables' errors are right."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import Exported
from paths import ROOT

from export.graph.frame import add_regions
from infer.pixels.render import render
from infer.spec import ModelSpec
from infer.views import plan_views

pytest.importorskip("tensorrt_rtx")
sys.path.insert(0, str(ROOT))
from benchmarks import kernels


def test_merged_convolutions_give_the_same_bits(exported: Exported, photos: Any) -> None:
    model = onnx.load(exported("googlenet", interface="images"))
    spec = ModelSpec.from_json({prop.key: prop.value for prop in model.metadata_props}["spec"])
    image = photos["cat"]
    views = np.stack(render(image, plan_views(spec, "ten-crop", image.shape[:2]).views, spec))
    answers = []
    for together in ((), kernels.BRANCHES):
        if together:
            kernels.merge(model, together)
            onnx.checker.check_model(model, full_check=True)
            assert sum(node.op_type == "Conv" for node in model.graph.node) == 58 - 2 * 9
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["posterior"], {"images": views})[0])
    assert np.array_equal(*answers)


def test_a_merged_model_is_built_with_regions_as_the_other(exported: Exported) -> None:
    model = onnx.load(exported("googlenet", precision="fp16"))
    kernels.merge(model, kernels.BRANCHES)
    assert add_regions(model)


@pytest.mark.parametrize("net", ["A-LRN", "googlenet"])
def test_errors_of_the_forms(net: str) -> None:
    """What is written out rounds its answer alone; in half more is lost, and where the sum is large, all."""
    own = kernels.normal(10)[..., :500]
    rows = {
        name: dict(zip(kernels.INPUTS, map(float, cells), strict=True))
        for _, name, *cells in kernels.forms_as_errors(net, own)
    }
    ours, in_half = rows["written out, FP32 (ours)"], rows["written out, half, prescaled by 2^-10"]
    assert max(ours.values()) == 0.5
    assert in_half["net's own"] > 1 and in_half["every half"] > 1000
