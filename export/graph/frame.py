"""What stands between a decoded image and a net in the view graph, whoever's the net is: pixels, and their sums.

Two interfaces begin with bytes. `views` takes the decoded image, filter taps and index tables; `images` takes ready u8
views. Pixels are exact integers until the mean is subtracted, in FP32. The operators are those of opset 15 and later.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from infer.graph_inputs import INPUTS, REGIONS, Shape, TypeName
from infer.pixels.render import PRECISION_BITS
from infer.spec import Interface, Preprocessing

from .writer import F32, I32, GraphWriter

OLDEST_OPSET = 15
"""The first opset whose Shape takes a start and an end."""


def write_pixels(w: GraphWriter, interface: Interface) -> str:
    """The views of an interface whose input is bytes: i32 [V, 3, h, w]."""
    return _cut_views(w, _rescaled(w)) if interface == "views" else _take_images(w)


def write_regions(w: GraphWriter) -> str:
    """The views of an engine that resizes each (see infer/graph_inputs.py, REGIONS): i32 [V, 3, h, w]."""
    return _resize_regions(w, _rescaled(w))


def _rescaled(w: GraphWriter) -> str:
    """Rescales `image`: i32 [3, H * W]."""
    x = _as_int32(w, "image")  # first: TensorRT cannot transpose bytes
    x = w.op("Transpose", [x], "image.planes", perm=[2, 0, 1])
    x = _rescale_axis(w, x, 2, "col_first", "col_taps", "rescale.columns")
    x = _rescale_axis(w, x, 1, "row_first", "row_taps", "rescale.rows")
    return w.op("Reshape", [x, w.constant("shape.planes", np.array([3, -1], np.int64))], "gather_views.flat")


def _cut_views(w: GraphWriter, flat: str) -> str:
    """Cuts the views out of a rescaled image."""
    rows = w.op("Unsqueeze", ["rows", w.axes(2)], "gather_views.rows")
    cols = w.op("Unsqueeze", ["cols", w.axes(1)], "gather_views.cols")
    index = w.op("Add", [rows, cols], "gather_views.index")
    last = w.op("Sub", [w.size(flat, 1, "gather_views.size"), w.i32(1)], "gather_views.last")
    index = w.clip(index, w.i32(0), last, "gather_views.clamp")  # tools like trtexec feed anything
    views = w.op("Gather", [flat, index], "gather_views", axis=1)  # [3, V, h, w]
    return w.op("Transpose", [views], "views", perm=[1, 0, 2, 3])


def _resize_regions(w: GraphWriter, flat: str) -> str:
    """Resizes regions of a rescaled image, each by its own taps: Pillow's passes, columns of all its lines, then rows.

    Offsets of taps that lie beyond a region have the weight 0, or the index of the nearest pixel there is.
    """
    # columns: [3, K, V, lines, w]
    rows = w.op("Unsqueeze", ["rows", w.axes(2)], "gather_views.rows")
    cols = w.op("Unsqueeze", ["cols", w.axes(1)], "gather_views.cols")
    index = w.op("Add", [rows, cols], "gather_views.first")
    index = w.op("Add", [index, _offsets(w, "region_col_taps", "region.columns", 3)], "gather_views.index")
    last = w.op("Sub", [w.size(flat, 1, "gather_views.size"), w.i32(1)], "gather_views.last")
    index = w.clip(index, w.i32(0), last, "gather_views.clamp")
    x = w.op("Gather", [flat, index], "gather_views", axis=1)
    weights = w.op("Unsqueeze", ["region_col_taps", w.axes(2)], "region.columns.weights")
    x = _weighted(w, x, weights, "region.columns")  # [3, V, lines, w]

    # rows: [3, K, V, h, w], from the lines of all views one below the other
    lines, views = w.size("rows", 1, "region.lines"), w.size("rows", 0, "region.views")
    index = w.op("Add", ["region_row_first", _offsets(w, "region_row_taps", "region.rows", 2)], "region.rows.index")
    last = w.op("Sub", [lines, w.i32(1)], "region.rows.last")
    index = w.clip(index, w.i32(0), last, "region.rows.clamp")
    before = w.op("Mul", [w.op("Range", [w.i32(0), views, w.i32(1)], "region.numbers"), lines], "region.before")
    index = w.op("Add", [index, w.op("Unsqueeze", [before, w.axes(1)], "region.starts")], "region.rows.lines")
    width = w.op("Shape", [x], "region.width", start=3, end=4)
    shape = w.op("Concat", [w.constant("shape.lines", np.array([3, -1], np.int64)), width], "region.shape", axis=0)
    x = w.op("Gather", [w.op("Reshape", [x, shape], "region.flat"), index], "region.rows.gather", axis=1)
    weights = w.op("Unsqueeze", ["region_row_taps", w.axes(3)], "region.rows.weights")
    x = _weighted(w, x, weights, "region.rows")
    return w.op("Transpose", [x], "views", perm=[1, 0, 2, 3])


def _offsets(w: GraphWriter, taps: str, name: str, dimensions: int) -> str:
    """0, 1, ... for each tap, i32 [K, 1, ...] with so many dimensions behind."""
    count = w.size(taps, 0, f"{name}.taps")
    offsets = w.op("Range", [w.i32(0), count, w.i32(1)], f"{name}.range")
    return w.op("Unsqueeze", [offsets, w.axes(*range(1, dimensions + 1))], f"{name}.offsets")


def _weighted(w: GraphWriter, x: str, weights: str, name: str, axis: int = 1) -> str:
    """Pillow's sum of pixels along `axis` by 22-bit coefficients, rounded and clipped to 0 ... 255."""
    total = w.op("ReduceSum", [w.op("Mul", [x, weights], f"{name}.mul"), w.axes(axis)], f"{name}.sum", keepdims=0)
    total = w.op("Add", [total, w.i32(1 << (PRECISION_BITS - 1))], f"{name}.round")
    total = w.clip(total, w.i32(0), None, f"{name}.low")
    total = w.op("Div", [total, w.i32(1 << PRECISION_BITS)], f"{name}.div")
    return w.clip(total, None, w.i32(255), name)


def _as_int32(w: GraphWriter, name: str) -> str:
    """The bytes of an input as i32, by way of FP32: exact, and all that TensorRT's DataType page converts UINT8 to."""
    return w.op("Cast", [w.op("Cast", [name], f"{name}.single", to=F32)], f"{name}.i32", to=I32)


def _rescale_axis(w: GraphWriter, x: str, axis: int, first: str, taps: str, name: str) -> str:
    """One pass of Pillow's rescaling, bit for bit (see infer/pixels/render.py), along `axis` of i32 [3, H, W]."""
    # the source lines of each of the n lines that are made
    source = w.op("Add", [_offsets(w, taps, name, 1), first], f"{name}.source")  # [K, n]
    last = w.op("Sub", [w.size(x, axis, f"{name}.size"), w.i32(1)], f"{name}.last")
    source = w.clip(source, w.i32(0), last, f"{name}.clamp")
    lines = w.op("Gather", [x, source], f"{name}.gather", axis=axis)  # K source lines for each of n

    weights = taps if axis == 2 else w.op("Unsqueeze", [taps, w.axes(2)], f"{name}.weights")
    return _weighted(w, lines, weights, name, axis)


def _take_images(w: GraphWriter) -> str:
    x = _as_int32(w, "images")
    return w.op("Transpose", [x], "views", perm=[0, 3, 1, 2])


def normalise(w: GraphWriter, pixels: str, preprocessing: Preprocessing) -> str:
    """Subtracts the mean and divides by the std, in FP32; the mean is not folded (zero padding would break)."""
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean_rgb, preprocessing.std_rgb)
    )
    x = w.op("Cast", [pixels], "views.single", to=F32)
    x = w.op("Sub", [x, w.constant("mean_rgb", mean)], "normalise.mean")
    return x if (std == 1).all() else w.op("Div", [x, w.constant("std_rgb", std)], "normalise.std")


def sum_pixels(w: GraphWriter, pixels: str) -> str:
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


def declared_inputs(interface: Interface, sizes: Mapping[str, int] | None = None) -> list[onnx.ValueInfoProto]:
    """The inputs of an interface; `sizes` are those of their dimensions that are fixed, by name."""
    fixed = sizes or {}
    return [
        declared(name, kind, tuple(fixed.get(size, size) if isinstance(size, str) else size for size in shape))
        for name, (kind, shape) in INPUTS[interface].items()
    ]


def declared(name: str, type_name: TypeName, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(type_name)), shape)


# An engine whose views are regions

LAST_OF_CUT = "gather_views.flat"
"""What is behind this node and before `views`, also in graphs of earlier versions, cuts views."""


def add_regions(model: onnx.ModelProto) -> bool:
    """Makes regions of the views of a `views` model; False where it does not begin as ours do, and is left as it is.

    The pixels are the same to the bit where regions are what views were.
    """
    graph, regions, cut = model.graph, GraphWriter(), GraphWriter()
    _resize_regions(regions, LAST_OF_CUT)
    _cut_views(cut, LAST_OF_CUT)

    names = [node.name for node in graph.node]
    first = names.index(LAST_OF_CUT) + 1 if LAST_OF_CUT in names else 0
    last = first + len(cut.nodes)
    if names[first:last] != [node.name for node in cut.nodes]:
        return False

    nodes = [*graph.node[:first], *regions.nodes, *graph.node[last:]]
    known = {weight.name for weight in graph.initializer}
    del graph.node[:], graph.input[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(one for name, one in regions.initializers.items() if name not in known)
    graph.input.extend(declared(name, kind, shape) for name, (kind, shape) in REGIONS.items())
    return True
