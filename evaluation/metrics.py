"""Errors and their intervals, from posteriors and labels alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .scores import Scores


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Wrong answers of `images`, in percent, with Wilson's 95 % interval."""

    percent: float
    interval95_percent: tuple[float, float]


def ranks(posterior: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many classes stand before the true one, [N]; of equal posteriors the lower index stands first.

    A row that is not all finite has no answer: its rank is the largest number there is, which is wrong for every k.
    """
    true = np.take_along_axis(posterior, labels[:, None].astype(np.int64), 1)
    before = np.arange(posterior.shape[1])[None] < labels[:, None]
    stands_before: NDArray[np.bool_] = (posterior > true) | ((posterior == true) & before)
    finite = np.isfinite(posterior).all(1)
    return np.where(finite, stands_before.sum(1), np.iinfo(np.int64).max)


def top_errors(parts: Iterable[Scores], ks: Sequence[int]) -> tuple[ErrorRate | None, ...]:
    """Top-k error for each k over the labelled images of a table's parts; unreadable ones count as wrong.

    None without labels.
    """
    wrong, labelled = np.zeros(len(ks), np.int64), 0
    for part in parts:
        wrong += [int(is_wrong(part, k).sum()) for k in ks]
        labelled += int((part.labels >= 0).sum())
    return tuple(error_rate(int(count), labelled) if labelled else None for count in wrong)


def is_wrong(scores: Scores, k: int) -> NDArray[np.bool_]:
    """For each labelled image, whether its class is not among the first k, or it could not be read."""
    labelled = scores.labels >= 0
    wrong = ranks(scores.posterior[labelled], scores.labels[labelled]) >= k
    return wrong | ~scores.readable[labelled]


def agreement_percent(one: Scores, other: Scores, k: int) -> float:
    """Of the images that both could read, those for which both name the same k classes first, in any order."""
    seen = one.readable & other.readable
    sets = [np.sort(np.argsort(-scores.posterior[seen], kind="stable")[:, :k]) for scores in (one, other)]
    finite = np.isfinite(one.posterior[seen]).all(1) & np.isfinite(other.posterior[seen]).all(1)
    return 100 * float(((sets[0] == sets[1]).all(1) & finite).mean())


@dataclass(frozen=True, slots=True)
class McNemar:
    """How often just one of two models is wrong, and the p-value of McNemar's exact test that both err as often."""

    only_first_wrong: int
    only_second_wrong: int

    @property
    def p(self) -> float:
        differing = self.only_first_wrong + self.only_second_wrong
        return float(binomtest(self.only_first_wrong, differing).pvalue) if differing else 1.0


def mcnemar(one: Scores, other: Scores, k: int) -> McNemar:
    """Top-k answers of two models for the same labelled images; unreadable ones count as wrong."""
    wrong = [is_wrong(scores, k) for scores in (one, other)]
    return McNemar(int((wrong[0] & ~wrong[1]).sum()), int((~wrong[0] & wrong[1]).sum()))


def error_rate(wrong: int, images: int) -> ErrorRate:
    interval = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return ErrorRate(100 * wrong / images, (100 * float(interval.low), 100 * float(interval.high)))
