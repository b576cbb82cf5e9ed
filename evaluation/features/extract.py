"""Features of dense views (VGG appendix B): penultimate activations, averaged over positions, mirror and scales.

An image is rescaled to each Q; the net sees it whole, and its mirror. The engine averages over positions (its output
`features`: after ReLU for VGG's fc7, after the last average pool for GoogLeNet), this file does the rest. What the
paper leaves open is a setting: see Settings.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.engine import DeviceImage, Engine, Started, Starting, check_outputs, start
from infer.pipeline import one_behind, ordered
from infer.pixels.decode import Pixels
from infer.spec import Size
from infer.views import Rect, ViewPlan, check_scales, out_of_range, plan_views

from ..errors import RunError
from ..run.images import Decoded, read_image
from ..scores.table import OK
from .collection import Picture
from .table import PART, Row

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
    """How views become one descriptor.

    combine: scales are averaged, or stacked; normalise: the L2 norm is taken of the whole descriptor of a net and
    region, or before that also of each scale's; regions: the image, the example's box, or both, stacked.
    """

    scales: tuple[int, ...]
    combine: Combine = "average"
    normalise: Normalise = "descriptor"
    regions: Regions = "image"


class _Looked(NamedTuple):
    """What one engine was given of a picture: for each region a plan, or why it has none; the work on the plans."""

    regions: list[ViewPlan | str]
    started: Started | None


def descriptor(views: NDArray[np.float32], settings: Settings) -> NDArray[np.float64]:
    """Of one net and region: from f32 [2 x scales, width], each scale's view and mirror side by side, in order.

    Returns f64 [width], or [scales x width] stacked, of L2 norm 1 (all zero if the activations are).
    """
    scales = views.astype(np.float64).reshape(len(settings.scales), 2, -1).mean(1)
    if settings.normalise == "scale":
        scales = np.stack([_unit(one) for one in scales])
    return _unit(scales.mean(0) if settings.combine == "average" else scales.ravel())


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / (np.linalg.norm(x) or 1.0)


def widths(engines: Sequence[Engine], settings: Settings) -> int:
    """Numbers in a descriptor of all engines, by a look at a grey square. Raises EngineError, PlanError."""
    total = 0
    for engine in engines:
        check_outputs(engine.spec, ("features",))
        check_scales(engine.spec, settings.scales)
        side = min(settings.scales)
        plan = plan_views(engine.spec, "dense", (side, side), (side,))
        image = engine.load([np.full((side, side, 3), 128, np.uint8)])
        total += int(engine.run(image, [plan], ("features",))["features"].shape[1])
    return (
        total
        * (len(settings.scales) if settings.combine == "stack" else 1)
        * (2 if settings.regions == "image+box" else 1)
    )


def box_in(box: Rect, image_px: Size) -> Rect:
    """The part of a box that lies in the image, widened about its centre to an aspect of BOX_ASPECT where it can be.

    It has no area where the box lies outside.
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


def extract(
    engines: Sequence[Engine],
    pictures: Sequence[Picture],
    settings: Settings,
    *,
    starts: Iterable[int] | None = None,
    strict: bool = False,
    workers: int = 1,
    on_picture: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, list[Row]]]:
    """(first picture, rows) of each part: those of the pictures at `starts` (multiples of PART; all by default).

    What cannot be read, or seen by an engine, gets a status and stops nothing unless `strict`. Raises RunError.
    """
    starts = range(0, len(pictures), PART) if starts is None else starts
    ranges = [range(first, min(first + PART, len(pictures))) for first in starts]
    exifs = list(dict.fromkeys(engine.spec.preprocessing.exif for engine in engines))
    chosen = [pictures[place] for places in ranges for place in places]
    decoded = ordered(functools.partial(read_image, exifs=exifs, strict=strict), (p.item for p in chosen), workers)
    begun: Iterator[tuple[Picture, Decoded, list[_Looked]]] = (
        (picture, image, _look(engines, picture, image, settings))
        for picture, image in zip(chosen, decoded, strict=True)
    )
    if any(isinstance(engine, Starting) for engine in engines):
        begun = one_behind(begun)
    for places in ranges:
        rows: list[Row] = []
        for _ in places:
            picture, image, looked = next(begun)
            found = _rows(picture, image, looked, settings)
            if strict and any(row.status != OK for row in found):
                raise RunError(next(f"{row.image}: {row.status}" for row in found if row.status != OK))
            rows += found
            on_picture()
        yield places.start, rows


def _look(engines: Sequence[Engine], picture: Picture, image: Decoded, settings: Settings) -> list[_Looked]:
    """Gives every engine all regions of a picture: the whole where it is asked for, then each example's box."""
    looked: list[_Looked] = []
    loaded: dict[object, DeviceImage] = {}
    for engine in engines if image.images else ():
        exif = engine.spec.preprocessing.exif
        whole = image.images[exif]
        crops = [whole] * (settings.regions != "box")
        if settings.regions != "image":
            crops += [_crop(whole, one.box) for one in picture.examples]
        regions = [_plan(engine, crop, settings) for crop in crops]
        seen = tuple(place for place, region in enumerate(regions) if not isinstance(region, str))
        if (engine.device, exif, seen) not in loaded:  # engines that see the same pixels in one place share them
            loaded[engine.device, exif, seen] = engine.load([crops[place] for place in seen])
        plans = [region for region in regions if not isinstance(region, str)]
        started = start(engine, loaded[engine.device, exif, seen], plans, OUTPUTS) if plans else None
        looked.append(_Looked(regions, started))
    return looked


def _crop(pixels: Pixels, box: Rect | None) -> Pixels:
    assert box is not None, "regions with boxes are of examples with boxes"
    top, left, height, width = box_in(box, (pixels.shape[0], pixels.shape[1]))
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _plan(engine: Engine, pixels: Pixels, settings: Settings) -> ViewPlan | str:
    height, width, _ = pixels.shape
    if not min(height, width):
        return "a box outside of the image"
    plan = plan_views(engine.spec, "dense", (height, width), settings.scales)
    return out_of_range(plan, engine.shapes, engine.spec) or plan


def _rows(picture: Picture, image: Decoded, looked: Sequence[_Looked], settings: Settings) -> list[Row]:
    """Waits for the engines. Raises EngineError."""
    by_engine = [_descriptors(one, settings) for one in looked]
    digest = hashlib.sha256(b"".join(sums for _, sums in by_engine)).hexdigest()[:32] if by_engine else ""
    rows = []
    for number, example in enumerate(picture.examples):
        places = [0] * (settings.regions != "box")
        places += [number + len(places)] * (settings.regions != "image")
        parts = [found[place] for found, _ in by_engine for place in places]
        reason = next((part for part in parts if isinstance(part, str)), image.status)
        features = None if reason != OK else np.concatenate(parts).astype(np.float32)
        pixels = digest if features is not None else ""
        rows.append(Row(example.name, example.split, example.labels, reason, pixels, image.sha256, features))
    return rows


def _descriptors(looked: _Looked, settings: Settings) -> tuple[list[NDArray[np.float64] | str], bytes]:
    """(of each region its descriptor, or why it has none; the pixel sums of all)."""
    results = looked.started.result() if looked.started is not None else None
    found: list[NDArray[np.float64] | str] = []
    first = 0
    for region in looked.regions:
        if isinstance(region, str):
            found.append(region)
            continue
        assert results is not None
        views = results["features"][first : first + len(region)]
        first += len(region)
        found.append(descriptor(views, settings) if np.isfinite(views).all() else NOT_FINITE)
    return found, results["pixel_sums"].astype("<i4").tobytes() if results is not None else b""
