"""Numbers from posteriors and labels alone: errors with intervals, per class too, confusion, calibration, agreement.

A table comes as parts (see table.parts), so it need not fit into memory: ErrorCounts and Details count part by part,
`top_errors` and `details` count one whole table. `select` narrows the parts to any subset of their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .table import Scores

BINS = 15
"""Bins of confidence in a calibration: Guo et al. 2017 (arXiv 1706.04599), section 2."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Share of wrong answers in percent, with Wilson's 95 % interval."""

    percent: float
    interval95_percent: tuple[float, float]


def error_rate(wrong: int, images: int) -> ErrorRate:
    interval = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return ErrorRate(100 * wrong / images, (100 * float(interval.low), 100 * float(interval.high)))


def ranks(posterior: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number of classes that stand before the true one, [images]; of equal posteriors the lower index stands first.

    A row that is not all finite has no answer: its rank is the largest integer, which is wrong for every k.
    """
    true = np.take_along_axis(posterior, labels[:, None].astype(np.int64), 1)  # [images, 1]
    lower_index = np.arange(posterior.shape[1])[None] < labels[:, None]  # [images, classes]
    stands_before: NDArray[np.bool_] = (posterior > true) | ((posterior == true) & lower_index)
    finite = np.isfinite(posterior).all(1)
    return np.where(finite, stands_before.sum(1), np.iinfo(np.int64).max)


def wrong_answers(scores: Scores, ks: Sequence[int] = (1, 5)) -> NDArray[np.bool_]:
    """Mask [k, labelled image]: the class is not among the first k answers, or the image could not be read."""
    labelled = scores.labels >= 0
    places = ranks(scores.posterior[labelled], scores.labels[labelled])  # [labelled]
    wrong = (places >= np.array(ks)[:, None]) | ~scores.readable[labelled]
    return np.asarray(wrong, np.bool_)


def is_wrong(scores: Scores, k: int) -> NDArray[np.bool_]:
    """Mask of the labelled images that are wrong by `wrong_answers` for one k."""
    return np.asarray(wrong_answers(scores, (k,))[0])


class ErrorCounts:
    """Wrong top-k answers over the labelled images of a table, for each k; an unreadable image counts as wrong."""

    def __init__(self, ks: Sequence[int] = (1, 5)) -> None:
        self._ks, self._wrong, self._labelled = ks, np.zeros(len(ks), np.int64), 0

    def add(self, part: Scores) -> None:
        wrong = wrong_answers(part, self._ks)
        self._wrong += wrong.sum(1)
        self._labelled += wrong.shape[1]

    def rates(self) -> tuple[ErrorRate | None, ...]:
        """The error for each k, None without labels."""
        return tuple(error_rate(int(wrong), self._labelled) if self._labelled else None for wrong in self._wrong)


def top_errors(parts: Iterable[Scores], ks: Sequence[int]) -> tuple[ErrorRate | None, ...]:
    """Top-k error for each k over the labelled images of one table; None without labels."""
    counts = ErrorCounts(ks)
    for part in parts:
        counts.add(part)
    return counts.rates()


def select(parts: Iterable[Scores], *, images: Collection[str] = (), classes: Collection[str] = ()) -> Iterator[Scores]:
    """The parts, narrowed to images of these names and of these true classes; an empty collection allows all."""
    for part in parts:
        known = part.classes
        places: Sequence[int] = range(len(part.images))
        if images:
            places = [place for place in places if part.images[place] in images]
        if classes:
            labels = part.labels
            places = [place for place in places if labels[place] >= 0 and known[labels[place]] in classes]
        yield part.rows(places)


class ClassError(NamedTuple):
    name: str
    images: int
    rate: ErrorRate


class Details:
    """Confusion, class errors and calibration of one table, counted part by part.

    confusion: i64 [true class, first answer]; unanswered: i64 [true class], images unreadable or not finite.
    bin_images: i64 [BINS], the answered images by the posterior of their first answer, in equal bins.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)
        self.unanswered = np.zeros(len(classes), np.int64)
        self.bin_images = np.zeros(BINS, np.int64)
        self._bin_confidence = np.zeros(BINS)  # sums over the images of each bin
        self._bin_right = np.zeros(BINS)

    def add(self, part: Scores) -> None:
        labelled = part.labels >= 0
        answered = labelled & part.readable & np.isfinite(part.posterior).all(1)
        np.add.at(self.unanswered, part.labels[labelled & ~answered], 1)

        posterior, labels = part.posterior[answered], part.labels[answered]  # [answered, classes], [answered]
        answers = posterior.argmax(1)
        np.add.at(self.confusion, (labels, answers), 1)

        confidence = posterior.max(1, initial=0).astype(np.float64)
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (i/BINS, (i+1)/BINS]
        np.add.at(self.bin_images, bins, 1)
        np.add.at(self._bin_confidence, bins, confidence)
        np.add.at(self._bin_right, bins, answers == labels)

    @property
    def bin_confidence(self) -> NDArray[np.float64]:
        """Mean posterior of the first answers in each bin, zero in an empty one."""
        return np.asarray(self._bin_confidence / np.maximum(self.bin_images, 1))

    @property
    def bin_accuracy(self) -> NDArray[np.float64]:
        """Share of right answers in each bin, zero in an empty one."""
        return np.asarray(self._bin_right / np.maximum(self.bin_images, 1))

    @property
    def class_images(self) -> NDArray[np.int64]:
        """Labelled images of each true class."""
        return np.asarray(self.confusion.sum(1) + self.unanswered)

    def class_errors(self) -> list[ClassError]:
        """Top-1 error of every class that has images."""
        rows = zip(self.classes, self.class_images.tolist(), self.confusion.diagonal().tolist(), strict=True)
        return [ClassError(name, count, error_rate(count - right, count)) for name, count, right in rows if count]

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """(true class, answer, images) of the wrong answers that are given most often."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        places = (divmod(int(place), len(self.classes)) for place in order)
        return [(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]

    @property
    def expected_calibration_error_percent(self) -> float | None:
        """Mean distance of confidence and accuracy over the bins, weighted by their images; None without images."""
        images = self.bin_images
        if not images.sum():
            return None
        return float(100 * (images * np.abs(self.bin_confidence - self.bin_accuracy)).sum() / images.sum())


def details(parts: Iterable[Scores]) -> Details:
    """Details of one whole table."""
    found: Details | None = None
    for part in parts:
        found = found or Details(part.classes)
        found.add(part)
    return found or Details(())


def same_answers(one: Scores, other: Scores, k: int) -> NDArray[np.bool_]:
    """Mask over the images that both could read: both name the same k classes first, in any order.

    An answer that is not finite agrees with none.
    """
    seen = one.readable & other.readable
    first, second = one.posterior[seen], other.posterior[seen]  # [seen, classes]
    sets = [np.sort(np.argsort(-posterior, kind="stable")[:, :k]) for posterior in (first, second)]
    finite = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    return np.asarray((sets[0] == sets[1]).all(1) & finite)


def agreement_percent(one: Scores, other: Scores, k: int) -> float:
    """Share of `same_answers` among the images that both could read."""
    return 100 * float(same_answers(one, other, k).mean())


@dataclass(frozen=True, slots=True)
class McNemar:
    """Numbers of images on which just one of two models is wrong."""

    only_first_wrong: int
    only_second_wrong: int

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test that both err as often."""
        differing = self.only_first_wrong + self.only_second_wrong
        return float(binomtest(self.only_first_wrong, differing).pvalue) if differing else 1.0


def mcnemar(one: Scores, other: Scores, k: int) -> McNemar:
    """Top-k answers of two models for the same labelled images; unreadable ones count as wrong."""
    first, second = is_wrong(one, k), is_wrong(other, k)
    return McNemar(int((first & ~second).sum()), int((~first & second).sum()))
