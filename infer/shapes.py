"""Ranges of shapes that an engine accepts."""

from __future__ import annotations

from dataclasses import dataclass

from .spec import ModelSpec, require

MAX_ASPECT = (8, 3)
"""Widest dense view an engine takes by default, as long : short side."""

MIN_SOURCE_PX = 8
"""Shortest side of a decoded image that is accepted: below it there is no picture to enlarge."""

MAX_SOURCE_PX = 2048
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
    """

    name: str
    views: Extent
    height_px: Extent
    width_px: Extent
    rescaled_px: Extent
    source_px: Extent
    taps: Extent

    def __post_init__(self) -> None:
        for side in (self.height_px, self.width_px):
            require(
                side.max <= self.rescaled_px.max <= self.source_px.max and self.rescaled_px.min <= side.min,
                f"profile {self.name} contradicts itself: views of up to {side.max} px cannot be cut from images of "
                f"{self.rescaled_px.min} to {self.rescaled_px.max} px, uploaded with up to {self.source_px.max} px",
            )

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


def dense_shapes(spec: ModelSpec, short_px: Extent, long_px: Extent) -> tuple[ShapeRange, ShapeRange]:
    """The profiles of a dense view and its mirror, landscape and portrait: far less memory than one square box."""
    views = min(2, spec.max_views or 2)
    pair = Extent(1, views, views)
    image = _image_extents(spec, long_px.opt, long_px.max)
    return (
        ShapeRange("dense landscape", pair, short_px, long_px, *image),
        ShapeRange("dense portrait", pair, long_px, short_px, *image),
    )


def _image_extents(spec: ModelSpec, opt: int, largest: int = 0) -> tuple[Extent, Extent, Extent]:
    """(rescaled_px, source_px, taps) of a profile."""
    side = max(MAX_SOURCE_PX, largest)
    return Extent(spec.crop_px, opt, side), Extent(MIN_SOURCE_PX, 500, side), Extent(1, 7, MAX_TAPS)
