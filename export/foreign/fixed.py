"""Checks that a graph's answer for an image is fixed: the same in every call, whatever else is in the batch.

A net that is exported in training mode normalises by the statistics of its batch, and drops units at random. It runs,
and its answers are another net's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infer.errors import Refused

EVAL = "call model.eval() before the export"
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2")
QUANTISED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"),
    *("ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearGlobalAveragePool"),
)


class TrainingError(Refused):
    """A graph in training mode, or one that draws random numbers; one line."""


def check_fixed(graph: onnx.GraphProto, opset: int) -> None:
    """Raises TrainingError for a graph with BatchNormalization in training mode, Dropout on, or random numbers."""
    values = _constants(graph)
    for node in nodes_of(graph):
        name = f"{node.op_type} {node.name.removeprefix('net/') or node.output[0].removeprefix('net/')}"
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "BatchNormalization" and _trains(node, opset):
            raise TrainingError(f"{name} is in training mode: answers would depend on the other images: {EVAL}")
        if node.op_type == "Dropout" and _drops(node, opset, values):
            raise TrainingError(f"{name} is on: answers would be random: {EVAL}")
        if node.op_type in RANDOM:
            raise TrainingError(f"{name} draws random numbers: answers would be random: {EVAL}")


def normalises_batch(graph: onnx.GraphProto) -> str:
    """The first node that reduces a batch and its positions at once, as a batch norm in training does; "": none."""
    values = _constants(graph)
    for node in nodes_of(graph):
        axes = _attribute(node, "axes", None)
        if axes is None and len(node.input) > 1 and node.input[1] in values:
            axes = values[node.input[1]].ravel().tolist()
        if node.op_type in REDUCTIONS and axes and len(axes) > 1 and 0 in axes:
            return f"{node.op_type} {node.name.removeprefix('net/')}".strip()
    return ""


def is_quantised(graph: onnx.GraphProto) -> bool:
    """True where layers compute with integers, or are written as if they did (QDQ)."""
    return any(node.op_type in QUANTISED for node in nodes_of(graph))


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, in subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from nodes_of(inner)


def _trains(node: onnx.NodeProto, opset: int) -> bool:
    """True for training: by attribute from opset 14 on; before by its outputs, until 6 by is_test (0 if missing)."""
    if opset < 7 and not _attribute(node, "is_test", 0):
        return True
    return bool(_attribute(node, "training_mode", 0)) or len([name for name in node.output if name]) > 1


def _drops(node: onnx.NodeProto, opset: int, values: dict[str, NDArray[Any]]) -> bool:
    """True for training: by a third input from opset 12 on; never from 7 to 11; until 6 by is_test (0 if missing)."""
    if opset < 7:
        return not _attribute(node, "is_test", 0) and _attribute(node, "ratio", 0.5) > 0
    if len(node.input) < 3 or not node.input[2]:
        return False

    # a ratio of 0 drops nothing; what is computed may be on
    ratio, training = (values.get(name) for name in node.input[1:3])
    if ratio is not None and not ratio.any():
        return False
    return training is None or bool(training.any())


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Small values that are written in the graph, by name, in subgraphs too; copies of them as well."""
    values: dict[str, NDArray[Any]] = {}
    for initializer in graph.initializer:
        if np.prod(initializer.dims) <= 16:
            values[initializer.name] = numpy_helper.to_array(initializer)

    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                values |= _constants(attribute.g)
        if node.op_type == "Constant" and node.attribute:
            value = helper.get_attribute_value(node.attribute[0])
            if isinstance(value, onnx.TensorProto):
                if np.prod(value.dims) <= 16:
                    values[node.output[0]] = numpy_helper.to_array(value)
            elif isinstance(value, int | float | list | tuple):
                values[node.output[0]] = np.array(value)
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    return values
