"""Errors and their intervals, from posteriors and labels alone."""

from __future__ import annotations

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


def top_errors(scores: Scores, k: int) -> ErrorRate | None:
    """Top-k error over the labelled images; unreadable ones count as wrong. None without labels."""
    labelled = scores.labels >= 0
    if not labelled.any():
        return None
    wrong = ranks(scores.posterior[labelled], scores.labels[labelled]) >= k
    return error_rate(int((wrong | ~scores.readable[labelled]).sum()), int(labelled.sum()))


def error_rate(wrong: int, images: int) -> ErrorRate:
    interval = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return ErrorRate(100 * wrong / images, (100 * float(interval.low), 100 * float(interval.high)))
