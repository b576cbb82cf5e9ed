"""The gate of box nets: what half precision does to the boxes of every position, beside verify.py for classifiers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from infer.data.dataset import Dataset, DatasetError, open_dataset
from infer.engine import Engine
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import ImageError, Pixels, decode
from infer.views import ViewPlan, default_scales, out_of_range, plan_views

from ..model import file as model_file
from ..model.precision import check_graph
from .verify import VerifyError


@dataclass(frozen=True, slots=True)
class BoxVerdict:
    """Half against single precision on the same images. Boxes are in units of crop_px (infer/boxes/finding.py)."""

    what: str  # "FP16" for the graph without a GPU, "the engine"
    images: int
    protocol: str
    scales: tuple[int, ...]
    boxes: int
    largest_box_difference: float
    mean_box_difference: float
    crop_px: int

    def passes(self, tolerance: float) -> bool:
        """False for NaN too, which is how an overflow shows."""
        return self.largest_box_difference <= tolerance

    @property
    def worst(self) -> str:
        return f"a box of {self.what} differs from FP32's by {self.largest_box_difference:.2g} of the crop"

    def lines(self) -> list[str]:
        """What to print."""
        largest, mean = self.largest_box_difference, self.mean_box_difference
        return [
            f"{self.what} against FP32 on {self.images} images, {self.protocol} at {','.join(map(str, self.scales))}: "
            f"{self.boxes} boxes; largest difference of a centre or side {largest:.2g} of the crop "
            f"({largest * self.crop_px:.2g} px), mean {mean:.2g}"
        ]


def verify_boxes(
    reference: onnx.ModelProto, half: onnx.ModelProto, data: Path, protocol: str, limit: int
) -> BoxVerdict:
    """Runs an FP32 and an FP16 model of one box net on the first `limit` images of a data set (0: all).

    Raises VerifyError for data that is none or cannot be read at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.onnx"
        model_file.save(check_graph(half), path)
        checked = OnnxEngine(path)
        try:
            return verify_box_engine(reference, checked, data, protocol, limit, what="FP16")
        finally:
            checked.close()


def verify_box_engine(
    reference: onnx.ModelProto, engine: Engine, data: Path, protocol: str, limit: int, *, what: str = "the engine"
) -> BoxVerdict:
    """The same of an FP32 model and an engine made of it. Raises VerifyError, EngineError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "single.onnx"
        model_file.save(reference, path)
        single = OnnxEngine(path)
        try:
            dataset = open_dataset(data, limit=limit or None)
            scales = default_scales(single.spec, protocol)
            images, differences = 0, [np.zeros(0, np.float32)]
            for image, plans in _readable(dataset, single, protocol, scales):
                images += 1
                differences += [_difference(single, engine, image, plan) for plan in plans]
        except DatasetError as error:
            raise VerifyError(f"--verify: {error}") from None
        finally:
            single.close()
    if not images:
        raise VerifyError(f"--verify: none of {len(dataset.items)} images can be used, first {dataset.items[0].name}")
    every = np.concatenate(differences)
    worst, mean = float(every.max()), float(every.mean())  # NaN stays NaN
    return BoxVerdict(what, images, protocol, scales, len(every) // 4, worst, mean, single.spec.crop_px)


def _readable(
    dataset: Dataset, engine: Engine, protocol: str, scales: Sequence[int]
) -> Iterator[tuple[Pixels, list[ViewPlan]]]:
    """Images that can be decoded and are in range, and for each its views, those of one size together."""
    spec = engine.spec
    for item in dataset.items:
        try:
            image = decode(item.read_bytes(), exif=spec.preprocessing.exif, name=item.name)
        except ImageError:
            continue
        size = (image.shape[0], image.shape[1])
        whole = plan_views(spec, protocol, size, scales)
        if out_of_range(whole, engine.shapes, spec) is None:
            sizes = dict.fromkeys(view.size_px for view in whole.views)
            same = [tuple(view for view in whole.views if view.size_px == each) for each in sizes]
            yield image, [ViewPlan(protocol, size, views) for views in same]


def _difference(single: Engine, other: Engine, image: Pixels, plan: ViewPlan) -> NDArray[Any]:
    one, two = (each.run(each.load([image]), [plan], ("box_map",))["box_map"] for each in (single, other))
    difference: NDArray[Any] = np.abs(one - two).ravel()
    return difference
