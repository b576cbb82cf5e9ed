"""Half precision of a graph: the check graph, and an FP16 version of another's model.

The check graph is what a half-precision graph computes, on a machine whose runtime keeps activations in FP32.

ONNX Runtime's CPU provider removes the casts it inserts itself, so an FP16 graph there proves nothing about range or
rounding. In a check graph every operator is FP32 and every half tensor is rounded by two casts of its own, which are
kept: values beyond 65,504 become infinite there, as on a GPU. Sums are FP32's here; on a GPU some kernels may keep them
in half, which is measured there (--verify), not assumed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infer.errors import Refused
from infer.spec import ModelSpec

from ..errors import ModelError
from ..graph.normalisation import Norm, write_lrn
from ..graph.writer import GraphWriter
from .file import PROTOBUF_BYTES, copied, keep_initializers, metadata, names_read, set_values, without_weights

HALF_MAX = 65_504.0
"""The largest finite half."""


class PrecisionError(ModelError):
    """Weights that a graph of this precision cannot hold; one line."""


def check_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP16 model as a check graph with the same inputs, outputs, weights and metadata.

    Raises PrecisionError for a graph of which we cannot tell what it holds in half.
    """
    if model.functions:
        raise PrecisionError(f"has functions of its own ({model.functions[0].name}), in which nothing would be rounded")
    checked = copied(model)
    del checked.graph.value_info[:]  # what is inferred counts, not what is said
    constants_to_initializers(checked.graph)
    types = tensor_types(checked)
    _check_types(checked.graph, types)
    weights = {weight.name: f"{weight.name}.single" for weight in checked.graph.initializer if _is_half(weight)}

    # weights stay half, as they are stored, and are read as what they are in FP32
    nodes = [_cast(name, single, single, TensorProto.FLOAT) for name, single in weights.items()]
    for node in checked.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = weights.get(name, name)
        halves = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        if node.op_type == "Cast" and halves:
            nodes += _rounded(node.input[0], node.output[0])
            continue

        # `NAME.exact` is what the node computes, NAME what is left of it in half
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}.exact"
        nodes.append(node)
        for name in halves:
            nodes += _rounded(f"{name}.exact", name)
    set_values(checked.graph.node, nodes)
    _check_names(checked.graph)
    return checked


def _check_names(graph: onnx.GraphProto) -> None:
    """Raises PrecisionError where a tensor has a name that was made for another."""
    names = Counter(name for node in graph.node for name in node.output if name)
    names.update({weight.name for weight in graph.initializer} | {value.name for value in graph.input})
    name, count = max(names.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise PrecisionError(f"{name} would be the name of two tensors: rename it")


def _check_types(graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
    """Raises PrecisionError for a node that may hold halves where a check graph would not round them."""
    halves = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    halves |= {weight.name for weight in graph.initializer if _is_half(weight)}
    ends = [value.name for value in (*graph.input, *graph.output) if value.name in halves]
    if ends:
        raise PrecisionError(f"{ends[0]} is half, expected inputs and outputs in FP32, as ours are")

    single = {name for name, kind in types.items() if kind} | {weight.name for weight in graph.initializer}
    single -= halves
    for node in graph.node:
        what = f"{node.op_type} {node.name}".strip()
        unknown = [name for name in node.output if name and not types.get(name)]
        if unknown and names_read(node) - {""} <= single:
            single.update(unknown)  # nothing that it reads is half
        elif unknown:
            raise PrecisionError(f"{what}: the type of {unknown[0]} cannot be told, so not whether it is rounded")
        inner = [graph for one in node.attribute for graph in (*([one.g] if one.HasField("g") else []), *one.graphs)]
        if inner and (not halves.isdisjoint({*names_read(node), *node.output}) or any(map(_holds_half, inner))):
            raise PrecisionError(f"{what}: computes in half within a branch or a loop, which is not rounded there")
        if any(_makes_half(attribute) for attribute in node.attribute) and node.op_type != "Cast":
            raise PrecisionError(f"{what}: makes halves of itself, which no check graph is written for")


def _holds_half(graph: onnx.GraphProto) -> bool:
    """True where a branch or the body of a loop has halves of its own."""
    return any(map(_is_half, graph.initializer)) or any(
        _makes_half(attribute) or any(map(_holds_half, (attribute.g, *attribute.graphs)))
        for node in graph.node
        for attribute in node.attribute
    )


def _makes_half(attribute: onnx.AttributeProto) -> bool:
    is_type = attribute.name in ("dtype", "to", "output_dtype", "stash_type")
    return (is_type and attribute.i == TensorProto.FLOAT16) or _is_half(attribute.t)


def _is_half(tensor: TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT16)


def computes_in_half(model: onnx.ModelProto) -> bool:
    """True where something that a model computes of its inputs is half, or may be, in a branch or a loop too.

    The nodes are sorted. Weights that are only stored as half, and read as FP32, are none of it.
    """
    types = tensor_types(_without_weights(model))
    halves = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    halves |= {weight.name for weight in model.graph.initializer if _is_half(weight)}

    weights = {weight.name for weight in model.graph.initializer}
    computed = {value.name for value in model.graph.input} - weights
    for node in model.graph.node:
        if computed.isdisjoint(names_read(node)):
            continue
        computed.update(node.output)
        inner = [graph for one in node.attribute for graph in (one.g, *one.graphs)]
        if not halves.isdisjoint({*names_read(node), *node.output}) or any(map(_holds_half, inner)):
            return True
    return False


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes of a model with its weights as inputs: enough to tell types, of a model beyond 2 GB too."""
    graph = onnx.GraphProto(name="types", node=model.graph.node, input=model.graph.input, output=model.graph.output)
    declared = {value.name for value in graph.input}
    for weight in model.graph.initializer:
        if weight.name not in declared:
            graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


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
        _cast(source, half, f"{target}.round", TensorProto.FLOAT16),
        _cast(half, target, f"{target}.back", TensorProto.FLOAT),
    ]


def _cast(source: str, target: str, name: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name, to=kind)


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor but the constants, by inference."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model))
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in values}


# An FP16 version of a foreign FP32 model: what TensorRT builds, since precision is a property of the graph.
#
# Half are the layers with weights and, behind them, what only moves, compares or adds up values. All else stays FP32
# between casts: reductions and what squares or exponentiates, which leave half's range or its precision first; and what
# comes before the first layer, such as a normalisation inside the graph. An LRN is written out, and what follows it is
# half again. Batch norms are folded into the convolutions before them, in double precision, since their statistics may
# lie beyond half's range; others stay FP32. So do layers that are quantised (export/int8/), with the scales of their
# inputs.
#
# Own code, because onnxruntime.transformers.float16 clips weights to half's range without a word and rounds to half
# even between two FP32 operators, where a sum of exponentials overflows; the tests compare with it.

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with the weights, which are always half."""
FOLLOWERS = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Erf"),
    *("Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Neg", "Where"),
    *("MaxPool", "AveragePool", "GlobalMaxPool"),
    *("Concat", "Split", "Slice", "Gather", "Pad", "Expand", "Tile", "Identity", "Dropout"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth"),
)
"""Operators that are half if one of the tensors they read is."""


class HalfError(Refused):
    """A model that has no half version; one line."""


def half_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP16 version of an FP32 model with our spec and our inputs and outputs, which stay FP32.

    Its self-test stays too: what the FP32 net says. Raises HalfError for a model that is half already or whose weights
    lie beyond half's range.
    """
    said = metadata(model)
    spec = ModelSpec.from_json(said["spec"])
    if spec.precision != "fp32":
        raise HalfError(f"{spec.name} is {spec.precision} already, expected an FP32 model")
    if model.ByteSize() > PROTOBUF_BYTES:
        raise HalfError(f"{spec.name} has {model.ByteSize()} bytes of weights, expected at most {PROTOBUF_BYTES}")

    half = copied(model)
    constants_to_initializers(half.graph)
    fold_batch_norms(half.graph)
    _Halves(half).convert()
    write_out_norms(half)
    spec = dataclasses.replace(spec, precision="fp16")
    helper.set_model_props(half, {**said, "spec": spec.to_json()})
    return half


def write_out_norms(model: onnx.ModelProto) -> None:
    """Replaces each LRN node of a map f32 [N, channels, h, w] by what it computes, one kernel on a GPU."""
    if all(node.op_type != "LRN" for node in model.graph.node):
        return
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = (*inferred.value_info, *inferred.input)
    shapes = {value.name: list(value.type.tensor_type.shape.dim) for value in values}

    nodes = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0], []) if node.op_type == "LRN" else []
        if len(shape) != 4 or not shape[1].dim_value:
            nodes.append(node)
            continue
        writer = GraphWriter()
        norm = Norm(**{attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute})
        write_lrn(writer, node.input[0], node.output[0], shape[1].dim_value, norm)
        nodes += writer.nodes
        model.graph.initializer.extend(writer.initializers.values())
    set_values(model.graph.node, nodes)


class _Halves:
    """The rewriting of one graph. A tensor's half version is called `NAME.half`; under NAME it is FP32."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.types = tensor_types(model) | {
            initializer.name: initializer.data_type for initializer in self.graph.initializer
        }
        self.weights = {w.name: w for w in self.graph.initializer if w.data_type == TensorProto.FLOAT}
        self.quantised = {node.output[0] for node in self.graph.node if node.op_type == "DequantizeLinear"}
        self.nodes: list[onnx.NodeProto] = []
        self.computed_half: set[str] = set()
        self.normalised: set[str] = set()  # by an LRN: no larger than the half that it is of
        self.cast: set[str] = set()  # tensors that have both versions by now

    def convert(self) -> None:
        for node in list(self.graph.node):
            if self._becomes_half(node):
                self._add_half(node)
            else:
                self._add_single(node)

        outputs = [value.name for value in self.graph.output]
        for name in outputs:
            self._need_single(name)
        read = set(outputs).union(*(names_read(node) for node in self.nodes))
        set_values(self.graph.node, self.nodes)
        keep_initializers(self.graph, read)
        del self.graph.value_info[:]

    def _becomes_half(self, node: onnx.NodeProto) -> bool:
        if not self.quantised.isdisjoint(node.input):
            return False
        beyond = [name for name in node.input if name in self.weights and _largest(self.weights[name]) > HALF_MAX]
        if node.op_type in LAYERS and beyond:
            raise HalfError(
                f"{node.op_type} {node.name}: {beyond[0]} goes up to {_largest(self.weights[beyond[0]]):.3g}, the "
                f"largest half is {HALF_MAX:.0f}: build with --precision fp32"
            )
        behind = not (self.computed_half | self.normalised).isdisjoint(node.input)
        return node.op_type in LAYERS or (node.op_type in FOLLOWERS and behind and not beyond)

    def _add_half(self, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input):
            if name and not self.types.get(name):
                raise HalfError(f"{node.op_type} {node.name}: {name} has no known type: build with --precision fp32")
            if name and self.types[name] == TensorProto.FLOAT:
                self._need_half(name)
                node.input[index] = f"{name}.half"
        for index, name in enumerate(node.output):
            if self.types.get(name) == TensorProto.FLOAT:
                node.output[index] = f"{name}.half"
                self.computed_half.add(name)
        self.nodes.append(node)

    def _add_single(self, node: onnx.NodeProto) -> None:
        for name in sorted(names_read(node)):
            self._need_single(name)
        self.nodes.append(node)
        bias = next((attribute.f for attribute in node.attribute if attribute.name == "bias"), 1.0)
        if node.op_type == "LRN" and bias >= 1 and node.input[0] in self.computed_half:
            self.normalised.add(node.output[0])

    def _need_half(self, name: str) -> None:
        if name in self.computed_half or name in self.cast:
            return
        self.cast.add(name)
        if name in self.weights:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, f"{name}.half"))
        else:
            self.nodes.append(_cast(name, f"{name}.half", f"{name}.half", TensorProto.FLOAT16))

    def _need_single(self, name: str) -> None:
        if name in self.computed_half and name not in self.cast:
            self.cast.add(name)
            self.nodes.append(_cast(f"{name}.half", name, f"{name}.single", TensorProto.FLOAT))


def _largest(tensor: TensorProto) -> float:
    values = numpy_helper.to_array(tensor)
    return float(np.abs(values).max()) if values.size else 0.0


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Numbers that lie in nodes become initialisers, so that each user can have them in its own precision."""
    nodes = []
    for node in graph.node:
        is_constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.attribute) == 1
        attribute = node.attribute[0] if is_constant else None
        value = None if attribute is None else helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto):
            value.name = node.output[0]
            graph.initializer.append(value)
        elif attribute is not None and attribute.name in ("value_float", "value_floats"):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), node.output[0]))
        else:
            nodes.append(node)
    set_values(graph.node, nodes)


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Each batch norm that alone reads a convolution becomes part of its weights."""
    weights = {w.name: w for w in graph.initializer if w.data_type == TensorProto.FLOAT}
    readers = Counter(name for node in graph.node for name in names_read(node))
    readers.update(value.name for value in graph.output)
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}

    nodes = []
    for node in graph.node:
        convolution = convolutions.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        known = convolution is not None and weights.keys() >= {*node.input[1:], *convolution.input[1:]} - {""}
        if convolution is None or not known or readers[node.input[0]] > 1 or len(node.output) > 1:
            nodes.append(node)
            continue

        # (x * kernel + bias - mean) / sqrt(variance + epsilon) * gamma + beta, in double precision
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        gamma, beta, mean, variance = (_double(weights[name]) for name in node.input[1:])
        scale = gamma / np.sqrt(variance + epsilon)
        kernel = _double(weights[convolution.input[1]])
        bias = _double(weights[convolution.input[2]]) if len(convolution.input) > 2 and convolution.input[2] else 0
        folded = {"weight": kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1)), "bias": (bias - mean) * scale + beta}

        names = {part: f"{convolution.output[0]}.folded.{part}" for part in folded}
        for part, values in folded.items():
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), names[part]))
        convolution.input[1:] = names.values()
        convolution.output[0] = node.output[0]
    set_values(graph.node, nodes)


def _double(tensor: TensorProto) -> NDArray[np.float64]:
    return numpy_helper.to_array(tensor).astype(np.float64)
