"""Profiles that fit a graph: its largest tensor at their largest shapes, by ONNX's own shape inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from infer.graph_inputs import profile_entries
from infer.spec import Interface, ModelSpec
from infer.views import DENSE_PAIR, MAX_ELEMENTS, Extent, ShapeRange, with_regions

from ..graph.frame import add_regions
from ..model.file import read_graph, without_weights
from .profiles import ProfileError


def fit_shapes(
    path: Path, spec: ModelSpec, shapes: Sequence[ShapeRange]
) -> tuple[tuple[ShapeRange, ...], tuple[str, ...]]:
    """The profiles as an engine of the model gets them, and lines that say what was changed.

    Views become regions where the graph begins as ours do. Dense views share a call as far as TensorRT counts their
    elements. Raises ProfileError for a profile at whose largest shapes a tensor has more, however few share a call.
    """
    model = without_weights(read_graph(path))
    if spec.interface == "views" and add_regions(model):
        shapes = [with_regions(shape) for shape in shapes]

    fitting, lines = [], []
    for shape in shapes:
        fitted = _fitted(model, spec, shape)
        if fitted != shape:
            lines.append(f"profile {shape.name}: {fitted.views.max} views in a call, {shape.views.max} are too many")
        fitting.append(fitted)
    return tuple(fitting), tuple(lines)


def _fitted(model: onnx.ModelProto, spec: ModelSpec, shape: ShapeRange) -> ShapeRange:
    name, sizes = _largest(model, spec.interface, shape)
    if math.prod(sizes) <= MAX_ELEMENTS:
        return shape
    if shape.dense and shape.views.max > DENSE_PAIR:
        views = max(DENSE_PAIR, shape.views.max // 2)
        fewer = Extent(1, min(shape.views.opt, views), views)
        return _fitted(model, spec, replace(shape, views=fewer))
    raise ProfileError(
        f"profile {shape.name}: {spec.name} has a tensor of {'x'.join(map(str, sizes))} = {math.prod(sizes)} "
        f"elements there ({name}), TensorRT's tensors hold {MAX_ELEMENTS}: use fewer views or smaller ones"
    )


def _largest(model: onnx.ModelProto, interface: Interface, shape: ShapeRange) -> tuple[str, tuple[int, ...]]:
    """(name, sizes) of the tensor with the most elements, of those whose sizes follow from the inputs'."""
    entries = profile_entries(shape, interface)
    for value in model.graph.input:
        if value.name in entries:
            for dimension, size in zip(value.type.tensor_type.shape.dim, entries[value.name][2], strict=True):
                dimension.dim_value = size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph

    found: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            found[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return max(found.items(), key=lambda item: math.prod(item[1]), default=("", ()))
