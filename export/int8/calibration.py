"""Where the activations of a net lie on real images, and where to cut them off: the ends of INT8's scales.

Two passes over the images: the first finds the largest magnitude of each tensor, the second counts values in equal
bins up to it. Of these counts onnxruntime.quantization computes the ends: the largest value, a percentile, or where
the entropy that rounding loses is least (S. Migacz, "8-bit Inference with TensorRT", GTC 2017). Which of them is best
for a net is measured, not assumed (export/int8/making.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tqdm import tqdm

from infer.command import print_notes
from infer.data.folder import File
from infer.pixels.decode import ImageError, Pixels
from infer.spec import ModelSpec
from infer.views import ViewPlan, default_shapes

from ..model import file as model_file
from ..model.file import copied
from ..proof.calibrate import PREFIX, with_largest
from ..proof.images import CalibrationError, folder_of, list_files, read_views

IMAGES = 128
"""Images that are looked at unless told otherwise: evenly spaced over the folders."""
FEW = 32
"""With fewer images, ends of scales are those of these images more than of the net."""
TRIED = 16
"""Of these images, those on which the methods, and each layer alone, are measured."""
BINS = 1024
PERCENTILES = (99.99, 99.9)


@dataclass(frozen=True, slots=True)
class Images:
    """Images of a folder that a net can see, decoded anew each time: all of them together may be gigabytes."""

    folder: Path
    files: Sequence[tuple[str, File]]
    spec: ModelSpec
    protocol: str

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Pixels, ViewPlan]]:
        """Each with all its views."""
        for path, file in self.files:
            yield read_views(self.spec, default_shapes(self.spec), file, f"{self.folder}/{path}", self.protocol)

    def few(self, count: int) -> Iterator[tuple[Pixels, ViewPlan]]:
        """So many of them, evenly spaced, with the first view of each."""
        count = min(count, len(self))
        files = [self.files[number * len(self) // count] for number in range(count)]
        for pixels, plan in dataclasses.replace(self, files=files):
            yield pixels, next(_one_by_one(plan))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ends of the scales of each tensor by method, and the images that they are of."""

    largest: Mapping[str, Mapping[str, float]]  # method: tensor: end
    images: Images


def calibrate(model: onnx.ModelProto, tensors: Collection[str], folder: Path, protocol: str, limit: int) -> Calibration:
    """The ends of the scales of `tensors` of an FP32 model, of `limit` images below `folder` (0: all).

    Says on stderr where the images are few or of one folder. Raises CalibrationError where no image can be read, or a
    tensor is not finite.
    """
    names = sorted(tensors)
    seen, maxima = _maxima(model, names, folder, protocol, limit)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    with model_file.opened(_with_outputs(model, names), names) as engine:
        for pixels, plan in tqdm(seen, desc="histograms", unit="img", disable=None):
            for one in _one_by_one(plan):
                results = engine.run(engine.load([pixels]), [one], names)
                for name in names:
                    if maxima[name] > 0:
                        counts[name] += np.histogram(np.abs(results[name]), BINS, (0, maxima[name]))[0]

    ends = {"the largest value": maxima}
    for percentile in PERCENTILES:
        ends[f"percentile {percentile:g}"] = _ends(maxima, counts, _percentile_of(percentile))
    ends["entropy"] = _ends(maxima, counts, _entropy)
    return Calibration(ends, seen)


def _maxima(
    model: onnx.ModelProto, names: Sequence[str], folder: Path, protocol: str, limit: int
) -> tuple[Images, dict[str, float]]:
    """The images that can be seen, and the largest magnitude of each tensor on them."""
    files = list_files(folder, limit)
    measured, found = with_largest(model, names)
    if set(found) != set(names):
        lacking = sorted(set(names) - set(found))
        raise CalibrationError(f"tensor {lacking[0]}: its range cannot be measured, so its layer cannot be quantised")

    seen = list[tuple[str, File]]()
    rows, unreadable, groups = [], list[str](), set[str]()
    outputs = [PREFIX + name for name in names]
    with model_file.opened(measured, outputs) as engine:
        for path, file in tqdm(files, desc="ranges", unit="img", disable=None):
            try:
                pixels, plan = read_views(engine.spec, engine.shapes, file, f"{folder}/{path}", protocol)
            except ImageError as error:
                unreadable.append(str(error))
                continue
            results = engine.run(engine.load([pixels]), [plan], outputs)
            rows.append([float(results[name].max()) for name in outputs])
            seen.append((path, file))
            groups.add(folder_of(path))
    if not rows:
        raise CalibrationError(f"{folder}: none of {len(files)} images can be used, first {unreadable[0]}")
    print_notes(unreadable + _say_few(folder, len(seen), groups))

    maxima = dict(zip(names, np.max(rows, 0).tolist(), strict=True))
    for name, value in maxima.items():
        if not math.isfinite(value):
            raise CalibrationError(f"tensor {name} is {value} in FP32 already: no precision helps this net")
    return Images(folder, seen, engine.spec, protocol), maxima


def _say_few(folder: Path, images: int, groups: Collection[str]) -> list[str]:
    notes = []
    if images < FEW:
        notes.append(
            f"{folder}: only {images} images that can be used, expected {FEW} or more: the ends of INT8's scales may "
            "be those of these images only"
        )
    if len(groups) == 1 and images > 1:
        notes.append(
            f"{folder}: all images are in one folder; where that is one class, give images of all classes: other "
            "classes may lie beyond its activations"
        )
    return notes


def _one_by_one(plan: ViewPlan) -> Iterator[ViewPlan]:
    """Each view in a plan of its own: tensors of views of different sizes do not fit into one array."""
    return (ViewPlan(plan.protocol, plan.image_px, (view,)) for view in plan.views)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    changed = copied(model)
    changed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return changed


# Ends of scales, of counts of magnitudes

Counts = NDArray[np.int64]


def _ends(
    maxima: Mapping[str, float], counts: Mapping[str, Counts], end: Callable[[Counts, NDArray[np.float32]], float]
) -> dict[str, float]:
    found = {}
    for name, most in maxima.items():
        edges = np.linspace(0, most, BINS + 1, dtype=np.float32)
        found[name] = end(counts[name], edges) if most > 0 else 0.0
    return found


def _percentile_of(percentile: float) -> Callable[[Counts, NDArray[np.float32]], float]:
    def end(counts: Counts, edges: NDArray[np.float32]) -> float:
        from onnxruntime.quantization.calibrate import HistogramCollector

        tool = HistogramCollector("percentile", True, BINS, 128, percentile, "same")
        return _computed(tool, counts, edges)

    return end


def _entropy(counts: Counts, edges: NDArray[np.float32]) -> float:
    """Of magnitudes: the tool's counts go from -most to most, and so they are mirrored."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    coarse = counts.reshape(BINS // 4, 4).sum(1)  # as many as it looks at one by one, in seconds for a net
    both = np.concatenate([coarse[::-1], [0], coarse])
    ends = np.concatenate([-edges[::-4], edges[::4]])
    tool = HistogramCollector("entropy", True, len(both), 128, 0, "same")
    return _computed(tool, both, ends)


def _computed(tool: Any, counts: Counts, edges: NDArray[np.float32]) -> float:
    tool.histogram_dict["x"] = (counts, edges, edges[0], edges[-1], edges[-1])
    with contextlib.redirect_stdout(io.StringIO()):
        low, high = tool.compute_collection_result()["x"][:2]
    return float(max(abs(low), abs(high)))
