"""How large a net's activations get on real images, tensor by tensor, in single precision.

Half precision ends at 65,504. What a net does on the images it is for cannot be read off its weights, so they are run
through the FP32 graph with one more output per tensor, the largest magnitude in each view.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tabulate import tabulate
from tqdm import tqdm

from infer.data.dataset import image_files
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError, read
from infer.spec import ModelSpec
from infer.views import out_of_range, plan_views

from ..errors import ModelError
from ..model import file as model_file
from ..model.precision import HALF_MAX

PREFIX = "largest:"


class CalibrationError(ModelError):
    """Images or a net that no range can be measured with; one line."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Largest magnitude of each tensor over `images` images."""

    largest: Mapping[str, float]
    images: int
    unreadable: tuple[str, ...]  # one line each, image and reason

    def worst(self, count: int = 10) -> list[tuple[str, float]]:
        return sorted(self.largest.items(), key=lambda item: -item[1])[:count]


def measure(reference: onnx.ModelProto, tensors: Sequence[str], folder: Path, protocol: str, limit: int) -> Ranges:
    """Ranges of `tensors` of an FP32 model over `limit` images below `folder` (0: all), evenly spaced over it.

    Raises CalibrationError where no image can be read or a tensor is not finite, which rescaling cannot mend.
    """
    files = image_files(folder)
    if not files:
        raise CalibrationError(f"{folder}: no images below it: --calibrate takes a folder of images the net is for")
    if 0 < limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "measured.onnx"
        names = save_measured(reference, tensors, path)
        engine = OnnxEngine(path)
        rows, unreadable = [], []
        for file in tqdm(files, desc="calibration", unit="img", disable=None):
            try:
                rows.append(_largest(engine, file, protocol, names))
            except ImageError as error:
                unreadable.append(str(error))
        engine.close()
    if not rows:
        raise CalibrationError(f"{folder}: none of {len(files)} images can be used, first {unreadable[0]}")
    largest = dict(zip(names, np.max(rows, 0).tolist(), strict=True))
    for name, value in largest.items():
        if not math.isfinite(value):
            raise CalibrationError(
                f"{engine.spec.name}: tensor {name} is {value} in FP32 already: no precision helps this net, train or "
                "import it again"
            )
    return Ranges(largest, len(rows), tuple(unreadable))


def save_measured(reference: onnx.ModelProto, tensors: Sequence[str], path: Path) -> list[str]:
    """Writes `reference` with an output `largest:NAME` f32 [views] for each tensor it has; returns their names."""
    model = onnx.ModelProto()
    model.CopyFrom(reference)
    inferred = onnx.shape_inference.infer_shapes(reference)
    values = {value.name: value.type.tensor_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    names = []
    for name in tensors:
        kind = values.get(name)
        if kind is None or kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) < 2:
            continue
        axes = np.arange(1, len(kind.shape.dim), dtype=np.int64)
        model.graph.initializer.append(numpy_helper.from_array(axes, f"{PREFIX}{name}.axes"))
        model.graph.node.append(helper.make_node("Abs", [name], [f"{PREFIX}{name}.abs"]))
        inputs = [f"{PREFIX}{name}.abs", f"{PREFIX}{name}.axes"]
        model.graph.node.append(helper.make_node("ReduceMax", inputs, [PREFIX + name], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(PREFIX + name, TensorProto.FLOAT, ("views",)))
        names.append(name)
    metadata = {prop.key: prop.value for prop in reference.metadata_props}
    spec = ModelSpec.from_json(metadata["spec"])
    spec = replace(spec, outputs=(*spec.outputs, *(PREFIX + name for name in names)))
    del model.metadata_props[:]
    helper.set_model_props(model, {"spec": spec.to_json()})
    model_file.save(model, path)
    return names


def table(ranges: Ranges, exponents: Mapping[str, int]) -> str:
    """The ten tensors nearest to the end of half precision, and what rescaling by 2^exponent makes of them."""
    rows = [
        (
            name,
            f"{value:.4g}",
            f"{100 * value / HALF_MAX:.2g} %",
            f"2^{exponents[name]}: {100 * math.ldexp(value, exponents[name]) / HALF_MAX:.2g} %"
            if exponents.get(name)
            else "as it is",
        )
        for name, value in ranges.worst()
    ]
    headers = ["tensor", f"largest on {ranges.images} images", "of 65,504", "in the engine"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def as_json(ranges: Ranges, exponents: Mapping[str, int]) -> dict[str, object]:
    """What the sidecar says of a calibration."""
    return {
        "images": ranges.images,
        "unreadable": len(ranges.unreadable),
        "worst": [{"tensor": name, "largest": value} for name, value in ranges.worst()],
        "rescaled": {name: exponent for name, exponent in exponents.items() if exponent},
    }


def _largest(engine: OnnxEngine, file: Path, protocol: str, names: Sequence[str]) -> list[float]:
    """The largest magnitudes over the views of one image. Raises ImageError for one that the engine cannot see."""
    image = read(file, exif=engine.spec.preprocessing.exif)
    plan = plan_views(engine.spec, protocol, (image.shape[0], image.shape[1]))
    reason = out_of_range(plan, engine.shapes, engine.spec)
    if reason is not None:
        raise ImageError(f"{file}: {reason}")
    results = engine.run(engine.load([image]), [plan], [PREFIX + name for name in names])
    return [float(results[PREFIX + name].max()) for name in names]
