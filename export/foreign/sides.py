"""Checks that a graph sees the whole of a view that is larger than its crop.

A net of one size may run on another and look at a part: an average over 7x7 positions, of a map that now has 10x10, is
a number without a word. So is the whole view, squeezed into 224x224 first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from infer.spec import Size

from ..model.file import without_weights

WINDOWS = ("AveragePool", "MaxPool", "LpPool", "Conv")
"""Operators that move a window over a map, and stop where it does not fit any more."""
LEAST_INFLUENCE = 0.02
"""Of a part of the view upon the answer, compared with that of the most important part."""


def squeezed(model: onnx.ModelProto, view_px: Size, other_px: Size) -> str:
    """The first resize that makes views of two sizes equally large, in words; "": none."""
    one, other = _shapes(model, view_px), _shapes(model, other_px)
    for node in model.graph.node:
        found = one.get(node.output[0], [])
        if node.op_type in ("Resize", "Upsample") and found and all(found) and found == other.get(node.output[0]):
            name = (node.name or node.output[0]).removeprefix("net/")
            return f"{node.op_type} {name} makes {found} of views of any size"
    return ""


def window_that_skips(model: onnx.ModelProto, view_px: Size) -> str:
    """The first window that leaves out more than an eighth of its input's rows or columns, in words; "": none.

    A strided convolution leaves out a row at most where a side is no multiple of its stride, or a few of very many.
    """
    shapes = _shapes(model, view_px)
    for node in model.graph.node:
        found = shapes.get(node.input[0]) if node.input else None
        if node.op_type not in WINDOWS or found is None or len(found) != 4:
            continue
        for side, size, kernel, stride, dilation, pads in _windows(node, found, shapes):
            rest = (size + sum(pads) - dilation * (kernel - 1) - 1) % stride
            lost = rest - pads[1]
            if lost >= 2 and lost * 8 > size:
                name = (node.name or node.output[0]).removeprefix("net/")
                return f"{node.op_type} {name} sees {size - lost} of {size} {side} of its input there"
    return ""


def _shapes(model: onnx.ModelProto, view_px: Size) -> dict[str, list[int]]:
    """Sizes of every tensor for one view, 0 where one is not known."""
    light = without_weights(model)
    for place, size in enumerate((1, 3, *view_px)):
        light.graph.input[0].type.tensor_type.shape.dim[place].dim_value = size
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def _windows(
    node: onnx.NodeProto, sizes: list[int], shapes: dict[str, list[int]]
) -> Iterator[tuple[str, int, int, int, int, tuple[int, int]]]:
    """(side, its size, kernel, stride, dilation, pads) of the rows and columns that are known."""
    said: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if said.get("ceil_mode") or said.get("auto_pad", b"NOTSET").startswith(b"SAME"):
        return
    weights = shapes.get(node.input[1], []) if len(node.input) > 1 else []
    kernel = said.get("kernel_shape", weights[2:])
    pads = said.get("pads", [0] * 4)
    for place, side in enumerate(("rows", "columns")):
        if len(kernel) == 2 and sizes[2 + place] > 0:
            stride, dilation = (said.get(name, [1, 1])[place] for name in ("strides", "dilations"))
            yield side, sizes[2 + place], kernel[place], stride, dilation, (pads[place], pads[place + 2])


def unseen(scores: Callable[[NDArray[Any]], NDArray[np.float64]], view: NDArray[Any], black: NDArray[Any]) -> str:
    """The ninth of a view f32 [1, 3, h, w] whose blackening hardly changes its `scores` [classes]; "": none does."""
    height, width = view.shape[2:]
    rows, columns = (
        dict(zip(names, (slice(0, side // 3), slice(side // 3, -(side // 3)), slice(-(side // 3), None)), strict=True))
        for side, names in ((height, ("upper", "middle", "lower")), (width, ("left", "middle", "right")))
    )
    expected = scores(view)

    influences = dict[str, float]()
    for row, ys in rows.items():
        for column, xs in columns.items():
            changed = view.copy()
            changed[:, :, ys, xs] = black
            influences[f"{row} {column}"] = float(np.abs(scores(changed) - expected).max())

    place, least = min(influences.items(), key=lambda item: item[1])
    most = max(influences.values())
    if least > LEAST_INFLUENCE * most:
        return ""
    share = least / most if most else 0.0
    return f"the {place} ninth of {height}x{width} px has {share:.1%} of the influence of another upon its answer"
