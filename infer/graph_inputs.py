"""Inputs of the view graph (export/graph/frame.py) for views of decoded images: index tables, taps, atlases.

Rescaling is exact wherever it runs, so there are two kinds of input with the same result. Either the graph rescales one
image to one scale by taps, or the host has rescaled images and puts them into one atlas, which identity taps leave as
it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .pixels.decode import Pixels
from .pixels.render import Taps, identity_taps, make_taps, normalise, pixel_sums
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

Feed = dict[str, NDArray[Any]]
"""Arrays by the names of the graph's inputs."""

Table = NDArray[np.int32]


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


def feed_taps(image: Pixels, rescaled_px: Size, filter: Filter, cuts: Sequence[tuple[Rect, bool]]) -> Feed:
    """Inputs for views (rectangle of the rescaled image, mirrored) of one size, of `image` u8 [H0, W0, 3].

    The graph rescales the image.
    """
    height, width = rescaled_px
    columns = make_taps(image.shape[1], width, filter)
    lines = make_taps(image.shape[0], height, filter)
    return _feed(image, columns, lines, [_indices(rect, mirrored, width) for rect, mirrored in cuts])


def feed_atlas(
    sources: Mapping[Source, Pixels],
    origins: Mapping[Source, tuple[int, int]],
    cuts: Sequence[tuple[Source, Rect, bool]],
) -> Feed:
    """Inputs for views (source, rectangle of it, mirrored) of one size, of rescaled images u8 [h, w, 3].

    Only the rectangle that its views cover goes into the atlas, with its upper left at the source's origin (top, left).
    """
    covers = cover_sources((source, rect) for source, rect, _ in cuts)
    bottom = max(origins[source][0] + cover[2] for source, cover in covers.items())
    right = max(origins[source][1] + cover[3] for source, cover in covers.items())

    atlas = np.zeros((bottom, right, 3), np.uint8)
    for source, (top, left, height, width) in covers.items():
        y, x = origins[source]
        atlas[y : y + height, x : x + width] = sources[source][top : top + height, left : left + width]

    indices = []
    for source, (top, left, height, width), mirrored in cuts:
        y, x = origins[source]
        placed = (top - covers[source][0] + y, left - covers[source][1] + x, height, width)
        indices.append(_indices(placed, mirrored, right))
    return _feed(atlas, identity_taps(right), identity_taps(bottom), indices)


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


def _feed(image: Pixels, columns: Taps, lines: Taps, indices: Sequence[tuple[Table, Table]]) -> Feed:
    rows, cols = zip(*indices, strict=True)
    return {
        "image": image,
        "col_first": columns.first,
        "col_taps": columns.taps,
        "row_first": lines.first,
        "row_taps": lines.taps,
        "rows": np.stack(rows),  # [views, h]
        "cols": np.stack(cols),  # [views, w]
    }


def _indices(rect: Rect, mirrored: bool, image_width: int) -> tuple[Table, Table]:
    """(flat offset of each row, x of each column) of a view; a mirrored one lists its columns backwards."""
    top, left, height, width = rect
    rows = np.arange(top, top + height, dtype=np.int32) * image_width
    cols = np.arange(left, left + width, dtype=np.int32)
    return rows.astype(np.int32), np.ascontiguousarray(cols[::-1] if mirrored else cols)


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
}
"""The field of a ShapeRange for each dimension of the graph's inputs."""


def profile_entries(shape: ShapeRange, interface: Interface) -> dict[str, Entry]:
    """The (min, opt, max) shape of every input of `interface`, all from `shape`."""
    entries = {}
    for name, (_, sizes) in INPUTS[interface].items():
        fixed = {size: Extent(size, size, size) for size in sizes if isinstance(size, int)}
        extents = [fixed[size] if isinstance(size, int) else getattr(shape, RANGE_OF[size]) for size in sizes]
        entries[name] = (
            tuple(extent.min for extent in extents),
            tuple(extent.opt for extent in extents),
            tuple(extent.max for extent in extents),
        )
    return entries
