"""How sure a mean average precision is, and a difference of two: intervals by drawing images anew.

The bootstrap (B. Efron, Annals of Statistics 7 (1979), 1-26): samples of as many images as there are, drawn with
replacement, each measured whole; the interval is that of the middle 95 % of the samples. What is right and wrong in an
image does not depend on others, so it is judged once. Two systems are measured on the same samples. A class without an
object in a sample is not in that sample's mean.

Such intervals are a little short for average precision: of 60 or 200 drawn images, they held the mean of very many in
90 to 92 % of cases. Where scores say nothing of what is right, a few images promise more than many can keep, by as much
as the interval is wide, and 74 % did (tests/evaluation/detection/test_intervals.py has the systems).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from .metric import Judged, Rule, mean_percent, precisions_of, weighted_aps

SAMPLES = 1000
SEED = 0
PERCENTILES = (2.5, 97.5)
MOST_NUMBERS = 1 << 22
"""Numbers that a part of the samples may have at once."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean average precision in percent, or a difference of two in points, with its 95 % interval."""

    percent: float
    interval95_percent: tuple[float, float]


def mean_with_interval(judged: Sequence[Sequence[Judged]], rule: Rule, samples: int = SAMPLES) -> Mean:
    """The mean over classes; judged: of each class at each threshold of the rule. Always the same for the same."""
    means = sample_means(judged, rule, samples)
    return Mean(precisions_of(judged, rule).mean_percent, _middle(means))


def difference_with_interval(
    first: Sequence[Sequence[Judged]], second: Sequence[Sequence[Judged]], rule: Rule, samples: int = SAMPLES
) -> Mean:
    """The second's mean minus the first's, of two systems on the same images."""
    means = [precisions_of(each, rule).mean_percent for each in (first, second)]
    differences = sample_means(second, rule, samples) - sample_means(first, rule, samples)
    return Mean(means[1] - means[0], _middle(differences))


def sample_means(judged: Sequence[Sequence[Judged]], rule: Rule, samples: int = SAMPLES) -> NDArray[np.float64]:
    """The mean in percent of each sample; nan where no class has an object in it."""
    images = len(judged[0][0].objects) if judged else 0
    if not images:
        return np.full(samples, np.nan)

    longest = max((len(one.order) for of_class in judged for one in of_class), default=1)
    parts = []
    for weights in _draw(images, samples, max(1, MOST_NUMBERS // max(longest, images))):
        aps = [np.mean([weighted_aps(one, weights, rule) for one in of_class], 0) for of_class in judged]
        parts.append(np.array([mean_percent(column) for column in np.array(aps).T]))
    return np.concatenate(parts)


def _draw(images: int, samples: int, at_once: int) -> Iterator[NDArray[np.int32]]:
    """How often each image is in each sample, [samples, images], a part of the samples at a time."""
    for first in range(0, samples, at_once):
        part = range(first, min(first + at_once, samples))
        drawn = [default_rng((SEED, number)).integers(0, images, images) for number in part]
        yield np.array([np.bincount(one, minlength=images) for one in drawn], np.int32)


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)
