"""From the views of loaded images to calls of an engine with fixed ranges of shapes: which profile, which inputs.

Views of one image and scale share a call, for which the engine rescales the image. Single views of many images share
one too, as an atlas that the host has rescaled; so does what no profile admits otherwise: large sources, few pixels.
Rescaling is exact, so the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .engine import DeviceImage, EngineError
from .feed import Feed, feed_atlas, feed_taps
from .image import Pixels
from .render import normalise, pixel_sums, render, source_of
from .spec import ModelSpec, ShapeRange
from .taps import count_taps
from .views import Box, Size, View, ViewPlan, out_of_range, rescaled_px

FEW_VIEWS = 4
"""An image with fewer views of one size and scale shares calls with other images."""

Numbered = tuple[int, View]
"""A view and the number of its image."""


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
        profile = next((i for i, s in enumerate(shapes) if size[0] in s.height_px and size[1] in s.width_px), None)
        if profile is None:
            raise _refused(plans[views[places[0]][0]], spec, shapes)
        if spec.interface == "views":
            yield from _view_calls(image, views, places, spec, shapes, plans)
            continue
        for some in _split(places, shapes[profile].views.max):
            own = [views[place] for place in some]
            pixels = np.stack([render(image.images[n], [v], spec, image.rescaled[n])[0] for n, v in own])
            if spec.interface == "images":
                yield Call(some, profile, {"images": pixels})
            else:
                yield Call(some, profile, {"input": normalise(pixels, spec)}, pixel_sums(pixels))


def _view_calls(
    image: DeviceImage,
    views: Sequence[Numbered],
    places: Sequence[int],
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    plans: Sequence[ViewPlan],
) -> Iterator[Call]:
    """Calls for views of one size."""
    sources: dict[tuple[int, object], list[int]] = {}
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
    for profile, some in _stacks(views, stacked, shapes, spec, plans):
        yield Call(some, profile, _atlas(image, [views[place] for place in some], spec))


def _profile(size: Size, source_px: Size, rescaled: Size, spec: ModelSpec, shapes: Sequence[ShapeRange]) -> int | None:
    """The first profile in which the engine can rescale the source itself."""
    taps = [count_taps(n, m, spec.preprocessing.filter) for n, m in zip(source_px, rescaled, strict=True)]
    for number, shape in enumerate(shapes):
        fits = all(side in shape.source_px for side in source_px) and all(count in shape.taps for count in taps)
        if fits and shape.admits(size, rescaled):
            return number
    return None


def _stacks(
    views: Sequence[Numbered],
    places: Sequence[int],
    shapes: Sequence[ShapeRange],
    spec: ModelSpec,
    plans: Sequence[ViewPlan],
) -> Iterator[tuple[int, list[int]]]:
    """(profile, places): as many views as an atlas of their sources holds, which are stacked above each other."""
    covers: dict[tuple[int, object], Box] = {}
    for place in places:
        number, view = views[place]
        top, left, height, width = view.cut
        old = covers.get((number, view.source), (top, left, top, left))
        covers[number, view.source] = (
            *(min(old[0], top), min(old[1], left)),
            *(max(old[2], top + height), max(old[3], left + width)),
        )
    waiting, tall, profile, seen = list[int](), 0, 0, set[tuple[int, object]]()
    for place in places:
        number, view = views[place]
        key = (number, view.source)
        top, left, bottom, right = covers[key]
        height, width = bottom - top, right - left
        more = 0 if key in seen else height
        if waiting and (tall + more > _side(shapes[profile]) or len(waiting) == shapes[profile].views.max):
            yield profile, waiting
            waiting, tall, seen, more = [], 0, set(), height
        if not waiting:
            found = _roomy(view.size_px, (height, width), shapes)
            if found is None:
                raise _refused(plans[number], spec, shapes)
            profile = found
        waiting.append(place)
        tall += more
        seen.add(key)
    if waiting:
        yield profile, waiting


def _side(shape: ShapeRange) -> int:
    """Longest side of an atlas, which is uploaded as it is."""
    return min(shape.rescaled_px.max, shape.source_px.max)


def _roomy(size: Size, cover: Size, shapes: Sequence[ShapeRange]) -> int | None:
    """The first profile for views of this size whose atlas holds a source."""
    for number, shape in enumerate(shapes):
        if size[0] in shape.height_px and size[1] in shape.width_px and max(cover) <= _side(shape):
            return number
    return None


def _atlas(image: DeviceImage, views: Sequence[Numbered], spec: ModelSpec) -> Feed:
    known: dict[tuple[int, object], int] = {}
    sources: list[Pixels] = []
    for number, view in views:
        if (number, view.source) not in known:
            known[number, view.source] = len(sources)
            sources.append(source_of(image.images[number], view, spec, image.rescaled[number]))
    return feed_atlas(sources, [(known[number, view.source], view.cut, view.mirrored) for number, view in views])


def _split(places: Sequence[int], most: int) -> Iterator[list[int]]:
    """As few parts as may be, of nearly the same length."""
    parts = -(-len(places) // most)
    for part in range(parts):
        yield list(places[len(places) * part // parts : len(places) * (part + 1) // parts])


def _refused(plan: ViewPlan, spec: ModelSpec, shapes: Sequence[ShapeRange]) -> EngineError:
    ranges = "; ".join(shape.explain() for shape in shapes)
    reason = out_of_range(plan, shapes, spec) or f"{plan} is beyond the engine's range ({ranges})"
    return EngineError(f"{spec.name}: {reason}")
