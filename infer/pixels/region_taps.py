"""Filter taps of regions: of a view that is made of a rectangle of an image by a resizing of its own."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec import Filter, Size
from ..views import Rect
from .render import PRECISION_BITS, Taps, identity_taps, make_taps, read_only

LINE_STEP, TAP_STEP = 64, 8
"""Lines and taps of regions come in these steps, so that calls have few shapes. TensorRT-RTX compiles kernels for each
new one."""
REGION_AXES = 8192
"""Axes of regions that are kept of each kind, 10 kB each or so: a picture of 500 px has some 500 lengths, and what its
edges cut has thousands."""


class Frame(NamedTuple):
    """The surroundings of a region: it is at (top, left) `at` of the square, and the rest has the image's last colour.

    `down`, `across`: where the image's last row and column are, from the rectangle's upper left.
    """

    square_px: int
    at: tuple[int, int]
    down: int
    across: int


class Region(NamedTuple):
    """What a view is made of: a rectangle of `source_px` of an image, resized to `resized_px`, of which `cut` is cut.

    Sizes are (height, width) in pixels. Where both are the same, nothing is resized. A region with a `frame` is put
    into a square of `frame.square_px` instead of being cut.
    """

    source_px: Size
    resized_px: Size
    filter: Filter
    cut: Rect
    mirrored: bool
    frame: Frame | None = None


def padded_taps(count: int) -> int:
    return 1 if count == 1 else -(-count // TAP_STEP) * TAP_STEP


OUTSIDE = -1
"""The first of a pixel that shows the frame."""


class RegionAxes(NamedTuple):
    """A region's taps: of `lines` lines from `top` on; firsts are relative to the rectangle, and to `top`.

    Of a region with a frame, some may be OUTSIDE: they show the frame's column, `across` from the rectangle's upper
    left, or its line, `down` from there, which is one more line behind the others.
    """

    top: int
    lines: int
    columns: Taps
    rows: Taps
    down: int = 0
    across: int = 0
    framed: bool = False

    @property
    def padded_lines(self) -> int:
        """How many lines of the image the region is made of, as the inputs have them: in steps."""
        return -(-(self.lines + self.framed) // LINE_STEP) * LINE_STEP

    @property
    def counts(self) -> tuple[int, int]:
        """How many taps its rows and columns have, as the inputs have them: in steps."""
        return len(self.rows.taps), len(self.columns.taps)


def region_axes(region: Region) -> RegionAxes:
    """A region's taps. Those of its axes are kept."""
    (height_in, width_in), (height, width), filter, cut, mirrored, frame = region
    if frame is None:
        first, lines, rows = _rows(height_in, height, filter, cut[0], cut[2])
        return RegionAxes(first, lines, _columns(width_in, width, filter, cut[1], cut[3], mirrored), rows)
    rows = _framed(height_in, height, filter, frame.at[0], frame.square_px, False)
    columns = _framed(width_in, width, filter, frame.at[1], frame.square_px, mirrored)
    return RegionAxes(0, height_in, columns, rows, frame.down, frame.across, True)


@functools.lru_cache(maxsize=REGION_AXES)
def _rows(n_in: int, n_out: int, filter: Filter, top: int, height: int) -> tuple[int, int, Taps]:
    """(first line, lines, taps from there on) of the rows of a region."""
    taps = _part(n_in, n_out, filter, top, height)
    first = int(taps.first.min())
    end = min(int(taps.first.max()) + len(taps.taps), n_in)
    return first, end - first, _padded(taps.first - first, taps.taps)


@functools.lru_cache(maxsize=REGION_AXES)
def _columns(n_in: int, n_out: int, filter: Filter, left: int, width: int, mirrored: bool) -> Taps:
    taps = _part(n_in, n_out, filter, left, width)
    return _padded(*(_mirrored(taps) if mirrored else taps))


def _part(n_in: int, n_out: int, filter: Filter, start: int, length: int) -> Taps:
    """Taps of the pixels from `start` on of an axis that is rescaled from `n_in` to `n_out`."""
    taps = identity_taps(n_in) if n_in == n_out else make_taps(n_in, n_out, filter)
    return Taps(taps.first[start : start + length], taps.taps[:, start : start + length])


@functools.lru_cache(maxsize=REGION_AXES)
def _framed(n_in: int, n_out: int, filter: Filter, at: int, square: int, mirrored: bool) -> Taps:
    """Taps of `square` pixels: `n_out` from `at` on are made of `n_in`, the others are OUTSIDE."""
    inner = _part(n_in, n_out, filter, 0, n_out)
    taps = Taps(np.full(square, OUTSIDE, np.int32), np.zeros((len(inner.taps), square), np.int32))
    taps.taps[0] = 1 << PRECISION_BITS
    taps.first[at : at + n_out], taps.taps[:, at : at + n_out] = inner
    return _padded(*(_mirrored(taps) if mirrored else taps))


def _mirrored(taps: Taps) -> Taps:
    return Taps(taps.first[::-1], taps.taps[:, ::-1])


def _padded(first: NDArray[np.int32], taps: NDArray[np.int32]) -> Taps:
    """Taps in steps, for whoever keeps them."""
    whole = np.zeros((padded_taps(len(taps)), taps.shape[1]), np.int32)
    whole[: len(taps)] = taps
    return read_only(Taps(np.ascontiguousarray(first), whole))
