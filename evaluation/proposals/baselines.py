"""Boxes that know nothing of an image but its size: what any method of proposals should be better than.

Both are those of Hosang et al., "How good are detection proposals, really?" (BMVC 2014): `random` draws centre, root of
the area and logarithm of the aspect ratio evenly, `grid` has boxes of a few sizes and shapes at even steps.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from infer.boxes.overlap import Boxes
from infer.spec import Size

ASPECTS = (0.5, 1.0, 2.0)
"""Width over height of the grid's boxes; random ones lie between the first and the last."""
STEPS = tuple(2.0 ** (number / 8) for number in range(-40, 33))
"""Steps between the grid's boxes, in their sides: from a thirtieth to sixteen, with gaps between."""
SIDE_RATIO = 2**0.5
"""Between the sizes of the grid's boxes."""
SMALLEST_SHARE = 1 / 8
"""Smallest root of a box's area, of the image's."""


def random_boxes(image_px: Size, count: int, seed: int) -> Boxes:
    """So many boxes f64 [count, 4] in an image of (height, width), in pixels from 1."""
    rng = np.random.default_rng((seed, *image_px))
    height, width = image_px
    root = rng.uniform(SMALLEST_SHARE, 1, count) * np.sqrt(height * width)
    stretch = np.exp(rng.uniform(np.log(ASPECTS[0]), np.log(ASPECTS[-1]), count) / 2)
    x, y = rng.uniform(0, width, count), rng.uniform(0, height, count)
    return _inside(x, y, root * stretch, root / stretch, image_px)


def grid_boxes(image_px: Size, count: int) -> Boxes:
    """At most `count` boxes f64 [N, 4] in an image of (height, width): the finest grid that has no more of them."""
    steps = (step for step in STEPS if sum(shape.boxes for shape in _shapes(image_px, step)) <= count)
    shapes = _shapes(image_px, next(steps, 0.0))
    boxes = [np.zeros((0, 4))]
    for across, down, columns, rows in shapes:
        x, y = np.meshgrid(_centers(image_px[1], across, columns), _centers(image_px[0], down, rows))
        boxes.append(_inside(x.ravel(), y.ravel(), np.full(x.size, across), np.full(x.size, down), image_px))
    return np.unique(np.concatenate(boxes), axis=0)


class Shape(NamedTuple):
    """Boxes of one width and height in a grid: so many columns and rows of them."""

    across: float
    down: float
    columns: int
    rows: int

    @property
    def boxes(self) -> int:
        return self.columns * self.rows


def _shapes(image_px: Size, step: float) -> list[Shape]:
    """The shapes of a grid whose boxes are `step` of their sides apart; none at 0."""
    height, width = image_px
    sizes = int(np.log(1 / SMALLEST_SHARE) / np.log(SIDE_RATIO)) + 1 if step else 0
    shapes = []
    for number, aspect in itertools.product(range(sizes), ASPECTS):
        root = np.sqrt(height * width) / SIDE_RATIO**number
        across, down = min(root * np.sqrt(aspect), width), min(root / np.sqrt(aspect), height)
        columns, rows = (int((side - own) // (own * step)) + 1 for side, own in ((width, across), (height, down)))
        shapes.append(Shape(across, down, columns, rows))
    return shapes


def _centers(side: float, own: float, count: int) -> Boxes:
    """Centres of `count` boxes of a length `own` that share a side evenly."""
    return np.linspace(own / 2, side - own / 2, count) if count > 1 else np.array([side / 2])


def _inside(x: Boxes, y: Boxes, across: Boxes, down: Boxes, image_px: Size) -> Boxes:
    """Boxes of centres and sides, cut off at the image's edges, at least a pixel wide and high."""
    height, width = image_px
    left, top = np.clip(x - across / 2, 0, width - 1), np.clip(y - down / 2, 0, height - 1)
    right, bottom = np.clip(x + across / 2, left + 1, width), np.clip(y + down / 2, top + 1, height)
    return np.stack([left + 1, top + 1, right, bottom], 1)
