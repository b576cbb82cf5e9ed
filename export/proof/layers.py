"""The layers of a half graph: each half tensor that a node makes, under the name of the layer that computes it."""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import TensorProto

from ..model.precision import tensor_types


class Layer(NamedTuple):
    """A half tensor, and the node that its values come from: behind a cast into half, the node before it."""

    name: str
    operator: str
    tensor: str


def half_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers of an FP16 model in the order of its graph."""
    types, makers = tensor_types(model), dict[str, onnx.NodeProto]()
    found = []
    for node in model.graph.node:
        for name in node.output:
            makers[name] = node
            if node.op_type == "Constant" or types.get(name) != TensorProto.FLOAT16:
                continue
            own = makers.get(node.input[0]) if node.op_type == "Cast" else node
            if own is None:  # a cast of the graph's input
                found.append(Layer(node.input[0], "input", name))
            else:
                found.append(Layer(own.name or own.output[0], own.op_type, name))
    return found
