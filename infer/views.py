"""Pure geometry: which pixels each protocol looks at, as a plan of weighted views, and which shapes an engine accepts.

A protocol of either paper is nothing but a list of views of the rescaled image. Everything is integer arithmetic on
the image's size, so Python, C++ and every runtime plan the same; nothing here touches a pixel.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .spec import LARGEST_PX, LARGEST_TEST_PX, ModelSpec, Size, require

# Ranges of shapes that an engine accepts

MAX_ASPECT = (8, 3)
"""Widest dense view an engine takes by default, as long : short side."""

MIN_SOURCE_PX = 8
"""Shortest side of a decoded image that is accepted: below it there is no picture to enlarge."""

MAX_SOURCE_PX = LARGEST_TEST_PX
"""Longest side of an image, uploaded or rescaled, that an engine takes by default.

A larger one is rescaled on the host. An engine's memory grows with the square: 400 MB at 4096, 100 MB here.
"""

MAX_TAPS = 41
"""Filter taps an axis: bicubic shrinking by up to 10."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A dynamic dimension's range: from `min` to `max`, tuned at `opt`."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        require(0 < self.min <= self.opt <= self.max, f"expected 0 < min <= opt <= max, got {self}")

    def __contains__(self, value: int) -> bool:
        return self.min <= value <= self.max


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """One optimisation profile of an engine; every dynamic dimension of the graph follows from it.

    It bounds the number and size of the views, the sides of the rescaled image (or atlas) that they are cut from, the
    sides of the image that is uploaded, and the filter taps a side. A larger source is rescaled on the host and
    uploaded with identity taps.

    An engine whose views are regions (graph_inputs.py) resizes each once more: `lines` bounds those of the image that a
    view is made of, `region_taps` the taps of that pass. Both are None for an engine that cuts views alone.
    """

    name: str
    views: Extent
    height_px: Extent
    width_px: Extent
    rescaled_px: Extent
    source_px: Extent
    taps: Extent
    lines: Extent | None = None
    region_taps: Extent | None = None

    def __post_init__(self) -> None:
        for side in (self.height_px, self.width_px):
            require(
                side.max <= self.rescaled_px.max <= self.source_px.max and self.rescaled_px.min <= side.min,
                f"profile {self.name} contradicts itself: views of up to {side.max} px cannot be cut from images of "
                f"{self.rescaled_px.min} to {self.rescaled_px.max} px, uploaded with up to {self.source_px.max} px",
            )

    @property
    def dense(self) -> bool:
        """Whether it is of views of several sizes, not of crops."""
        return self.height_px != self.width_px or self.height_px.min < self.height_px.max

    def admits(self, view_px: tuple[int, int], rescaled_px: tuple[int, int]) -> bool:
        """True where a view (height, width) of a rescaled image (height, width) fits."""
        in_view = view_px[0] in self.height_px and view_px[1] in self.width_px
        return in_view and all(side in self.rescaled_px for side in rescaled_px)

    def explain(self) -> str:
        h, w = self.height_px, self.width_px
        return f"{self.name}: views of {h.min}x{w.min} to {h.max}x{w.max} px"


def default_shapes(spec: ModelSpec, largest_short_px: int = 0) -> tuple[ShapeRange, ...]:
    """Ranges for every protocol: crops, and dense views of landscape and portrait images up to MAX_ASPECT.

    A net of fixed size has crops alone. The short side goes up to the largest of the model's own Q sets, or
    `largest_short_px` where that is more.
    """
    if spec.fixed_size:
        return (crops_shape(spec),)

    low, high = spec.train_range_px
    widened = high + (32 * spec.crop_px // 224 if low == high else 0)
    largest = max(512 * spec.crop_px // 224, widened, spec.test_short_px, largest_short_px)
    long = largest * MAX_ASPECT[0] // MAX_ASPECT[1]
    opt = max(spec.test_short_px, spec.crop_px)

    return (
        crops_shape(spec),
        *dense_shapes(spec, Extent(spec.crop_px, opt, largest), Extent(spec.crop_px, min(opt * 4 // 3, long), long)),
    )


def crops_shape(spec: ModelSpec, views: int = 50) -> ShapeRange:
    """The profile of crops: up to `views` of crop_px x crop_px, or as many as the net takes."""
    views = min(views, spec.max_views or views)
    square = Extent(spec.crop_px, spec.crop_px, spec.crop_px)
    return ShapeRange("crops", Extent(1, views, views), square, square, *_image_extents(spec, spec.test_short_px))


FEW_CROPS = 8
"""Crops of a call for which engines have a profile of their own."""


def few_crops_shape(spec: ModelSpec, views: int = FEW_CROPS) -> ShapeRange:
    """The profile of crops in calls of one view or few, as an app makes them; it is tuned for half of `views`."""
    shape = crops_shape(spec, views)
    return replace(shape, name="few crops", views=Extent(1, max(1, shape.views.max // 2), shape.views.max))


DENSE_PAIR, DENSE_VIEWS = 2, 16
"""Dense views of a call: an image and its mirror, and what images of one size share on a GPU."""


def dense_shapes(
    spec: ModelSpec, short_px: Extent, long_px: Extent, views: int = DENSE_PAIR
) -> tuple[ShapeRange, ShapeRange]:
    """The profiles of dense views, landscape and portrait: far less memory than one square box.

    Up to so many `views` share a call, or as many as the net takes; it is tuned for half of them.
    """
    views = min(views, spec.max_views or views)
    pair = Extent(1, max(min(views, DENSE_PAIR), views // 2), views)
    image = _image_extents(spec, long_px.opt, long_px.max)
    return (
        ShapeRange("dense landscape", pair, short_px, long_px, *image),
        ShapeRange("dense portrait", pair, long_px, short_px, *image),
    )


REGION_TAPS = 24
"""Filter taps an axis of a region's own pass: bicubic shrinking by up to 5."""
MAX_ELEMENTS = 2**31 - 1
"""TensorRT counts the elements of a tensor in 32 bits. Its builder accepts more, which is no promise that they work."""


def with_regions(shape: ShapeRange) -> ShapeRange:
    """The profile for views that are regions: crops may each be resized, dense views are cut from the image as it is.

    As many lines as the largest tensor of that pass allows, 3 x taps x views x lines x columns; of more views than
    would leave a crop's own lines, none is resized.
    """
    crop_px = shape.width_px.max
    most = min(shape.source_px.max, MAX_ELEMENTS // (3 * REGION_TAPS * shape.views.max * crop_px))
    if shape.dense or most < 2 * crop_px:
        return replace(shape, lines=shape.height_px, region_taps=Extent(1, 1, 1))
    return replace(shape, lines=Extent(1, crop_px * 3 // 2, most), region_taps=Extent(1, 1, REGION_TAPS))


def _image_extents(spec: ModelSpec, opt: int, largest: int = 0) -> tuple[Extent, Extent, Extent]:
    """(rescaled_px, source_px, taps) of a profile."""
    side = max(MAX_SOURCE_PX, largest)
    return Extent(spec.crop_px, opt, side), Extent(MIN_SOURCE_PX, 500, side), Extent(1, 7, MAX_TAPS)


# Views

Rect = tuple[int, int, int, int]
"""(top, left, height, width) in the rescaled image."""
AS_LOADED = 0
"""View.short_side_px of a view of the image as it was loaded, which nothing rescales."""


class PlanError(UsageError):
    """A protocol that cannot be planned for a model or an image; one line."""


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of the image rescaled to `short_side_px`, perhaps resized to a square and mirrored.

    A view whose `box` is the whole rescaled image is dense. `weight` is the view's share of the posterior. A region
    (regions.py) is of the image AS_LOADED; its box may fill only the rectangle `inner` of the square, around which is
    the colour of the image's last pixel.
    """

    short_side_px: int
    box: Rect
    resize_px: int | None = None
    mirrored: bool = False
    weight: float = 1.0
    inner: Rect | None = None

    @property
    def size_px(self) -> Size:
        """(height, width) of the network's input."""
        return (self.resize_px, self.resize_px) if self.resize_px else self.box[2:]

    @property
    def resized_px(self) -> Size:
        """(height, width) of what the box is resized to, if it is."""
        return self.inner[2:] if self.inner else self.size_px

    @property
    def source(self) -> tuple[int, Rect | None, Rect | None]:
        """The scale that the view is cut from, the rectangle of it that is resized first, if any, and its place."""
        return self.short_side_px, (self.box if self.resize_px else None), self.inner

    @property
    def cut(self) -> Rect:
        """The view's rectangle in its source."""
        return (0, 0, *self.size_px) if self.resize_px else self.box


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The views of one image of size `image_px` for one protocol; weights sum to 1."""

    protocol: str
    image_px: Size
    views: tuple[View, ...]
    _hash: int = field(init=False, repr=False, compare=False)  # of many views, for those who look plans up

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.protocol, self.image_px, self.views)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return ViewPlan, (self.protocol, self.image_px, self.views)  # another process hashes otherwise

    def __len__(self) -> int:
        return len(self.views)

    def __str__(self) -> str:
        h, w = self.image_px
        counts = Counter((view.short_side_px, view.size_px) for view in self.views)
        parts = [f"{n} of {vh}x{vw} at Q={q}" for (q, (vh, vw)), n in counts.items()]
        return f"{self.protocol} of a {h}x{w} px image: {len(self)} views ({', '.join(parts)})"


NumberedView = tuple[int, View]
"""The number of an image and a view of it."""


def numbered_views(plans: Sequence[ViewPlan]) -> list[NumberedView]:
    """The views of several images, one plan for each, those of the first image first."""
    return [(number, view) for number, plan in enumerate(plans) for view in plan.views]


def rescaled_px(image_px: Size, short_side_px: int, long_side_rounding: str) -> Size:
    """Size after isotropic rescaling: the shorter side exactly Q. AS_LOADED leaves it.

    The longer is rounded to the nearest integer for our nets, (long * Q + short // 2) // short, and down for
    torchvision's.
    """
    if short_side_px == AS_LOADED:
        return image_px
    short, long = sorted(image_px)
    half = short // 2 if long_side_rounding == "nearest" else 0
    rescaled_long = (long * short_side_px + half) // short
    return (short_side_px, rescaled_long) if image_px[0] <= image_px[1] else (rescaled_long, short_side_px)


def _center_offset(side: int, crop: int, rounding: str) -> int:
    """torchvision rounds the half offset to even: int(round((side - crop) / 2.0))."""
    return round(Fraction(side - crop, 2)) if rounding == "torchvision" else (side - crop) // 2


# Each method of a protocol lists its views of an image of `size`, whose shorter side is `q`, for one scale.


def _center(size: Size, q: int, spec: ModelSpec) -> list[View]:
    crop, rounding = spec.crop_px, spec.preprocessing.center_rounding
    top, left = (_center_offset(side, crop, rounding) for side in size)
    return [View(q, (top, left, crop, crop))]


def _mirror_pairs(views: Sequence[View]) -> list[View]:
    return [pair for view in views for pair in (view, replace(view, mirrored=True))]


def _corners_and_center(size: Size, q: int, spec: ModelSpec) -> list[View]:
    crop = spec.crop_px
    bottom, right = size[0] - crop, size[1] - crop
    corners = [View(q, (top, left, crop, crop)) for top in (0, bottom) for left in (0, right)]
    return corners + _center(size, q, spec)


def _ten_crop(size: Size, q: int, spec: ModelSpec) -> list[View]:
    """Four corners and the centre of the rescaled image, and their mirrors (Krizhevsky 2012)."""
    return _mirror_pairs(_corners_and_center(size, q, spec))


def _dense(size: Size, q: int, spec: ModelSpec) -> list[View]:
    """The whole rescaled image and its mirror (VGG section 3.2)."""
    return _mirror_pairs([View(q, (0, 0, *size))])


def _multicrop(size: Size, q: int, spec: ModelSpec) -> list[View]:
    """A regular 5x5 grid of crops and their mirrors: 50 views (VGG section 3.2)."""
    crop, n = spec.crop_px, 5
    tops, lefts = ([i * (side - crop) // (n - 1) for i in range(n)] for side in size)
    return _mirror_pairs([View(q, (top, left, crop, crop)) for top in tops for left in lefts])


def _googlenet_squares(size: Size, q: int, spec: ModelSpec) -> list[View]:
    """Three squares along the longer side, each with four corners, the centre and the whole, resized (GoogLeNet, 7)."""
    views = []
    long = max(size)

    for offset in (0, (long - q) // 2, long - q):
        origin = (0, offset) if size[1] >= size[0] else (offset, 0)
        for view in _corners_and_center((q, q), q, spec):
            top, left, height, width = view.box
            views.append(View(q, (origin[0] + top, origin[1] + left, height, width)))
        views.append(View(q, (*origin, q, q), resize_px=spec.crop_px))
    return _mirror_pairs(views)


Planner = Callable[[Size, int, ModelSpec], list[View]]

PROTOCOLS: dict[str, tuple[Planner, ...]] = {
    "center": (_center,),
    "ten-crop": (_ten_crop,),
    "dense": (_dense,),
    "multicrop": (_multicrop,),
    "multicrop+dense": (_multicrop, _dense),
    "googlenet-144": (_googlenet_squares,),
}
"""The methods whose posteriors each protocol averages. Within a method all views of all scales weigh the same."""

SINGLE_SCALE = ("center", "ten-crop")
"""Protocols that are evaluated at test_short_px unless scales are named."""


def default_scales(spec: ModelSpec, protocol: str) -> tuple[int, ...]:
    """The paper's Q set for a model and protocol (VGG sections 4.1-4.3, GoogLeNet section 7).

    test_short_px for single-scale protocols; else {S-d, S, S+d} with d = 32 for a fixed S, {a, (a+b)/2, b} for a
    jittered one, and GoogLeNet's {256, 288, 320, 352}. For another crop than 224, d and GoogLeNet's set are scaled.
    """
    if protocol in SINGLE_SCALE:
        return (spec.test_short_px,)
    if protocol == "googlenet-144":
        return tuple(q * spec.crop_px // 224 for q in (256, 288, 320, 352))

    low, high = spec.train_range_px
    if low != high:
        return (low, (low + high) // 2, high)

    d = 32 * spec.crop_px // 224
    return tuple(dict.fromkeys((max(low - d, spec.crop_px), low, low + d)))


def check_scales(spec: ModelSpec, scales: Sequence[int]) -> None:
    """Raises PlanError where there are no scales, one twice, one below the crop, or one that no image has."""
    if not scales or len(set(scales)) != len(scales):
        raise PlanError(f"scales must be different positive integers, got {','.join(map(str, scales)) or 'none'}")
    for q in scales:
        if q < spec.crop_px:
            raise PlanError(
                f"scale {q} px is below the crop of {spec.crop_px} px that {spec.name} needs: "
                f"use --scales of {spec.crop_px} or more"
            )
        if q > LARGEST_PX:
            raise PlanError(f"scale {reprlib.repr(q)} px: expected at most {LARGEST_PX}")


class MergedPlan(NamedTuple):
    """Several plans of one image as one, so that a view they share runs once.

    `weights` f64 [plans, views], each row summing to 1; `places[i]` are the views of plan i in its own order.
    """

    plan: ViewPlan
    weights: NDArray[np.float64]
    places: list[list[int]]


def merge_plans(image_px: Size, plans: Sequence[ViewPlan]) -> MergedPlan:
    """One plan with every distinct view of `plans`, all of one image; there may be no plans."""
    distinct: dict[View, int] = {}  # place of each view, whatever its weights
    places = []
    for plan in plans:
        places.append([distinct.setdefault(replace(view, weight=1.0), len(distinct)) for view in plan.views])

    weights = np.zeros((len(plans), len(distinct)))  # [plans, views]
    for row, plan, own in zip(weights, plans, places, strict=True):
        np.add.at(row, own, [view.weight for view in plan.views])
    names = ",".join(plan.protocol for plan in plans)
    return MergedPlan(ViewPlan(names, image_px, tuple(distinct)), weights, places)


def out_of_range(plan: ViewPlan, shapes: Sequence[ShapeRange], spec: ModelSpec) -> str | None:
    """The reason why an engine with these shapes cannot see the image, as one line; None if it can."""
    height, width = plan.image_px
    image = f"image {height}x{width} px"
    if min(height, width) < MIN_SOURCE_PX:
        return f"{image} is too small to show anything: at least {MIN_SOURCE_PX} px a side"

    rounding = spec.preprocessing.long_side_rounding
    for q, view_px in dict.fromkeys((view.short_side_px, view.size_px) for view in plan.views):
        rescaled = rescaled_px(plan.image_px, q, rounding)
        if q == AS_LOADED:  # regions, each resized for itself from whatever size
            rescaled = view_px
        if any(shape.admits(view_px, rescaled) for shape in shapes):
            continue
        ranges = "; ".join(shape.explain() for shape in shapes)
        crops = view_px == (spec.crop_px, spec.crop_px) or spec.task != "classify"
        instead = "smaller --scales" if crops else "--protocol multicrop"
        rebuild = "" if spec.fixed_size and not crops else ", or rebuild the engine with a larger --profile"
        return (
            f"{image} at Q={q} needs a view of {view_px[0]}x{view_px[1]} px from {rescaled[0]}x{rescaled[1]} px, "
            f"beyond the engine's range ({ranges}; sides up to {max(s.rescaled_px.max for s in shapes)} px): "
            f"use {instead}{rebuild}"
        )
    return None


LONG_PX = 1000
ASPECTS_PERCENT = 400
"""Images that `check_protocol` tries: squares first, then up to 4:1, beyond which engines have no profiles."""


def check_protocol(spec: ModelSpec, shapes: Sequence[ShapeRange], protocol: str, scales: Sequence[int]) -> None:
    """Raises PlanError where an engine with these shapes can see no image at all by a protocol, whatever its size."""
    reason: str | None = None
    for percent in range(100, ASPECTS_PERCENT + 1, 5):
        for size in ((LONG_PX, LONG_PX * percent // 100), (LONG_PX * percent // 100, LONG_PX)):
            own = out_of_range(plan_views(spec, protocol, size, scales), shapes, spec)
            if own is None:
                return
            reason = reason or own
    crops = "a net of fixed size sees crops alone" if spec.fixed_size else "its range is too small"
    raise PlanError(
        f"{spec.name}: {protocol} at Q={','.join(map(str, scales))} can see no image of any size ({crops}: {reason})"
    )


def plan_views(spec: ModelSpec, protocol: str, image_px: Size, scales: Sequence[int] | None = None) -> ViewPlan:
    """The views of one image. Raises PlanError for an unknown protocol or a scale below the crop."""
    if protocol not in PROTOCOLS:
        raise PlanError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    scales = default_scales(spec, protocol) if scales is None else tuple(scales)
    check_scales(spec, scales)

    methods = PROTOCOLS[protocol]
    rounding = spec.preprocessing.long_side_rounding
    views: list[View] = []
    for method in methods:  # methods weigh the same, and so do all views of a method
        found: list[View] = []
        for q in scales:
            found += method(rescaled_px(image_px, q, rounding), q, spec)
        views += [replace(view, weight=1 / (len(methods) * len(found))) for view in found]

    assert math.isclose(sum(view.weight for view in views), 1)
    return ViewPlan(protocol, image_px, tuple(views))
