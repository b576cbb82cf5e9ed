"""The view graph of a net of ours: everything that stands between a decoded image and a posterior, as ONNX.

Three interfaces share the same end: `views` and `images` begin with bytes (frame.py), `nchw` takes preprocessed floats.
In a half graph everything behind the mean is FP16, but for LRN, the spatial mean and the softmax.

The graph is written operator by operator, so that it says what we mean (such as integer division) under names
that a reader knows; the net's layers come from torch.fx's record of its forward.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from infer.spec import ModelSpec
from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

from .frame import declared, declared_inputs, normalise, sum_pixels, write_pixels
from .interface import outputs_in_graph
from .normalisation import Norm, write_lrn
from .writer import F16, F32, GraphWriter

OPSET, IR_VERSION = 20, 9


def write_graph(net: Net, spec: ModelSpec) -> onnx.ModelProto:
    """The model of a trained net, for the interface and precision of `spec`, with its outputs in their order."""
    w = GraphWriter()
    outputs = outputs_in_graph(spec)

    # from the input to the net: i32 pixels [V, 3, h, w], then floats
    pixels: str | None = None
    if spec.interface == "nchw":
        x = "input"
    else:
        pixels = write_pixels(w, spec.interface)
        x = normalise(w, pixels, spec.preprocessing)
    half = spec.precision == "fp16"
    if half:
        x = w.op("Cast", [x], "normalise.half", to=F16)

    # the net, and its ends in FP32
    penultimate, scores = write_net(w, net, x, half=half)
    if half:
        scores = w.op("Cast", [scores], "score_map.single", to=F32)
    if spec.task == "classify":
        computed = _scores(w, scores, outputs)
    else:
        computed = {_boxes(w, scores, spec.boxes) if spec.task == "multibox" else w.op("Identity", [scores], "box_map")}

    # what is asked for besides
    if "features" in outputs:
        single = w.op("Cast", [penultimate], "features.single", to=F32) if half else penultimate
        w.op("ReduceMean", [single, w.axes(2, 3)], "features", keepdims=0)
        computed.add("features")
    if pixels is not None:
        if "pixel_sums" in outputs:
            sum_pixels(w, pixels)
        if "pixels" in outputs:
            w.op("Identity", [pixels], "pixels")
        computed |= {"pixel_sums", "pixels"} & set(outputs)
    assert computed >= set(outputs), f"{spec.interface} graph has no {sorted(set(outputs) - computed)}"
    return _model(w, spec)


def _scores(w: GraphWriter, scores: str, outputs: Collection[str]) -> set[str]:
    """Writes the ends of a classifier, from its score map in FP32; returns those of `outputs` that they are."""
    mean = w.op("ReduceMean", [scores, w.axes(2, 3)], "spatial_mean", keepdims=0)
    w.op("Softmax", [mean], "posterior", axis=1)
    if "posterior_positions" in outputs:
        positions = w.op("Softmax", [scores], "softmax_positions", axis=1)
        w.op("ReduceMean", [positions, w.axes(2, 3)], "posterior_positions", keepdims=0)
    if "score_map" in outputs:
        w.op("Identity", [scores], "score_map")
    return {"posterior", "posterior_positions", "score_map"} & set(outputs)


def _boxes(w: GraphWriter, scores: str, count: int) -> str:
    """Writes the end of a MultiBox net: edges as they are, confidences behind the sigmoid; f32 [V, boxes, 5]."""
    shape = w.constant("shape.boxes", np.array([-1, count, 5], np.int64))
    raw = w.op("Reshape", [scores, shape], "boxes.raw")
    edges, logits = (
        w.op("Slice", [raw, w.axes(first), w.axes(last), w.axes(2)], f"boxes.{name}")
        for name, first, last in (("edges", 0, 4), ("logits", 4, 5))
    )
    return w.op("Concat", [edges, w.op("Sigmoid", [logits], "boxes.confidence")], "boxes", axis=2)


def _model(w: GraphWriter, spec: ModelSpec) -> onnx.ModelProto:
    graph = helper.make_graph(
        w.nodes,
        spec.name,
        declared_inputs(spec.interface),
        [declared(name, *tensor) for name, tensor in outputs_in_graph(spec).items()],
        list(w.initializers.values()),
    )
    doc = f"{spec.name}: net {spec.net}, {len(spec.classes)} classes, {spec.interface} interface, {spec.precision}"
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="verydeep", doc_string=doc
    )


# The net's layers, from torch.fx's record of its forward: just those that our nets are made of; another one is an
# error, not an approximation.


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, LRN) or super().is_leaf_module(module, qualified_name)


def write_net(w: GraphWriter, net: Net, x: str, *, half: bool) -> tuple[str, str]:
    """Writes the net's layers on input `x` [N, 3, h, w]; returns (penultimate activations, class score map).

    Raises NotImplementedError for a layer that has no ONNX form here.
    """
    net = net.eval()
    graph = _Tracer().trace(net)
    modules = dict(net.named_modules())
    values: dict[fx.Node, str] = {}
    penultimate = scores = x
    channels = 3

    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "call_module":
            source = values[node.args[0]]
            layer = modules[str(node.target)]
            values[node] = _module(w, layer, source, str(node.target), half, channels)
            if isinstance(layer, nn.Conv2d):
                penultimate, scores = source, values[node]
                channels = layer.out_channels  # no layer that needs them stands behind a branch
        elif node.op == "call_function":
            values[node] = _function(w, node, values)
        elif node.op == "output":
            assert values[node.args[0]] == scores, "a net ends with its classifier"
    return penultimate, scores


def _module(w: GraphWriter, layer: nn.Module, x: str, name: str, half: bool, channels: int) -> str:
    match layer:
        case nn.Conv2d():
            assert layer.groups == 1
            weights = [_weights(w, layer.weight, f"{name}.weight", half)]
            if layer.bias is not None:
                weights.append(_weights(w, layer.bias, f"{name}.bias", half))
            return w.op("Conv", [x, *weights], name, **_window(layer), dilations=_pair(layer.dilation))
        case nn.ReLU():
            return w.op("Relu", [x], name)
        case nn.MaxPool2d() | nn.AvgPool2d():
            kind = "MaxPool" if isinstance(layer, nn.MaxPool2d) else "AveragePool"
            return w.op(kind, [x], name, **_window(layer), ceil_mode=int(layer.ceil_mode))
        case LRN():
            norm = Norm(layer.n, layer.alpha, layer.beta, layer.k)
            if not half:
                return w.op("LRN", [x], name, **norm._asdict())
            x = w.op("Cast", [x], f"{name}.single", to=F32)  # squares leave half's range
            x = write_lrn(w, x, f"{name}.lrn", channels, norm)
            return w.op("Cast", [x], name, to=F16)
        case nn.Dropout():
            return x
    raise NotImplementedError(f"{name}: no ONNX form for {type(layer).__name__}")


def _function(w: GraphWriter, node: fx.Node, values: dict[fx.Node, str]) -> str:
    if node.target is F.relu:
        source = values[node.args[0]]  # type: ignore[index]
        return w.op("Relu", [source], f"{source}.relu")
    if node.target is torch.cat:
        sources = [values[part] for part in node.args[0]]  # type: ignore[index, union-attr]
        return w.op("Concat", sources, f"{sources[0].rsplit('.', 2)[0]}.concat", axis=1)
    raise NotImplementedError(f"{node.name}: no ONNX form for {node.target}")


def _window(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> dict[str, list[int]]:
    """Attributes of a window that moves over its input."""
    assert not isinstance(layer.padding, str)
    kernel, stride, pad = map(_pair, (layer.kernel_size, layer.stride, layer.padding))
    return {"kernel_shape": kernel, "strides": stride, "pads": pad * 2}


def _weights(w: GraphWriter, tensor: Tensor, name: str, half: bool) -> str:
    with np.errstate(over="ignore"):  # infinite weights are found in the finished graph, where they may be rescaled
        return w.constant(name, tensor.detach().cpu().numpy().astype(np.float16 if half else np.float32))


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
