"""From the views of loaded images to calls of an engine with fixed ranges of shapes: which profile, which inputs.

Views of one image and scale share a call, for which the engine rescales the image. Single views of many images share
one too, as an atlas that the host has rescaled; so does what no profile admits otherwise: large sources, few pixels.
Rescaling is exact, so the result is the same to the bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import DeviceImage, EngineError
from ..graph_inputs import Feed, feed_atlas, feed_taps
from ..pixels.render import normalise, pixel_sums, render, source_of
from ..pixels.taps import count_taps
from ..shapes import ShapeRange
from ..spec import ModelSpec, Size
from ..views import Box, View, ViewPlan, out_of_range, rescaled_px

DRAWERS = min(8, os.cpu_count() or 1)
"""Threads that rescale the images of an atlas: one core does 400 a second, a GPU more."""
FEW_VIEWS = 4
"""An image with fewer views of one size and scale shares calls with other images."""

Numbered = tuple[int, View]
"""A view and the number of its image."""


Source = tuple[int, object]
"""What views are cut from: number of the image, View.source."""


class Call(NamedTuple):
    """One run of the network: places of its views in the plans, number of the profile, inputs; pixel sums where the
    graph has none."""

    places: list[int]
    profile: int
    feed: Feed
    sums: NDArray[np.int32] | None = None


def make_calls(
    image: DeviceImage, plans: Sequence[ViewPlan], spec: ModelSpec, shapes: Sequence[ShapeRange]
) -> Iterator[Call]:
    """The calls for all views of `plans`. Raises EngineError for a view that no profile admits."""
    views = [(number, view) for number, plan in enumerate(plans) for view in plan.views]
    by_size: dict[Size, list[int]] = {}
    for place, (_, view) in enumerate(views):
        by_size.setdefault(view.size_px, []).append(place)
    for size, places in by_size.items():
        suited = _suited(size, shapes)
        if not suited:
            raise _refused(plans[views[places[0]][0]], spec, shapes)
        if spec.interface == "views":
            yield from _view_calls(image, views, places, spec, shapes, plans)
            continue
        for some in _split(places, shapes[suited[0]].views.max):
            own = [views[place] for place in some]
            pixels = np.stack([render(image.images[n], [v], spec, image.rescaled[n])[0] for n, v in own])
            if spec.interface == "images":
                yield Call(some, suited[0], {"images": pixels})
            else:
                yield Call(some, suited[0], {"input": normalise(pixels, spec)}, pixel_sums(pixels))


def _view_calls(
    image: DeviceImage,
    views: Sequence[Numbered],
    places: Sequence[int],
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    plans: Sequence[ViewPlan],
) -> Iterator[Call]:
    """Calls for views of one size."""
    sources: dict[Source, list[int]] = {}
    for place in places:
        number, view = views[place]
        sources.setdefault((number, view.source), []).append(place)
    few = len(places) < FEW_VIEWS * len(sources) and len({number for number, _ in sources}) > 1
    stacked: list[int] = []
    for (number, _), own in sources.items():
        view, pixels = views[own[0]][1], image.images[number]
        source_px = (pixels.shape[0], pixels.shape[1])
        rescaled = rescaled_px(source_px, view.short_side_px, spec.preprocessing.long_side_rounding)
        profile = None if few or view.resize_px else _profile(view.size_px, source_px, rescaled, spec, shapes)
        if profile is None:
            stacked += own
            continue
        for some in _split(own, shapes[profile].views.max):
            cuts = [(views[place][1].cut, views[place][1].mirrored) for place in some]
            yield Call(some, profile, feed_taps(pixels, rescaled, spec.preprocessing.filter, cuts))
    for sheet in _sheets(views, stacked, shapes, spec, plans):
        yield Call(sheet.places, sheet.profile, _atlas(image, views, sheet, spec))


def _suited(size: Size, shapes: Sequence[ShapeRange]) -> list[int]:
    """Profiles that take views of this size; that whose kernels were tuned at the nearest one first."""

    def distance(number: int) -> float:
        tuned = shapes[number].height_px.opt, shapes[number].width_px.opt
        return sum(abs(math.log(side / opt)) for side, opt in zip(size, tuned, strict=True))

    taking = [i for i, shape in enumerate(shapes) if size[0] in shape.height_px and size[1] in shape.width_px]
    return sorted(taking, key=distance)


def _profile(size: Size, source_px: Size, rescaled: Size, spec: ModelSpec, shapes: Sequence[ShapeRange]) -> int | None:
    """The best profile in which the engine can rescale the source itself."""
    taps = [count_taps(n, m, spec.preprocessing.filter) for n, m in zip(source_px, rescaled, strict=True)]
    for number in _suited(size, shapes):
        shape = shapes[number]
        fits = all(side in shape.source_px for side in source_px) and all(count in shape.taps for count in taps)
        if fits and shape.admits(size, rescaled):
            return number
    return None


@dataclass(slots=True)
class _Sheet:
    """An atlas in the making: sources side by side in rows, as far as a profile's sides reach."""

    profile: int
    side: int
    places: list[int] = field(default_factory=list)
    origins: dict[Source, tuple[int, int]] = field(default_factory=dict)
    top: int = 0  # of the row that is being filled
    height: int = 0
    left: int = 0

    def add(self, source: Source, size: Size) -> bool:
        """Finds a place for a source; False where there is none."""
        if source in self.origins:
            return True
        top, left, height = self.top, self.left, self.height
        if left + size[1] > self.side:
            top, left, height = top + height, 0, 0
        if top + size[0] > self.side or size[1] > self.side:
            return False
        self.origins[source] = top, left
        self.top, self.left, self.height = top, left + size[1], max(height, size[0])
        return True


def _sheets(
    views: Sequence[Numbered],
    places: Sequence[int],
    shapes: Sequence[ShapeRange],
    spec: ModelSpec,
    plans: Sequence[ViewPlan],
) -> Iterator[_Sheet]:
    """As few atlases as hold the sources of these views, which are of one size, each with its views."""
    covers = _covers([views[place] for place in places])
    sheet: _Sheet | None = None
    for place in places:
        number, view = views[place]
        source = (number, view.source)
        size = covers[source][2:]
        full = sheet is not None and len(sheet.places) == shapes[sheet.profile].views.max
        if sheet is None or full or not sheet.add(source, size):
            if sheet is not None:
                yield sheet
            sheet = _new_sheet(view.size_px, size, shapes)
            if sheet is None:
                raise _refused(plans[number], spec, shapes)
            sheet.add(source, size)
        sheet.places.append(place)
    if sheet is not None:
        yield sheet


def _new_sheet(view_px: Size, source_px: Size, shapes: Sequence[ShapeRange]) -> _Sheet | None:
    """For the best profile that takes views of this size and whose atlas holds a source of this size."""
    for number in _suited(view_px, shapes):
        side = min(shapes[number].rescaled_px.max, shapes[number].source_px.max)
        if max(source_px) <= side:
            return _Sheet(number, side)
    return None


def _covers(views: Sequence[Numbered]) -> dict[Source, Box]:
    """Of each source the rectangle that its views cover."""
    covers: dict[Source, Box] = {}
    for number, view in views:
        top, left, height, width = view.cut
        old_top, old_left, old_height, old_width = covers.setdefault((number, view.source), view.cut)
        new_top, new_left = min(top, old_top), min(left, old_left)
        bottom, right = max(top + height, old_top + old_height), max(left + width, old_left + old_width)
        covers[number, view.source] = new_top, new_left, bottom - new_top, right - new_left
    return covers


def _atlas(image: DeviceImage, views: Sequence[Numbered], sheet: _Sheet, spec: ModelSpec) -> Feed:
    own = [views[place] for place in sheet.places]
    covers = _covers(own)
    bottom = max(sheet.origins[source][0] + cover[2] for source, cover in covers.items())
    right = max(sheet.origins[source][1] + cover[3] for source, cover in covers.items())
    atlas = np.zeros((bottom, right, 3), np.uint8)

    def draw(numbered: Numbered) -> None:
        number, view = numbered
        (y, x), (top, left, height, width) = sheet.origins[number, view.source], covers[number, view.source]
        pixels = source_of(image.images[number], view, spec, image.rescaled[number])
        atlas[y : y + height, x : x + width] = pixels[top : top + height, left : left + width]

    with ThreadPoolExecutor(DRAWERS) as pool:  # Pillow lets go of Python's lock
        list(pool.map(draw, {(number, view.source): (number, view) for number, view in own}.values()))
    cuts: list[tuple[int, Box, bool]] = []
    for number, view in own:
        (y, x), (top, left, *_) = sheet.origins[number, view.source], covers[number, view.source]
        cuts.append((0, (view.cut[0] - top + y, view.cut[1] - left + x, *view.size_px), view.mirrored))
    return feed_atlas([atlas], cuts)


def _split(places: Sequence[int], most: int) -> Iterator[list[int]]:
    """As few parts as may be, of nearly the same length."""
    parts = -(-len(places) // most)
    for part in range(parts):
        yield list(places[len(places) * part // parts : len(places) * (part + 1) // parts])


def _refused(plan: ViewPlan, spec: ModelSpec, shapes: Sequence[ShapeRange]) -> EngineError:
    ranges = "; ".join(shape.explain() for shape in shapes)
    reason = out_of_range(plan, shapes, spec) or f"{plan} is beyond the engine's range ({ranges})"
    return EngineError(f"{spec.name}: {reason}")
