"""Measures by class against scikit-learn, the Brier score against a loop; what of nothing is a share."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_scores
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, precision_recall_fscore_support

from evaluation.scores.classes import average_classes, measure_classes
from evaluation.scores.metrics import details, top_errors
from evaluation.scores.table import Scores

NONE = -1
"""The answer of an image without one."""


def random_scores() -> Scores:
    """Class 7 has no images, class 2 is never predicted, class 9 is neither; a few images have no answer."""
    chance = np.random.default_rng(5)
    labels = chance.choice([0, 1, 2, 3, 4, 5, 6, 8], 400).astype(np.int32)
    posterior = chance.dirichlet(np.full(10, 0.5), 400)
    posterior[np.arange(400), labels] += 0.3
    posterior[:, [2, 9]] /= 100
    posterior /= posterior.sum(1, keepdims=True)
    posterior[390:] = 0
    posterior[17] = np.nan
    scores = make_scores(posterior, labels, ("ok",) * 390 + ("broken",) * 10)
    scores.labels[:5] = -1
    return scores


SCORES = random_scores()
FOUND = details(SCORES.rows(range(first, min(first + 90, 400))) for first in range(0, 400, 90))
ROWS = measure_classes(FOUND)


def truth_and_answers() -> tuple[list[int], list[int]]:
    answered = SCORES.readable & np.isfinite(SCORES.posterior).all(1)
    answers = np.where(answered, np.nan_to_num(SCORES.posterior).argmax(1), NONE)
    return SCORES.labels[5:].tolist(), answers[5:].tolist()


def test_each_class_is_scikit_learns() -> None:
    names = [row.name for row in ROWS]
    assert names == list("abcdefghi")  # j has no images and is no answer
    shares = precision_recall_fscore_support(*truth_and_answers(), labels=range(9), zero_division=0)
    for place, row in enumerate(ROWS):
        assert (row.precision_percent or 0) == pytest.approx(100 * shares[0][place])
        assert (row.recall_percent or 0) == pytest.approx(100 * shares[1][place])
        assert row.f1_percent == pytest.approx(100 * shares[2][place])
        assert row.support == shares[3][place]


def test_a_share_of_nothing_is_none_and_never_predicted_is_known() -> None:
    by_name = {row.name: row for row in ROWS}
    assert by_name["c"].precision_percent is None and by_name["c"].is_never_predicted
    assert by_name["h"].recall_percent is None and by_name["h"].predicted > 0
    assert [row.name for row in ROWS if row.is_never_predicted] == ["c"]


def test_means_are_scikit_learns_over_the_classes_with_images() -> None:
    averages = average_classes(ROWS)
    assert averages is not None and (averages.classes, averages.never_predicted) == (8, 1)
    truth, answers = truth_and_answers()
    for kind in ("macro", "weighted"):
        shares = precision_recall_fscore_support(
            truth, answers, labels=sorted(set(truth)), average=kind, zero_division=0
        )
        for name, share in zip(("precision", "recall", "f1"), shares, strict=False):
            assert getattr(averages, f"{kind}_{name}_percent") == pytest.approx(100 * share)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):  # h, and no answer
        assert averages.balanced_accuracy_percent == pytest.approx(100 * balanced_accuracy_score(truth, answers))
    error = top_errors([SCORES], (1,))[0]
    assert error is not None and averages.weighted_recall_percent == pytest.approx(100 - error.percent)


def test_brier_score_of_the_answered_images() -> None:
    answered = SCORES.readable & np.isfinite(SCORES.posterior).all(1) & (SCORES.labels >= 0)
    distances = []
    for row, label in zip(SCORES.posterior[answered].tolist(), SCORES.labels[answered].tolist(), strict=True):
        distances.append(sum((p - (place == label)) ** 2 for place, p in enumerate(row)))
    assert pytest.approx(np.mean(distances)) == FOUND.brier_score
    two = make_scores([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], [0, 1, 1])
    halved = brier_score_loss([0, 1, 1], [0.1, 0.6, 0.3])
    assert details([two]).brier_score == pytest.approx(2 * halved)


def test_calibration_error_bin_by_bin() -> None:
    """Fifteen equal bins, each open below and closed above, the first with 0; also where confidence is on an edge."""
    chance = np.random.default_rng(7)
    edges = np.eye(10, dtype=np.float32)[chance.integers(0, 10, 60)] * np.float32(0.6)
    edges[:, :] += np.float32(0.04)
    for posterior in (chance.dirichlet(np.full(10, 0.3), 300).astype(np.float32), edges):
        labels = chance.integers(0, 10, len(posterior))
        confidence, right = posterior.max(1).astype(np.float64), posterior.argmax(1) == labels
        gaps = []
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            gaps.append(abs(float(confidence[inside].sum() - right[inside].sum())))
        found = details([make_scores(posterior, labels)]).expected_calibration_error_percent
        assert found == pytest.approx(100 * sum(gaps) / len(posterior))


def test_what_is_no_posterior_is_in_the_last_bin() -> None:
    """Finite, and far beyond 1, where a number of a bin would overflow."""
    found = details([make_scores([[3e38, 0], [0.9, 0.1], [-5, -6]], [0, 0, 1])])
    assert found.bin_images.tolist() == [1, *[0] * 12, 1, 1]


def test_without_labels_there_is_nothing() -> None:
    empty = details([make_scores([[0.9, 0.1]], [-1])])
    assert (measure_classes(empty), average_classes([]), empty.brier_score) == ([], None, None)
