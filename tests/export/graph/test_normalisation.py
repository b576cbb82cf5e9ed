"""Local response normalisation written out: the operator's values, at every half."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from export.graph.frame import declared
from export.graph.normalisation import Norm, write_lrn
from export.graph.writer import GraphWriter
from export.model.precision import write_out_norms

SETTINGS = {
    "A-LRN": Norm(5, 5e-4, 0.75, 2.0),
    "googlenet": Norm(5, 1e-4, 0.75, 1.0),
    "even window": Norm(4, 0.3, 0.75, 1.0),
    "another power": Norm(3, 0.01, 0.6, 1.5),
    "wider than the map": Norm(15, 0.01, 0.75, 1.0),
    "itself alone": Norm(1, 0.5, 0.75, 1.0),
}


def written(channels: int, norm: Norm) -> onnx.ModelProto:
    w = GraphWriter()
    write_lrn(w, "x", "y", channels, norm)
    return model_of(w.nodes, list(w.initializers.values()), channels)


def model_of(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], channels: int) -> onnx.ModelProto:
    ends = [declared(name, "float32", ("n", channels, "h", "w")) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def in_double(x: NDArray[Any], norm: Norm) -> NDArray[np.float64]:
    """ONNX's words: the window is max(0, c - (size - 1) // 2) to min(C - 1, c + size // 2)."""
    size, alpha, beta, bias = norm
    x = x.astype(np.float64)
    sums = np.zeros_like(x)
    for c in range(x.shape[1]):
        sums[:, c] = (x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1] ** 2).sum(1)
    return np.asarray(x / (bias + alpha / size * sums) ** beta)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_operator(name: str) -> None:
    norm = SETTINGS[name]
    x = np.random.default_rng(0).standard_normal((2, 7, 4, 5)).astype(np.float32) * 20
    found, expected = run(written(7, norm), x), in_double(x, norm)
    assert np.abs(found / expected - 1).max() < 1e-6

    node = helper.make_node("LRN", ["x"], ["y"], "n", **norm._asdict())
    model = model_of([node], [], 7)
    if norm.size % 2:  # others ONNX Runtime does not take; its sum slides on, so it keeps the error of larger squares
        assert np.abs(run(model, x) / expected - 1).max() < 1e-4
    write_out_norms(model)
    assert "LRN" not in {node.op_type for node in model.graph.node}
    assert np.abs(run(model, x) / expected - 1).max() < 1e-6


@pytest.mark.parametrize("net", ["A-LRN", "googlenet"])
def test_every_half_is_normalised_as_in_double(net: str) -> None:
    """Each finite half among random neighbours, small and large: no square leaves FP32, and none is lost."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) & (halves != 0)].astype(np.float32)
    x = np.zeros((3, 5, 1, len(halves)), np.float32)
    rng = np.random.default_rng(1)
    for part, spread in zip(x, (0.0, 1.0, 3e4), strict=True):
        part[:] = (rng.standard_normal(part.shape) * spread).clip(-65504, 65504).astype(np.float16)
        part[2] = halves
    found, expected = run(written(5, SETTINGS[net]), x)[:, 2], in_double(x, SETTINGS[net])[:, 2]
    assert np.abs(found / expected - 1).max() < 1e-6


def test_what_is_infinite_stays_where_the_operator_has_it() -> None:
    x = np.ones((1, 6, 1, 1), np.float32)
    x[0, 0] = np.inf
    assert np.isnan(run(written(6, SETTINGS["googlenet"]), x)[0, :, 0, 0]).tolist() == [True, *[False] * 5]


def test_a_norm_of_unknown_channels_stays_a_node() -> None:
    model = model_of([helper.make_node("LRN", ["x"], ["y"], "n", size=3)], [], 4)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
    write_out_norms(model)
    assert [node.op_type for node in model.graph.node] == ["LRN"]
