"""Two score tables of the same images beside each other, part by part."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import NothingInCommon
from .metrics import ErrorCounts, McNemar, mcnemar, same_answers
from .table import Scores, check_same_images, has_same_images, other_images


@dataclass(frozen=True, slots=True)
class DifferingImage:
    """An image whose first answers differ: what each table says and how sure it is."""

    image: str
    label: str | None
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Agreement and errors of two tables, named as in `evaluation.compare --json`.

    `images` counts those that both could score. Errors are over all labelled images, None without labels.
    """

    images: int
    unreadable: int
    top1_agreement_percent: float
    top5_agreement_percent: float
    largest_posterior_difference: float
    top1_error_percent: tuple[float, float] | None
    top5_error_percent: tuple[float, float] | None
    top1_only_wrong: tuple[int, int]
    top1_mcnemar_p: float
    top5_only_wrong: tuple[int, int]
    top5_mcnemar_p: float
    same_pixels: int | None  # images whose pixels gave the same digest; None: the views differ, or a table is a fusion
    differing: tuple[DifferingImage, ...]  # the largest differences of confidence first


def compare(one: Iterable[Scores], other: Iterable[Scores]) -> Comparison:
    """The comparison of two tables, given as parts. Holds one part of each.

    Raises ScoresError unless the tables have the same images and classes, and its kind NothingInCommon where no image
    was scored by both.
    """
    images = seen_images = same_pixels = 0
    largest, comparable = np.float32(0), True
    errors = ErrorCounts(), ErrorCounts()
    agreeing = np.zeros(2, np.int64)  # [top-1, top-5]
    only_wrong = np.zeros((2, 2), np.int64)  # [top-1, top-5][only the first, only the second]
    differing: list[DifferingImage] = []
    models = "", ""

    for a, b in _in_step(one, other):
        seen = a.readable & b.readable
        images, seen_images = images + len(seen), seen_images + int(seen.sum())
        models = a.model, b.model

        # what is wrong counts every labelled image
        errors[0].add(a)
        errors[1].add(b)
        for place, k in enumerate((1, 5)):
            test = mcnemar(a, b, k)
            only_wrong[place] += test.only_first_wrong, test.only_second_wrong
            agreeing[place] += same_answers(a, b, k).sum()

        # posteriors and pixels are compared where both have them
        differences = np.abs(a.posterior[seen] - b.posterior[seen])
        largest = np.maximum(largest, differences.max(initial=0))  # NaN stays NaN
        digests = np.array(a.pixels, np.str_)[seen], np.array(b.pixels, np.str_)[seen]
        same_views = all(a.metadata[key] == b.metadata[key] for key in ("protocol", "scales"))
        comparable &= same_views and all(bool((own != "").all()) for own in digests)
        same_pixels += int((digests[0] == digests[1]).sum())
        differing += _differing(a, b, np.flatnonzero(seen))

    if not seen_images:
        raise NothingInCommon(f"none of {images} images was scored by both {models[0]} and {models[1]}")
    rates = zip(errors[0].rates(), errors[1].rates(), strict=True)  # top-1, top-5
    percents = [(a.percent, b.percent) if a and b else None for a, b in rates]
    top1, top5 = (McNemar(int(first), int(second)) for first, second in only_wrong)
    return Comparison(
        images=seen_images,
        unreadable=images - seen_images,
        top1_agreement_percent=100 * float(agreeing[0] / seen_images),
        top5_agreement_percent=100 * float(agreeing[1] / seen_images),
        largest_posterior_difference=float(largest),
        top1_error_percent=percents[0],
        top5_error_percent=percents[1],
        top1_only_wrong=(top1.only_first_wrong, top1.only_second_wrong),
        top1_mcnemar_p=top1.p,
        top5_only_wrong=(top5.only_first_wrong, top5.only_second_wrong),
        top5_mcnemar_p=top5.p,
        same_pixels=same_pixels if comparable else None,
        differing=tuple(sorted(differing, key=lambda each: -(each.first_probability + each.second_probability))),
    )


def _in_step(one: Iterable[Scores], other: Iterable[Scores]) -> Iterator[tuple[Scores, Scores]]:
    """The same parts of both tables. Raises ScoresError, with the images of the whole tables counted."""
    ones, others = iter(one), iter(other)
    checked = 0
    ended: tuple[Scores | None, Scores | None] = (None, None)

    for first, second in itertools.zip_longest(ones, others):
        a, b = first or ended[0], second or ended[1]  # a shorter table goes on with no rows
        if a is None or b is None:
            return
        if not has_same_images(a, b):
            one_count = checked + len(a.images) + sum(len(part.images) for part in ones)
            other_count = checked + len(b.images) + sum(len(part.images) for part in others)
            raise other_images(a, b, one_count, other_count)
        check_same_images(a, b)
        yield a, b
        checked += len(a.images)
        ended = a.rows([]), b.rows([])


def _differing(one: Scores, other: Scores, places: np.ndarray) -> Iterator[DifferingImage]:
    """The images among these places whose first answers differ."""
    answers = one.posterior.argmax(1), other.posterior.argmax(1)
    classes = one.classes
    for place in places[answers[0][places] != answers[1][places]].tolist():
        first, second = int(answers[0][place]), int(answers[1][place])
        label = int(one.labels[place])
        yield DifferingImage(
            one.images[place],
            classes[label] if label >= 0 else None,
            classes[first],
            float(one.posterior[place, first]),
            classes[second],
            float(other.posterior[place, second]),
        )
