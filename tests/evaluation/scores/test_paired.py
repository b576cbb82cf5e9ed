"""evaluation/scores/paired.py beside published numbers and second implementations, written out here."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from helpers import make_scores

from evaluation.errors import ScoresError
from evaluation.scores.paired import (
    Paired,
    WrongAnswers,
    count_pairs,
    holm,
    pair_answers,
    pair_scores,
    say_p,
    say_verdict,
)
from evaluation.scores.table import UNKNOWN_LABEL, Scores

Z = 1.959963984540054  # the normal distribution's 97.5 % point, of any table
COUNTS = [
    (0, 0, 0, 50),  # nothing is wrong
    (50, 0, 0, 0),
    (9, 0, 0, 391),  # the same answers
    (0, 7, 0, 0),  # all differ, one way
    (0, 0, 7, 0),
    (0, 5, 5, 0),  # all differ, both ways: the errors are correlated as little as can be
    (9, 0, 15, 376),  # the demo's 2.25 and 6.00 %
    (4, 5, 9, 82),
    (1, 7, 1, 12),
    (1200, 300, 411, 48089),
]


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact, in whole numbers: both tails of as many tosses of a coin as there are images that differ."""
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**differing)))


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's limits: the roots of (p - wrong/images)^2 = Z^2 p (1 - p) / images."""
    share = wrong / images
    low, high = sorted(np.roots([1 + Z**2 / images, -2 * share - Z**2 / images, share**2]).real)
    return low, high


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Method 10 as the paper has it: a both, b only the first, c only the second, d neither; first minus second."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    phi, product = 0.0, (a + b) * (c + d) * (a + c) * (b + d)
    if product:
        difference = a * d - b * c
        if difference > n / 2:
            phi = (difference - n / 2) / math.sqrt(product)
        elif difference < 0:
            phi = difference / math.sqrt(product)
    delta = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    epsilon = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - delta, p1 - p2 + epsilon


def holm_by_closure(p_values: Sequence[float]) -> list[float]:
    """A hypothesis is rejected where Bonferroni rejects every set of hypotheses that it is in."""
    places = range(len(p_values))
    sets = [each for size in places for each in itertools.combinations(places, size + 1)]
    of_set = {each: min(1.0, len(each) * min(p_values[i] for i in each)) for each in sets}
    return [max(p for each, p in of_set.items() if place in each) for place in places]


@pytest.mark.parametrize("counts", COUNTS)
def test_as_written_out(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    pair = Paired(*counts)
    assert pair.p == pytest.approx(mcnemar_p(first, second), rel=1e-9)
    assert pair.difference_percent == pytest.approx(100 * (second - first) / sum(counts))
    low, high = newcombe(both, second, first, neither)  # second minus first
    assert pair.interval95_percent == pytest.approx((100 * low, 100 * high), abs=1e-5)
    assert -100 <= pair.interval95_percent[0] <= pair.difference_percent <= pair.interval95_percent[1] <= 100


@pytest.mark.parametrize("counts", COUNTS)
def test_the_other_way_round_the_signs_change(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    one, other = Paired(*counts), Paired(both, second, first, neither)
    low, high = one.interval95_percent
    assert other.interval95_percent == pytest.approx((-high, -low))
    assert other.p == one.p
    assert other.difference_percent == pytest.approx(-one.difference_percent)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8: Cavo et al., as
        # contingencytables (R) tests it, and Bentur et al.; their tables are (both, first; second, neither)
        ((59, 6, 16, 80), (-0.0621, -0.1186, -0.0046)),
        ((1, 1, 7, 12), (-0.286, -0.507, -0.026)),
    ],
)
def test_published_intervals(counts: tuple[int, int, int, int], published: tuple[float, float, float]) -> None:
    both, first, second, neither = counts
    pair = Paired(both, second, first, neither)  # theirs is first minus second
    digits = 0.00005 if len(str(published[1])) > 6 else 0.0005
    found = (pair.difference_percent, *pair.interval95_percent)
    assert [each / 100 for each in found] == pytest.approx(published, abs=digits)


def test_the_pair_of_the_demo() -> None:
    """2.25 % [1.2, 4.2] and 6.00 % [4.1, 8.8]: the intervals overlap, and 0 against 15 is no chance."""
    pair = Paired(9, 0, 15, 376)
    assert pair.error_percents == (2.25, 6)
    assert pair.p == pytest.approx(2 / 2**15)
    assert pair.interval95_percent[0] > 0
    assert say_verdict(pair, pair.p, "A", "B") == "A errs less: -3.8 points [-6.1, -1.9], p = 6.1e-05"


def test_the_interval_holds_what_is_true_in_95_percent_of_cases() -> None:
    """20,000 draws of 400 images; a half width of 0.3 % of the share is three standard errors two times."""
    true = np.array([0.04, 0.02, 0.05, 0.89])
    draws = np.random.default_rng(0).multinomial(400, true, 20_000)
    rows, times = np.unique(draws, axis=0, return_counts=True)
    order = np.argsort(-times)[:3000]  # the most frequent tables
    intervals = np.array([Paired(*map(int, rows[i])).interval95_percent for i in order])
    held = (intervals[:, 0] <= 3) & (intervals[:, 1] >= 3)
    assert 0.94 < float((held * times[order]).sum() / times[order].sum()) < 0.975


@pytest.mark.parametrize(
    "p_values",
    [
        [],
        [0.03],
        [0.01, 0.04, 0.03, 0.005],  # adjusted 0.03, 0.06, 0.06, 0.02
        [0.9, 0.8, 0.7],
        [0.02, 0.02, 0.02],
        [6.1e-5, 0.012, 0.049, 0.033, 1.0, 0.2, 0.012, 0.008],
    ],
)
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(holm_by_closure(p_values))


def test_what_statsmodels_gives() -> None:
    """Version 0.15.0, which is not installed here.

    From statsmodels.stats, contingency_tables.mcnemar([[both, first], [second, neither]], exact=True).pvalue and
    multitest.multipletests(p_values, method="holm")[1].
    """
    for counts, p in (
        ((9, 0, 15, 376), 6.103515625e-05),
        ((4, 5, 9, 82), 0.4239501953125),
        ((1, 7, 1, 12), 0.0703125),
        ((1200, 300, 411, 48_089), 3.578482914601141e-05),
        ((1_000_000, 3000, 3111, 1_000_000), 0.1593810394864117),
        ((0, 25_000, 25_000, 0), 1.0),
    ):
        assert Paired(*counts).p == pytest.approx(p, rel=1e-10)
    given = [6.1e-5, 0.012, 0.049, 0.033, 1.0, 0.2, 0.012, 0.008]
    assert holm(given) == pytest.approx([0.000488, 0.072, 0.147, 0.132, 1.0, 0.4, 0.072, 0.056])


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("pair", "p", "said"),
    [
        (Paired(50, 90, 30, 830), 0.002, "B errs less: -6.0 points [-8.2, -3.9], p = 0.002"),
        (Paired(50, 30, 90, 830), 0.002, "A errs less: -6.0 points [-8.2, -3.9], p = 0.002"),
        (Paired(50, 90, 30, 830), 0.2, "no difference shown; one above 8.2 points can be excluded (p = 0.2)"),
        (Paired(0, 6, 0, 49994), 0.03, "B errs less: -0.01 points [-0.03, -0.00], p = 0.03"),
        (Paired(0, 900, 0, 100), 0.0, "B errs less: -90.0 points [-91.7, -87.9], p < 1e-16"),
    ],
)
def test_the_verdict_is_that_of_the_p_value(pair: Paired, p: float, said: str) -> None:
    assert say_verdict(pair, p, "A", "B") == said


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.002, "= 0.002"),
        (1.0, "= 1"),
        (0.0496, "= 0.0496"),  # not 0.05, beside "errs less"
        (0.04999, "= 0.04999"),
        (0.05, "= 0.05"),
        (0.0501, "= 0.05"),
        (1e-16, "= 1e-16"),
        (0.0, "< 1e-16"),
    ],
)
def test_a_p_value_is_on_its_side_of_the_level(p: float, said: str) -> None:
    assert say_p(p) == said


RIGHT, WRONG = [0.9, 0.1], [0.1, 0.9]


def test_mcnemar_is_the_exact_test_of_the_answers_that_differ() -> None:
    """Ten images that only the second gets wrong, two that only the first does: p = P(|k - 6| >= 4) of 12 tosses."""
    one = make_scores([RIGHT] * 10 + [WRONG] * 2 + [RIGHT] * 8, [0] * 20)
    other = make_scores([WRONG] * 10 + [RIGHT] * 2 + [RIGHT] * 8, [0] * 20)
    found = pair_scores(one, other, 1)
    assert found == Paired(0, 2, 10, 8)
    assert found.p == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert pair_scores(one, one, 1).p == 1


def answers(scores: Scores, rows: int = 2) -> WrongAnswers:
    """Of the table in parts of so many rows."""
    found = WrongAnswers()
    count = len(scores.images)
    parts = (scores.rows(range(i, min(i + rows, count))) for i in range(0, count, rows))
    assert sum(len(part.images) for part in found.watch(parts)) == count
    return found


def test_which_images_are_pairs() -> None:
    """Without a label: none. What one, or both, could not read is wrong for it; so is an answer that is no number."""
    labels = [0, 0, 0, 0, UNKNOWN_LABEL, 0]
    one = make_scores([RIGHT, RIGHT, [0, 0], [0, 0], WRONG, RIGHT], labels, ("ok", "ok", "bad", "bad", "ok", "ok"))
    other = make_scores(
        [RIGHT, [0, 0], RIGHT, [0, 0], RIGHT, [np.nan] * 2], labels, ("ok", "bad", "ok", "bad", "ok", "ok")
    )
    expected = Paired(both_wrong=1, only_first_wrong=1, only_second_wrong=2, both_right=1)
    assert pair_scores(one, other, 1) == expected
    for rows in (1, 2, 6):
        assert pair_answers(answers(one, rows), answers(other)) == (expected, expected)  # of two classes, top-5 too


def test_top1_and_top5() -> None:
    labels = [0, 0]
    sixth, second = [[0.1, 0.3, 0.2, 0.15, 0.13, 0.12]], [[0.3, 0.4, 0.1, 0.1, 0.05, 0.05]]
    one, other = make_scores(sixth + second, labels), make_scores(second + second, labels)
    assert pair_answers(answers(one), answers(other)) == (Paired(2, 0, 0, 0), Paired(0, 1, 0, 1))


def test_nothing_in_common() -> None:
    one = make_scores([RIGHT, RIGHT], [0, 0], ("ok", "bad"))
    other = make_scores([RIGHT, RIGHT], [0, 0], ("bad", "ok"))
    assert pair_answers(answers(one), answers(other)) is None
    unlabelled = make_scores([RIGHT], [UNKNOWN_LABEL])
    assert pair_answers(answers(unlabelled), answers(unlabelled)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": ("0.jpg", "2.jpg")}, r"use tables of the same images"),
        ({"images": ("1.jpg", "0.jpg")}, r"hand was scored on data set 0123456789abcdef \(2 images\)"),
        ({"labels": np.array([0, 1], np.int32)}, "different labels for the same images"),
        ({"posterior": np.ones((2, 2), np.float32), "metadata": None}, "different classes"),
        ({"metadata": {"dataset_id": "x"}}, "was scored on data set x"),
    ],
)
def test_other_tables_are_no_pair(changes: dict[str, object], said: str) -> None:
    one = make_scores([RIGHT, RIGHT], [0, 0])
    if changes.get("metadata", 0) is None:
        other = make_scores([[0.5, 0.2, 0.3]] * 2, [0, 0])
    elif "metadata" in changes:
        other = make_scores([RIGHT, RIGHT], [0, 0], dataset_id="x")
    else:
        other = dataclasses.replace(one, **changes)  # type: ignore[arg-type]
    with pytest.raises(ScoresError, match=said):
        pair_answers(answers(one), answers(other))


def test_counts_are_of_masks() -> None:
    first, second = np.array([1, 1, 0, 0, 0], np.bool_), np.array([1, 0, 1, 0, 0], np.bool_)
    assert count_pairs(first, second) == Paired(1, 1, 1, 2)
