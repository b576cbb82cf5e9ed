"""Inputs of the view graph (export/graph/frame.py) for views of decoded images: index tables, taps, atlases.

Rescaling is exact wherever it runs, so there are two kinds of input with the same result. Either the graph rescales one
image to one scale by taps, or the host has rescaled images and puts them into one atlas, which identity taps leave as
it is.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .pixels.decode import Pixels
from .pixels.region_taps import OUTSIDE, Region, RegionAxes, region_axes
from .pixels.render import (
    AXES,
    PRECISION_BITS,
    Taps,
    identity_taps,
    make_taps,
    normalise,
    pixel_sums,
    read_only,
)
from .spec import Filter, Interface, ModelSpec, Size
from .views import Extent, Rect, ShapeRange

TypeName = Literal["uint8", "int32", "float32"]
Shape = tuple[int | str, ...]

_VIEWS = ("views", "view_height", "view_width")
INPUTS: dict[Interface, dict[str, tuple[TypeName, Shape]]] = {
    "views": {
        "image": ("uint8", ("source_height", "source_width", 3)),
        "col_first": ("int32", ("width",)),
        "col_taps": ("int32", ("col_taps", "width")),
        "row_first": ("int32", ("height",)),
        "row_taps": ("int32", ("row_taps", "height")),
        "rows": ("int32", ("views", "view_height")),
        "cols": ("int32", ("views", "view_width")),
    },
    "images": {"images": ("uint8", (*_VIEWS, 3))},
    "nchw": {"input": ("float32", ("views", 3, *_VIEWS[1:]))},
}
"""Type and shape of each input, by interface. A size that differs from call to call has a name."""

REGIONS: dict[str, tuple[TypeName, Shape]] = {
    **INPUTS["views"],
    "rows": ("int32", ("views", "lines")),
    "region_col_taps": ("int32", ("region_col_taps", "views", "view_width")),
    "region_row_first": ("int32", ("views", "view_height")),
    "region_row_taps": ("int32", ("region_row_taps", "views", "view_height")),
}
"""Inputs of a `views` graph in an engine whose views are regions, each resized by taps of its own.

`rows` are then the lines of the image that a view is made of; `cols` the first pixel of each of its columns there;
`region_row_first` the first of those lines for each of its rows. What is resized is any rectangle of the image.
"""


TYPE_OF = {name: kind for inputs in (*INPUTS.values(), REGIONS) for name, (kind, _) in inputs.items()}
"""Type of each input that an engine may have."""


def inputs_of(interface: Interface, shape: ShapeRange) -> dict[str, tuple[TypeName, Shape]]:
    """The inputs of an engine that has the profile `shape`."""
    return REGIONS if interface == "views" and shape.lines is not None else INPUTS[interface]


Feed = dict[str, Any]
"""Arrays by the names of the graph's inputs, or what is Unwritten. Read-only ones are kept and used again."""

Table = NDArray[np.int32]

TABLES = 64
"""Sets of tables that are kept: most photographs of a data set have one of a few sizes."""
ALIGNMENT = 256
"""Bytes: where TensorRT's tensors begin."""
PACKED_STEP, PILED_STEP = 256, 32
"""Rows of packed and piled images come in these steps, so that calls have few shapes.

TensorRT-RTX compiles kernels for each new one.
"""


class Call(NamedTuple):
    """One run of a network: places of its views in the plans, inputs, number of the optimisation profile.

    `sums` are the pixel sums where the graph computes none.
    """

    places: Sequence[int]
    feed: Feed
    sums: NDArray[np.int32] | None = None
    profile: int = 0


Source = TypeVar("Source", bound=Hashable)
"""The caller's key of the rescaled image that a view is cut from."""


def feed_taps(
    image: Pixels, rescaled_px: Size, filter: Filter, cuts: Sequence[tuple[Rect, bool]], *, regions: bool = False
) -> Feed:
    """Inputs for views (rectangle of the rescaled image, mirrored) of one size, of `image` u8 [H0, W0, 3].

    The graph rescales the image. regions: the engine's views are regions, which then are resized to what they are.
    """
    return {"image": image, **cut_tables(image.shape[:2], rescaled_px, filter, cuts, regions=regions)}


def cut_tables(
    source_px: Size, rescaled_px: Size, filter: Filter, cuts: Sequence[tuple[Rect, bool]], *, regions: bool = False
) -> Feed:
    """The inputs of feed_taps for any image of this size, without the image."""
    return {
        **_passes(make_taps(source_px[1], rescaled_px[1], filter), make_taps(source_px[0], rescaled_px[0], filter)),
        **_cuts(tuple(cuts), rescaled_px[1], regions=regions),
    }


def feed_pile(
    pile: Packed, rescaled_px: Size, filter: Filter, cuts: Sequence[tuple[int, Rect, bool]], *, regions: bool = False
) -> Feed:
    """Inputs for views (number of the image, rectangle of it when rescaled, mirrored) of one size.

    The images of `pile` are of one size and as wide as it is, so that they lie one below the other. The graph rescales
    each to `rescaled_px`.
    """
    height, width, _ = pile.images[0].shape
    lines = _piled_taps(height, rescaled_px[0], filter, len(pile.images), piled_rows((height, width)))
    placed = [((number * rescaled_px[0] + top, left, h, w), mirrored) for number, (top, left, h, w), mirrored in cuts]
    tables = _cuts(tuple(placed), rescaled_px[1], regions=regions)
    return {"image": pile, **_passes(make_taps(width, rescaled_px[1], filter), lines), **tables}


@functools.lru_cache(maxsize=AXES)
def _piled_taps(n_in: int, n_out: int, filter: Filter, count: int, apart: int) -> Taps:
    """Taps of an axis along which so many images lie, so many pixels from first to first, each rescaled for itself."""
    first, taps = make_taps(n_in, n_out, filter)
    firsts = np.arange(count, dtype=np.int32)[:, None] * np.int32(apart) + first
    return read_only(Taps(firsts.reshape(-1), np.tile(taps, count)))


def resized_tables(
    source_px: Size, rescaled_px: Size, filter: Filter, regions: Sequence[tuple[tuple[int, int], Region]]
) -> Feed:
    """Inputs for views ((top, left) of a rectangle of the rescaled image, what is made of it) of one size.

    The graph rescales an image of size `source_px`, which is not among them, and resizes the rectangles.
    """
    width = rescaled_px[1]
    places = tuple((top * width + left, width) for (top, left), _ in regions)
    return {
        **_passes(make_taps(source_px[1], width, filter), make_taps(source_px[0], rescaled_px[0], filter)),
        **region_tables(tuple(region for _, region in regions), places),
    }


def feed_packed(packed: Packed, views: Sequence[tuple[int, Region]]) -> Feed:
    """Inputs for views of packed images, each (number of the image, region of it), of one size.

    The images are as they were decoded, and each view is rescaled for itself.
    """
    height, width, _ = packed.shape
    places = tuple((packed.starts[number], packed.images[number].shape[1]) for number, _ in views)
    tables = region_tables(tuple(region for _, region in views), places)
    return {"image": packed, **_passes(identity_taps(width), identity_taps(height)), **tables}


def feed_regions(packed: Packed, views: Sequence[tuple[int, tuple[int, int], RegionAxes]]) -> Feed:
    """Inputs for regions of packed images, each (number of the image, (top, left) of the region in it, its taps).

    They are of one size, and as they hardly come twice, no table is kept.
    """
    height, width, _ = packed.shape
    places = []
    for number, (top, left), _ in views:
        across = packed.images[number].shape[1]
        places.append((packed.starts[number] + top * across + left, across))
    tables = make_region_tables([axes for _, _, axes in views], places)
    return {"image": packed, **_passes(identity_taps(width), identity_taps(height)), **tables}


def feed_atlas(
    sources: Mapping[Source, Pixels],
    origins: Mapping[Source, tuple[int, int]],
    cuts: Sequence[tuple[Source, Rect, bool]],
    *,
    regions: bool = False,
) -> Feed:
    """Inputs for views (source, rectangle of it, mirrored) of one size, of rescaled images u8 [h, w, 3].

    Only the rectangle that its views cover goes into the atlas, with its upper left at the source's origin (top, left).
    regions: the engine's views are regions, which then are resized to what they are.
    """
    covers = cover_sources((source, rect) for source, rect, _ in cuts)
    bottom = max(origins[source][0] + cover[2] for source, cover in covers.items())
    right = max(origins[source][1] + cover[3] for source, cover in covers.items())

    atlas = np.zeros((bottom, right, 3), np.uint8)
    for source, (top, left, height, width) in covers.items():
        y, x = origins[source]
        atlas[y : y + height, x : x + width] = sources[source][top : top + height, left : left + width]

    placed = []
    for source, (top, left, height, width), mirrored in cuts:
        y, x = origins[source]
        placed.append(((top - covers[source][0] + y, left - covers[source][1] + x, height, width), mirrored))
    tables = _cuts(tuple(placed), right, regions=regions)
    return {"image": atlas, **_passes(identity_taps(right), identity_taps(bottom)), **tables}


def feed_pixels(pixels: Pixels, spec: ModelSpec) -> tuple[Feed, NDArray[np.int32] | None]:
    """(inputs, pixel sums where the graph has none) of a graph that takes ready pixels u8 [V, h, w, 3]."""
    if spec.interface == "images":
        return {"images": pixels}, None
    return {"input": normalise(pixels, spec)}, pixel_sums(pixels)


def cover_sources(rects: Iterable[tuple[Source, Rect]]) -> dict[Source, Rect]:
    """For each source the smallest rectangle that holds all of its rectangles."""
    covers: dict[Source, Rect] = {}
    for source, rect in rects:
        old = covers.setdefault(source, rect)
        top, left = min(rect[0], old[0]), min(rect[1], old[1])
        bottom = max(rect[0] + rect[2], old[0] + old[2])
        right = max(rect[1] + rect[3], old[1] + old[3])
        covers[source] = (top, left, bottom - top, right - left)
    return covers


def stack_sources(rects: Iterable[tuple[Source, Rect]]) -> dict[Source, tuple[int, int]]:
    """Origins of sources that lie above each other in an atlas."""
    origins, top = {}, 0
    for source, cover in cover_sources(rects).items():
        origins[source] = (top, 0)
        top += cover[2]
    return origins


def _passes(columns: Taps, lines: Taps) -> Feed:
    """Inputs of the rescaling of the whole image."""
    return {"col_first": columns.first, "col_taps": columns.taps, "row_first": lines.first, "row_taps": lines.taps}


def _cuts(cuts: tuple[tuple[Rect, bool], ...], image_width: int, *, regions: bool) -> Feed:
    """Inputs for views that are cut out of the rescaled image."""
    tables = _cut_tables(cuts, image_width)
    if not regions:
        return tables
    return {**tables, **_identity_regions(*tables["rows"].shape, tables["cols"].shape[1])}


@functools.lru_cache(maxsize=TABLES)
def _cut_tables(cuts: tuple[tuple[Rect, bool], ...], image_width: int) -> Feed:
    """The flat offset of each row, [V, h], and x of each column, [V, w]; a mirrored view lists these backwards."""
    rects = np.array([rect for rect, _ in cuts], np.int32)  # [V, 4]
    height, width = rects[0, 2:]
    rows = (rects[:, :1] + np.arange(height, dtype=np.int32)) * np.int32(image_width)
    cols = rects[:, 1:2] + np.arange(width, dtype=np.int32)
    mirrored = np.array([mirrored for _, mirrored in cuts])
    cols[mirrored] = cols[mirrored, ::-1]
    return _read_only({"rows": rows, "cols": cols})


# Regions


class Unwritten(ABC):
    """An array that is not made before it is written to where it is used: by `write` or, as an array, by NumPy."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def write(self, buffer: NDArray[np.uint8]) -> None:
        """Writes the array to u8 [nbytes]."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        buffer = np.empty(self.nbytes, np.uint8)
        self.write(buffer)
        return buffer.view(self.dtype).reshape(self.shape)


class Packed(Unwritten):
    """Images u8 [h, w, 3] one after the other as one of `width_px` columns, with pixels of none between and behind.

    `starts` are the flat places of the images' first pixels. In a pile, of images as wide as it is, each begins on a
    row and a whole multiple of ALIGNMENT, so that it is an image for other calls, too.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: tuple[Pixels, ...], least_px: int, width_px: int, *, piled: bool = False) -> None:
        self.images = images
        apart = [piled_rows(image.shape[:2]) * width_px if piled else image.size // 3 for image in images]
        self.starts = [0, *itertools.accumulate(apart)][:-1]
        needed = max(least_px, -(-sum(apart) // width_px))
        step = PILED_STEP if piled else PACKED_STEP
        self.shape = (-(-needed // step) * step, width_px, 3)

    def write(self, buffer: NDArray[np.uint8]) -> None:
        end = 0
        for start, image in zip(self.starts, self.images, strict=True):
            buffer[end : 3 * start] = 0
            end = 3 * start + image.nbytes
            buffer[3 * start : end] = image.reshape(-1)
        buffer[end:] = 0


class Stacked(Unwritten):
    """Taps i32 [K, n] of several axes as i32 [largest K, axes, n], zero behind an axis' own K."""

    dtype = np.dtype(np.int32)

    def __init__(self, taps: Sequence[Table]) -> None:
        self.taps = taps
        self.shape = (max(map(len, taps)), len(taps), taps[0].shape[1])

    def write(self, buffer: NDArray[np.uint8]) -> None:
        stacked = buffer.view(np.int32).reshape(self.shape)
        for number, own in enumerate(self.taps):
            stacked[: len(own), number] = own
            stacked[len(own) :, number] = 0


def piled_rows(image_px: Size) -> int:
    """Rows from one image of a pile to the next: its own, and as many as it takes to a multiple of ALIGNMENT bytes."""
    height, width = image_px
    step = ALIGNMENT // math.gcd(ALIGNMENT, 3 * width)
    return -(-height // step) * step


@functools.lru_cache(maxsize=TABLES)
def region_tables(regions: tuple[Region, ...], places: tuple[tuple[int, int], ...]) -> Feed:
    """Inputs for regions of one size; each has the flat offset of its rectangle and the width of the image it is in."""
    tables = make_region_tables([region_axes(region) for region in regions], places)
    return _read_only({name: np.asarray(table) for name, table in tables.items()})


def make_region_tables(axes: Sequence[RegionAxes], places: Sequence[tuple[int, int]]) -> Feed:
    """The inputs of region_tables, which are not kept."""
    starts, widths = np.array(places, np.int32).T[..., None]  # [V, 1] each
    numbers = [(one.top, one.lines, one.down if one.framed else one.top + one.lines - 1, one.across) for one in axes]
    tops, counts, last, across = np.array(numbers, np.int32).T[..., None]

    # the lines of each, then the frame's, or the last once more
    lines = np.arange(max(one.padded_lines for one in axes), dtype=np.int32)
    own = np.where(lines < counts, tops + lines, last)  # [V, lines]
    cols, firsts = (np.stack([each.first for each in taps]) for taps in zip(*(one[2:4] for one in axes), strict=True))
    return {
        "rows": starts + own * widths,
        "cols": np.where(cols == OUTSIDE, across, cols),
        "region_col_taps": Stacked([one.columns.taps for one in axes]),
        "region_row_first": np.where(firsts == OUTSIDE, counts, firsts),
        "region_row_taps": Stacked([one.rows.taps for one in axes]),
    }


@functools.lru_cache(maxsize=TABLES)
def _identity_regions(views: int, height: int, width: int) -> Feed:
    """The taps of regions that are cut and nothing else, whose lines are their rows."""
    return _read_only(
        {
            "region_col_taps": np.full((1, views, width), 1 << PRECISION_BITS, np.int32),
            "region_row_first": np.tile(np.arange(height, dtype=np.int32), (views, 1)),
            "region_row_taps": np.full((1, views, height), 1 << PRECISION_BITS, np.int32),
        }
    )


def _read_only(tables: Feed) -> Feed:
    for table in tables.values():
        table.flags.writeable = False
    return tables


Entry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, tuned and largest shape of one input."""

RANGE_OF = {
    "views": "views",
    "view_height": "height_px",
    "view_width": "width_px",
    "height": "rescaled_px",
    "width": "rescaled_px",
    "source_height": "source_px",
    "source_width": "source_px",
    "row_taps": "taps",
    "col_taps": "taps",
    "lines": "lines",
    "region_col_taps": "region_taps",
    "region_row_taps": "region_taps",
}
"""The field of a ShapeRange for each dimension of the graph's inputs."""


def profile_entries(shape: ShapeRange, interface: Interface) -> dict[str, Entry]:
    """The (min, opt, max) shape of every input of `interface`, all from `shape`."""
    entries = {}
    for name, (_, sizes) in inputs_of(interface, shape).items():
        fixed = {size: Extent(size, size, size) for size in sizes if isinstance(size, int)}
        extents = [fixed[size] if isinstance(size, int) else getattr(shape, RANGE_OF[size]) for size in sizes]
        entries[name] = (
            tuple(extent.min for extent in extents),
            tuple(extent.opt for extent in extents),
            tuple(extent.max for extent in extents),
        )
    return entries
