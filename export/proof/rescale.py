"""Rescales a half-precision net by powers of two, exactly, so that its activations stay within half's range.

Convolution, ReLU, pooling and concatenation are positively homogeneous: tensors that they join may all carry 2^e times
their values if the weights on the way in are multiplied by 2^(e - e of the input) and the biases by 2^e. Operators that
are not (LRN, softmax, all that is unknown here) get the true values: where a net has them in FP32 between casts, a cast
out of half is followed by a multiplication by 2^-e and one into half preceded by one by 2^e; where it has them in half,
the tensors they touch keep e = 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..model.file import copied, keep_initializers, set_nodes
from ..model.precision import HALF_MAX, tensor_types

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT

LIMIT = HALF_MAX / 4
"""Rescaling begins above this and ends below it: what a few images show, others may exceed."""

SAME_SCALE = {
    *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax"),
    *("Concat", "Add", "Sub", "Sum", "Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"),
}
"""Operators whose outputs scale as their inputs do; a constant among these is an offset and is scaled with them."""

WEIGHTS: dict[str, tuple[str, ...]] = {
    "Conv": ("out/in", "out"),
    "Gemm": ("out/in", "out"),
    "MatMul": ("out/in",),
    "BatchNormalization": ("out/in", "out", "in", ""),
}
"""Operators with constants as their second input and further: how each is scaled."""


class RescaleError(ModelError):
    """A net that leaves half's range and cannot be rescaled; one line."""


def exponents(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, int]:
    """e of every half tensor of an FP16 model, 0 or below, from the largest magnitudes measured in FP32.

    Raises RescaleError for a tensor beyond half's range that an operator which is not homogeneous holds in place.
    """
    groups = _Groups(model)
    by_group: dict[str, float] = {}
    for name in groups.parents:
        root = groups.find(name)
        by_group[root] = max(by_group.get(root, 0.0), largest.get(name, 0.0))

    chosen = {}
    for root, value in by_group.items():
        e = math.floor(math.log2(LIMIT / value)) if value > LIMIT else 0
        if e and root in groups.held:
            if value > HALF_MAX:
                name = max((n for n in groups.parents if groups.find(n) == root), key=lambda n: largest.get(n, 0.0))
                raise RescaleError(
                    f"tensor {name} reaches {value:.3g} (half ends at {HALF_MAX:.0f}) and cannot be rescaled, because "
                    f"{groups.held[root]} is not homogeneous: build with --precision fp32"
                )
            e = 0
        chosen[root] = e
    return {name: chosen[groups.find(name)] for name in groups.parents}


def rescaled(
    model: onnx.ModelProto, exponents: Mapping[str, int], exact: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """An FP16 model with every half tensor multiplied by 2^exponent, and the same outputs.

    Weights are taken from `exact` (FP32, by name) where it has them, so that they are rounded once. Raises RescaleError
    where one would not fit into half.
    """
    changed = copied(model)
    weights = _Weights(changed, exact)
    nodes = []
    for node in changed.graph.node:
        if node.op_type == "Cast":
            nodes += _cast(node, exponents, weights)
            continue

        # weights carry the activations from the scale of the input to that of the output
        e_out = next((exponents[name] for name in node.output if name in exponents), 0)
        e_in = next((exponents[name] for name in node.input if name in exponents), 0)
        by_rule = {"out/in": e_out - e_in, "out": e_out, "in": e_in, "": 0}
        if node.op_type in WEIGHTS:
            for place, rule in enumerate(WEIGHTS[node.op_type], start=1):
                if place < len(node.input) and node.input[place]:
                    node.input[place] = weights.scaled(node.input[place], by_rule[rule])
        elif node.op_type in SAME_SCALE:
            for place, name in enumerate(node.input):
                if name in weights.halves:
                    node.input[place] = weights.scaled(name, e_out)
        nodes.append(node)

    set_nodes(changed.graph, nodes)
    keep_initializers(changed.graph, {name for node in nodes for name in node.input})
    return changed


class _Groups:
    """Groups of half tensors that homogeneous operators join, each known by one of them, its root.

    `held`: the roots of groups that must keep their scale, and the operator that holds them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph, types = model.graph, tensor_types(model)
        constants = {initializer.name for initializer in graph.initializer}
        self.parents = {name: name for name, kind in types.items() if kind == HALF and name not in constants}
        held: dict[str, str] = {
            value.name: "the graph's own input or output" for value in (*graph.input, *graph.output)
        }

        for node in graph.node:
            inputs = [name for name in node.input if name in self.parents]
            outputs = [name for name in node.output if name in self.parents]
            if node.op_type == "Cast" and {types[node.input[0]], types[node.output[0]]} == {HALF, SINGLE}:
                continue  # a multiplication on its single side can undo any scale
            if node.op_type in SAME_SCALE:
                for name in (*inputs, *outputs):
                    self._join(name, outputs[0] if outputs else inputs[0])
            elif node.op_type in WEIGHTS and set(node.input[1:]) <= {*constants, ""}:
                pass  # its weights carry it from one scale to another
            else:
                held.update(dict.fromkeys((*inputs, *outputs), node.op_type))
        self.held = {self.find(name): why for name, why in held.items() if name in self.parents}

    def find(self, name: str) -> str:
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def _join(self, one: str, other: str) -> None:
        self.parents[self.find(one)] = self.find(other)


class _Weights:
    """The half constants of a model, scaled on demand: once in place, under another name where uses differ."""

    def __init__(self, model: onnx.ModelProto, exact: Mapping[str, NDArray[np.float32]]) -> None:
        self.graph, self.exact = model.graph, exact
        half = [tensor for tensor in model.graph.initializer if tensor.data_type == HALF]
        self.halves = {tensor.name: numpy_helper.to_array(tensor) for tensor in half}
        self.made: dict[tuple[str, int], str] = {}

    def scaled(self, name: str, exponent: int) -> str:
        """The name of the constant times 2^exponent; itself where it is not half. Raises RescaleError."""
        if exponent == 0 or name not in self.halves:
            return name
        if (name, exponent) in self.made:
            return self.made[name, exponent]

        values = np.ldexp(self.exact.get(name, self.halves[name].astype(np.float32)), exponent)
        with np.errstate(over="ignore"):  # said next
            half = values.astype(np.float16)
        if np.isfinite(values).all() and not np.isfinite(half).all():
            raise RescaleError(
                f"{name} would reach {np.abs(values).max():.3g} (half ends at {HALF_MAX:.0f}) when the activations "
                "around it are rescaled: build with --precision fp32"
            )

        self.made[name, exponent] = f"{name}.2^{exponent}"
        self.graph.initializer.append(numpy_helper.from_array(half, self.made[name, exponent]))
        return self.made[name, exponent]

    def power(self, exponent: int) -> str:
        """An FP32 constant 2^exponent."""
        name = f"2^{exponent}"
        if all(tensor.name != name for tensor in self.graph.initializer):
            values = np.array(2.0**exponent, np.float32)
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _cast(node: onnx.NodeProto, exponents: Mapping[str, int], weights: _Weights) -> list[onnx.NodeProto]:
    """A cast out of half or into half, with a multiplication on its single side where the half side is scaled."""
    source, target = node.input[0], node.output[0]
    e_in, e_out = exponents.get(source, 0), exponents.get(target, 0)
    if e_in:
        node.output[0] = f"{target}.scaled"
        undo = helper.make_node("Mul", [node.output[0], weights.power(-e_in)], [target], f"{node.name}.undo")
        return [node, undo]
    if e_out:
        node.input[0] = f"{target}.scaled"
        return [helper.make_node("Mul", [source, weights.power(e_out)], [node.input[0]], f"{node.name}.scale"), node]
    return [node]
