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
from onnx import TensorProto
from tqdm import tqdm

from infer.command import print_notes
from infer.data.folder import File
from infer.engine import Outputs
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError, Pixels
from infer.spec import ModelSpec
from infer.views import ViewPlan, default_shapes

from ..model import file as model_file
from ..model.file import FLAT, with_flat_outputs
from ..model.precision import tensor_types
from ..proof.images import CalibrationError, folder_of, list_files, one_by_one, read_views

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
            yield pixels, next(one_by_one(plan))


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
    unknown = [name for name in names if tensor_types(model).get(name) != TensorProto.FLOAT]
    if unknown:
        raise CalibrationError(f"tensor {unknown[0]}: its range cannot be measured, so its layer cannot be quantised")

    files = list_files(folder, limit)
    outputs = [FLAT + name for name in names]
    with model_file.opened(with_flat_outputs(model, names), outputs) as engine:
        images, maxima = _maxima(engine, Images(folder, files, engine.spec, protocol), names)
        counts = {name: np.zeros(BINS, np.int64) for name in names}
        for pixels, plan in tqdm(images, desc="histograms", unit="img", disable=None):
            for results in _tensors(engine, pixels, plan, outputs):
                for name in names:
                    counts[name] += count_magnitudes(results[FLAT + name], maxima[name])

    ends = {"the largest value": maxima}
    for percentile in PERCENTILES:
        ends[f"percentile {percentile:g}"] = _ends(maxima, counts, percentile_end(percentile))
    ends["entropy"] = _ends(maxima, counts, entropy_end)
    return Calibration(ends, images)


def count_magnitudes(values: NDArray[np.float32], most: float) -> NDArray[np.int64]:
    """How many magnitudes lie in each of BINS equal bins up to `most`: numpy.histogram, five times as fast."""
    if most <= 0:
        return np.zeros(BINS, np.int64)
    places = (np.abs(values).ravel() * np.float32(BINS / most)).astype(np.int32)
    return np.bincount(np.minimum(places, BINS - 1), minlength=BINS)


def _maxima(engine: OnnxEngine, images: Images, names: Sequence[str]) -> tuple[Images, dict[str, float]]:
    """Those of the images that can be seen, and the largest magnitude of each tensor on them."""
    seen = list[tuple[str, File]]()
    rows, unreadable = [], list[str]()
    outputs = [FLAT + name for name in names]
    for path, file in tqdm(images.files, desc="ranges", unit="img", disable=None):
        try:
            pixels, plan = read_views(engine.spec, engine.shapes, file, f"{images.folder}/{path}", images.protocol)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        for results in _tensors(engine, pixels, plan, outputs):
            rows.append([float(np.abs(results[name]).max()) for name in outputs])
        seen.append((path, file))
    if not rows:
        raise CalibrationError(f"{images.folder}: none of {len(images)} images can be used, first {unreadable[0]}")
    print_notes(unreadable + _say_few(images.folder, len(seen), {folder_of(path) for path, _ in seen}))

    maxima = dict(zip(names, np.max(rows, 0).tolist(), strict=True))
    for name, value in maxima.items():
        if not math.isfinite(value):
            raise CalibrationError(f"tensor {name} is {value} in FP32 already: no precision helps this net")
    silent = [name for name, value in maxima.items() if value == 0]
    if silent:
        said = f"{images.folder}: {len(silent)} activations are 0 on all images ({silent[0]}), so their scales are not"
        advice = "give images that the net is for, or keep the layers that read them with --keep-half"
        print_notes([f"{said} known, and elsewhere they are rounded to whole numbers: {advice}"])
    return dataclasses.replace(images, files=seen), maxima


def _tensors(engine: OnnxEngine, pixels: Pixels, plan: ViewPlan, outputs: Sequence[str]) -> Iterator[Outputs]:
    """The outputs for each view."""
    loaded = engine.load([pixels])
    return (engine.run(loaded, [one], outputs) for one in one_by_one(plan))


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


def percentile_end(percentile: float) -> Callable[[Counts, NDArray[np.float32]], float]:
    def end(counts: Counts, edges: NDArray[np.float32]) -> float:
        from onnxruntime.quantization.calibrate import HistogramCollector

        tool = HistogramCollector("percentile", True, BINS, 128, percentile, "same")
        return _computed(tool, counts, edges)

    return end


def entropy_end(counts: Counts, edges: NDArray[np.float32]) -> float:
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
