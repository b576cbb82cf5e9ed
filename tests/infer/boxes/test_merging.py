"""Merging of boxes against a slow reading of OverFeat's algorithm; what the two readings of match_score mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from infer.boxes.finding import MATCHES, Match, Merging, merge, rate

UNIT = 100.0


def slow_score(match: Match, a: Any, b: Any) -> float:
    """match_score, in numbers alone."""
    (al, at, ar, ab), (bl, bt, br, bb) = a, b
    distance = math.dist(((al + ar) / 2, (at + ab) / 2), ((bl + br) / 2, (bt + bb) / 2))
    shared = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    if match == "literal":
        return distance / UNIT + shared / UNIT**2
    one, other = (ar - al) * (ab - at), (br - bl) * (bb - bt)
    return distance / math.sqrt((one + other) / 2) + 1 - shared / (one + other - shared)


def slow_merge(boxes: Any, match: Match, at: float) -> list[tuple[list[int], list[float]]]:
    """(members, mean) of each merged box: every pair is looked at anew for every merge."""
    groups = [[place] for place in range(len(boxes))]

    def mean(group: list[int]) -> list[float]:
        return [sum(boxes[place][edge] for place in group) / len(group) for edge in range(4)]

    while len(groups) > 1:
        pairs = [
            (slow_score(match, mean(groups[i]), mean(groups[j])), i, j)
            for i in range(len(groups))
            for j in range(i + 1, len(groups))
        ]
        best, i, j = min(pairs)
        if best > at:
            break
        groups[i] = sorted(groups[i] + groups[j])
        del groups[j]
    return [(group, mean(group)) for group in groups]


def random_boxes(count: int, seed: int) -> Any:
    """Some around each of three objects, and some anywhere."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(20, 80, (3, 2))[rng.integers(0, 3, count)] + rng.normal(0, 3, (count, 2))
    anywhere = rng.random(count) < 0.3
    centres[anywhere] = rng.uniform(0, 100, (int(anywhere.sum()), 2))
    sides = rng.uniform(15, 25, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], 1)


@pytest.mark.parametrize("match", list(MATCHES))
@pytest.mark.parametrize("at", [None, 0.1, 0.5, 1.2, 3.0])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 0), (3, 0), (17, 12), (25, 39), (40, 37)])
def test_merging_is_the_slow_reading(match: Match, at: float | None, count: int, seed: int) -> None:
    """In the last three a merged box becomes the best match of one that it was not a part of."""
    at = MATCHES[match][1] if at is None else at
    boxes = random_boxes(count, seed)
    merged, groups = merge(boxes, Merging(match, at), UNIT)
    expected = slow_merge(boxes.tolist(), match, at)
    assert groups == [group for group, _ in expected]
    assert np.allclose(merged, [mean for _, mean in expected], atol=1e-9)


def test_the_cases_above_merge_some_and_leave_some() -> None:
    for match, (_, at) in MATCHES.items():
        sizes = [len(merge(random_boxes(40, 40), Merging(match, t), UNIT)[1]) for t in (0.0, at / 2, at, 9.0)]
        assert sizes[0] == 40 > sizes[1] > sizes[2] > sizes[3] == 1


def test_equal_boxes_become_one_and_nothing_is_nothing() -> None:
    boxes = np.tile([10.0, 20, 40, 60], (6, 1))
    merged, groups = merge(boxes, Merging(), UNIT)
    assert merged.tolist() == [[10, 20, 40, 60]] and groups == [[0, 1, 2, 3, 4, 5]]
    merged, groups = merge(np.zeros((0, 4)), Merging(), UNIT)
    assert merged.shape == (0, 4) and groups == []


def test_a_box_counts_once_however_early_it_was_merged() -> None:
    boxes = np.array([[0.0, 0, 40, 40], [1, 0, 41, 40], [5, 0, 45, 40]])
    merged, groups = merge(boxes, Merging(), UNIT)
    assert groups == [[0, 1, 2]]
    assert merged[0].tolist() == [2, 0, 42, 40]  # not the mean of 5 with the mean of 0 and 1


def test_the_order_of_boxes_changes_nothing() -> None:
    boxes = random_boxes(30, 5)
    order = np.random.default_rng(1).permutation(30)
    _, groups = merge(boxes, Merging(), UNIT)
    _, permuted = merge(boxes[order], Merging(), UNIT)
    assert sorted(groups) == sorted(sorted(order[group].tolist()) for group in permuted)


def test_what_the_readings_of_match_score_mean() -> None:
    """Boxes on one object and a far one. Literally, two small boxes beside each other match better than equal ones."""
    large = np.array([[0.0, 0, 80, 80], [0, 0, 80, 80], [200, 0, 280, 80]])
    assert merge(large, Merging("overlap", 0.75), UNIT)[1] == [[0, 1], [2]]
    assert merge(large, Merging("literal", 0.25), UNIT)[1] == [[0], [1], [2]]
    small = np.array([[0.0, 0, 10, 10], [11, 0, 21, 10]])
    assert merge(small, Merging("overlap", 0.75), UNIT)[1] == [[0], [1]]
    assert merge(small, Merging("literal", 0.25), UNIT)[1] == [[0, 1]]


def test_equal_squares_merge_below_29_percent_of_their_side() -> None:
    for shift, count in ((28.9, 1), (29.9, 2)):
        boxes = np.array([[0.0, 0, 100, 100], [shift, 0, 100 + shift, 100]])
        assert len(merge(boxes, Merging(), UNIT)[1]) == count


def test_a_merged_box_has_the_scores_of_all_its_windows() -> None:
    assert rate([[0, 2], [1], [3, 4]], np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx([0.4, 0.2, 0.9])
    assert len(rate([], np.zeros(0))) == 0
