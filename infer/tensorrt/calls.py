"""Calls of an engine with fixed ranges of shapes, for the views of loaded images: each with a profile and inputs.

Views of one image and scale share a call, for which the engine rescales the image. Single views of many images share
one too: where the engine's views are regions, it gets the decoded images one after the other and rescales each view of
them, as it resizes GoogLeNet's squares. The host rescales what no profile admits otherwise (large sources, few pixels)
and what an engine without regions cannot, into an atlas. Rescaling is exact, so the result is the same to the bit.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..engine import DeviceImage, EngineError
from ..graph_inputs import (
    Call,
    Feed,
    Packed,
    cover_sources,
    cut_tables,
    feed_atlas,
    feed_packed,
    feed_pile,
    feed_pixels,
    feed_regions,
    resized_tables,
)
from ..pixels.decode import Pixels
from ..pixels.region_taps import Region, RegionAxes, region_axes
from ..processes.cores import usable_cores
from ..spec import ModelSpec, Preprocessing, Size
from ..views import AS_LOADED, NumberedView, Rect, ShapeRange, View, ViewPlan, numbered_views, out_of_range, rescaled_px
from .fitting import (
    framed_region,
    highest_pile,
    pack_profile,
    packed_px,
    packed_room,
    profile_for,
    square_region,
    suited_profiles,
    tuned,
)

DRAWERS = min(8, usable_cores())
"""Threads that rescale the images of an atlas: one core does 400 a second, a GPU more."""
FEW_VIEWS = 4
"""An image with fewer views of one size and scale shares calls with other images."""

VIEW_STEP = 8
"""Calls of regions have a whole number of these, so that there are few shapes to have kernels for."""
PLANS = 64
"""Plans whose calls are kept: most photographs of a data set have one of a few sizes."""

Source = tuple[int, tuple[int, Rect | None, Rect | None]]
"""The rescaled image that views are cut from: number of the image, View.source."""


def make_calls(
    image: DeviceImage, plans: Sequence[ViewPlan], spec: ModelSpec, shapes: Sequence[ShapeRange]
) -> Iterator[Call]:
    """The calls for all views of `plans`. Raises EngineError for a view that no profile admits."""
    maker = _Maker(image, plans, spec, tuple(shapes), numbered_views(plans))
    left: Sequence[int] = range(len(maker.views))
    if spec.interface == "views":
        own, left = maker.own_calls()
        yield from own

    by_size: dict[Size, list[int]] = {}
    for place in left:
        by_size.setdefault(maker.views[place][1].size_px, []).append(place)
    for size, places in by_size.items():
        suited = suited_profiles(size, shapes)
        if not suited:
            raise maker.refused(maker.views[places[0]][0])
        calls = maker.shared_calls(places) if spec.interface == "views" else maker.pixel_calls(places, suited[0])
        for call in calls:
            yield tuned(call, spec.interface, shapes)


class _OwnCall(NamedTuple):
    """A call for views of one image, by their places in its plan, with all inputs but the image."""

    places: Sequence[int]
    tables: Feed
    profile: int


@functools.lru_cache(maxsize=PLANS)
def _own_calls(
    plan: ViewPlan, several: bool, rules: Preprocessing, shapes: tuple[ShapeRange, ...]
) -> tuple[list[_OwnCall], list[int]]:
    """(calls for those views of an image that share one with each other, places of the others).

    The engine rescales the image to the scale of a call, and resizes squares of it. several: other images are loaded,
    with which few views share calls.
    """
    by_size: dict[Size, list[int]] = {}
    for place, view in enumerate(plan.views):
        by_size.setdefault(view.size_px, []).append(place)

    calls: list[_OwnCall] = []
    left: list[int] = []
    for places in by_size.values():
        if several and len(places) < FEW_VIEWS * len({plan.views[place].source for place in places}):
            left += places
            continue
        by_scale: dict[tuple[int, bool], list[int]] = {}
        for place in places:
            view = plan.views[place]
            by_scale.setdefault((view.short_side_px, bool(view.resize_px)), []).append(place)
        for own in by_scale.values():
            views = [plan.views[place] for place in own]
            profile = profile_for(plan.image_px, views, rules, shapes)
            if profile is None:
                left += own
                continue
            for some in _split(own, shapes[profile].views.max):
                tables = _tables(plan.image_px, [plan.views[place] for place in some], rules, shapes)
                any_image = np.broadcast_to(np.uint8(0), (*plan.image_px, 3))
                call = tuned(Call(some, {"image": any_image, **tables}, profile=profile), "views", shapes)
                calls.append(_OwnCall(some, tables, call.profile))
    return calls, left


def _tables(source_px: Size, views: Sequence[View], rules: Preprocessing, shapes: Sequence[ShapeRange]) -> Feed:
    """Inputs for views of one image and scale, which are squares of it, resized, or cut from it."""
    size = rescaled_px(source_px, views[0].short_side_px, rules.long_side_rounding)
    if views[0].resize_px:
        return resized_tables(
            source_px, size, rules.filter, [(view.box[:2], square_region(view, rules)) for view in views]
        )
    cuts = [(view.cut, view.mirrored) for view in views]
    return cut_tables(source_px, size, rules.filter, cuts, regions=shapes[0].lines is not None)


@dataclass(frozen=True, slots=True)
class _Maker:
    """The views of some images and the engine that they are for."""

    image: DeviceImage
    plans: Sequence[ViewPlan]
    spec: ModelSpec
    shapes: tuple[ShapeRange, ...]
    views: Sequence[NumberedView]

    def pixel_calls(self, places: Sequence[int], profile: int) -> Iterator[Call]:
        """Calls for views of one size whose pixels the host makes ready."""
        for some in _split(places, self.shapes[profile].views.max):
            pixels = self.image.render([self.views[place] for place in some], self.spec)  # [views, h, w, 3]
            yield Call(some, *feed_pixels(pixels, self.spec), profile)

    def own_calls(self) -> tuple[list[Call], list[int]]:
        """(calls that are of one image each, places of the other views)."""
        calls: list[Call] = []
        left: list[int] = []
        first = 0
        for pixels, plan in zip(self.image.images, self.plans, strict=True):
            if plan.views and plan.views[0].short_side_px == AS_LOADED:  # regions, whose tables are never kept
                left += range(first, first + len(plan))
                first += len(plan)
                continue
            own, others = _own_calls(plan, len(self.plans) > 1, self.spec.preprocessing, self.shapes)
            for call in own:
                places = [first + place for place in call.places]
                calls.append(Call(places, {"image": pixels, **call.tables}, profile=call.profile))
            left += [first + place for place in others]
            first += len(plan)
        return calls, left

    def shared_calls(self, places: Sequence[int]) -> Iterator[Call]:
        """Calls for views of one size that images share."""
        region_packs, others = self.region_packs(places)
        for pack in region_packs:
            yield self.region_call(pack)
        packs, others = self.packs(others)
        for pack in packs:
            yield self.packed_call(pack)
        piles, others = self.piles(others)
        for pile in piles:
            yield self.piled_call(pile)
        for sheet in self.sheets(others):
            yield Call(sheet.places, self.atlas(sheet), profile=sheet.profile)

    # Views of several images: regions of the decoded ones, each rescaled for itself

    def region_packs(self, places: Sequence[int]) -> tuple[list[_Pack], list[int]]:
        """(calls to be for regions of loaded images, places of the other views).

        Those of one image that are made of as many lines share a call, so that few are made for nothing.
        """
        left = [place for place in places if self.views[place][1].short_side_px != AS_LOADED]
        by_image: dict[int, list[_Item]] = {}
        for place in places:
            number, view = self.views[place]
            if view.short_side_px != AS_LOADED:
                continue
            image_px = self.source_px(number)
            region = framed_region(view, image_px, self.spec.preprocessing)
            axes = region_axes(region)
            profile = pack_profile(view.size_px, image_px, axes, self.shapes)
            if profile is None:
                left.append(place)
            else:
                by_image.setdefault(number, []).append(_Item(profile, place, number, region, axes, image_px))

        packs: list[_Pack] = []
        for items in by_image.values():
            for item in sorted(items, key=lambda item: (item.profile, item.axes.counts, item.axes.lines)):
                if not packs or not packs[-1].add(item):
                    packs.append(_Pack(self.shapes[item.profile]))
                    packs[-1].add(item)
        return packs, left

    def region_call(self, pack: _Pack) -> Call:
        numbers = pack.numbers
        views = []
        for item in pack.items:
            top, left, _, _ = self.views[item.place][1].box
            views.append((numbers.index(item.number), (top, left), item.axes))
        feed = feed_regions(self.packed(numbers, *packed_px(pack.shape)), views)
        return Call([item.place for item in pack.items], feed, profile=pack.items[0].profile)

    def packs(self, places: Sequence[int]) -> tuple[list[_Pack], list[int]]:
        """(calls to be, places of the views that cannot be regions of their decoded images)."""
        packs: list[_Pack] = []
        left: list[int] = []

        def begin(items: Sequence[_Item]) -> None:
            """Puts items into new packs."""
            packs.append(_Pack(self.shapes[items[0].profile]))
            for item in items:
                if not packs[-1].add(item):
                    packs.append(_Pack(self.shapes[item.profile]))
                    packs[-1].add(item)

        for place in places:
            number, view = self.views[place]
            source_px, size = self.source_px(number), self.rescaled_px(number, view)
            region = Region(source_px, size, self.spec.preprocessing.filter, view.cut, view.mirrored)
            axes = region_axes(region)
            profile = None if view.resize_px else pack_profile(view.size_px, source_px, axes, self.shapes)
            if profile is None:
                left.append(place)
                continue
            item = _Item(profile, place, number, region, axes, source_px)
            if not packs:
                begin([item])
            elif not packs[-1].add(item):
                begin([*packs[-1].spill(), item])
        return packs, left

    def packed_call(self, pack: _Pack) -> Call:
        numbers = pack.numbers
        views = [(numbers.index(item.number), item.region) for item in pack.items]
        feed = feed_packed(self.packed(numbers, *packed_px(pack.shape)), views)
        return Call([item.place for item in pack.items], feed, profile=pack.items[0].profile)

    def packed(self, numbers: Sequence[int], least_px: int, width_px: int, *, piled: bool = False) -> Packed:
        """Images one after the other; the same object for all calls that have the same ones."""
        key = tuple(numbers), least_px, width_px, piled
        if key not in self.image.uploads:
            images = tuple(self.image.images[number] for number in numbers)
            self.image.uploads[key] = Packed(images, least_px, width_px, piled=piled)
        packed: Packed = self.image.uploads[key]
        return packed

    # Dense views of several images of one size: the images, one below the other, are one that is rescaled

    def piles(self, places: Sequence[int]) -> tuple[list[_Pile], list[int]]:
        """(calls to be, places of the other views), for dense views whose images the engine can rescale.

        The same images share the calls of every scale, so that they go up once. An image with more views than a call
        takes has several.
        """
        by_size: dict[tuple[Size, int], dict[int, list[int]]] = {}  # then by image
        left: list[int] = []
        for place in places:
            number, view = self.views[place]
            if view in self.piling(number).profiles:
                by_size.setdefault((self.source_px(number), view.short_side_px), {}).setdefault(number, []).append(
                    place
                )
            else:
                left.append(place)

        piles = []
        for by_image in by_size.values():
            number, own = next(iter(by_image.items()))
            for some in _split(list(by_image), min(self.piling(number).most for number in by_image)):
                profile = self.piling(number).profiles[self.views[own[0]][1]]
                if len(some) > 1:
                    piles.append(_Pile(profile, {number: by_image[number] for number in some}))
                    continue
                parts = _split(by_image[some[0]], self.shapes[profile].views.max)
                piles += [_Pile(profile, {some[0]: part}) for part in parts]
        return piles, left

    def piling(self, number: int) -> _Piling:
        return _piling(self.plans[number], self.spec.preprocessing, self.shapes)

    def piled_call(self, pile: _Pile) -> Call:
        places = [place for own in pile.places.values() for place in own]
        number, first = self.views[places[0]]
        size, filter = self.rescaled_px(number, first), self.spec.preprocessing.filter
        if len(pile.places) == 1:
            views = [self.views[place][1] for place in places]
            tables = _tables(self.source_px(number), views, self.spec.preprocessing, self.shapes)
            return Call(places, {"image": self.image.images[number], **tables}, profile=pile.profile)
        level = {number: level for level, number in enumerate(pile.places)}
        cuts = [(level[n], view.cut, view.mirrored) for n, view in (self.views[place] for place in places)]
        packed = self.packed(list(pile.places), 1, self.source_px(number)[1], piled=True)
        return Call(places, feed_pile(packed, size, filter, cuts, regions=self.with_regions), profile=pile.profile)

    # What is left: views of atlases that the host makes

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
        cuts = [((n, v.source), v.cut, v.mirrored) for n, v in own]
        return feed_atlas(sources, sheet.origins, cuts, regions=self.with_regions)

    # What a view needs

    @property
    def with_regions(self) -> bool:
        """Whether the engine's views are regions."""
        return self.shapes[0].lines is not None

    def source_px(self, number: int) -> Size:
        height, width, _ = self.image.images[number].shape
        return height, width

    def rescaled_px(self, number: int, view: View) -> Size:
        rounding = self.spec.preprocessing.long_side_rounding
        return rescaled_px(self.source_px(number), view.short_side_px, rounding)

    def refused(self, number: int) -> EngineError:
        """The error of an image that no profile admits."""
        ranges = "; ".join(shape.explain() for shape in self.shapes)
        plan = self.plans[number]
        reason = out_of_range(plan, self.shapes, self.spec) or f"{plan} is beyond the engine's range ({ranges})"
        return EngineError(f"{self.spec.name}: {reason}")


class _Item(NamedTuple):
    """A view that is a region of the loaded image `number`, of `image_px`."""

    profile: int
    place: int
    number: int
    region: Region
    axes: RegionAxes
    image_px: Size


@dataclass(slots=True)
class _Pack:
    """A call in the making for regions of several decoded images, as many as a profile's sides hold."""

    shape: ShapeRange
    items: list[_Item] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)  # of views by image
    pixels: int = 0  # of these images

    @property
    def numbers(self) -> list[int]:
        """The images, each once, in order."""
        return list(dict.fromkeys(item.number for item in self.items))

    def add(self, item: _Item) -> bool:
        """Takes a view; False where there is no room."""
        more = 0 if self.counts[item.number] else math.prod(item.image_px)
        full = len(self.items) == self.shape.views.max or self.pixels + more > packed_room(self.shape)
        if full or (self.items and self.items[0].profile != item.profile):
            return False
        self.items.append(item)
        self.counts[item.number] += 1
        self.pixels += more
        return True

    def spill(self) -> list[_Item]:
        """Gives back what is more than a whole number of VIEW_STEP, where that leaves something."""
        kept = len(self.items) // VIEW_STEP * VIEW_STEP
        if kept == 0 or len(self.items) == self.shape.views.max:
            return []
        spilled = self.items[kept:]
        del self.items[kept:]
        for item in spilled:
            self.counts[item.number] -= 1
            self.pixels -= 0 if self.counts[item.number] else math.prod(item.image_px)
        return spilled


class _Piling(NamedTuple):
    """The profile of each dense view of a plan, and how many such images share a call where it is fewest."""

    profiles: dict[View, int]
    most: int


@functools.lru_cache(maxsize=PLANS)
def _piling(plan: ViewPlan, rules: Preprocessing, shapes: tuple[ShapeRange, ...]) -> _Piling:
    found = {view: profile_for(plan.image_px, [view], rules, shapes) for view in plan.views if not view.resize_px}
    profiles = {view: number for view, number in found.items() if number is not None and shapes[number].dense}
    together = Counter(view.short_side_px for view in profiles)
    most = []
    for view, number in profiles.items():
        size = rescaled_px(plan.image_px, view.short_side_px, rules.long_side_rounding)
        high = highest_pile(plan.image_px, size, shapes[number])
        most.append(min(high, shapes[number].views.max // together[view.short_side_px]))
    return _Piling(profiles, max(1, min(most, default=1)))


class _Pile(NamedTuple):
    """A call to be, for views of images of one size: their places by the number of the image."""

    profile: int
    places: dict[int, list[int]]


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
    for number in suited_profiles(view_px, shapes):
        side = min(shapes[number].rescaled_px.max, shapes[number].source_px.max)
        if max(source_px) <= side:
            return _Sheet(number, side)
    return None


def _split(places: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places in as few parts as may be, of nearly the same length."""
    parts = -(-len(places) // most)
    for part in range(parts):
        yield list(places[len(places) * part // parts : len(places) * (part + 1) // parts])
