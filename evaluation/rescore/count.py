"""Errors of a score table under another truth, part by part, beside those that it had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..scores.metrics import ErrorCounts, ErrorRate, error_rate, wrong_answers
from ..scores.table import UNKNOWN_LABEL, Scores
from .truth import Groups, Subset, Truth

Rates = tuple[ErrorRate | None, ...]
"""Top-1 and top-5 error."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """Errors of one table. images: that count; unlabelled: that have no right class; other_classes: only masked ones.

    before: the images and the errors by the table's own labels and all classes. answers: classes that may be answered.
    groups: name, images and errors of each group with images.
    """

    images: int
    errors: Rates
    unlabelled: int
    other_classes: int
    answers: int
    images_before: int
    errors_before: Rates
    groups: tuple[tuple[str, int, Rates], ...]


def rescore(parts: Iterable[Scores], truth: Truth, subset: Subset | None, groups: Groups | None) -> Rescored:
    """Counts one table. Its images are those that `truth` and `groups` are of, in the same order."""
    own, other = ErrorCounts(), ErrorCounts()
    unlabelled = other_classes = answers = first = 0
    wrong_of_parts, places_of_parts = [], []
    images_before = 0

    for part in parts:
        images, classes = part.posterior.shape
        right = truth.mask(first, images, classes)
        known = right.any(1)
        judged = _judge(part, right, subset)
        counted = judged.labels >= 0

        # whoever has a right class, but none that may be answered, is of other classes
        unlabelled += int((~known).sum())
        other_classes += int((known & ~counted).sum())
        answers = judged.posterior.shape[1]
        images_before += int((part.labels >= 0).sum())
        own.add(part)
        other.add(judged)
        wrong_of_parts.append(wrong_answers(judged))
        places_of_parts.append(first + np.flatnonzero(counted))
        first += images

    wrong = np.concatenate([np.zeros((2, 0), np.bool_), *wrong_of_parts], 1)
    places = np.concatenate([np.zeros(0, np.int64), *places_of_parts])
    of_groups = () if groups is None else tuple(_by_group(wrong, groups.of[places], groups.names))
    return Rescored(
        len(places), other.rates(), unlabelled, other_classes, answers, images_before, own.rates(), of_groups
    )


def _judge(part: Scores, right: NDArray[np.bool_], subset: Subset | None) -> Scores:
    """The part with the classes that may be answered alone, and as its label the right one that it ranks first.

    An image without a right class among them is unlabelled.
    """
    posterior = part.posterior
    if subset is not None:
        # an answer that is no number stays none, wherever it is none
        finite = np.isfinite(posterior).all(axis=1, keepdims=True)
        posterior = np.where(finite, posterior[:, subset.allowed], np.float32(np.nan))
        right = right[:, subset.allowed]
        for members in subset.same:
            right[:, members] = right[:, members].any(axis=1, keepdims=True)

    # of equal ones the first, as everywhere
    finite = np.isfinite(posterior).all(axis=1, keepdims=True)
    best = np.where(right, np.where(finite, posterior, 0), -np.inf).argmax(1)
    labels = np.where(right.any(1), best, UNKNOWN_LABEL).astype(np.int32)
    return replace(part, posterior=posterior, labels=labels)


def _by_group(
    wrong: NDArray[np.bool_], group_of: NDArray[np.int64], names: tuple[str, ...]
) -> Iterable[tuple[str, int, Rates]]:
    """Errors of each group that has images."""
    for place, name in enumerate(names):
        inside = group_of == place
        images = int(inside.sum())
        if images:
            yield name, images, tuple(error_rate(int(one[inside].sum()), images) for one in wrong)
