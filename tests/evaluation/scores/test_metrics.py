"""evaluation/scores/metrics.py: ranks worked by hand, what counts as wrong, Wilson's interval from its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import make_scores

from evaluation.scores.metrics import agreement_percent, error_rate, ranks, top_errors
from evaluation.scores.table import OK, UNKNOWN_LABEL

POSTERIOR = [
    [0.1, 0.2, 0.3, 0.4],
    [0.4, 0.3, 0.2, 0.1],
    [0.25, 0.25, 0.25, 0.25],
    [0.25, 0.25, 0.25, 0.25],
    [0.4, 0.1, 0.4, 0.1],
    [0.4, 0.1, 0.4, 0.1],
]
LABELS = [3, 3, 0, 2, 2, 3]
RANKS = [0, 3, 0, 2, 1, 3]  # of equal posteriors the lower index stands first


def test_ranks_by_hand() -> None:
    assert ranks(np.array(POSTERIOR, np.float32), np.array(LABELS, np.int32)).tolist() == RANKS


@pytest.mark.parametrize(("k", "wrong"), [(1, 4), (2, 3), (3, 2), (4, 0)])
def test_top_k_errors(k: int, wrong: int) -> None:
    rate = top_errors([make_scores(POSTERIOR, LABELS)], (k,))[0]
    assert rate is not None
    assert rate.percent == pytest.approx(100 * wrong / 6)


def test_ranks_agree_with_sorting() -> None:
    rng = np.random.default_rng(0)
    posterior = rng.integers(0, 5, (200, 12)).astype(np.float32)  # many ties
    labels = rng.integers(0, 12, 200).astype(np.int32)
    order = np.argsort(-posterior, 1, kind="stable")
    expected = [row.tolist().index(label) for row, label in zip(order, labels, strict=True)]
    assert ranks(posterior, labels).tolist() == expected


def test_an_unreadable_image_is_wrong_even_where_its_zeros_would_be_right() -> None:
    zeros = [[0.0, 0.0, 0.0]]
    scores = make_scores(zeros, [0], ("is empty (0 bytes)",))
    for k in (1, 5):
        rate = top_errors([scores], (k,))[0]
        assert rate is not None
        assert rate.percent == 100
    readable = top_errors([make_scores(zeros, [0], (OK,))], (1,))[0]
    assert readable is not None
    assert readable.percent == 0


def test_a_posterior_that_is_not_a_number_is_wrong() -> None:
    """An FP16 engine that overflows must not be measured as perfect."""
    nan = float("nan")
    for posterior in ([[nan, nan, nan]], [[0.5, nan, 0.5]], [[nan, 0.1, nan]]):
        rate = top_errors([make_scores(posterior, [1])], (1,))[0]
        assert rate is not None
        assert rate.percent == 100


def test_images_without_a_label_count_neither_way() -> None:
    scores = make_scores([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]], [0, UNKNOWN_LABEL, 1])
    rate = top_errors([scores], (1,))[0]
    assert rate is not None
    assert rate == error_rate(1, 2)
    assert top_errors([make_scores([[0.9, 0.1]], [UNKNOWN_LABEL])], (1,))[0] is None


@pytest.mark.parametrize(("wrong", "images"), [(0, 10), (1, 10), (10, 10), (37, 400), (12345, 50000), (1, 1)])
def test_wilsons_interval_is_its_closed_formula(wrong: int, images: int) -> None:
    z, p, n = 1.959963984540054, wrong / images, images
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    rate = error_rate(wrong, images)
    assert rate.percent == pytest.approx(100 * p)
    assert rate.interval95_percent == pytest.approx((100 * (center - half), 100 * (center + half)), abs=1e-9)
    low, high = rate.interval95_percent
    assert 0 <= low <= rate.percent <= high <= 100


def test_agreement_counts_sets_of_answers() -> None:
    one = make_scores([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], [0, 0, 0])
    other = make_scores([[0.3, 0.5, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], [0, 0, 0])
    assert agreement_percent(one, other, 1) == pytest.approx(100 / 3)
    assert agreement_percent(one, other, 2) == pytest.approx(200 / 3)
    assert agreement_percent(one, other, 3) == 100
    nan = make_scores([[np.nan] * 3] * 3, [0, 0, 0])
    assert agreement_percent(nan, nan, 1) == 0
