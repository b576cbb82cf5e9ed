"""Where half precision is lost: the error of each layer of an FP16 graph, and which layers to keep in FP32.

The FP32 graph and the check graph see the same few images, one view of each, and every half tensor is compared with its
FP32 one. One view's tensors are in memory at a time: of a full-size VGG-E, 60 MB for each of the two graphs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from tabulate import tabulate

from infer.engine import answer_of
from infer.errors import one_line
from infer.pixels.decode import Pixels
from infer.views import ViewPlan

from ..model import file as model_file
from ..model.file import FLAT, names_read, with_flat_outputs
from ..model.mixed import Layer, exact_weights, half_layers, keep_single, layer_name
from ..model.precision import HALF_MAX, check_graph, tensor_types
from ..model.source import Graphs

IMAGES = 8
"""Images that layers are measured on, spread over the classes."""
SHOWN = 10
Views = Sequence[tuple[Pixels, ViewPlan]]
"""Images, and a plan of one view of each."""


class LayerError(NamedTuple):
    """A layer's output in half against FP32, over all images.

    relative: root of the summed squares of the differences, over that of the values. largest: the largest difference.
    range_used: the largest magnitude in FP32, as it would have to be held, over the largest half; above 1 it overflows.
    """

    layer: str
    operator: str
    relative: float
    largest: float
    range_used: float


def measure_layers(graphs: Graphs, views: Views, exponents: Mapping[str, int]) -> list[LayerError]:
    """The errors of all layers of the FP16 graph, in its order. Raises EngineError and PrecisionError.

    views: of a few images, one each; exponents: of half tensors that hold 2^e times their values.
    """
    layers, singles = _layers(graphs)
    if not layers:
        return []
    sums = np.zeros((len(layers), 2))  # of the squares of differences and of values
    most = np.zeros((len(layers), 2))  # differences, magnitudes as they are held
    for one, other in _tensors(graphs, check_graph(graphs.built), layers, singles, views):
        for place, layer in enumerate(layers):
            scale = math.ldexp(1.0, exponents.get(layer.tensor, 0))
            value = one[FLAT + singles[place]].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                difference = np.abs(other[FLAT + layer.tensor] / scale - value)
                sums[place] += (difference**2).sum(), (value**2).sum()
            most[place] = np.maximum(most[place], (difference.max(), np.abs(value).max() * scale))

    relative = np.sqrt(sums[:, 0] / np.maximum(sums[:, 1], 1e-300))
    rows = zip(layers, relative.tolist(), most.tolist(), strict=True)
    return [LayerError(one.name, one.operator, error, far, held / HALF_MAX) for one, error, (far, held) in rows]


def worst(found: Sequence[LayerError]) -> list[LayerError]:
    """The SHOWN layers with the largest relative errors; those without a finite one first."""
    return sorted(found, key=lambda one: -one.relative if math.isfinite(one.relative) else -math.inf)[:SHOWN]


def table_of(found: Sequence[LayerError]) -> str:
    """The worst layers, to be printed."""
    rows = [
        (
            one_line(one.layer),
            one.operator,
            f"{one.relative:.2g}",
            f"{one.largest:.2g}",
            f"{100 * one.range_used:.2g} %",
        )
        for one in worst(found)
    ]
    headers = [f"worst of {len(found)} layers", "operator", "relative error", "largest difference", "of half's range"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def propose(
    graphs: Graphs, found: Sequence[LayerError], views: Views, tolerance: float
) -> tuple[list[str], float] | None:
    """(layers that would be kept in FP32, the largest difference of a posterior with them); None where none helps.

    First those that leave half's range with those that read them, then the ones where the error grows most, twice as
    many each time. A list is tried on the same views before it is proposed.
    """
    in_half = _in_half(graphs.built)
    beyond = {one.layer for one in found if not one.range_used <= 1}
    start = [name for name in _with_readers(graphs.built, beyond) if name in in_half]
    growth = dict.fromkeys(start) | dict.fromkeys(name for name in _by_growth(found) if name in in_half)
    counts = [len(start)] if start else []
    count = max(1, len(start))
    while count <= len(growth):
        counts.append(count)
        count *= 2

    expected, exact = _final_answers(graphs.single, views), exact_weights(graphs.single)
    for count in dict.fromkeys(counts):
        names = list(growth)[:count]
        answers = _final_answers(check_graph(keep_single(graphs.built, names, exact)), views)
        difference = float(np.max([np.abs(one - other).max() for one, other in zip(expected, answers, strict=True)]))
        if difference <= tolerance:
            return names, difference
    return None


def _layers(graphs: Graphs) -> tuple[list[Layer], list[str]]:
    """The layers of the FP16 graph that the FP32 graph has, too, and the names of their tensors there."""
    known = {name for node in graphs.single.graph.node for name in node.output}
    pairs = [
        (layer, layer.tensor if layer.tensor in known else layer.tensor.removesuffix(".half"))
        for layer in half_layers(graphs.built)
    ]
    kept = [(layer, name) for layer, name in pairs if name in known]
    return [layer for layer, _ in kept], [name for _, name in kept]


def _tensors(
    graphs: Graphs, other: onnx.ModelProto, layers: Sequence[Layer], singles: Sequence[str], views: Views
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each view, the tensors of the FP32 graph and of another, flat."""
    pairs = ((graphs.single, singles), (other, [layer.tensor for layer in layers]))
    with contextlib.ExitStack() as stack:
        opened = []
        for model, names in pairs:
            outputs = [FLAT + name for name in dict.fromkeys(names)]
            opened.append((stack.enter_context(model_file.opened(with_flat_outputs(model, names), outputs)), outputs))
        for pixels, plan in views:
            first, second = (engine.run(engine.load([pixels]), [plan], outputs) for engine, outputs in opened)
            yield first, second


def _final_answers(model: onnx.ModelProto, views: Views) -> list[NDArray[np.float32]]:
    """The posterior, or the map of boxes, of each view."""
    with model_file.opened(model) as engine:
        name = answer_of(engine.spec)
        return [engine.run(engine.load([pixels]), [plan], [name])[name] for pixels, plan in views]


def _in_half(model: onnx.ModelProto) -> set[str]:
    """The names of the layers that read and write halves, which can be kept in FP32."""
    types = tensor_types(model) | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    nodes = (node for node in model.graph.node if node.op_type != "Cast")
    return {layer_name(node) for node in nodes if not half.isdisjoint(node.input) and not half.isdisjoint(node.output)}


def _with_readers(model: onnx.ModelProto, layers: set[str]) -> list[str]:
    """Layers, and those that read what they write, in the order of the graph."""
    written = {name for node in model.graph.node if layer_name(node) in layers for name in node.output}
    nodes = model.graph.node
    return [layer_name(node) for node in nodes if layer_name(node) in layers or written & names_read(node)]


def _by_growth(found: Sequence[LayerError]) -> list[str]:
    """Layers by how much larger their error is than any before them, the largest growth first."""
    growth, before = dict[str, float](), 1e-6
    for one in found:
        growth[one.layer] = one.relative / before if math.isfinite(one.relative) else 0.0
        before = max(before, one.relative if math.isfinite(one.relative) else 0.0)
    return sorted(growth, key=lambda name: -growth[name])
