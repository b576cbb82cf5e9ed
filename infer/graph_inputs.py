"""Inputs of the view graph (export/graph/view_graph.py) for views of decoded images: index tables, taps, atlases.

Rescaling is exact wherever it runs, so there are two feeds with the same result: taps for the graph to rescale one
image to one scale, or an atlas of images that the host has rescaled, stacked above each other, with identity taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pixels.decode import Pixels
from .pixels.taps import Taps, identity_taps, make_taps
from .spec import Filter, Size
from .views import Box

Feed = dict[str, NDArray[Any]]
Table = NDArray[np.int32]


def feed_taps(image: Pixels, rescaled_px: Size, filter: Filter, boxes: Sequence[tuple[Box, bool]]) -> Feed:
    """Views (box in the rescaled image, mirrored) of one size; the graph rescales `image` u8 [H0, W0, 3]."""
    height, width = rescaled_px
    indices = [_indices(box, mirrored, width, (0, 0)) for box, mirrored in boxes]
    return _feed(image, make_taps(image.shape[1], width, filter), make_taps(image.shape[0], height, filter), indices)


def feed_atlas(sources: Sequence[Pixels], views: Sequence[tuple[int, Box, bool]]) -> Feed:
    """Views (index into `sources`, box, mirrored) of one size, of rescaled images u8 [h, w, 3].

    Of each source only the rectangle that its views cover goes into the atlas.
    """
    spans = [_cover([box for index, box, _ in views if index == number]) for number in range(len(sources))]
    width = max(span[3] for span in spans)
    bases = np.cumsum([0, *(span[2] for span in spans)])
    atlas = np.zeros((bases[-1], width, 3), np.uint8)
    for source, base, (top, left, h, w) in zip(sources, bases, spans, strict=False):
        atlas[base : base + h, :w] = source[top : top + h, left : left + w]
    indices = [
        _indices(box, mirrored, width, (spans[number][0] - int(bases[number]), spans[number][1]))
        for number, box, mirrored in views
    ]
    return _feed(atlas, identity_taps(width), identity_taps(len(atlas)), indices)


def _feed(image: Pixels, columns: Taps, lines: Taps, indices: Sequence[tuple[Table, Table]]) -> Feed:
    rows, cols = zip(*indices, strict=True)
    return {
        "image": image,
        "col_first": columns.first,
        "col_taps": columns.taps,
        "row_first": lines.first,
        "row_taps": lines.taps,
        "rows": np.stack(rows),
        "cols": np.stack(cols),
    }


def _indices(box: Box, mirrored: bool, image_width: int, origin: tuple[int, int]) -> tuple[Table, Table]:
    """(flat offset of each row, x of each column) of a view, in an image that starts at `origin` of its source."""
    top, left, height, width = box
    rows = (np.arange(height, dtype=np.int32) + (top - origin[0])) * image_width
    cols = np.arange(width, dtype=np.int32) + (left - origin[1])
    return rows.astype(np.int32), np.ascontiguousarray(cols[::-1] if mirrored else cols, np.int32)


def _cover(boxes: Sequence[Box]) -> Box:
    """The smallest rectangle with all boxes in it."""
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    bottom, right = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return top, left, bottom - top, right - left
