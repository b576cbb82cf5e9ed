"""Graph surgery on a classifier of another's making, so that it has an interface of ours.

Its own graph stays as it is, its names behind "net/"; before it come a channel order, type and layout, after it a mean
over positions and a softmax. All of these are written with operators that mean the same in every opset, so that they
make an `nchw` model of any. Pixels come before that, and their sums behind, where its opset is one of the view graph's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from infer.errors import Refused
from infer.spec import Interface, ModelSpec, Precision

from ..graph import frame
from ..graph.interface import outputs_in_graph
from ..graph.writer import GraphWriter
from ..importing.preprocessing import Channels
from ..model.file import RepeatedValues, copied, prune, set_values, sort_nodes
from ..model.precision import computes_in_half
from .fixed import TrainingError, check_fixed, is_quantised, nodes_of

OutputKind = Literal["logits", "probabilities"]

OLDEST_OPSET, UPGRADED_OPSET = 7, 9
"""ONNX Runtime runs opset 7 and later (docs/Versioning.md there); the one that older graphs are upgraded to."""
KINDS: dict[int, str] = {TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16", TensorProto.UINT8: "u8"}
"""Elements of the images that a model may take."""
CAST = "input.cast"
"""The node before a model that does not take FP32."""
TINY = np.float32(1e-37)
"""The probability at which logarithms stop: just above the smallest normal float."""


class ForeignError(Refused):
    """A model that cannot become a classifier of ours; one line: got, expected, do this."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input of a foreign model: a tensor of square images, [N, 3, h, w] or [N, h, w, 3]; 0 stands for any size."""

    name: str
    kind: int
    channels_last: bool
    views: int
    side_px: int

    def class_axis(self, dimensions: int) -> int:
        """The axis of the classes in its scores, which are a map where they have four dimensions."""
        return 3 if dimensions == 4 and self.channels_last else 1

    def __str__(self) -> str:
        sides = [str(self.side_px or side) for side in ("height", "width")]
        sizes = [*sides, "3"] if self.channels_last else ["3", *sides]
        return f"{KINDS[self.kind]} [{', '.join([str(self.views or 'N'), *sizes])}]"


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions, without what it says of its tensors, with weights that are no inputs, in order.

    Old opsets are upgraded. Raises ForeignError where that cannot be done.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    model = _upgraded(model)
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]  # old files list weights as inputs too
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    sort_nodes(graph)
    model.ir_version = max(model.ir_version, 8)  # from 4 on weights need not be inputs
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset that ONNX Runtime knows, by onnx.version_converter where it is older."""
    opset = opset_of(model)
    if opset >= OLDEST_OPSET:
        return model
    fixed(model.graph, opset)  # an upgrade forgets is_test
    try:
        return upgraded(model, UPGRADED_OPSET)
    except ForeignError as error:
        raise ForeignError(
            f"opset {opset}, ONNX Runtime runs {OLDEST_OPSET} and later, and {error}: export it again with "
            "opset_version=17"
        ) from None


def upgraded(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same model in a later opset, by onnx.version_converter. Raises ForeignError where that cannot."""
    still = copied(model)
    try:
        _make_static(still.graph.input)  # it compares sizes, to see what is broadcast
        changed = onnx.version_converter.convert_version(still, opset)
    except Exception as error:  # RuntimeError and others, from C++
        said = " ".join(str(error).split())[:200]
        raise ForeignError(f"onnx.version_converter cannot upgrade it ({said})") from None
    set_values(changed.graph.input, model.graph.input)
    del changed.graph.value_info[:]
    return changed


def _make_static(inputs: RepeatedValues) -> None:
    """Gives every size that is open a number: one image of the usual side."""
    for value in inputs:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value <= 0:
                dim.dim_value = 224 if place else 1


def fixed(graph: onnx.GraphProto, opset: int) -> None:
    """Raises ForeignError for a graph whose answer for an image is not fixed."""
    try:
        check_fixed(graph, opset)
    except TrainingError as error:
        raise ForeignError(str(error)) from None


def image_input(graph: onnx.GraphProto) -> ImageInput:
    """The one image that the graph takes. Raises ForeignError for another kind of model."""
    if len(graph.input) != 1:
        names = ", ".join(_declared(value) for value in graph.input) or "none"
        raise ForeignError(f"{len(graph.input)} inputs ({names}), expected one, the image")

    (value,) = graph.input
    tensor = value.type.tensor_type
    sizes = [_size(dim) for dim in tensor.shape.dim]
    expected = "expected images [N, 3, height, width] or [N, height, width, 3] of floats or bytes"
    if tensor.elem_type not in KINDS or len(sizes) != 4:
        raise ForeignError(f"takes {_declared(value)}, {expected}")

    channels_last = sizes[1] != 3 and sizes[3] == 3
    if not channels_last and sizes[1] not in (0, 3):
        raise ForeignError(f"takes {_declared(value)}, {expected}")
    height, width = sizes[1:3] if channels_last else sizes[2:]
    if height != width:
        raise ForeignError(f"takes {_declared(value)}: only squares, or any size, fit the protocols")
    return ImageInput(value.name, tensor.elem_type, channels_last, sizes[0], height)


def class_output(graph: onnx.GraphProto, name: str | None) -> str:
    """The output to read: the only one, or the one named. Raises ForeignError."""
    names = [value.name for value in graph.output]
    if name is None and len(names) != 1:
        raise ForeignError(f"{len(names)} outputs ({', '.join(names)}): choose the class scores with --output NAME")
    if name is not None and name not in names:
        raise ForeignError(f"no output {name!r}, expected --output of {', '.join(names)}")
    return name or names[0]


def with_our_input(model: onnx.ModelProto, image: ImageInput, output: str, channels: Channels) -> onnx.ModelProto:
    """`model`, changed: it takes f32 RGB `input` [views, 3, h, w] and returns `output`, called net/`output`, alone."""
    weights = {initializer.name for initializer in model.graph.initializer}
    wrapped = onnx.compose.add_prefix(model, "net/", inplace=True)
    graph = wrapped.graph
    _prefix_weights_of_branches(graph, weights)

    # channel order, type and layout, before the graph
    w, x = GraphWriter(), "input"
    if channels == "bgr":
        x = w.op("Gather", [x, w.constant("bgr", np.array([2, 1, 0], np.int64))], "input.bgr", axis=1)
    if image.kind != TensorProto.FLOAT:
        x = w.op("Cast", [x], CAST, to=image.kind)
    theirs = [f"net/{image.name}"]
    if image.channels_last:
        w.nodes.append(helper.make_node("Transpose", [x], theirs, "input.layout", perm=[0, 2, 3, 1]))
    else:
        w.nodes.append(helper.make_node("Identity", [x], theirs, "input.layout"))
    set_values(graph.node, [*w.nodes, *graph.node])
    graph.initializer.extend(w.initializers.values())

    # one output, one input
    kept = next(value for value in graph.output if value.name == f"net/{output}")
    set_values(graph.output, [helper.make_tensor_value_info(kept.name, kept.type.tensor_type.elem_type, None)])
    set_input(graph, image.views, image.side_px)
    prune(graph)
    return wrapped


def _prefix_weights_of_branches(graph: onnx.GraphProto, weights: Collection[str]) -> None:
    """Renames the graph's own weights where branches and loops read them, which onnx.compose forgets."""
    known = {initializer.name for initializer in graph.initializer}
    for node in nodes_of(graph):
        node.input[:] = [f"net/{name}" if name in weights and name not in known else name for name in node.input]


def set_input(graph: onnx.GraphProto, views: int, side_px: int, interface: Interface = "nchw") -> None:
    """Declares the inputs of an interface for so many views of such sides; 0: any."""
    sizes = {"views": views, "view_height": side_px, "view_width": side_px}
    fixed_sizes = {name: size for name, size in sizes.items() if size}
    set_values(graph.input, frame.declared_inputs(interface, fixed_sizes))


def with_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that takes bytes, with whole numbers in FP32 in their place. To be tried out."""
    floats = copied(model)
    cast = next(node for node in floats.graph.node if node.name == CAST)
    cast.attribute[0].i = TensorProto.FLOAT
    return floats


def with_any_views(model: onnx.ModelProto, views: int) -> onnx.ModelProto:
    """A copy without the number of views written into reshapes of what comes from the image. To be tried out."""
    free = copied(model)
    graph = free.graph
    shapes = {initializer.name: initializer for initializer in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                shapes[node.output[0]] = attribute.t

    # every reshape of a tensor that is computed from the image
    from_image = {"input"}
    for node in graph.node:
        if not from_image & set(node.input):
            continue
        from_image.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in shapes:
            continue
        sizes = numpy_helper.to_array(shapes[node.input[1]]).copy()
        if sizes.size and sizes[0] == views and sizes.all():
            sizes[0] = 0  # as the input's, unless it is allowed to be a size
            set_values(node.attribute, (attribute for attribute in node.attribute if attribute.name != "allowzero"))
            node.input[1] = f"{node.output[0]}.shape"
            graph.initializer.append(numpy_helper.from_array(sizes, node.input[1]))

    set_input(graph, 0, graph.input[0].type.tensor_type.shape.dim[2].dim_value)
    prune(graph)
    return free


def add_posteriors(model: onnx.ModelProto, *, kind: OutputKind, is_map: bool, channels_last: bool) -> None:
    """Appends `posterior` and `posterior_positions` f32 [views, classes] to the model's one output.

    A map is averaged over positions before the softmax and after it. From a map of probabilities p the
    scores are log p: they differ from the logits by a number for each position, which the softmax takes away again.
    """
    graph = model.graph
    w, x = GraphWriter(), graph.output[0].name
    if graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        x = w.op("Cast", [x], "scores.single", to=TensorProto.FLOAT)

    if not is_map:
        if kind == "logits":
            w.op("Softmax", [x], "posterior", axis=1)
        else:
            w.op("Identity", [x], "posterior")
        w.op("Identity", ["posterior"], "posterior_positions")
    else:
        if channels_last:
            x = w.op("Transpose", [x], "scores.planes", perm=[0, 3, 1, 2])
        scores = probabilities = x
        if kind == "logits":  # the softmax goes along the last axis, which every opset understands alike
            last = w.op("Transpose", [x], "softmax_positions.last", perm=[0, 2, 3, 1])
            last = w.op("Softmax", [last], "softmax_positions.softmax", axis=3)
            probabilities = w.op("Transpose", [last], "softmax_positions", perm=[0, 3, 1, 2])
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(TINY), "tiny"))
            scores = w.op("Log", [w.op("Max", [x, "tiny"], "scores.positive")], "scores")
        mean = w.op("Flatten", [w.op("GlobalAveragePool", [scores], "spatial_mean")], "spatial_mean.flat")
        w.op("Softmax", [mean], "posterior", axis=1)
        mean = w.op("GlobalAveragePool", [probabilities], "posterior_positions.mean")
        w.op("Flatten", [mean], "posterior_positions")

    graph.node.extend(w.nodes)


def add_pixels(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Puts bytes before `input`, and the sums of pixels behind: the graph then says itself what it saw."""
    graph, front, end = model.graph, GraphWriter(), GraphWriter()
    pixels = frame.write_pixels(front, spec.interface)
    front.op("Identity", [frame.normalise(front, pixels, spec.preprocessing)], "input")
    frame.sum_pixels(end, pixels)
    set_values(graph.node, [*front.nodes, *graph.node, *end.nodes])
    graph.initializer.extend({**front.initializers, **end.initializers}.values())


def declare(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Declares the inputs and outputs that a spec says."""
    set_input(model.graph, spec.max_views, spec.crop_px if spec.fixed_size else 0, spec.interface)
    outputs = [
        frame.declared(name, kind, (spec.max_views or "views", *shape[1:]))
        for name, (kind, shape) in outputs_in_graph(spec).items()
    ]
    set_values(model.graph.output, outputs)


def last_operator(graph: onnx.GraphProto, output: str) -> str:
    """The operator that computes `output`, such as "Softmax"; "" where none does."""
    return next((node.op_type for node in graph.node if output in node.output), "")


def precision_of(model: onnx.ModelProto) -> Precision:
    """int8 where layers are quantised, fp16 where anything that is computed of the image is half."""
    if is_quantised(model.graph):
        return "int8"
    return "fp16" if computes_in_half(model) else "fp32"


def _size(dim: onnx.TensorShapeProto.Dimension) -> int:
    """A declared size, 0 where it is open. torch.onnx writes one that it found to be fixed as a name, "2"."""
    named = dim.dim_param if dim.dim_param.isascii() and dim.dim_param.isdecimal() else "0"
    return max(dim.dim_value, int(named[:9]), 0)


def _declared(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = next((name for name, n in TensorProto.DataType.items() if n == tensor.elem_type), "no tensor")
    sizes = [str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim]
    return f"{value.name!r} ({kind.lower()} [{', '.join(sizes)}])"
