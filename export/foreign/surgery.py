"""Graph surgery on a classifier of another's making, so that it has the `nchw` interface of ours.

Its own graph stays as it is, its names behind "net/"; before it come a channel order, type and layout, after it a mean
over positions and a softmax. All of these are written with operators that mean the same in every opset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infer.errors import Refused
from infer.spec import ModelSpec, Precision, Preprocessing

from ..graph.writer import GraphWriter
from ..importing.preprocessing import Channels
from ..model import file as model_file
from ..model.file import RepeatedValues, copied, keep_initializers, names_read, set_values, sort_nodes
from ..model.precision import computes_in_half
from .fixed import EVAL, TrainingError, check_fixed, is_quantised, normalises_batch

OutputKind = Literal["logits", "probabilities"]

OLDEST_OPSET, UPGRADED_OPSET = 7, 9
"""ONNX Runtime runs opset 7 and later (docs/Versioning.md there); the one that older graphs are upgraded to."""
THREADS = 2
"""Threads of ONNX Runtime: each reserves memory, which is bounded here, and a machine may have hundreds of CPUs."""
OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "Available memory of", "pthread_create")
"""Words of its errors where memory, or a thread's stack, was refused."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
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
    declared = copied(model).graph.input
    try:
        _make_static(model.graph.input)  # it compares sizes, to see what is broadcast
        upgraded = onnx.version_converter.convert_version(model, UPGRADED_OPSET)
        set_values(upgraded.graph.input, declared)
        return upgraded
    except Exception as error:  # RuntimeError and others, from C++
        said = " ".join(str(error).split())[:200]
        raise ForeignError(
            f"opset {opset}, ONNX Runtime runs {OLDEST_OPSET} and later, and onnx.version_converter cannot upgrade it "
            f"({said}): export it again with opset_version=17"
        ) from None


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
    sizes = [max(dim.dim_value, 0) for dim in tensor.shape.dim]
    expected = "expected float images [N, 3, height, width] or [N, height, width, 3]"
    if tensor.elem_type not in FLOATS or len(sizes) != 4:
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
    wrapped = onnx.compose.add_prefix(model, "net/", inplace=True)
    graph = wrapped.graph

    # channel order, type and layout, before the graph
    w, x = GraphWriter(), "input"
    if channels == "bgr":
        x = w.op("Gather", [x, w.constant("bgr", np.array([2, 1, 0], np.int64))], "input.bgr", axis=1)
    if image.kind != TensorProto.FLOAT:
        x = w.op("Cast", [x], "input.cast", to=image.kind)
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
    _prune(graph)
    return wrapped


def set_input(graph: onnx.GraphProto, views: int, side_px: int) -> None:
    """Declares `input` for so many views of such sides; 0: any."""
    shape = (views or "views", 3, side_px or "view_height", side_px or "view_width")
    set_values(graph.input, [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)])


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
        if sizes.size and sizes[0] == views and all(attribute.name != "allowzero" for attribute in node.attribute):
            sizes[0] = 0  # as the input's
            node.input[1] = f"{node.output[0]}.shape"
            graph.initializer.append(numpy_helper.from_array(sizes, node.input[1]))

    set_input(graph, 0, graph.input[0].type.tensor_type.shape.dim[2].dim_value)
    _prune(graph)
    return free


def add_posteriors(
    model: onnx.ModelProto, spec: ModelSpec, *, kind: OutputKind, is_map: bool, channels_last: bool
) -> None:
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
    shape = (spec.max_views or "views", len(spec.classes))
    outputs = ("posterior", "posterior_positions")
    set_values(graph.output, [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs])


def last_operator(graph: onnx.GraphProto, output: str) -> str:
    """The operator that computes `output`, such as "Softmax"; "" where none does."""
    return next((node.op_type for node in graph.node if output in node.output), "")


def precision_of(model: onnx.ModelProto) -> Precision:
    """int8 where layers are quantised, fp16 where anything that is computed of the image is half."""
    if is_quantised(model.graph):
        return "int8"
    return "fp16" if computes_in_half(model) else "fp32"


def _declared(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = next((name for name, n in TensorProto.DataType.items() if n == tensor.elem_type), "no tensor")
    sizes = [str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim]
    return f"{value.name!r} ({kind.lower()} [{', '.join(sizes)}])"


def _prune(graph: onnx.GraphProto) -> None:
    """Removes everything that the outputs do not need: ONNX Runtime would warn of each weight that nobody reads."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= names_read(node)
    set_values(graph.node, kept[::-1])
    keep_initializers(graph, read)


# The model's behaviour: how many views a call takes, sides of any size, logits or probabilities. A file's declarations
# are hints at best, so it is run on noise, by ONNX Runtime.


class Trial(NamedTuple):
    """A model with our input as it can be called, and what it returned for single views: f64 [3, classes, ...]."""

    model: onnx.ModelProto
    outputs: NDArray[np.float64]
    max_views: int
    fixed_size: bool


def try_out(model: onnx.ModelProto, image: ImageInput, crop_px: int, preprocessing: Preprocessing) -> Trial:
    """Finds out which calls the model takes: of several views, of other sides. Raises ForeignError if it takes none."""
    views = _noise(preprocessing, crop_px, crop_px)  # [3, 3, crop, crop]
    batch = image.views or 1
    calls = _outputs(model, *(np.repeat(view[None], batch, 0) for view in (*views, views[0])))
    outputs = np.concatenate([output[:1] for output in calls[:-1]])
    if outputs.ndim not in (2, 4):
        raise ForeignError(f"returns {list(outputs.shape)} for three views, expected [3, classes] or a map of scores")
    if not np.isfinite(outputs).all():
        raise ForeignError("returns values that are not finite for noise: are --mean and --std right?")

    if not _close(calls[-1][:1], outputs[:1]):
        raise ForeignError(f"answers differ from call to call for the same image: {EVAL}")

    # several views in a call, or one
    max_views, any_views, mixes = 0, with_any_views(model, batch), False
    try:
        together, alone = _outputs(any_views, views, views[:1])
        fits = together.shape == outputs.shape and alone.shape == outputs[:1].shape
        mixes = fits and not (_close(together, outputs) and _close(alone, outputs[:1]))
        if mixes or not fits:
            raise ForeignError("it mixes the views of a call")
        model = any_views
    except ForeignError as error:
        statistics = normalises_batch(model.graph)
        if mixes and (image.views == 0 or statistics):
            why = f" ({statistics})" if statistics else ""
            raise ForeignError(
                f"the answer for an image depends on the other images of its batch{why}: {EVAL}"
            ) from None
        if batch > 1:
            raise ForeignError(
                f"takes {batch} views in every call and cannot be freed of that ({error}): export it again with a "
                "dynamic batch or a batch of 1"
            ) from None
        max_views = 1

    # a larger view
    fixed_size = image.side_px > 0
    if not fixed_size:
        try:
            (larger,) = _outputs(model, _noise(preprocessing, crop_px + 32, crop_px + 96)[:1])
            fixed_size = larger.ndim != outputs.ndim
        except ForeignError:
            fixed_size = True
    return Trial(model, outputs, max_views, fixed_size)


def _noise(preprocessing: Preprocessing, height_px: int, width_px: int) -> NDArray[np.float32]:
    """Noise of three brightnesses, as a model takes it: f32 [3, 3, h, w]."""
    brightness = np.array([85, 170, 255])[:, None, None, None]
    pixels = np.random.default_rng(0).random((3, height_px, width_px, 3)) * brightness
    normalised = (pixels.round() - preprocessing.mean_rgb) / preprocessing.std_rgb
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)


def _close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """True where they are equal up to rounding, of half graphs too."""
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max())


def kind_of(outputs: NDArray[np.float64], class_axis: int, last_operator: str, asked: OutputKind | None) -> OutputKind:
    """Probabilities are positive and sum to one; logits are anything else. Raises ForeignError where neither fits."""
    sums = outputs.sum(class_axis)
    probabilities = bool((outputs >= 0).all() and np.abs(sums - 1).max() < 1e-2)

    if asked == "probabilities" and not probabilities:
        raise ForeignError(
            f"--output-kind probabilities: its outputs go from {outputs.min():.3g} to {outputs.max():.3g} and their "
            f"sums from {sums.min():.3g} to {sums.max():.3g}, expected positive ones that sum to 1"
        )

    if asked is None and not probabilities and last_operator in ("Sigmoid", "HardSigmoid"):
        raise ForeignError(
            "ends in a sigmoid, so that several classes may be right at once, which no protocol knows: choose what "
            "comes before with --output, or say --output-kind logits"
        )
    return asked or ("probabilities" if probabilities else "logits")


def _outputs(model: onnx.ModelProto, *inputs: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The model's one output for each of `inputs`, on ONNX Runtime. Raises ForeignError where that cannot."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    with model_file.saved(model) as path:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            outputs = [session.run(None, {"input": values})[0] for values in inputs]
        except Exception as error:  # onnxruntime has a class of its own for each failure
            said = " ".join(str(error).split())
            wanted = any(words in said for words in OUT_OF_MEMORY)
            more = ": it needs more memory than an import may take" if wanted else ""
            raise ForeignError(f"ONNX Runtime cannot run it ({said[:300]}){more}") from None

    for output in outputs:
        kind = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        if not kind.startswith("float"):
            raise ForeignError(f"returns {kind}, expected floats: choose the class scores with --output")
    return [np.asarray(output, np.float64) for output in outputs]
