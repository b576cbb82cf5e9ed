"""How much boxes share, and non-maximum suppression by it: one implementation for proposals and detections.

Boxes are f64 [N, 4]: xmin, ymin, xmax, ymax in pixels from 1, both ends included (data/annotations.py, Box), so that a
box is xmax - xmin + 1 wide, as VOC's, ILSVRC's and R-CNN's are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused

Boxes = NDArray[np.float64]
Places = NDArray[np.intp]


def areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas [...] of boxes [..., 4] in pixels, 0 where a box ends before it begins."""
    own = np.asarray(boxes, np.float64)
    sides = np.maximum(own[..., 2:] - own[..., :2] + 1, 0)
    found: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return found


def overlaps(boxes: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union f64 [N, M] of boxes [N, 4] with others [M, 4]; of two without an area it is 0."""
    mine, theirs = (np.asarray(own, np.float64).reshape(-1, 4) for own in (boxes, others))
    across = np.minimum(mine[:, None, 2], theirs[None, :, 2]) - np.maximum(mine[:, None, 0], theirs[None, :, 0]) + 1
    down = np.minimum(mine[:, None, 3], theirs[None, :, 3]) - np.maximum(mine[:, None, 1], theirs[None, :, 1]) + 1
    shared = np.maximum(across, 0) * np.maximum(down, 0)
    union = areas(mine)[:, None] + areas(theirs)[None] - shared
    found: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def suppress(boxes: ArrayLike, scores: ArrayLike, most: float, classes: ArrayLike | None = None) -> Places:
    """Places of the boxes that greedy non-maximum suppression keeps, the best score first.

    A box goes that shares more than `most` (intersection over union) with a better one that stays; of equal scores the
    first is better. classes [N]: boxes of different classes leave each other alone. Raises Refused for a score that is
    no number, or boxes, scores and classes that are not of one length.
    """
    own, rated = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    of_class = np.zeros(len(own), np.int64) if classes is None else np.asarray(classes)
    if not len(own) == len(rated) == len(of_class):
        raise Refused(f"{len(own)} boxes, {len(rated)} scores and {len(of_class)} classes: expected as many of each")
    if np.isnan(rated).any():
        raise Refused(f"the score of box {int(np.isnan(rated).argmax())} is no number: expected one for each box")

    order = np.argsort(-rated, kind="stable")
    kept = [_suppress_one(own, order[of_class[order] == name], most) for name in np.unique(of_class)]
    stays = np.zeros(len(own), np.bool_)
    for places in kept:
        stays[places] = True
    return order[stays[order]]


def _suppress_one(boxes: Boxes, order: Places, most: float) -> Places:
    """Places that are kept of one class, whose places are in `order`."""
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[overlaps(boxes[best], boxes[rest])[0] <= most]
    return np.array(kept, np.intp)
