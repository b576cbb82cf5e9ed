"""The view graph: a net with everything that stands between a decoded image and a posterior, as ONNX.

Three interfaces share the same end. `views` takes the decoded image, filter taps and index tables; `images` takes
ready u8 views; `nchw` takes preprocessed floats. Pixels are exact integers until the mean is subtracted. In a half
graph everything after that is FP16, but for LRN, the spatial mean and the softmax.

The graph is written operator by operator, so that it says what we mean (integer division, one LRN node) under names
that a reader knows; the net's layers come from torch.fx's record of its forward.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from infer.graph_inputs import INPUTS, Shape, TypeName
from infer.pixels.render import PRECISION_BITS
from infer.spec import ModelSpec
from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

from .interface import outputs_in_graph
from .writer import F16, F32, I32, GraphWriter

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
        pixels = _views(w) if spec.interface == "views" else _images(w)
        x = _normalise(w, pixels, spec)
    half = spec.precision == "fp16"
    if half:
        x = w.op("Cast", [x], "normalise.half", to=F16)

    # the net, and its ends in FP32
    penultimate, scores = write_net(w, net, x, half=half)
    if half:
        scores = w.op("Cast", [scores], "score_map.single", to=F32)
    computed = _scores(w, scores, outputs) if spec.task == "classify" else {w.op("Identity", [scores], "box_map")}

    # what is asked for besides
    if "features" in outputs:
        single = w.op("Cast", [penultimate], "features.single", to=F32) if half else penultimate
        w.op("ReduceMean", [single, w.axes(2, 3)], "features", keepdims=0)
        computed.add("features")
    if pixels is not None:
        if "pixel_sums" in outputs:
            _pixel_sums(w, pixels)
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


def _views(w: GraphWriter) -> str:
    """Rescales `image` and cuts the views out of it: i32 [V, 3, h, w]."""
    x = _as_int32(w, "image")  # first: TensorRT cannot transpose bytes
    x = w.op("Transpose", [x], "image.planes", perm=[2, 0, 1])
    x = _rescale_axis(w, x, 2, "col_first", "col_taps", "rescale.columns")
    x = _rescale_axis(w, x, 1, "row_first", "row_taps", "rescale.rows")
    flat = w.op("Reshape", [x, w.constant("shape.planes", np.array([3, -1], np.int64))], "gather_views.flat")
    rows = w.op("Unsqueeze", ["rows", w.axes(2)], "gather_views.rows")
    cols = w.op("Unsqueeze", ["cols", w.axes(1)], "gather_views.cols")
    index = w.op("Add", [rows, cols], "gather_views.index")
    last = w.op("Sub", [w.size(flat, 1, "gather_views.size"), w.i32(1)], "gather_views.last")
    index = w.clip(index, w.i32(0), last, "gather_views.clamp")  # tools like trtexec feed anything
    views = w.op("Gather", [flat, index], "gather_views", axis=1)  # [3, V, h, w]
    return w.op("Transpose", [views], "views", perm=[1, 0, 2, 3])


def _as_int32(w: GraphWriter, name: str) -> str:
    """The bytes of an input as i32, by way of FP32: exact, and all that TensorRT's DataType page converts UINT8 to."""
    return w.op("Cast", [w.op("Cast", [name], f"{name}.single", to=F32)], f"{name}.i32", to=I32)


def _rescale_axis(w: GraphWriter, x: str, axis: int, first: str, taps: str, name: str) -> str:
    """One pass of Pillow's rescaling, bit for bit (see infer/pixels/render.py), along `axis` of i32 [3, H, W]."""
    # the source lines of each of the n lines that are made
    count = w.size(taps, 0, f"{name}.taps")
    offsets = w.op("Range", [w.i32(0), count, w.i32(1)], f"{name}.range")
    offsets = w.op("Unsqueeze", [offsets, w.axes(1)], f"{name}.offsets")
    source = w.op("Add", [offsets, first], f"{name}.source")  # [K, n]
    last = w.op("Sub", [w.size(x, axis, f"{name}.size"), w.i32(1)], f"{name}.last")
    source = w.clip(source, w.i32(0), last, f"{name}.clamp")
    lines = w.op("Gather", [x, source], f"{name}.gather", axis=axis)  # K source lines for each of n

    # their sum, by 22-bit coefficients
    weights = taps if axis == 2 else w.op("Unsqueeze", [taps, w.axes(2)], f"{name}.weights")
    products = w.op("Mul", [lines, weights], f"{name}.mul")
    total = w.op("ReduceSum", [products, w.axes(axis)], f"{name}.sum", keepdims=0)
    total = w.op("Add", [total, w.i32(1 << (PRECISION_BITS - 1))], f"{name}.round")
    total = w.clip(total, w.i32(0), None, f"{name}.low")
    total = w.op("Div", [total, w.i32(1 << PRECISION_BITS)], f"{name}.div")
    return w.clip(total, None, w.i32(255), name)


def _images(w: GraphWriter) -> str:
    x = _as_int32(w, "images")
    return w.op("Transpose", [x], "views", perm=[0, 3, 1, 2])


def _normalise(w: GraphWriter, pixels: str, spec: ModelSpec) -> str:
    """Subtracts the mean and divides by the std, in FP32; the mean is not folded (zero padding would break)."""
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (spec.preprocessing.mean_rgb, spec.preprocessing.std_rgb)
    )
    x = w.op("Cast", [pixels], "views.single", to=F32)
    x = w.op("Sub", [x, w.constant("mean_rgb", mean)], "normalise.mean")
    return x if (std == 1).all() else w.op("Div", [x, w.constant("std_rgb", std)], "normalise.std")


def _pixel_sums(w: GraphWriter, pixels: str) -> str:
    """i32 [V, 6]: sums per channel, plain, then weighted by 1 + (flat index mod 2)."""
    flat = w.op("Reshape", [pixels, w.constant("shape.flat", np.array([0, 3, -1], np.int64))], "pixel_sums.flat")
    index = w.op("Range", [w.i32(0), w.size(flat, 2, "pixel_sums.size"), w.i32(1)], "pixel_sums.range")
    weights = w.op("Add", [w.op("Mod", [index, w.i32(2)], "pixel_sums.odd"), w.i32(1)], "pixel_sums.weights")
    weighted = w.op("Mul", [flat, weights], "pixel_sums.mul")
    sums = [
        w.op("ReduceSum", [x, w.axes(2)], f"pixel_sums.{name}", keepdims=0)
        for name, x in (("plain", flat), ("weighted", weighted))
    ]
    return w.op("Concat", sums, "pixel_sums", axis=1)


def _model(w: GraphWriter, spec: ModelSpec) -> onnx.ModelProto:
    graph = helper.make_graph(
        w.nodes,
        spec.name,
        [_declared(name, *tensor) for name, tensor in INPUTS[spec.interface].items()],
        [_declared(name, *tensor) for name, tensor in outputs_in_graph(spec).items()],
        list(w.initializers.values()),
    )
    doc = f"{spec.name}: net {spec.net}, {len(spec.classes)} classes, {spec.interface} interface, {spec.precision}"
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="verydeep", doc_string=doc
    )


def _declared(name: str, type_name: TypeName, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(type_name)), shape)


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

    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "call_module":
            source = values[node.args[0]]
            layer = modules[str(node.target)]
            values[node] = _module(w, layer, source, str(node.target), half)
            if isinstance(layer, nn.Conv2d):
                penultimate, scores = source, values[node]
        elif node.op == "call_function":
            values[node] = _function(w, node, values)
        elif node.op == "output":
            assert values[node.args[0]] == scores, "a net ends with its classifier"
    return penultimate, scores


def _module(w: GraphWriter, layer: nn.Module, x: str, name: str, half: bool) -> str:
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
            # in FP32: squares leave half's range
            if half:
                x = w.op("Cast", [x], f"{name}.single", to=TensorProto.FLOAT)
            settings = {"size": layer.n, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
            x = w.op("LRN", [x], f"{name}.lrn" if half else name, **settings)
            return w.op("Cast", [x], name, to=TensorProto.FLOAT16) if half else x
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
