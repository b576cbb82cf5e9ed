"""The check graph: what a half-precision graph computes, on a machine whose runtime keeps activations in FP32.

ONNX Runtime's CPU provider removes the casts it inserts itself, so an FP16 graph there proves nothing about range or
rounding. In a check graph every operator is FP32 and every half tensor is rounded by two casts of its own, which are
kept: values beyond 65,504 become infinite there, as on a GPU (which also accumulates in FP32).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from .file import copied, set_nodes

HALF_MAX = 65_504.0
"""The largest finite half."""


class PrecisionError(ModelError):
    """Weights that a graph of this precision cannot hold; one line."""


def check_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP16 model of `export_onnx` as a check graph with the same inputs, outputs and metadata."""
    types = tensor_types(model)
    checked = copied(model)
    _make_weights_single(checked.graph)

    nodes: list[onnx.NodeProto] = []
    for node in checked.graph.node:
        halves = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        if node.op_type == "Cast" and halves:
            nodes += _rounded(node.input[0], node.output[0])
            continue
        if node.op_type == "Constant" and halves:
            raise ValueError(f"a half constant in the graph: {node.name}, expected initialisers only")

        # `NAME.exact` is what the node computes, NAME what is left of it in half
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
        nodes.append(node)
        for name in halves:
            nodes += _rounded(f"{name}.exact", name)
    set_nodes(checked.graph, nodes)
    return checked


def single_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP16 model with every tensor in FP32: without half precision, but of its weights."""
    single = copied(model)
    _make_weights_single(single.graph)
    for node in single.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    del single.graph.value_info[:]
    return single


def check_weights(model: onnx.ModelProto) -> None:
    """Raises PrecisionError for a weight that is not finite, as one beyond HALF_MAX is in half."""
    for initializer in model.graph.initializer:
        if initializer.data_type not in (TensorProto.FLOAT16, TensorProto.FLOAT):
            continue
        values = numpy_helper.to_array(initializer)
        if np.isfinite(values).all():
            continue
        if initializer.data_type == TensorProto.FLOAT16 and not np.isnan(values).any():
            raise PrecisionError(
                f"{initializer.name} has weights beyond {HALF_MAX:.0f}, where half precision ends: use --precision "
                "fp32, or python -m export.to_trt --calibrate DIR, which rescales the net"
            )
        raise PrecisionError(f"{initializer.name} has weights that are no numbers: train or import the net again")


def half_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors that a model holds in half precision."""
    return [name for name, kind in tensor_types(model).items() if kind == TensorProto.FLOAT16]


def _make_weights_single(graph: onnx.GraphProto) -> None:
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(initializer).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))


def _rounded(source: str, target: str) -> list[Any]:
    half = f"{target}.half"
    return [
        helper.make_node("Cast", [source], [half], f"{target}.round", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], f"{target}.back", to=TensorProto.FLOAT),
    ]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor but the constants, by inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in values}
