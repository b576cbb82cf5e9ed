"""An FP32 model -> its INT8 version: QuantizeLinear and DequantizeLinear in front of its layers, the rest in half.

onnxruntime.quantization writes the quantised layers, and not nvidia-modelopt: it comes with a package that is here
already, needs neither PyTorch nor CUDA, and writes the form that TensorRT asks for (TensorRT's documentation, "Working
with Quantized Types"): activations symmetric, in INT8 with one scale a tensor; weights with one scale a channel; the
bias in FP32. A quantised layer's inputs are quantised and its output is not, so that what follows, such as a ReLU, is
computed before the next layer's rounding.

What stays in half: the layers that see the image's pixels, and the last ones, whose outputs are the class scores: both
are a small part of the work, and most is lost there. What has no weights is as half_model leaves it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infer.model_file import INT8
from infer.spec import ModelSpec

from ..errors import ModelError
from ..foreign.fixed import nodes_of
from ..model.file import copied, keep_initializers, metadata, names_read, set_values, sort_nodes
from ..model.mixed import layer_name
from ..model.precision import constants_to_initializers, fold_batch_norms, half_model, tensor_types

KINDS = ("Conv", "Gemm", "MatMul")
"""Operators that are quantised where their weights are constants."""
OLDEST_OPSET = 13
"""The first with a scale for each channel."""
LARGEST = 127
ADDED = (
    *("_scale", "_zero_point", "_quantized", "_QuantizeLinear", "_QuantizeLinear_Input", "_QuantizeLinear_Output"),
    *("_DequantizeLinear", "_DequantizeLinear_Input", "_DequantizeLinear_Output"),
)
"""What ONNX Runtime's tool puts behind the name of a tensor (onnxruntime/quantization/quant_utils.py)."""


class QuantisingError(ModelError):
    """A model that has no INT8 version; one line."""


def prepare(model: onnx.ModelProto) -> None:
    """Changes an FP32 model so that its layers can be quantised: batch norms are folded, all nodes have names.

    Its answers stay the same. Raises QuantisingError for a model of another precision, or of an opset that has no
    scales for channels.
    """
    spec = ModelSpec.from_json(metadata(model)["spec"])
    if spec.precision != "fp32":
        raise QuantisingError(f"{spec.name}: an {spec.precision.upper()} model, expected FP32: INT8 is made of that")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset < OLDEST_OPSET:
        raise QuantisingError(
            f"{spec.name}: opset {opset}, INT8 needs {OLDEST_OPSET} or later: export the model again with "
            "opset_version=17, or import it with --interface views"
        )

    constants_to_initializers(model.graph)
    fold_batch_norms(model.graph)
    _name_nodes(model.graph)
    _free_names(model.graph)
    del model.graph.value_info[:]


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives each node without a name that of its output, or one with a number where that is another's."""
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if not node.name:
            node.name = _free(layer_name(node), taken)
            taken.add(node.name)


def _free_names(graph: onnx.GraphProto) -> None:
    """Renames tensors and nodes that have a name which ONNX Runtime's tool gives to what it adds."""
    nodes = list(nodes_of(graph))
    names = {name for node in nodes for name in (*node.input, *node.output)}
    names.update(tensor.name for tensor in graph.initializer)
    taken = names | {node.name for node in nodes}
    added = {f"{name}{suffix}" for name in names for suffix in ADDED}
    ends = {value.name for value in (*graph.input, *graph.output)}
    new = dict[str, str]()
    for name in sorted((taken & added) - ends):
        new[name] = _free(f"{name}.own", taken)
        taken.add(new[name])
    if not new:
        return

    for node in nodes:
        node.name = new.get(node.name, node.name)
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _rename_values((*inner.initializer, *inner.input, *inner.output), new)
    _rename_values(graph.initializer, new)


def _rename_values(values: Iterable[TensorProto | onnx.ValueInfoProto], new: Mapping[str, str]) -> None:
    for value in values:
        value.name = new.get(value.name, value.name)


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or one with a number behind it, that is not taken."""
    numbered = (f"{name}.{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def layers_to_quantise(model: onnx.ModelProto) -> list[str]:
    """The layers of a prepared model with constant weights, but the first and the last on each way through it.

    Raises QuantisingError where none is left.
    """
    weights = {one.name for one in model.graph.initializer if one.data_type == TensorProto.FLOAT}
    layers = [node for node in model.graph.node if node.op_type in KINDS and node.input[1] in weights]

    # those behind another layer, and those before another
    behind, after_layer = set[str](), set[str]()
    for node in model.graph.node:
        if not names_read(node).isdisjoint(after_layer):
            after_layer.update(node.output)
            behind.add(node.name)
        if node in layers:
            after_layer.update(node.output)
    before, leads_to_layer = set[str](), set[str]()
    for node in reversed(model.graph.node):
        if not leads_to_layer.isdisjoint(node.output):
            before.add(node.name)
            leads_to_layer |= names_read(node)
        if node in layers:
            leads_to_layer |= names_read(node)

    inner = [node.name for node in layers if node.name in behind & before]
    if not inner:
        raise QuantisingError(
            f"{model.graph.name}: {len(layers)} layers with weights, none between the first and the last, which stay "
            "in half: build with --precision fp16"
        )
    return inner


def activations_of(model: onnx.ModelProto, layers: Collection[str]) -> dict[str, str]:
    """The tensor that each of these layers reads."""
    return {node.name: node.input[0] for node in model.graph.node if node.name in layers}


def quantised(model: onnx.ModelProto, layers: Sequence[str], largest: Mapping[str, float]) -> onnx.ModelProto:
    """A prepared FP32 model with `layers` quantised, each activation up to `largest`, by ONNX Runtime's tool.

    Other nodes read what they read before, and each layer has its own bias and attributes: the tool takes whatever else
    reads a quantised tensor along, and folds the factor of a Gemm's bias into a rounded one, which is not made here.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantType

    described = copied(model)
    types = tensor_types(model)
    set_values(described.graph.output, (value for value in described.graph.output if value.name not in largest))
    known = {value.name for value in (*described.graph.input, *described.graph.output)}
    described.graph.value_info.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in types.items() if kind and name not in known
    )
    ranges = {name: (np.float32(-most), np.float32(most)) for name, most in largest.items()}
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "QDQDisableWeightAdjustForInt32Bias": True,
        "OpTypesToExcludeOutputQuantization": list(KINDS),
    }
    with _silent():
        tool = QDQQuantizer(
            described,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=list(layers),
            nodes_to_exclude=[],
            op_types_to_quantize=list(KINDS),
            extra_options=options,
        )
        made: onnx.ModelProto = tool.quantize_model()
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    del made.graph.value_info[:]
    _only_for(made.graph, model.graph, layers)
    _share_with_pools(made.graph)
    return made


def _only_for(graph: onnx.GraphProto, before: onnx.GraphProto, layers: Collection[str]) -> None:
    """Lets only the activations and weights of `layers` be quantised; all else is as it was `before`."""
    own = {node.name: node for node in before.node}
    for node in graph.node:
        if node.name in own:
            quantised_inputs = node.input[:2] if node.name in layers else []
            node.input[:] = [*quantised_inputs, *own[node.name].input[len(quantised_inputs) :]]
            set_values(node.attribute, own[node.name].attribute)
    set_values(graph.output, before.output)

    there = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in before.initializer if tensor.name not in there)
    read = {value.name for value in graph.output}.union(*(names_read(node) for node in graph.node))
    keep_initializers(graph, read)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what ONNX Runtime's tool says on the way."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _share_with_pools(graph: onnx.GraphProto) -> None:
    """A pool whose input and output are quantised for others reads what they read: its largest values are the same."""
    back = quantised_tensors(graph)
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in back and node.output[0] in back:
            node.input[0] = back[node.input[0]]
    sort_nodes(graph)


def quantised_tensors(graph: onnx.GraphProto) -> dict[str, str]:
    """The tensors that are quantised, and the names of what DequantizeLinear makes of them."""
    to_integer = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    back = (node for node in graph.node if node.op_type == "DequantizeLinear")
    return {to_integer[node.input[0]]: node.output[0] for node in back if node.input[0] in to_integer}


def tied(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """For each tensor to be quantised the one whose scale it has: a MaxPool's output is on its input's.

    Rounding twice on one scale is rounding once, so the pool can work on integers.
    """
    pools = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "MaxPool"}
    found = {}
    for name in tensors:
        root = name
        while root in pools and pools[root] in tensors:
            root = pools[root]
        found[name] = root
    return found


def with_largest(model: onnx.ModelProto, largest: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of a quantised model with other ends of the activations' scales."""
    changed = copied(model)
    scales = {node.input[1]: node.input[0] for node in changed.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in changed.graph.initializer:
        if tensor.name in scales:
            value = np.array(scale_of(largest[scales[tensor.name]]), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value.reshape(tuple(tensor.dims)), tensor.name))
    return changed


def scale_of(largest: float) -> float:
    """The step of a scale whose end is `largest`; a tensor that is always 0 has any."""
    return largest / LARGEST if largest > 0 else 1.0


def put_back(model: onnx.ModelProto, single: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """A copy of a quantised model without quantisation of `layers`, whose weights are those of `single` again."""
    changed = copied(model)
    graph = changed.graph
    makers = {name: node for node in graph.node for name in node.output}
    own = {node.name: node for node in single.graph.node if node.name in layers}
    weights = {tensor.name: tensor for tensor in single.graph.initializer}

    there = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MaxPool":
            node.input[0] = _source(makers, node.input[0])
        if node.name not in own:
            continue
        node.input[0] = _source(makers, node.input[0])
        node.input[1] = name = own[node.name].input[1]
        if name not in there:
            graph.initializer.append(weights[name])
            there.add(name)

    # what nobody reads any more
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read |= names_read(node)
    set_values(graph.node, kept[::-1])
    keep_initializers(graph, read)
    _share_with_pools(graph)
    return changed


def _source(makers: Mapping[str, onnx.NodeProto], name: str) -> str:
    """The tensor that was quantised to what DequantizeLinear calls `name`."""
    while name in makers and makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        name = makers[name].input[0]
    return name


def rest_in_half(model: onnx.ModelProto, said: Mapping[str, object]) -> onnx.ModelProto:
    """The INT8 model of a quantised FP32 one: layers that are not quantised are half; `said` goes into its metadata.

    Raises HalfError for weights beyond half's range.
    """
    built = half_model(model)
    entries = metadata(built)
    entries.pop("self_test", None)
    spec = dataclasses.replace(ModelSpec.from_json(entries["spec"]), precision="int8")
    built.doc_string = built.doc_string.replace("fp32", "int8")
    helper.set_model_props(built, {**entries, "spec": spec.to_json(), INT8: json.dumps(said)})
    return built
