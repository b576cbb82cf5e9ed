"""The integer form of a quantised graph: what ONNX Runtime computes in INT8 on any CPU, and exactly.

A QDQ graph says what is INT8. ONNX Runtime computes ours in FP32, since it takes neither a ReLU nor a float bias into
an integer layer. Here the quantised convolutions are QLinearConv of unsigned activations and signed weights, for which
it has fast kernels.

Without VNNI these add two products in 16 bits and saturate where activations exceed 127. So activations that are never
negative are kept from 0 to 127, as a symmetric INT8 has them: 2 * 127 * 128 < 2^15. All other layers are computed in
FP32 from the same integers. What they read is restored by Cast and Mul: from a DequantizeLinear ONNX Runtime would
make integer layers of its own choice, with weights quantised once more or with activations that saturate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .file import copied, keep_initializers, names_read, set_values, sort_nodes

LARGEST = 127
"""The largest quantised activation."""
LARGEST_SUM = 2**31 - 1
"""Sums of products are 32 bits wide."""
BIAS_STEPS = 8
"""A bias is rounded to a unit of the sums. Where a step of the output has fewer of them, the layer stays in FP32."""

NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Abs", "Sqrt")
AS_FIRST = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "LRN"),
    *("Cast", "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
    *("Slice", "Split", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
)
"""Operators that are never negative if the first tensor that they read is not; LRN divides by what is positive."""
AS_ALL = ("Concat", "Add", "Sum", "Mul", "Min")
"""Operators that are never negative if no tensor that they read is."""


def integer_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A QDQ graph, or the check graph of one, with its convolutions in integers wherever that is certain to be exact.

    It answers what the QDQ graph answers in FP32, but for activations that lie on the border of two steps. Layers whose
    weights lie in another file stay in FP32.
    """
    integers = copied(model)
    sort_nodes(integers.graph)
    _Integers(integers.graph).convert()
    return integers


class _Restored(NamedTuple):
    """An activation in FP32 that was quantised: its integers from 0 to LARGEST, and what a unit of them is worth."""

    integers: str
    scale: str
    step: float


class _Integers:
    """The rewriting of one graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers = Counter(name for node in graph.node for name in names_read(node))
        self.readers.update(value.name for value in graph.output)
        self.never_negative: set[str] = set()
        self.integers: dict[str, str] = {}  # quantised tensors that are u8 by now, and their names
        self.restored: dict[str, _Restored] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.added: set[str] = set()

    def convert(self) -> None:
        symmetric = self._symmetric()
        for node in list(self.graph.node):
            if self._is_never_negative(node):
                self.never_negative.update(node.output)

            if node.op_type == "Relu":
                self._read_before_rounding(node)
            if node.output[0] in symmetric and node.input[0] in self.never_negative:
                self._add_activation(node)
            elif node.op_type != "DequantizeLinear" or not self._add_restored(node):
                self.nodes.append(node)
        self._keep_what_is_read()
        del self.graph.value_info[:]

    # What is known of a tensor

    def _symmetric(self) -> set[str]:
        """Tensors that are quantised to symmetric INT8 as a whole and that only DequantizeLinear of that kind reads."""
        found = set()
        for node in self.graph.node:
            steps = self._steps(node) if node.op_type == "QuantizeLinear" else None
            if steps is not None and steps.size == 1:
                found.add(node.output[0])
        for node in self.graph.node:
            steps = self._steps(node) if node.op_type == "DequantizeLinear" else None
            if steps is None or steps.size > 1:
                found -= names_read(node)
        return found - {value.name for value in self.graph.output}

    def _steps(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """What a unit is worth where a node quantises to symmetric INT8, or restores; None where it does otherwise.

        A number, or one for each channel, f32 [1, channels, 1, 1] or alike.
        """
        steps, zeros = (self._values(name) for name in (*node.input, "", "")[1:3])
        named = {attribute.name: attribute.i for attribute in node.attribute}
        if steps is None or steps.dtype != np.float32 or not (steps > 0).all() or named.get("block_size"):
            return None
        if zeros is None or zeros.dtype != np.int8 or zeros.any():
            return None
        if steps.size == 1:
            return steps.reshape(())

        weight = self.weights.get(node.input[0])
        if weight is None:
            return None
        shape = [1] * len(weight.dims)
        shape[named.get("axis", 1)] = steps.size
        return steps.reshape(shape)

    def _values(self, name: str) -> NDArray[Any] | None:
        """The numbers of an initialiser, or of a cast of one, as weights in half are read; None where unknown."""
        node = self.makers.get(name)
        weight = self.weights.get(node.input[0] if node is not None and node.op_type == "Cast" else name)
        if weight is None or weight.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(weight)

    def _is_never_negative(self, node: onnx.NodeProto) -> bool:
        if node.op_type in AS_FIRST:
            return self._known_never_negative(node.input[0])
        if node.op_type in AS_ALL:
            return all(map(self._known_never_negative, node.input))
        if node.op_type == "Max":
            return any(map(self._known_never_negative, node.input))
        if node.op_type == "Clip":
            low, high = self._bounds(node)
            return 0 <= low <= high
        return node.op_type in NEVER_NEGATIVE

    def _known_never_negative(self, name: str) -> bool:
        values = self._values(name)
        return name in self.never_negative if values is None else bool((values >= 0).all())

    def _bounds(self, node: onnx.NodeProto) -> tuple[float, float]:
        """The least and the most that a Relu or Clip lets pass; (-inf, -inf) where that is computed."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        named = {attribute.name: attribute.f for attribute in node.attribute}  # before opset 11
        bounds = [named.get("min", -np.inf), named.get("max", np.inf)]
        for place, name in enumerate(node.input[1:]):
            values = self._values(name)
            if values is not None:
                bounds[place] = float(values.item())
            elif name:
                return -np.inf, -np.inf
        return bounds[0], bounds[1]

    # Activations

    def _add_activation(self, node: onnx.NodeProto) -> None:
        """A quantised activation that is never negative, from 0 to LARGEST."""
        name, is_limited = self._quantized(node.input[0], node.input[1])
        self.integers[node.output[0]] = name if is_limited else self._limited(name, LARGEST)

    def _add_restored(self, node: onnx.NodeProto) -> bool:
        """Activations or weights in FP32, for layers that need them there; False where they are not symmetric INT8."""
        steps = self._steps(node)
        if steps is None:
            return False
        (target,) = node.output
        source = self.integers.get(node.input[0], node.input[0])
        if node.input[0] in self.integers:
            self.restored[target] = _Restored(source, node.input[1], self._step(node.input[1]))
            self.never_negative.add(target)
        units = f"{target}.units"
        self.nodes.append(helper.make_node("Cast", [source], [units], units, to=TensorProto.FLOAT))
        self._add("Mul", [units, self._initializer(f"{target}.steps", steps)], target)
        return True

    def _quantized(self, source: str, scale: str) -> tuple[str, bool]:
        """A tensor in units of `scale` as u8, and whether it is at most LARGEST already.

        Rounding keeps the order of values. So it may come before the largest of some is found, or before a ReLU.
        """
        known, node, step = self.restored.get(source), self.makers.get(source), self._step(scale)
        if known is not None and known.step == step:
            return known.integers, True
        target = f"{source}.u8"
        if node is None or self.readers[source] > 1 or len(node.output) > 1:
            target = f"{target}.{scale}"  # there may be another
        elif node.op_type in ("MaxPool", "Concat"):
            names, are_limited = zip(*(self._quantized(part, scale) for part in node.input), strict=True)
            return self._add(node.op_type, names, target, node), all(are_limited)
        elif node.op_type in ("Relu", "Clip"):
            low, high = self._bounds(node)
            if low == 0 <= high and self._add_convolution(node.input[0], scale, target):
                limit = float(np.rint(np.float32(high) / np.float32(step)))
                return (target, False) if limit >= LARGEST else (self._limited(target, int(limit)), True)
        return self._add("QuantizeLinear", [source, scale, self._constant(0)], target), False

    def _step(self, scale: str) -> float:
        values = self._values(scale)
        assert values is not None  # see _symmetric
        return float(values.item())

    def _limited(self, name: str, limit: int) -> str:
        return self._add("Clip", [name, "", self._constant(limit)], f"{name}.limited")

    # Layers

    def _add_convolution(self, source: str, scale: str, target: str) -> bool:
        """Adds a convolution in integers, from which what is negative is cut off; False where it stays in FP32.

        Its sums are in units of a step of x times a step of the weights, and so is its bias.
        """
        node = self.makers.get(source)
        if node is None or node.op_type != "Conv" or self.readers[source] > 1 or _pads_by_name(node):
            return False
        x, restored = self.restored.get(node.input[0]), self.makers.get(node.input[1])
        bias = self._values(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.float32)
        if x is None or bias is None or restored is None or restored.op_type != "DequantizeLinear":
            return False
        weights, steps = self._values(restored.input[0]), self._steps(restored)
        if weights is None or weights.ndim != 4 or steps is None or steps.shape not in ((), (len(weights), 1, 1, 1)):
            return False

        # no sum may leave 32 bits, and rounding may take little of a bias
        units = x.step * steps.ravel().astype(np.float64)
        rounded = np.broadcast_to(np.rint(bias.astype(np.float64) / units), len(weights))
        sums = LARGEST * np.abs(weights.astype(np.int16)).sum((1, 2, 3), np.int64) + np.abs(rounded)
        if not (sums <= LARGEST_SUM).all() or (bias.any() and BIAS_STEPS * units.max() > self._step(scale)):
            return False

        zero, zeros = self._constant(0), self._initializer(f"{target}.zeros", np.zeros(steps.size, np.int8))
        inputs = [x.integers, x.scale, zero, *restored.input[:2], zeros, scale, zero]
        if bias.any():
            inputs.append(self._initializer(f"{target}.bias", rounded.astype(np.int32)))
        self._add("QLinearConv", inputs, target, node)
        return True

    def _read_before_rounding(self, node: onnx.NodeProto) -> None:
        """Lets a ReLU whose result is rounded to half read what has not been: so it is computed with the convolution.

        Rounding changes no sign, and once is enough: the first layer of a net is where this saves most.
        """
        back = self.makers.get(node.input[0])
        down = self.makers.get(back.input[0]) if back is not None and _casts_to(back, TensorProto.FLOAT) else None
        if down is None or not _casts_to(down, TensorProto.FLOAT16):
            return
        only_read = all(self.readers[name] == 1 for name in (node.input[0], down.output[0], node.output[0]))
        if only_read and any(_casts_to(one, TensorProto.FLOAT16) for one in self._reading(node.output[0])):
            node.input[0] = down.input[0]

    def _reading(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    # Written down

    def _add(self, kind: str, inputs: Sequence[str], target: str, like: onnx.NodeProto | None = None) -> str:
        """Adds a node with the attributes of another; of one name there is one."""
        if target not in self.added:
            self.added.add(target)
            self.nodes.append(helper.make_node(kind, inputs, [target], target))
            self.nodes[-1].attribute.extend([] if like is None else like.attribute)
        return target

    def _constant(self, value: int) -> str:
        return self._initializer(f"u8.{value}", np.array(value, np.uint8))

    def _initializer(self, name: str, values: NDArray[Any]) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
            self.graph.initializer.append(self.weights[name])
        return name

    def _keep_what_is_read(self) -> None:
        """Leaves out what was computed for the layers that are in integers now."""
        read = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.output):
                read |= names_read(node)
                kept.append(node)
        set_values(self.graph.node, reversed(kept))
        keep_initializers(self.graph, read)


def _pads_by_name(node: onnx.NodeProto) -> bool:
    """True where a convolution's padding depends on the size of what it reads."""
    return any(one.name == "auto_pad" and one.s not in (b"", b"NOTSET") for one in node.attribute)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == kind for one in node.attribute)
