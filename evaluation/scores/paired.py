"""Two models on the same images: which errs less, by how much, and is it more than chance.

A pair is a labelled image with an answer of both. An image that a model could not read, or whose answer is no number,
counts as wrong for that model, as in every table of errors; an image without a label is in no pair.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ..errors import ScoresError
from .metrics import error_rate, is_wrong, wrong_answers
from .table import Scores, check_same_images, say_other_images, say_other_labels

Interval = tuple[float, float]
LEVEL = 0.05
"""A difference is said to be shown where the p-value, adjusted where there are several pairs, is below this."""
LEAST_P = 1e-16
"""Smaller p-values are not told apart: no model of how images are drawn is right that far out."""


_error_rate = functools.lru_cache(error_rate)  # the pairs of a few tables ask for the same ones again and again


@dataclass(frozen=True, slots=True)
class Paired:
    """Numbers of images by which of two models is wrong on them."""

    both_wrong: int
    only_first_wrong: int
    only_second_wrong: int
    both_right: int

    @property
    def images(self) -> int:
        return self.both_wrong + self.only_first_wrong + self.only_second_wrong + self.both_right

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test that both err as often."""
        differing = self.only_first_wrong + self.only_second_wrong
        return float(binomtest(self.only_first_wrong, differing).pvalue) if differing else 1.0

    @property
    def error_percents(self) -> Interval:
        """The errors of the first and of the second."""
        wrong = self.both_wrong + self.only_first_wrong, self.both_wrong + self.only_second_wrong
        return 100 * wrong[0] / self.images, 100 * wrong[1] / self.images

    @property
    def difference_percent(self) -> float:
        """The second's error minus the first's, in points."""
        return 100 * (self.only_second_wrong - self.only_first_wrong) / self.images

    @property
    def interval95_percent(self) -> Interval:
        """The 95 % interval of the difference: Newcombe's square-and-add interval for paired proportions.

        Method 10 of R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
        based on paired data", Statistics in Medicine 17 (1998), 2635-2650: the limits of both errors by Wilson's
        method, their distances added as squares, less what the correlation of the two takes away.
        """
        first = _error_rate(self.both_wrong + self.only_first_wrong, self.images)
        second = _error_rate(self.both_wrong + self.only_second_wrong, self.images)
        below, above = _distances(first.percent, first.interval95_percent)
        below_other, above_other = _distances(second.percent, second.interval95_percent)

        # the lower limit is the one of low second errors and high first ones
        phi = self._correlation()
        lower = math.sqrt(max(0.0, below_other**2 - 2 * phi * below_other * above + above**2))
        upper = math.sqrt(max(0.0, above_other**2 - 2 * phi * above_other * below + below**2))
        return self.difference_percent - lower, self.difference_percent + upper

    def _correlation(self) -> float:
        """Phi of the two errors, with the paper's correction for continuity where it is above 0."""
        first_wrong, first_right = self.both_wrong + self.only_first_wrong, self.only_second_wrong + self.both_right
        second_wrong, second_right = self.both_wrong + self.only_second_wrong, self.only_first_wrong + self.both_right
        product = first_wrong * first_right * second_wrong * second_right
        if not product:
            return 0.0

        covariance = self.both_wrong * self.both_right - self.only_first_wrong * self.only_second_wrong
        corrected = max(covariance - self.images / 2, 0) if covariance > 0 else covariance
        return corrected / math.sqrt(product)


def _distances(value: float, interval: Interval) -> Interval:
    """From a value to the ends of its interval."""
    return value - interval[0], interval[1] - value


def count_pairs(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """The counts of two masks of wrong answers to the same images."""
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    return Paired(both, int((first & ~second).sum()), int((~first & second).sum()), neither)


def pair_scores(one: Scores, other: Scores, k: int) -> Paired:
    """The counts of the top-k answers in two whole tables of the same images."""
    return count_pairs(is_wrong(one, k), is_wrong(other, k))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being a family, in their order: S. Holm, Scand. J. Statistics 6 (1979), 65-70.

    Compared with a level, they call any pair of the family different by chance no more often than that level says.
    """
    adjusted, most = [1.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, which in enumerate(order):
        most = max(most, (len(p_values) - place) * p_values[which])
        adjusted[which] = min(1.0, most)
    return adjusted


def say_verdict(pair: Paired, p: float, first: str, second: str) -> str:
    """One sentence on the errors of two named models; `p` is the adjusted one where the pair is one of several."""
    return say_difference(pair.images, pair.difference_percent, pair.interval95_percent, p, first, second)


def say_difference(images: int, difference: float, interval: Interval, p: float, first: str, second: str) -> str:
    """The sentence of `say_verdict`, of the difference of the errors in points, the second's minus the first's."""
    low, high = interval
    digits = max(1, math.ceil(math.log10(images)) - 3)  # six images, the fewest that can differ, are not 0.0
    if p >= LEVEL:
        most = math.ceil(max(-low, high) * 10**digits) / 10**digits
        return f"no difference shown; one above {most:.{digits}f} points can be excluded (p {say_p(p)})"

    # the difference as of the one that errs less
    better, value, ends = second, difference, (low, high)
    if value > 0:
        better, value, ends = first, -value, (-high, -low)
    return (
        f"{better} errs less: {value:+.{digits}f} points [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}], p {say_p(p)}"
    )


def say_p(p: float) -> str:
    """A p-value as it stands after its name: "= 0.002", or below what is told apart.

    Two digits, and more where it would be rounded to LEVEL from below.
    """
    if p < LEAST_P:
        return f"< {LEAST_P:g}"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"= {next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))}"


class WrongAnswers:
    """Which labelled images of one table are wrong, top-1 and top-5, collected part by part: 3 bytes an image.

    Any number of pairs of tables is so counted after each of them was read once.
    """

    def __init__(self) -> None:
        self.head: Scores | None = None  # the first part without rows
        self.count = 0
        self._names, self._labels = hashlib.sha256(), hashlib.sha256()
        self._wrong: list[NDArray[np.bool_]] = []
        self._readable: list[NDArray[np.bool_]] = []

    def add(self, part: Scores) -> None:
        self.head = self.head or part.rows([])
        self.count += len(part.images)
        self._names.update("".join(f"{name}\0" for name in part.images).encode("utf-8", "surrogatepass"))
        self._labels.update(part.labels.astype("<i4").tobytes())
        self._wrong.append(wrong_answers(part))
        self._readable.append(part.readable[part.labels >= 0])

    def watch(self, parts: Iterable[Scores]) -> Iterator[Scores]:
        """The same parts, each added as it goes by."""
        for part in parts:
            self.add(part)
            yield part

    @property
    def images(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What two tables must share to be paired: data set, names, labels and classes."""
        assert self.head is not None
        return self.head.metadata["dataset_id"], self._names.hexdigest(), self._labels.hexdigest(), self.head.classes

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Mask [top-1 top-5, labelled image]."""
        return np.concatenate([np.zeros((2, 0), np.bool_), *self._wrong], 1)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Mask [labelled image]."""
        return np.concatenate([np.zeros(0, np.bool_), *self._readable])


def pair_answers(one: WrongAnswers, other: WrongAnswers) -> tuple[Paired, Paired] | None:
    """The counts of two tables, top-1 and top-5; None where no labelled image was scored by both.

    None too where one of them alone is `unrounded`: their difference would hide what half precision costs.
    Raises ScoresError unless the tables have the same images, labels and classes.
    """
    assert one.head is not None and other.head is not None
    if one.images[:2] != other.images[:2]:
        raise ScoresError(say_other_images(one.head, other.head, one.count, other.count))
    check_same_images(one.head, other.head)  # the classes
    if one.images != other.images:
        raise ScoresError(say_other_labels(one.head, other.head))

    if one.head.unrounded != other.head.unrounded or not (one.readable & other.readable).any():
        return None
    top1, top5 = (count_pairs(first, second) for first, second in zip(one.wrong, other.wrong, strict=True))
    return top1, top5
