"""FLOPs from the spec: those of the exported graph's convolutions, of torch's own count, and of the papers."""

from __future__ import annotations

import math
from typing import Any

import onnx
import pytest
import torch
from helpers import NETS, full_spec, random_net, slim_spec
from torch.utils.flop_counter import FlopCounterMode

from export.graph.view_graph import write_graph
from infer.benchmark.measure import plan_flops
from infer.spec import ModelSpec, Size
from infer.views import View, ViewPlan, plan_views
from trainer.nets.zoo import build_net

ALL = (*NETS, "googlenet-tv")
MULTIPLY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
"""Operators that have multiply-adds."""


def flops(spec: ModelSpec, size: Size) -> int | None:
    return plan_flops(spec, ViewPlan("one view", size, (View(min(size), (0, 0, *size)),)))


def flops_of_graph(spec: ModelSpec, size: Size) -> int:
    """Of one view, from the shapes that the onnx library infers for every tensor."""
    model = write_graph(random_net(spec), spec)
    sizes = {"views": 1, "view_height": size[0], "view_width": size[1]}
    for dim in (dim for given in model.graph.input for dim in given.type.tensor_type.shape.dim):
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    weights = {tensor.name: tensor.dims for tensor in inferred.initializer}
    total = 0
    for node in (node for node in inferred.node if node.op_type in MULTIPLY):
        assert node.op_type == "Conv"
        assert all(shapes[node.output[0]])
        total += 2 * math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
    return total


@pytest.mark.parametrize("changes", [{}, {"width": 0.3, "fc_width": 7, "crop_px": 128, "train_short_px": 130}], ids=str)
@pytest.mark.parametrize("net", ALL)
def test_flops_are_those_of_the_graph(net: str, changes: dict[str, Any]) -> None:
    spec = slim_spec(net, **changes)
    for size in ((spec.crop_px, spec.crop_px), (131, 175), (142, 161)):
        assert flops(spec, size) == flops_of_graph(spec, size)


@pytest.mark.parametrize(
    "changes", [{"pool_rounding": "floor"}, {"precision": "fp16"}, {"interface": "images"}], ids=str
)
def test_flops_of_other_graphs(changes: dict[str, Any]) -> None:
    spec = slim_spec("D", **changes)
    assert flops(spec, (97, 143)) == flops_of_graph(spec, (97, 143))


@pytest.mark.parametrize("net", ALL)
def test_flops_of_full_nets_are_what_torch_counts(net: str) -> None:
    spec = full_spec(net)
    with torch.device("meta"):
        model = build_net(spec).eval()
        for size in ((224, 224), (256, 341), (383, 511)):
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, *size))
            assert flops(spec, size) == counter.get_total_flops()


def test_flops_as_published() -> None:
    """Multiply-adds: 19.6 billion for net E (arXiv 1512.03385, Figure 3), a budget of 1.5 for GoogLeNet (its own)."""
    assert flops(full_spec("E"), (224, 224)) == pytest.approx(2 * 19.6e9, rel=0.005)
    assert flops(full_spec("googlenet"), (224, 224)) == pytest.approx(2 * 1.5e9, rel=0.06)


def test_flops_of_a_plan() -> None:
    spec = slim_spec("A")
    plan = plan_views(spec, "multicrop+dense", (100, 120), [72, 96])
    dense = [flops(spec, size) for size in ((72, 86), (96, 115))]
    assert plan_flops(spec, plan) == 100 * (flops(spec, (64, 64)) or 0) + 2 * sum(count or 0 for count in dense)
    foreign = slim_spec("foreign", stride_px=1)
    assert plan_flops(foreign, plan) is None
