"""Which profile of an engine takes a call: sides, taps, lines and views within its ranges, tuned the nearest."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from ..graph_inputs import PACKED_STEP, PILED_STEP, Call, Feed, piled_rows, profile_entries
from ..pixels.region_taps import Frame, Region, RegionAxes, region_axes
from ..pixels.render import count_taps
from ..spec import Interface, Preprocessing, Size
from ..views import ShapeRange, View, rescaled_px


def square_region(view: View, rules: Preprocessing) -> Region:
    """A resized square, as a region of the rescaled image."""
    return Region(view.box[2:], view.size_px, rules.filter, view.cut, view.mirrored)


def framed_region(view: View, image_px: Size, rules: Preprocessing) -> Region:
    """A view of an image as it was loaded, of `image_px`, whose box is resized."""
    if view.inner is None or view.resize_px is None:
        return square_region(view, rules)
    top, left, height, width = view.inner
    frame = Frame(view.resize_px, (top, left), image_px[0] - 1 - view.box[0], image_px[1] - 1 - view.box[1])
    return Region(view.box[2:], (height, width), rules.filter, (0, 0, height, width), view.mirrored, frame)


def suited_profiles(size: Size, shapes: Sequence[ShapeRange]) -> list[int]:
    """Profiles that take views of this size; the one whose kernels were tuned at the nearest size comes first.

    Of several of one size that which takes the most views in a call does.
    """

    def order(number: int) -> tuple[float, int]:
        tuned = shapes[number].height_px.opt, shapes[number].width_px.opt
        distance = sum(abs(math.log(side / opt)) for side, opt in zip(size, tuned, strict=True))
        return distance, -shapes[number].views.max

    taking = [i for i, shape in enumerate(shapes) if size[0] in shape.height_px and size[1] in shape.width_px]
    return sorted(taking, key=order)


def tuned(call: Call, interface: Interface, shapes: Sequence[ShapeRange]) -> Call:
    """The call with the profile that was tuned for the nearest number of views, of those for views of this size."""
    chosen = shapes[call.profile]
    sides = chosen.height_px, chosen.width_px
    alike = [i for i, shape in enumerate(shapes) if (shape.height_px, shape.width_px) == sides]
    if len(alike) == 1:
        return call
    taking = [i for i in alike if i == call.profile or _takes(shapes[i], interface, call.feed)]
    return call._replace(profile=min(taking, key=lambda i: abs(math.log(len(call.places) / shapes[i].views.opt))))


def _takes(shape: ShapeRange, interface: Interface, feed: Feed) -> bool:
    """Whether all inputs of a call are within a profile."""
    entries = _entries(shape, interface)
    for name, array in feed.items():
        smallest, _, largest = entries[name]
        if not all(low <= n <= high for low, n, high in zip(smallest, array.shape, largest, strict=True)):
            return False
    return True


_entries = functools.lru_cache(maxsize=64)(profile_entries)


def profile_for(
    source_px: Size, views: Sequence[View], rules: Preprocessing, shapes: Sequence[ShapeRange]
) -> int | None:
    """The best profile in which the engine can rescale an image for views of one size and scale, and resize squares."""
    size = rescaled_px(source_px, views[0].short_side_px, rules.long_side_rounding)
    taps = [count_taps(n, m, rules.filter) for n, m in zip(source_px, size, strict=True)]
    for number in suited_profiles(views[0].size_px, shapes):
        shape = shapes[number]
        fits = all(side in shape.source_px for side in source_px) and all(count in shape.taps for count in taps)
        if fits and shape.admits(views[0].size_px, size):
            return number if all(_admits(square_region(v, rules), shape) for v in views if v.resize_px) else None
    return None


def _admits(region: Region, shape: ShapeRange) -> bool:
    """Whether the engine can resize a region in this profile."""
    axes = region_axes(region)
    return _resizes(shape, axes.padded_lines, axes.counts)


def _resizes(shape: ShapeRange, lines: int, taps: tuple[int, int]) -> bool:
    if shape.lines is None or shape.region_taps is None:
        return False
    return lines in shape.lines and all(count in shape.region_taps for count in taps)


def pack_profile(size: Size, image_px: Size, axes: RegionAxes, shapes: tuple[ShapeRange, ...]) -> int | None:
    """The best profile for a view of this size that is a region, with these taps, of a loaded image of `image_px`."""
    return _pack_profile(size, image_px, axes.padded_lines, axes.counts, shapes)


@functools.lru_cache(maxsize=4096)
def _pack_profile(
    size: Size, image_px: Size, lines: int, taps: tuple[int, int], shapes: tuple[ShapeRange, ...]
) -> int | None:
    for number in suited_profiles(size, shapes):
        shape = shapes[number]
        fits = all(side in shape.source_px for side in image_px)
        if fits and math.prod(image_px) <= packed_room(shape) and _resizes(shape, lines, taps):
            return number
    return None


def packed_px(shape: ShapeRange) -> Size:
    """(least height, width) of the images that a profile takes one after the other."""
    side = min(shape.rescaled_px.max, shape.source_px.max)
    return max(shape.rescaled_px.min, shape.source_px.min), side


def packed_room(shape: ShapeRange) -> int:
    """Pixels of images that a profile takes one after the other, in whole steps of rows."""
    _, side = packed_px(shape)
    return side * (side // PACKED_STEP * PACKED_STEP)


def highest_pile(source_px: Size, rescaled: Size, shape: ShapeRange) -> int:
    """How many images of one size a profile takes, one below the other."""
    rows = shape.source_px.max // PILED_STEP * PILED_STEP
    return min(rows // piled_rows(source_px), shape.rescaled_px.max // rescaled[0])
