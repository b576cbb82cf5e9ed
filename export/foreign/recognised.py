"""What a foreign graph is made of, in words: for the user to compare with what he meant to import."""

from __future__ import annotations

import math
from collections import Counter

import onnx
from onnx import TensorProto, helper

from ..model.file import names_read

LAYERS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU"),
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"),
)
"""Operators with the weights. A MatMul of two tensors that come from the image, as in attention, has none."""
WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
"""Elements of shapes and indices."""


def layers(graph: onnx.GraphProto, image: str) -> str:
    """`53 Conv and 1 Gemm with 25,557,032 parameters`, of a graph with sorted nodes whose input is `image`."""
    computed, counts = {image}, Counter[str]()
    for node in graph.node:
        if computed.isdisjoint(names_read(node)):
            continue
        computed.update(node.output)
        if node.op_type in LAYERS and any(name and name not in computed for name in node.input):
            counts[node.op_type] += 1

    named = [f"{count} {operator}" for operator, count in counts.most_common()]
    listed = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named) or "no layers"
    return f"{listed} with {_parameters(graph):,} parameters"


def _parameters(graph: onnx.GraphProto) -> int:
    """Numbers in weights and constants but for shapes and indices."""
    constants = [
        helper.get_attribute_value(node.attribute[0])
        for node in graph.node
        if node.op_type == "Constant" and node.attribute
    ]
    tensors = [*graph.initializer, *(value for value in constants if isinstance(value, TensorProto))]
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type not in WHOLE)
