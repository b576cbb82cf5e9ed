"""An FP16 graph with some layers in FP32: `--keep-single LAYER,...`.

A layer that is kept computes in FP32 between casts, with the FP32 weights where they are known. Between two layers that
are kept there is no cast, so a value beyond half's range passes from one to the next.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from .file import copied, keep_initializers, metadata, names_read, set_values
from .precision import LAYERS, tensor_types

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
KEPT = "keep_single"
"""The key of a model's metadata under which the kept layers are listed, as JSON."""


class MixedError(ModelError):
    """Layers that cannot be kept in FP32; one line."""


class Layer(NamedTuple):
    """A half tensor, and the node that its values come from: behind a cast into half, the node before it."""

    name: str
    operator: str
    tensor: str


def layer_name(node: onnx.NodeProto) -> str:
    return node.name or str(node.output[0])


def half_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers of an FP16 model in the order of its graph."""
    types, makers = tensor_types(model), dict[str, onnx.NodeProto]()
    found = []
    for node in model.graph.node:
        for name in node.output:
            makers[name] = node
            if node.op_type == "Constant" or types.get(name) != HALF:
                continue
            own = makers.get(node.input[0]) if node.op_type == "Cast" else node
            if own is None:  # a cast of the graph's input
                found.append(Layer(node.input[0], "input", name))
            else:
                found.append(Layer(layer_name(own), own.op_type, name))
    return found


def kept_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """The layers of an FP16 model that were kept in FP32."""
    return tuple(json.loads(metadata(model).get(KEPT, "[]")))


def single_layers(model: onnx.ModelProto) -> list[str]:
    """The layers with weights of an FP16 model that compute in FP32."""
    types = tensor_types(model)
    return [
        layer_name(node) for node in model.graph.node if node.op_type in LAYERS and types.get(node.output[0]) == SINGLE
    ]


def unquantised(model: onnx.ModelProto) -> list[str]:
    """The convolutions of an INT8 model of ours that are not quantised, and so half."""
    back = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = (node for node in model.graph.node if node.op_type == "Conv")
    return [layer_name(node) for node in convolutions if back.isdisjoint(node.input)]


def exact_weights(single: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The weights of an FP32 model by the names that they have in its FP16 versions."""
    found = dict[str, NDArray[np.float32]]()
    for tensor in single.graph.initializer:
        if tensor.data_type == SINGLE:
            values = numpy_helper.to_array(tensor)
            found |= {tensor.name: values, f"{tensor.name}.half": values}
    return found


def keep_single(
    model: onnx.ModelProto, layers: Sequence[str], exact: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """An FP16 model whose `layers` compute in FP32, with weights of `exact` where it has them.

    The FP32 version of a half tensor NAME is called `NAME.kept`, or as it is where there is one, as of layers that were
    kept before. Raises MixedError for a layer that there is not.
    """
    mixed = copied(model)
    nodes = _Rewriting(mixed, _checked(mixed, layers), exact).nodes()
    set_values(mixed.graph.node, nodes)

    read = set[str]().union(*(names_read(node) for node in nodes))
    keep_initializers(mixed.graph, read | {value.name for value in mixed.graph.output})
    del mixed.graph.value_info[:]
    kept = dict.fromkeys((*kept_layers(model), *layers))
    helper.set_model_props(mixed, {**metadata(model), KEPT: json.dumps(list(kept))})
    return mixed


def _checked(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """The names of the layers, each of which computes in half. Raises MixedError."""
    types = tensor_types(model)
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    in_half, others = dict[str, None](), set[str]()
    for node in model.graph.node:
        is_half = all(any(types.get(name) == HALF for name in names) for names in (node.input, node.output))
        with_graph = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if is_half and not with_graph and node.op_type != "Cast":
            in_half[layer_name(node)] = None
        else:
            others.add(layer_name(node))

    for name in layers:
        if name in in_half:
            continue
        if name in others:
            raise MixedError(f"--keep-single {name[:80]}: does not compute in half precision, so leave it out")
        near = difflib.get_close_matches(name, list(in_half), 3, 0.4) or list(in_half)[:3]
        raise MixedError(
            f"--keep-single {name[:80]}: no such layer in half precision, expected names like {', '.join(near)}"
        )
    return set(layers)


class _Rewriting:
    """The nodes of a graph with the layers `kept` in FP32 and the casts around them."""

    def __init__(self, model: onnx.ModelProto, kept: Collection[str], exact: Mapping[str, NDArray[np.float32]]) -> None:
        self.graph, self.kept, self.exact = model.graph, kept, exact
        self.types = tensor_types(model)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == HALF}
        self.names = {tensor.name for tensor in model.graph.initializer}.union(
            *({*names_read(node), *node.output} for node in model.graph.node)
        )
        self.single: dict[str, str] = {}  # half tensors that have an FP32 version by now, and its name
        self.rounded: set[str] = set()  # half tensors that are made of an FP32 version here
        self.made: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        for node in list(self.graph.node):
            if layer_name(node) in self.kept:
                self._add_kept(node)
                continue
            to_half = node.op_type == "Cast" and self.types.get(node.output[0]) == HALF
            if to_half and self.types.get(node.input[0]) == SINGLE:
                self.single[node.output[0]] = node.input[0]  # not rounded yet
            to_single = node.op_type == "Cast" and self.types.get(node.output[0]) == SINGLE
            if to_single and node.input[0] in self.single:
                node.input[0] = self.single[node.input[0]]
            elif to_single and self.types.get(node.input[0]) == HALF:
                self.single[node.input[0]] = node.output[0]
            self.made.append(node)
        return self._without_unread_casts()

    def _add_kept(self, node: onnx.NodeProto) -> None:
        for place, name in enumerate(node.input):
            if name in self.weights or self.types.get(name) == HALF:
                node.input[place] = self._single(name)

        rounded = []
        for place, name in enumerate(node.output):
            if self.types.get(name) == HALF:
                node.output[place] = self.single[name] = self._new(f"{name}.kept")
                rounded.append(helper.make_node("Cast", [self.single[name]], [name], f"{name}.rounded", to=HALF))
                self.rounded.add(name)
        self.made += [node, *rounded]

    def _single(self, name: str) -> str:
        """The name of the FP32 version of a half tensor, which is made where there is none."""
        if name in self.single:
            return self.single[name]

        self.single[name] = kept = self._new(f"{name}.kept")
        if name in self.weights:
            half = numpy_helper.to_array(self.weights[name])
            values = self.exact.get(name, half.astype(np.float32))
            self.graph.initializer.append(numpy_helper.from_array(values.reshape(half.shape), kept))
        else:
            self.made.append(helper.make_node("Cast", [name], [kept], f"{name}.widened", to=SINGLE))
        return self.single[name]

    def _new(self, name: str) -> str:
        """The name, or one with a number behind it that no tensor has yet."""
        numbered = (f"{name}.{number}" for number in itertools.count(2))
        found = name if name not in self.names else next(one for one in numbered if one not in self.names)
        self.names.add(found)
        return found

    def _without_unread_casts(self) -> list[onnx.NodeProto]:
        """Casts of kept layers that nobody reads in half are left out."""
        read = {value.name for value in self.graph.output}.union(*(names_read(node) for node in self.made))
        unread = self.rounded - read
        return [node for node in self.made if unread.isdisjoint(node.output)]
