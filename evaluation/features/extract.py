"""Features of dense views (VGG appendix B): penultimate activations, averaged over positions, mirror and scales.

An image is rescaled to each Q; the net sees it whole, and its mirror. The engine averages over positions (its output
`features`: after ReLU for VGG's fc7, after the last average pool for GoogLeNet), this file does the rest. What the
paper leaves open is a setting: see Settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.engine import DeviceImage, Engine, Started, check_outputs, start
from infer.pixels.decode import Pixels
from infer.spec import Size
from infer.views import Rect, ViewPlan, check_protocol, check_scales, out_of_range, plan_views

from ..errors import RunError
from ..run.engines import KnownEngine, known_engine
from ..run.loop import DecodedImage, ShardMaker
from ..scores.table import OK
from . import table
from .collection import Picture
from .table import FeatureRow

Combine = Literal["average", "stack"]
Normalise = Literal["descriptor", "scale"]
Regions = Literal["image", "box", "image+box"]

OUTPUTS = ("features", "pixel_sums")
BOX_ASPECT = 2
"""A box is at most so many times as long as it is wide, or it is widened: standing people would else be beyond what a
dense profile admits."""
NOT_FINITE = "features that are not finite"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of how views become one descriptor.

    combine: scales are averaged, or stacked; normalise: the L2 norm is taken of the whole descriptor of a net and
    region, or before that also of each scale's; regions: the image, the example's box, or both, stacked.
    """

    scales: tuple[int, ...]
    combine: Combine = "average"
    normalise: Normalise = "descriptor"
    regions: Regions = "image"


def descriptor(views: NDArray[np.float32], settings: Settings) -> NDArray[np.float64]:
    """Combines the views of one net and region: f32 [2 x scales, width], each scale's view and its mirror in order.

    Returns f64 [width], or [scales x width] stacked, of L2 norm 1 (all zero if the activations are).
    """
    scales = views.astype(np.float64).reshape(len(settings.scales), 2, -1).mean(1)
    if settings.normalise == "scale":
        scales = np.stack([_unit(one) for one in scales])
    return _unit(scales.mean(0) if settings.combine == "average" else scales.ravel())


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / (np.linalg.norm(x) or 1.0)


def descriptor_width(engines: Sequence[Engine], settings: Settings) -> int:
    """Counts the numbers in a descriptor of all engines, by a look at a grey square. Raises EngineError, PlanError."""
    total = 0
    for engine in engines:
        check_outputs(engine.spec, ("features",))
        check_scales(engine.spec, settings.scales)
        check_protocol(engine.spec, engine.shapes, "dense", settings.scales)
        side = min(settings.scales)
        plan = plan_views(engine.spec, "dense", (side, side), (side,))
        image = engine.load([np.full((side, side, 3), 128, np.uint8)])
        total += int(engine.run(image, [plan], ("features",))["features"].shape[1])

    scales = len(settings.scales) if settings.combine == "stack" else 1
    regions = 2 if settings.regions == "image+box" else 1
    return total * scales * regions


def box_in(box: Rect, image_px: Size) -> Rect:
    """Cuts a box off at the edges of the image and widens it about its centre to an aspect of BOX_ASPECT, if it can.

    The result has no area where the box lies outside.
    """
    top, height = _clipped(box[0], box[2], image_px[0])
    left, width = _clipped(box[1], box[3], image_px[1])
    if min(height, width) <= 0:
        return top, left, 0, 0
    top, height = _widened(top, height, -(-width // BOX_ASPECT), image_px[0])
    left, width = _widened(left, width, -(-height // BOX_ASPECT), image_px[1])
    return top, left, height, width


def _clipped(start: int, length: int, side: int) -> tuple[int, int]:
    first, last = max(start, 0), min(start + length, side)
    return first, last - first


def _widened(start: int, length: int, least: int, side: int) -> tuple[int, int]:
    if length >= least:
        return start, length
    length, grown = min(least, side), length
    return min(max(start - (length - grown) // 2, 0), side - length), length


class FeaturesBegun(NamedTuple):
    """The work that one engine was given of a picture: for each region a plan, or why it has none."""

    regions: list[ViewPlan | str]
    started: Started | None


@dataclass(frozen=True, slots=True)
class KnownExtractors:
    """The engines of an extraction, for those who do not run them; a descriptor of all has `width` numbers."""

    engines: tuple[KnownEngine, ...]
    width: int


class PictureBegun(NamedTuple):
    """A picture that engines work on."""

    picture: Picture
    image: DecodedImage
    engines: list[FeaturesBegun]


class FeatureMaker(ShardMaker[Picture, list[PictureBegun], Sequence[FeatureRow]]):
    """Engines that make descriptors of pictures; the answer to a picture is a row for each of its examples.

    What cannot be read, or seen by an engine, gets a status and stops nothing unless `strict`. Raises EngineError and
    PlanError.
    """

    def __init__(self, settings: Settings, strict: bool, engines: Sequence[Engine]) -> None:
        self.engines, self._settings, self.strict, self.shard_images = engines, settings, strict, table.PART
        self.known = KnownExtractors(tuple(map(known_engine, engines)), descriptor_width(engines, settings))

    def begin(self, samples: Sequence[Picture], images: Sequence[DecodedImage]) -> list[PictureBegun]:
        pairs = zip(samples, images, strict=True)
        return [PictureBegun(picture, image, self._begin(picture, image)) for picture, image in pairs]

    def collect(self, begun: list[PictureBegun]) -> list[list[FeatureRow]]:
        return [self._rows_of(each) for each in begun]

    def rows(self, samples: Sequence[Picture], answers: Sequence[list[FeatureRow]]) -> list[FeatureRow]:
        return [row for of_picture in answers for row in of_picture]

    def _begin(self, picture: Picture, image: DecodedImage) -> list[FeaturesBegun]:
        """Gives every engine all regions of a picture: the whole where it is asked for, then each example's box."""
        begun: list[FeaturesBegun] = []
        loaded: dict[object, DeviceImage] = {}
        for engine in self.engines if image.images else ():
            exif = engine.spec.preprocessing.exif
            whole = image.images[exif]
            crops = [whole] * (self._settings.regions != "box")
            if self._settings.regions != "image":
                crops += [_crop(whole, one.box) for one in picture.examples]

            # engines that see the same pixels in one place share them
            regions = [_plan(engine, crop, self._settings) for crop in crops]
            seen = tuple(place for place, region in enumerate(regions) if not isinstance(region, str))
            if (engine.device, exif, seen) not in loaded:
                loaded[engine.device, exif, seen] = engine.load([crops[place] for place in seen])
            plans = [region for region in regions if not isinstance(region, str)]
            started = start(engine, loaded[engine.device, exif, seen], plans, OUTPUTS) if plans else None
            begun.append(FeaturesBegun(regions, started))
        return begun

    def _rows_of(self, begun: PictureBegun) -> list[FeatureRow]:
        """Waits for the engines. Raises EngineError, and RunError where `strict`."""
        picture, image, _ = begun
        found = [_descriptors(one, self._settings) for one in begun.engines]
        digest = hashlib.sha256(b"".join(sums for _, sums in found)).hexdigest()[:32] if found else ""

        rows = []
        for number, example in enumerate(picture.examples):
            places = [0] * (self._settings.regions != "box")
            places += [number + len(places)] * (self._settings.regions != "image")
            parts = [descriptors[place] for descriptors, _ in found for place in places]
            reason = next((part for part in parts if isinstance(part, str)), image.status)
            if self.strict and reason != OK:
                raise RunError(f"{example.name}: {reason}")
            features = None if reason != OK else np.concatenate(parts).astype(np.float32)
            pixels = digest if features is not None else ""
            rows.append(FeatureRow(example.name, example.split, example.labels, reason, pixels, image.sha256, features))
        return rows


def _crop(pixels: Pixels, box: Rect | None) -> Pixels:
    assert box is not None, "regions with boxes are of examples with boxes"
    top, left, height, width = box_in(box, (pixels.shape[0], pixels.shape[1]))
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _plan(engine: Engine, pixels: Pixels, settings: Settings) -> ViewPlan | str:
    """Plans the views of a region, or says why the engine cannot see it."""
    height, width, _ = pixels.shape
    if not min(height, width):
        return "a box outside of the image"
    plan = plan_views(engine.spec, "dense", (height, width), settings.scales)
    return out_of_range(plan, engine.shapes, engine.spec) or plan


def _descriptors(begun: FeaturesBegun, settings: Settings) -> tuple[list[NDArray[np.float64] | str], bytes]:
    """Waits for an engine: for each region a descriptor, or why it has none, and all pixel sums. Raises EngineError."""
    results = begun.started.result() if begun.started is not None else None
    found: list[NDArray[np.float64] | str] = []
    first = 0
    for region in begun.regions:
        if isinstance(region, str):
            found.append(region)
            continue
        assert results is not None
        views = results["features"][first : first + len(region)]  # f32 [2 x scales, width]
        first += len(region)
        found.append(descriptor(views, settings) if np.isfinite(views).all() else NOT_FINITE)
    return found, results["pixel_sums"].astype("<i4").tobytes() if results is not None else b""
