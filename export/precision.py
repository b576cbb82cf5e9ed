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

HALF_MAX = 65_504.0
"""The largest finite half."""


def check_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP16 model of `export_onnx` as a check graph with the same inputs, outputs and metadata."""
    types = _tensor_types(model)
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    graph = checked.graph
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(initializer).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        halves = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        if node.op_type == "Cast" and halves:
            nodes += _rounded(node.input[0], node.output[0], node.name)
            continue
        if node.op_type == "Constant" and halves:
            raise ValueError(f"a half constant in the graph: {node.name}, expected initialisers only")
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
        nodes.append(node)
        for name in halves:
            nodes += _rounded(f"{name}.exact", name, f"{node.name}.half")
    del graph.node[:]
    graph.node.extend(nodes)
    return checked


def half_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors that a model holds in half precision."""
    return [name for name, kind in _tensor_types(model).items() if kind == TensorProto.FLOAT16]


def _rounded(source: str, target: str, name: str) -> list[Any]:
    half = f"{target}.half"
    return [
        helper.make_node("Cast", [source], [half], f"{name}.round", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], f"{name}.back", to=TensorProto.FLOAT),
    ]


def _tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in values}
