"""The largest tensor of a graph at the largest shapes of a profile, by ONNX's own shape inference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx

from infer.graph_inputs import profile_entries
from infer.spec import Interface, ModelSpec
from infer.views import ShapeRange

from ..model.file import read_graph, without_weights
from .profiles import MAX_ELEMENTS, ProfileError


def check_elements(path: Path, spec: ModelSpec, shapes: Sequence[ShapeRange]) -> None:
    """Raises ProfileError for a profile at whose largest shapes a tensor of the model is more than TensorRT counts."""
    model = without_weights(read_graph(path))
    for shape in shapes:
        name, sizes = _largest(model, spec.interface, shape)
        if math.prod(sizes) > MAX_ELEMENTS:
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
