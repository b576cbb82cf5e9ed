"""`--calibrate DIR`: how large a net's activations get on real images, and the net rescaled where half would overflow.

Half precision ends at 65,504. What a net does on the images it is for cannot be read off its weights, so they are run
through the FP32 graph with one more output per tensor, the largest magnitude in each view.

A net is rescaled by powers of two, exactly. Convolution, ReLU, pooling and concatenation are positively homogeneous:
tensors that they join may all carry 2^e times their values if the weights on the way in are multiplied by 2^(e - e of
the input) and the biases by 2^e. Operators that are not (LRN, softmax, all that is unknown here) get the true values:
where a net has them in FP32 between casts, a cast out of half is followed by a multiplication by 2^-e and one into half
preceded by one by 2^e; where it has them in half, the tensors they touch keep e = 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate
from tqdm import tqdm

from infer.command import print_notes
from infer.data.folder import File
from infer.errors import one_line
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError

from ..errors import ModelError
from ..model import file as model_file
from ..model.check import save_model
from ..model.file import add_maximum, copied, keep_initializers, set_values, without_weights
from ..model.mixed import exact_weights
from ..model.precision import HALF_MAX, half_tensors, tensor_types
from ..model.source import Graphs, Source
from .images import CalibrationError, list_files, one_by_one, read_views

PREFIX = "largest:"


@dataclass(frozen=True, slots=True)
class ActivationRanges:
    """Largest magnitude of each tensor over `images` images."""

    largest: Mapping[str, float]
    images: int
    unreadable: tuple[str, ...]  # one line each, image and reason

    def worst(self, count: int = 10) -> list[tuple[str, float]]:
        """The tensors nearest to the end of half precision."""
        return sorted(self.largest.items(), key=lambda item: -item[1])[:count]

    def table(self, exponents: Mapping[str, int]) -> str:
        """The ten worst tensors, and what rescaling by 2^exponent makes of them, to be printed."""
        rows = []
        for name, value in self.worst():
            in_engine = "as it is"
            if exponents.get(name):
                share = 100 * math.ldexp(value, exponents[name]) / HALF_MAX
                in_engine = f"2^{exponents[name]}: {share:.2g} %"
            rows.append((one_line(name), f"{value:.4g}", f"{100 * value / HALF_MAX:.2g} %", in_engine))
        headers = ["tensor", f"largest on {self.images} images", "of 65,504", "in the engine"]
        return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)

    def as_json(self, exponents: Mapping[str, int]) -> dict[str, Any]:
        """The entry `ranges` of a sidecar."""
        return {
            "images": self.images,
            "unreadable": len(self.unreadable),
            "worst": [{"tensor": name, "largest": value} for name, value in self.worst()],
            "rescaled": {name: exponent for name, exponent in exponents.items() if exponent},
        }


def calibrate(source: Source, folder: Path, protocol: str, limit: int, rescaled: Path) -> Source:
    """The source of an engine whose half tensors stay within half's range on the images below `folder`.

    A graph that must be rescaled is written to `rescaled`. Says on stdout what was found and notes it for the sidecar.
    Raises CalibrationError, RescaleError.
    """
    assert source.graphs is not None
    half, single = source.graphs
    found = measure_ranges(single, half_tensors(half), folder, protocol, limit)
    exponents = choose_exponents(half, found.largest)
    print(found.table(exponents), flush=True)
    for line in found.unreadable:
        print(one_line(line), flush=True)

    notes = {**source.notes, "ranges": found.as_json(exponents)}
    changed = sum(exponent != 0 for exponent in exponents.values())
    if not changed:
        return dataclasses.replace(source, notes=notes)

    half = rescale(half, exponents, exact_weights(single))
    save_model(half, rescaled)
    print(f"{rescaled}: {changed} of {len(exponents)} half tensors rescaled by powers of two", flush=True)
    return dataclasses.replace(source, path=rescaled, notes=notes, graphs=Graphs(half, single))


def measure_ranges(
    reference: onnx.ModelProto, tensors: Sequence[str], folder: Path, protocol: str, limit: int
) -> ActivationRanges:
    """Ranges of `tensors` of an FP32 model over `limit` images below `folder` (0: all), evenly spaced over its folders.

    Raises CalibrationError where no image can be read or a tensor is not finite, which rescaling cannot mend.
    """
    files = list_files(folder, limit)
    measured, names = _with_largest(reference, tensors)
    if not names:
        raise CalibrationError(f"none of {len(tensors)} half tensors is in the FP32 graph: their range is not known")
    if len(names) < len(tensors):
        print_notes([f"--calibrate: {len(tensors) - len(names)} of {len(tensors)} half tensors are not measured"])
    rows: list[list[float]] = []  # [images, tensors]
    unreadable = []
    with model_file.opened(measured, [PREFIX + name for name in names]) as engine:
        for path, file in tqdm(files, desc="calibration", unit="img", disable=None):
            try:
                rows.append(_largest(engine, file, f"{folder}/{path}", protocol, names))
            except ImageError as error:
                unreadable.append(str(error))
    if not rows:
        raise CalibrationError(f"{folder}: none of {len(files)} images can be used, first {unreadable[0]}")

    largest = dict(zip(names, np.max(rows, 0).tolist(), strict=True))
    for name, value in largest.items():
        if not math.isfinite(value):
            raise CalibrationError(
                f"{engine.spec.name}: tensor {name} is {value} in FP32 already: no precision helps this net, train or "
                "import it again"
            )
    return ActivationRanges(largest, len(rows), tuple(unreadable))


def _with_largest(reference: onnx.ModelProto, tensors: Sequence[str]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy with an output `largest:NAME` f32 [1] for each tensor that `reference` has, and their names.

    For calls of one view, since not every tensor of another's net begins with the views.

    A half tensor of a converted model is called NAME.half, its FP32 one NAME (export/model/precision.py).
    """
    model = copied(reference)
    shape = f"{PREFIX}shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), shape))
    inferred = onnx.shape_inference.infer_shapes(without_weights(reference))
    values = {value.name: value.type.tensor_type for value in (*inferred.graph.value_info, *inferred.graph.output)}

    names = []
    for name in tensors:
        single = name if name in values else name.removesuffix(".half")
        kind = values.get(single)
        if kind is None or kind.elem_type != TensorProto.FLOAT:
            continue
        output = PREFIX + name
        model.graph.node.append(helper.make_node("Reshape", [single, shape], [f"{output}.flat"]))
        model.graph.node.append(helper.make_node("Abs", [f"{output}.flat"], [f"{output}.abs"]))
        add_maximum(model, f"{output}.abs", [1], output, keepdims=False)
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ("views",)))
        names.append(name)
    return model, names


def _largest(engine: OnnxEngine, file: File, path: str, protocol: str, names: Sequence[str]) -> list[float]:
    """The largest magnitudes over the views of one image.

    Raises ImageError for one that the engine cannot see, OSError for one that is gone.
    """
    image, plan = read_views(engine.spec, engine.shapes, file, path, protocol)
    loaded, outputs = engine.load([image]), [PREFIX + name for name in names]
    found = [engine.run(loaded, [view], outputs) for view in one_by_one(plan)]
    return [float(np.max([results[name] for results in found])) for name in outputs]


HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT

LIMIT = HALF_MAX / 4
"""Rescaling begins above this and ends below it: what a few images show, others may exceed."""

SAME_SCALE = {
    *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax"),
    *("Concat", "Add", "Sub", "Sum", "Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"),
}
"""Operators whose outputs scale as their inputs do; a constant among these is an offset and is scaled with them."""

WEIGHTS: dict[str, tuple[str, ...]] = {
    "Conv": ("out/in", "out"),
    "Gemm": ("out/in", "out"),
    "MatMul": ("out/in",),
    "BatchNormalization": ("out/in", "out", "in", ""),
}
"""Operators with constants as their second input and further: how each is scaled."""


class RescaleError(ModelError):
    """A net that leaves half's range and cannot be rescaled; one line."""


def choose_exponents(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, int]:
    """e of every half tensor of an FP16 model, 0 or below, from the largest magnitudes measured in FP32.

    Raises RescaleError for a tensor beyond half's range that an operator which is not homogeneous holds in place.
    """
    groups = _Groups(model)
    by_group: dict[str, float] = {}
    for name in groups.parents:
        root = groups.find(name)
        by_group[root] = max(by_group.get(root, 0.0), largest.get(name, 0.0))

    chosen = {}
    for root, value in by_group.items():
        e = math.floor(math.log2(LIMIT / value)) if value > LIMIT else 0
        if e and root in groups.held:
            if value > HALF_MAX:
                name = max((n for n in groups.parents if groups.find(n) == root), key=lambda n: largest.get(n, 0.0))
                raise RescaleError(
                    f"tensor {name} reaches {value:.3g} (half ends at {HALF_MAX:.0f}) and cannot be rescaled, because "
                    f"{groups.held[root]} is not homogeneous: build with --precision fp32"
                )
            e = 0
        chosen[root] = e
    return {name: chosen[groups.find(name)] for name in groups.parents}


def rescale(
    model: onnx.ModelProto, exponents: Mapping[str, int], exact: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """An FP16 model with every half tensor multiplied by 2^exponent, and the same outputs.

    Weights are taken from `exact` (FP32, by name) where it has them, so that they are rounded once. Raises RescaleError
    where one would not fit into half.
    """
    changed = copied(model)
    weights = _Weights(changed, exact)
    nodes = []
    for node in changed.graph.node:
        if node.op_type == "Cast":
            nodes += _cast(node, exponents, weights)
            continue

        # weights carry the activations from the scale of the input to that of the output
        e_out = next((exponents[name] for name in node.output if name in exponents), 0)
        e_in = next((exponents[name] for name in node.input if name in exponents), 0)
        by_rule = {"out/in": e_out - e_in, "out": e_out, "in": e_in, "": 0}
        if node.op_type in WEIGHTS:
            for place, rule in enumerate(WEIGHTS[node.op_type], start=1):
                if place < len(node.input) and node.input[place]:
                    node.input[place] = weights.scaled(node.input[place], by_rule[rule])
        elif node.op_type in SAME_SCALE:
            for place, name in enumerate(node.input):
                if name in weights.halves:
                    node.input[place] = weights.scaled(name, e_out)
        nodes.append(node)

    set_values(changed.graph.node, nodes)
    keep_initializers(changed.graph, {name for node in nodes for name in node.input})
    return changed


class _Groups:
    """Groups of half tensors that homogeneous operators join, each known by one of them, its root.

    `held`: the roots of groups that must keep their scale, and the operator that holds them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph, types = model.graph, tensor_types(model)
        constants = {initializer.name for initializer in graph.initializer}
        self.parents = {name: name for name, kind in types.items() if kind == HALF and name not in constants}
        held: dict[str, str] = {
            value.name: "the graph's own input or output" for value in (*graph.input, *graph.output)
        }

        for node in graph.node:
            inputs = [name for name in node.input if name in self.parents]
            outputs = [name for name in node.output if name in self.parents]
            if node.op_type == "Cast" and {types[node.input[0]], types[node.output[0]]} == {HALF, SINGLE}:
                continue  # a multiplication on its single side can undo any scale
            if node.op_type in SAME_SCALE:
                for name in (*inputs, *outputs):
                    self._join(name, outputs[0] if outputs else inputs[0])
            elif node.op_type in WEIGHTS and set(node.input[1:]) <= {*constants, ""}:
                pass  # its weights carry it from one scale to another
            else:
                held.update(dict.fromkeys((*inputs, *outputs), node.op_type))
        self.held = {self.find(name): why for name, why in held.items() if name in self.parents}

    def find(self, name: str) -> str:
        while self.parents[name] != name:
            name = self.parents[name]
        return name

    def _join(self, one: str, other: str) -> None:
        self.parents[self.find(one)] = self.find(other)


class _Weights:
    """The half constants of a model, scaled on demand: once in place, under another name where uses differ."""

    def __init__(self, model: onnx.ModelProto, exact: Mapping[str, NDArray[np.float32]]) -> None:
        self.graph, self.exact = model.graph, exact
        half = [tensor for tensor in model.graph.initializer if tensor.data_type == HALF]
        self.halves = {tensor.name: numpy_helper.to_array(tensor) for tensor in half}
        self.made: dict[tuple[str, int], str] = {}

    def scaled(self, name: str, exponent: int) -> str:
        """The name of the constant times 2^exponent; itself where it is not half. Raises RescaleError."""
        if exponent == 0 or name not in self.halves:
            return name
        if (name, exponent) in self.made:
            return self.made[name, exponent]

        values = np.ldexp(self.exact.get(name, self.halves[name].astype(np.float32)), exponent)
        with np.errstate(over="ignore"):  # said next
            half = values.astype(np.float16)
        if np.isfinite(values).all() and not np.isfinite(half).all():
            raise RescaleError(
                f"{name} would reach {np.abs(values).max():.3g} (half ends at {HALF_MAX:.0f}) when the activations "
                "around it are rescaled: build with --precision fp32"
            )

        self.made[name, exponent] = f"{name}.2^{exponent}"
        self.graph.initializer.append(numpy_helper.from_array(half, self.made[name, exponent]))
        return self.made[name, exponent]

    def power(self, exponent: int) -> str:
        """An FP32 constant 2^exponent."""
        name = f"2^{exponent}"
        if all(tensor.name != name for tensor in self.graph.initializer):
            values = np.array(2.0**exponent, np.float32)
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _cast(node: onnx.NodeProto, exponents: Mapping[str, int], weights: _Weights) -> list[onnx.NodeProto]:
    """A cast out of half or into half, with a multiplication on its single side where the half side is scaled."""
    source, target = node.input[0], node.output[0]
    e_in, e_out = exponents.get(source, 0), exponents.get(target, 0)
    if e_in:
        node.output[0] = f"{target}.scaled"
        undo = helper.make_node("Mul", [node.output[0], weights.power(-e_in)], [target], f"{node.name}.undo")
        return [node, undo]
    if e_out:
        node.input[0] = f"{target}.scaled"
        return [helper.make_node("Mul", [source, weights.power(e_out)], [node.input[0]], f"{node.name}.scale"), node]
    return [node]
