"""Average precision as PASCAL VOC's devkits count it: at eleven recalls (until 2009), or at all (from 2010 on)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Convention = Literal["11-point", "all-point"]


def eleven_point(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> float | None:
    """Averages over the recalls 0, 0.1, ..., 1 the best precision at that recall or more (VOC 2007, section 4.1).

    scores [N]: higher stands first, of equal ones the earlier; labels [N]: 1, -1, or 0 for an image that does not
    count. None without positives. Recalls are compared as fractions, so that 3 of 10 reach 0.3.
    """
    true, ranks = _positives(scores, labels)
    if not len(true):
        return None
    precision = true / ranks
    reached = [precision[10 * true >= tenths * len(true)] for tenths in range(11)]
    return float(np.mean([found.max() for found in reached]))


def all_point(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> float | None:
    """Averages over the positives the best precision at its recall or more: the area below the curve of VOC 2010."""
    true, ranks = _positives(scores, labels)
    if not len(true):
        return None
    return float(np.maximum.accumulate((true / ranks)[::-1]).mean())


def _positives(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts for each positive, first to last, the positives that stand there or before, and the images.

    Precision is best at a positive, so nothing else is looked at.
    """
    counted = labels != 0
    order = np.argsort(-scores[counted], kind="stable")
    ranks = np.flatnonzero(labels[counted][order] > 0) + 1
    return np.arange(1, len(ranks) + 1), ranks


CONVENTIONS: dict[Convention, Callable[[NDArray[np.floating], NDArray[np.int8]], float | None]] = {
    "11-point": eleven_point,
    "all-point": all_point,
}
