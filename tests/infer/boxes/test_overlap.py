"""Intersection over union, and non-maximum suppression, against slow readings of their rules."""

from __future__ import annotations

import numpy as np
import pytest

from infer.boxes.overlap import areas, overlaps, suppress
from infer.errors import Refused


def literal_overlap(a: list[float], b: list[float]) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0]) + 1
    down = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if across <= 0 or down <= 0:
        return 0.0
    both = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return across * down / (both - across * down)


def literal_suppression(boxes: list[list[float]], scores: list[float], classes: list[int], most: float) -> list[int]:
    """The rule as one says it: take the best that is left, and strike what shares too much with it."""
    left = set(range(len(boxes)))
    kept = []
    while left:
        best = min(left, key=lambda place: (-scores[place], place))
        kept.append(best)
        left.remove(best)
        for other in list(left):
            if classes[other] == classes[best] and literal_overlap(boxes[best], boxes[other]) > most:
                left.remove(other)
    return kept


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.integers(1, 40, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(float)


def test_boxes_include_both_ends() -> None:
    assert areas([[1, 1, 10, 5], [3, 3, 3, 3], [5, 1, 3, 9]]).tolist() == [50, 1, 0]
    assert overlaps([[1, 1, 10, 10]], [[6, 1, 15, 10], [11, 1, 20, 10], [1, 1, 10, 10]]).tolist() == [[1 / 3, 0, 1]]
    assert overlaps([[5, 5, 4, 4]], [[5, 5, 4, 4]]).tolist() == [[0]]
    assert overlaps(np.zeros((0, 4)), [[1, 1, 2, 2]]).shape == (0, 1)


def test_overlaps_are_those_of_the_slow_reading() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = random_boxes(rng, 60), random_boxes(rng, 50)
    expected = [[literal_overlap(a, b) for b in theirs.tolist()] for a in mine.tolist()]
    assert overlaps(mine, theirs) == pytest.approx(np.array(expected), abs=1e-15)


@pytest.mark.parametrize("seed", range(40))
def test_suppression_is_that_of_the_slow_reading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 60))
    boxes, scores = random_boxes(rng, count), rng.integers(0, 9, count) / 8  # many ties
    classes, most = rng.integers(0, 3, count), float(rng.choice([0.0, 0.3, 0.5, 1.0]))
    expected = literal_suppression(boxes.tolist(), scores.tolist(), classes.tolist(), most)
    assert suppress(boxes, scores, most, classes).tolist() == expected


def test_of_equal_scores_the_first_stays() -> None:
    assert suppress([[1, 1, 9, 9], [1, 1, 9, 9], [20, 20, 30, 30]], [0.5, 0.5, 0.5], 0.3).tolist() == [0, 2]


def test_what_cannot_be_suppressed_is_said() -> None:
    with pytest.raises(Refused, match="the score of box 1 is no number: expected one for each box"):
        suppress([[1, 1, 9, 9], [1, 1, 9, 9]], [0.5, np.nan], 0.3)
    with pytest.raises(Refused, match="1 boxes, 2 scores and 1 classes: expected as many of each"):
        suppress([[1, 1, 9, 9]], [0.5, 0.4], 0.3)
