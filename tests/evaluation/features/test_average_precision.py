"""Average precision: worked by hand for both conventions, beside scikit-learn's where they coincide, and the devkit's
own definition spelt out in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from evaluation.features.svm import CONVENTIONS, all_point, eleven_point


def ranked(labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores that put images of these labels in this order."""
    return np.arange(len(labels), 0, -1, dtype=np.float64), np.array(labels, np.int8)


@pytest.mark.parametrize(
    ("labels", "eleven", "every"),
    [
        ([1, 1, -1, -1], 1, 1),
        ([-1, -1, -1, 1], Fraction(1, 4), Fraction(1, 4)),
        # precision 1, 2/3, 3/5 at recall 1/3, 2/3, 1: four, three and four of the eleven recalls
        ([1, -1, 1, -1, 1], (4 * 1 + 3 * Fraction(2, 3) + 4 * Fraction(3, 5)) / 11, Fraction(34, 45)),
        # precision rises from 1/2 to 2/3: the better one counts for both
        ([-1, 1, 1], Fraction(2, 3), Fraction(2, 3)),
        # what is difficult is not there at all
        ([0, 1, 0, -1, 1, 0], (6 + 5 * Fraction(2, 3)) / 11, Fraction(5, 6)),
        # ten positives, recall 3/10 reached by the third: 1 for 0, .1, .2, .3, then 10/17
        ([1] * 3 + [-1] * 7 + [1] * 7, (4 + 7 * Fraction(10, 17)) / 11, (3 + 7 * Fraction(10, 17)) / 10),
    ],
)
def test_by_hand(labels: list[int], eleven: Fraction, every: Fraction) -> None:
    scores, truth = ranked(labels)
    assert eleven_point(scores, truth) == pytest.approx(float(eleven), abs=1e-12)
    assert all_point(scores, truth) == pytest.approx(float(every), abs=1e-12)


def test_of_equal_scores_the_earlier_stands_first() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 3, 200) / 2, random.choice(np.array([-1, 1], np.int8), 200)
    in_order = [int(labels[i]) for i in sorted(range(200), key=lambda i: -scores[i])]
    for ap in CONVENTIONS.values():
        assert ap(scores, labels) == ap(*ranked(in_order))
        assert ap(scores, labels) != ap(scores[::-1], labels[::-1])


def test_without_positives_there_is_none() -> None:
    for ap in CONVENTIONS.values():
        assert ap(np.array([0.5, 0.1]), np.array([-1, 0], np.int8)) is None


def test_all_point_is_scikit_learns_where_precision_never_rises_and_more_elsewhere() -> None:
    random = np.random.default_rng(0)
    same = 0
    for _ in range(600):
        scores, labels = random.random(8), random.choice(np.array([-1, 1], np.int8), 8)
        if (labels < 0).all():
            continue
        found, theirs = all_point(scores, labels), average_precision_score(labels > 0, scores)
        in_order = labels[np.argsort(-scores)]
        precision = (np.cumsum(in_order > 0) / np.arange(1, 9))[in_order > 0]
        if (np.diff(precision) <= 0).all():
            assert found == pytest.approx(theirs, abs=1e-12)
            same += 1
        else:
            assert found > theirs
    assert 60 < same < 540


def test_both_are_the_devkits_definition() -> None:
    """VOCevalcls.m (2007) and VOCap.m (2010), spelt out over every rank, in fractions."""
    random = np.random.default_rng(1)
    for _ in range(300):
        count = int(random.integers(3, 30))
        scores, labels = random.permutation(count).astype(float), random.choice(np.array([-1, 0, 1], np.int8), count)
        if (labels < 1).all():
            continue
        kept = [int(labels[i]) for i in np.argsort(-scores) if labels[i]]
        positives = kept.count(1)
        curve = [
            (Fraction(kept[:n].count(1), positives), Fraction(kept[:n].count(1), n)) for n in range(1, len(kept) + 1)
        ]
        eleven = sum(max((p for r, p in curve if r >= Fraction(t, 10)), default=Fraction(0)) for t in range(11)) / 11
        area, before = Fraction(0), Fraction(0)
        for recall, _ in curve:
            area += (recall - before) * max(p for r, p in curve if r >= recall)
            before = recall
        assert eleven_point(scores, labels) == pytest.approx(float(eleven), abs=1e-12)
        assert all_point(scores, labels) == pytest.approx(float(area), abs=1e-12)
