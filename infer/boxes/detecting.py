"""Objects of an image: regions that a net classified, and what is left of them after non-maximum suppression.

As R-CNN does (Girshick et al. 2014, section 2.2): for each class the regions are taken in the order of their scores,
and one that overlaps a better one by more than 0.3 goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import DeviceImage, Engine, EngineError, Started, start
from ..pixels.decode import Pixels
from ..pixels.regions import Boxes, make_picture, plan_regions
from ..spec import ModelSpec, Size
from .overlap import suppress

BACKGROUND = "background"
"""The last class of a net of regions: none of the others."""
OUTPUTS = ("posterior", "pixel_sums")


class Detections(NamedTuple):
    """Objects of an image, the best first: classes i32 [n], scores f32 [n], boxes f32 [n, 4] as annotations.Box."""

    classes: NDArray[np.int32]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Suppression:
    """What becomes of classified regions.

    overlap: (intersection over union) above which the worse of two of a class goes; least: of a posterior that counts;
    most: detections of an image.
    """

    overlap: float = 0.3
    least: float = 0.001
    most: int = 300

    def __str__(self) -> str:
        return f"overlap {self.overlap:g}, posterior of {self.least:g} or more, at most {self.most} an image"


def check_regions(spec: ModelSpec) -> None:
    """Raises EngineError unless a net is one of regions."""
    if spec.task != "classify" or spec.classes[-1] != BACKGROUND:
        raise EngineError(
            f"{spec.name}: its last class is {spec.classes[-1]!r}, expected {BACKGROUND!r}: a net of regions, of a "
            "recipe like googlenet-det (docs/detection.md)"
        )


def picture_key(spec: ModelSpec) -> tuple[object, ...]:
    """Nets with the same key see the same pictures, which then go up once for all of them."""
    fill = tuple(np.rint(spec.preprocessing.mean_rgb).tolist())
    return spec.crop_px, spec.preprocessing.filter, spec.preprocessing.exif, fill


class Regions:
    """Regions of an image that some engines were given, of which `collect` says the posteriors."""

    def __init__(self, running: list[Started | None], count: int, mirrored: bool) -> None:
        self._running, self._count, self._mirrored = running, count, mirrored

    def collect(self, classes: int) -> tuple[list[NDArray[np.float32]], NDArray[np.int32]]:
        """(posteriors f32 [R, classes] by each engine, pixel sums i32 [views, 6] of the first)."""
        posteriors, sums = [], np.empty((0, 6), np.int32)
        for number, running in enumerate(self._running):
            if running is None:
                posteriors.append(np.empty((0, classes), np.float32))
                continue
            outputs = running.result()
            posterior = outputs["posterior"]
            if self._mirrored:
                posterior = posterior.reshape(self._count, 2, -1).mean(1, dtype=np.float64)
            posteriors.append(posterior.astype(np.float32))
            sums = outputs["pixel_sums"] if number == 0 else sums
        return posteriors, sums


def classify_regions(
    engines: Sequence[Engine], images: Sequence[Pixels], boxes: Boxes, *, mirrored: bool = False
) -> Regions:
    """Gives engines the regions `boxes` of an image, decoded as each engine's spec has it. Raises EngineError.

    mirrored: a region's posterior is the mean of its own and its mirror's. Boxes without a part in the image must have
    been left out (pixels/regions.py, inside).
    """
    loaded: dict[tuple[object, ...], DeviceImage] = {}
    running: list[Started | None] = []
    for engine, image in zip(engines, images, strict=True):
        if not len(boxes):
            running.append(None)
            continue
        size: Size = (image.shape[0], image.shape[1])
        key = (engine.device, *picture_key(engine.spec))
        if key not in loaded:
            loaded[key] = engine.load([make_picture(image, engine.spec)])
        plan = plan_regions(boxes, size, engine.spec, mirrored=mirrored)
        running.append(start(engine, loaded[key], [plan], OUTPUTS))
    return Regions(running, len(boxes), mirrored)


def find_objects(posterior: NDArray[np.floating], boxes: NDArray[np.floating], how: Suppression) -> Detections:
    """The objects by posteriors [R, classes + background] of boxes [R, 4], the best first; of equal ones the first."""
    regions, classes = np.nonzero(posterior[:, :-1] >= how.least)
    scores = posterior[regions, classes].astype(np.float32)
    kept = suppress(boxes[regions], scores, how.overlap, classes)[: how.most]
    return Detections(classes[kept].astype(np.int32), scores[kept], boxes[regions[kept]].astype(np.float32))
