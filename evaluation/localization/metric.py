"""ILSVRC's localisation error, as its development kit computes it (eval_clsloc.m).

An image is right if one of its first five guesses names the image's class and overlaps one of the boxes of that class
by an intersection over union of 0.50 or more (0.50 itself passes), where a box from xmin to xmax is xmax - xmin + 1
wide. Blacklisted images are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from infer.data.annotations import Box

GUESSES = 5
LEAST_OVERLAP = 0.50


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin) + 1
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin) + 1
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(one) + _area(other) - width * height)


def is_right(label: int, truths: Sequence[Box], guesses: Sequence[tuple[int, Box]]) -> bool:
    """Judges the guesses for an image of class `label`, whose boxes are `truths`.

    guesses: (class, box), the surest first; more than GUESSES are ignored.
    """
    own = [box for named, box in guesses[:GUESSES] if named == label]
    return any(overlap(box, truth) >= LEAST_OVERLAP for box in own for truth in truths)


def _area(box: Box) -> float:
    return (box.xmax - box.xmin + 1) * (box.ymax - box.ymin + 1)
