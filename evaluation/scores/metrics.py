"""Errors and their intervals, per class too, confusion and calibration, from posteriors and labels alone.

Tables come as parts (see scores.parts), so none has to fit into memory; `select` takes any subset of one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .table import Scores

BINS = 15
"""Of confidence, in a calibration: Guo et al. 2017 (arXiv 1706.04599), section 2."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Wrong answers of `images`, in percent, with Wilson's 95 % interval."""

    percent: float
    interval95_percent: tuple[float, float]


def error_rate(wrong: int, images: int) -> ErrorRate:
    interval = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return ErrorRate(100 * wrong / images, (100 * float(interval.low), 100 * float(interval.high)))


def ranks(posterior: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many classes stand before the true one, [N]; of equal posteriors the lower index stands first.

    A row that is not all finite has no answer: its rank is the largest number there is, which is wrong for every k.
    """
    true = np.take_along_axis(posterior, labels[:, None].astype(np.int64), 1)
    before = np.arange(posterior.shape[1])[None] < labels[:, None]
    stands_before: NDArray[np.bool_] = (posterior > true) | ((posterior == true) & before)
    finite = np.isfinite(posterior).all(1)
    return np.where(finite, stands_before.sum(1), np.iinfo(np.int64).max)


def is_wrong(scores: Scores, k: int) -> NDArray[np.bool_]:
    """For each labelled image, whether its class is not among the first k, or it could not be read."""
    labelled = scores.labels >= 0
    wrong = ranks(scores.posterior[labelled], scores.labels[labelled]) >= k
    return wrong | ~scores.readable[labelled]


def top_errors(parts: Iterable[Scores], ks: Sequence[int]) -> tuple[ErrorRate | None, ...]:
    """Top-k error for each k over the labelled images of a table's parts; unreadable ones count as wrong.

    None without labels.
    """
    wrong, labelled = np.zeros(len(ks), np.int64), 0
    for part in parts:
        wrong += [int(is_wrong(part, k).sum()) for k in ks]
        labelled += int((part.labels >= 0).sum())
    return tuple(error_rate(int(count), labelled) if labelled else None for count in wrong)


def select(parts: Iterable[Scores], *, images: Collection[str] = (), classes: Collection[str] = ()) -> Iterator[Scores]:
    """The parts with only the images of these names and of these true classes; none named: all."""
    for part in parts:
        known = part.classes
        chosen = [
            place
            for place, (name, label) in enumerate(zip(part.images, part.labels, strict=True))
            if (not images or name in images) and (not classes or (label >= 0 and known[label] in classes))
        ]
        yield replace(
            part,
            images=tuple(part.images[place] for place in chosen),
            labels=part.labels[chosen],
            statuses=tuple(part.statuses[place] for place in chosen),
            pixel_digests=tuple(part.pixel_digests[place] for place in chosen),
            posterior=part.posterior[chosen],
        )


@dataclass(frozen=True, slots=True)
class Details:
    """What a table says beyond its errors.

    confusion i64 [true class, first answer]; unanswered i64 [true class]: unreadable, or not finite. Calibration over
    BINS equal bins of the first answer's posterior, of the labelled readable images: how many, their mean posterior and
    their accuracy.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    unanswered: NDArray[np.int64]
    bin_images: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    bin_accuracy: NDArray[np.float64]

    @property
    def class_images(self) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self.confusion.sum(1) + self.unanswered
        return counts

    def class_errors(self) -> dict[str, ErrorRate]:
        """Top-1 error of every class that has images."""
        right, images = self.confusion.diagonal(), self.class_images
        return {
            name: error_rate(int(images[i] - right[i]), int(images[i]))
            for i, name in enumerate(self.classes)
            if images[i]
        }

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """(true class, answer, images) of the wrong answers that are given most often."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        places = (divmod(int(place), len(self.classes)) for place in order)
        return [(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]

    @property
    def expected_calibration_error_percent(self) -> float | None:
        """Mean distance of confidence and accuracy over the bins, weighted by their images; None without images."""
        total = self.bin_images.sum()
        if not total:
            return None
        return float(100 * (self.bin_images * np.abs(self.bin_confidence - self.bin_accuracy)).sum() / total)


def details(parts: Iterable[Scores]) -> Details:
    """Counted over the parts of one table."""
    classes: tuple[str, ...] = ()
    confusion = unanswered = np.zeros(0, np.int64)
    images, confidence, right = (np.zeros(BINS) for _ in range(3))
    for part in parts:
        if not classes:
            classes = part.classes
            confusion = np.zeros((len(classes), len(classes)), np.int64)
            unanswered = np.zeros(len(classes), np.int64)
        labelled = part.labels >= 0
        answered = labelled & part.readable & np.isfinite(part.posterior).all(1)
        np.add.at(unanswered, part.labels[labelled & ~answered], 1)
        posterior, labels = part.posterior[answered], part.labels[answered]
        answers = posterior.argmax(1)
        np.add.at(confusion, (labels, answers), 1)
        sure = posterior.max(1, initial=0).astype(np.float64)
        bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (i/BINS, (i+1)/BINS]
        for total, values in ((images, np.ones_like(sure)), (confidence, sure), (right, answers == labels)):
            np.add.at(total, bins, values)
    filled = np.maximum(images, 1)
    return Details(classes, confusion, unanswered, images.astype(np.int64), confidence / filled, right / filled)


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
