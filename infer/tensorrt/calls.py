"""Calls of an engine with fixed ranges of shapes, for the views of loaded images: each with a profile and inputs.

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

from ..engine import DeviceImage, EngineError
from ..graph_inputs import Call, Feed, cover_sources, feed_atlas, feed_pixels, feed_taps
from ..pixels.decode import Pixels
from ..pixels.render import count_taps
from ..spec import ModelSpec, Size
from ..views import NumberedView, Rect, ShapeRange, ViewPlan, numbered_views, out_of_range, rescaled_px

DRAWERS = min(8, os.cpu_count() or 1)
"""Threads that rescale the images of an atlas: one core does 400 a second, a GPU more."""
FEW_VIEWS = 4
"""An image with fewer views of one size and scale shares calls with other images."""

Source = tuple[int, tuple[int, Rect | None]]
"""The rescaled image that views are cut from: number of the image, View.source."""


def make_calls(
    image: DeviceImage, plans: Sequence[ViewPlan], spec: ModelSpec, shapes: Sequence[ShapeRange]
) -> Iterator[Call]:
    """The calls for all views of `plans`. Raises EngineError for a view that no profile admits."""
    views = numbered_views(plans)
    by_size: dict[Size, list[int]] = {}
    for place, (_, view) in enumerate(views):
        by_size.setdefault(view.size_px, []).append(place)

    maker = _Maker(image, plans, spec, shapes, views)
    for size, places in by_size.items():
        suited = _suited(size, shapes)
        if not suited:
            raise maker.refused(views[places[0]][0])
        if spec.interface == "views":
            yield from maker.view_calls(places)
        else:
            yield from maker.pixel_calls(places, suited[0])


@dataclass(frozen=True, slots=True)
class _Maker:
    """The views of some images and the engine that they are for."""

    image: DeviceImage
    plans: Sequence[ViewPlan]
    spec: ModelSpec
    shapes: Sequence[ShapeRange]
    views: Sequence[NumberedView]

    def pixel_calls(self, places: Sequence[int], profile: int) -> Iterator[Call]:
        """Calls for views of one size whose pixels the host makes ready."""
        for some in _split(places, self.shapes[profile].views.max):
            pixels = self.image.render([self.views[place] for place in some], self.spec)  # [views, h, w, 3]
            yield Call(some, *feed_pixels(pixels, self.spec), profile)

    def view_calls(self, places: Sequence[int]) -> Iterator[Call]:
        """Calls for views of one size: those of one source share a call, and what is left shares atlases."""
        sources: dict[Source, list[int]] = {}
        for place in places:
            number, view = self.views[place]
            sources.setdefault((number, view.source), []).append(place)
        few = len(places) < FEW_VIEWS * len(sources) and len({number for number, _ in sources}) > 1

        stacked: list[int] = []
        rules = self.spec.preprocessing
        for (number, _), own in sources.items():
            view, pixels = self.views[own[0]][1], self.image.images[number]
            source_px = (pixels.shape[0], pixels.shape[1])
            rescaled = rescaled_px(source_px, view.short_side_px, rules.long_side_rounding)
            profile = None
            if not few and not view.resize_px:
                profile = _profile(view.size_px, source_px, rescaled, self.spec, self.shapes)
            if profile is None:
                stacked += own
                continue
            for some in _split(own, self.shapes[profile].views.max):
                cuts = [(self.views[place][1].cut, self.views[place][1].mirrored) for place in some]
                yield Call(some, feed_taps(pixels, rescaled, rules.filter, cuts), profile=profile)

        for sheet in self.sheets(stacked):
            yield Call(sheet.places, self.atlas(sheet), profile=sheet.profile)

    def sheets(self, places: Sequence[int]) -> Iterator[_Sheet]:
        """Atlases for the sources of these views, which are of one size: few, each with its views."""
        covers = cover_sources(((n, v.source), v.cut) for n, v in (self.views[place] for place in places))
        sheet: _Sheet | None = None
        for place in places:
            number, view = self.views[place]
            source = (number, view.source)
            size = covers[source][2:]

            full = sheet is not None and len(sheet.places) == self.shapes[sheet.profile].views.max
            if sheet is None or full or not sheet.add(source, size):
                if sheet is not None:
                    yield sheet
                sheet = _new_sheet(view.size_px, size, self.shapes)
                if sheet is None:
                    raise self.refused(number)
                sheet.add(source, size)
            sheet.places.append(place)

        if sheet is not None:
            yield sheet

    def atlas(self, sheet: _Sheet) -> Feed:
        """Inputs for the views of a sheet, whose sources are rescaled side by side in threads."""
        own = [self.views[place] for place in sheet.places]
        one_of_each = {(number, view.source): (number, view) for number, view in own}

        def rescale(numbered: NumberedView) -> Pixels:
            number, view = numbered
            return self.image.source(number, view, self.spec)

        with ThreadPoolExecutor(DRAWERS) as pool:  # Pillow lets go of Python's lock
            sources = dict(zip(one_of_each, pool.map(rescale, one_of_each.values()), strict=True))
        return feed_atlas(sources, sheet.origins, [((n, v.source), v.cut, v.mirrored) for n, v in own])

    def refused(self, number: int) -> EngineError:
        """The error of an image that no profile admits."""
        ranges = "; ".join(shape.explain() for shape in self.shapes)
        plan = self.plans[number]
        reason = out_of_range(plan, self.shapes, self.spec) or f"{plan} is beyond the engine's range ({ranges})"
        return EngineError(f"{self.spec.name}: {reason}")


def _suited(size: Size, shapes: Sequence[ShapeRange]) -> list[int]:
    """Profiles that take views of this size; the one whose kernels were tuned at the nearest size comes first."""

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


def _new_sheet(view_px: Size, source_px: Size, shapes: Sequence[ShapeRange]) -> _Sheet | None:
    """An empty sheet for the best profile that takes views of this size and whose atlas holds a source of this size."""
    for number in _suited(view_px, shapes):
        side = min(shapes[number].rescaled_px.max, shapes[number].source_px.max)
        if max(source_px) <= side:
            return _Sheet(number, side)
    return None


def _split(places: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places in as few parts as may be, of nearly the same length."""
    parts = -(-len(places) // most)
    for part in range(parts):
        yield list(places[len(places) * part // parts : len(places) * (part + 1) // parts])
