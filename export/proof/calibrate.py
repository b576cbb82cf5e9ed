"""`--calibrate DIR`: how large a net's activations get on real images, and the net rescaled where half would overflow.

Half precision ends at 65,504. What a net does on the images it is for cannot be read off its weights, so they are run
through the FP32 graph with one more output per tensor, the largest magnitude in each view.
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
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate
from tqdm import tqdm

from infer.data.dataset import image_files
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError, read
from infer.views import out_of_range, plan_views

from ..errors import ModelError
from ..model import file as model_file
from ..model.file import copied
from ..model.precision import HALF_MAX, half_tensors
from ..model.source import Graphs, Source
from . import rescale

PREFIX = "largest:"


class CalibrationError(ModelError):
    """Images or a net that no range can be measured with; one line."""


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
            rows.append((name, f"{value:.4g}", f"{100 * value / HALF_MAX:.2g} %", in_engine))
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
    exponents = rescale.exponents(half, found.largest)
    print(found.table(exponents), flush=True)
    for line in found.unreadable:
        print(line, flush=True)

    notes = {**source.notes, "ranges": found.as_json(exponents)}
    changed = sum(exponent != 0 for exponent in exponents.values())
    if not changed:
        return dataclasses.replace(source, notes=notes)

    floats = (tensor for tensor in single.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in floats}
    half = rescale.rescaled(half, exponents, exact)
    model_file.save(half, rescaled)
    print(f"{rescaled}: {changed} of {len(exponents)} half tensors rescaled by powers of two", flush=True)
    return dataclasses.replace(source, path=rescaled, notes=notes, graphs=Graphs(half, single))


def measure_ranges(
    reference: onnx.ModelProto, tensors: Sequence[str], folder: Path, protocol: str, limit: int
) -> ActivationRanges:
    """Ranges of `tensors` of an FP32 model over `limit` images below `folder` (0: all), evenly spaced over it.

    Raises CalibrationError where no image can be read or a tensor is not finite, which rescaling cannot mend.
    """
    files = image_files(folder)
    if not files:
        raise CalibrationError(f"{folder}: no images below it: --calibrate takes a folder of images the net is for")
    if 0 < limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]

    measured, names = _with_largest(reference, tensors)
    rows: list[list[float]] = []  # [images, tensors]
    unreadable = []
    with model_file.opened(measured, [PREFIX + name for name in names]) as engine:
        for file in tqdm(files, desc="calibration", unit="img", disable=None):
            try:
                rows.append(_largest(engine, file, protocol, names))
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
    """A copy with an output `largest:NAME` f32 [views] for each tensor that `reference` has, and their names."""
    model = copied(reference)
    inferred = onnx.shape_inference.infer_shapes(reference)
    values = {value.name: value.type.tensor_type for value in (*inferred.graph.value_info, *inferred.graph.output)}

    names = []
    for name in tensors:
        kind = values.get(name)
        if kind is None or kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) < 2:
            continue
        output = PREFIX + name
        axes = np.arange(1, len(kind.shape.dim), dtype=np.int64)
        model.graph.initializer.append(numpy_helper.from_array(axes, f"{output}.axes"))
        model.graph.node.append(helper.make_node("Abs", [name], [f"{output}.abs"]))
        inputs = [f"{output}.abs", f"{output}.axes"]
        model.graph.node.append(helper.make_node("ReduceMax", inputs, [output], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ("views",)))
        names.append(name)
    return model, names


def _largest(engine: OnnxEngine, file: Path, protocol: str, names: Sequence[str]) -> list[float]:
    """The largest magnitudes over the views of one image. Raises ImageError for one that the engine cannot see."""
    image = read(file, exif=engine.spec.preprocessing.exif)
    plan = plan_views(engine.spec, protocol, (image.shape[0], image.shape[1]))
    reason = out_of_range(plan, engine.shapes, engine.spec)
    if reason is not None:
        raise ImageError(f"{file}: {reason}")
    results = engine.run(engine.load([image]), [plan], [PREFIX + name for name in names])
    return [float(results[PREFIX + name].max()) for name in names]
