"""Two score tables of the same images beside each other, part by part."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import NothingInCommon, ScoresError
from .metrics import same_answers, wrong_answers
from .paired import Interval, Paired, count_pairs
from .table import Scores, check_same_images, have_same_images, say_other_images


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
    top1_pairs: Paired  # the labelled images by who is wrong on them
    top5_pairs: Paired
    top1_difference_percent: float | None  # the other's error minus the one's, in points
    top1_interval95_percent: Interval | None
    top5_difference_percent: float | None
    top5_interval95_percent: Interval | None
    scored_by_one: tuple[int, int]  # labelled images that only the one, only the other could score
    gained: tuple[str, ...]  # images that the one has wrong and the other right (top-1)
    lost: tuple[str, ...]  # images that the one has right and the other wrong
    decoders: tuple[str, str]  # Scores.decoder: others give other pixels
    unrounded: tuple[bool, bool]  # Scores.unrounded; where one alone is, there is no difference


def compare(one: Iterable[Scores], other: Iterable[Scores]) -> Comparison:
    """The comparison of two tables, given as parts. Holds one part of each.

    Raises ScoresError unless the tables have the same images and classes, and its kind NothingInCommon where no image
    was scored by both.
    """
    images = scored = same_pixels = 0
    counts = np.zeros((2, 4), np.int64)  # [top-1, top-5][the fields of Paired]
    scored_by_one = np.zeros(2, np.int64)  # [one, other]
    agreeing = np.zeros(2, np.int64)  # [top-1, top-5]
    largest, comparable = np.float32(0), True
    differing: list[DifferingImage] = []
    gained: list[str] = []
    lost: list[str] = []
    models: tuple[str, ...] = ()
    unrounded = False, False
    decoders = "", ""

    for a, b in _in_step(one, other):
        models, images = (a.model, b.model), images + len(a.images)
        unrounded = a.unrounded, b.unrounded
        decoders = a.decoder, b.decoder

        # every labelled image counts for the errors, read or not
        first, second = wrong_answers(a), wrong_answers(b)  # [top-1, top-5][labelled]
        counts += [dataclasses.astuple(count_pairs(*masks)) for masks in zip(first, second, strict=True)]
        known = a.labels >= 0
        scored_by_one += [(known & a.readable & ~b.readable).sum(), (known & b.readable & ~a.readable).sum()]
        names = np.array(a.images, np.object_)[known]
        gained += names[first[0] & ~second[0]].tolist()
        lost += names[~first[0] & second[0]].tolist()

        # answers, posteriors and pixels are compared where both have them
        seen = a.readable & b.readable
        scored += int(seen.sum())
        agreeing += [same_answers(a, b, k).sum() for k in (1, 5)]
        largest = np.maximum(largest, np.abs(a.posterior[seen] - b.posterior[seen]).max(initial=0))  # NaN stays NaN
        differing += _differing(a, b, np.flatnonzero(seen))

        digests = np.array([a.pixel_digests, b.pixel_digests], np.str_)[:, seen]
        same_views = all(a.metadata[key] == b.metadata[key] for key in ("protocol", "scales"))
        comparable &= same_views and bool((digests != "").all())
        same_pixels += int((digests[0] == digests[1]).sum())

    if not scored:
        raise NothingInCommon(f"none of {images} images was scored by both {' and '.join(models)}")
    agreement = 100 * (agreeing / scored)
    top1, top5 = (Paired(*map(int, own)) for own in counts)
    known_errors = top1.images > 0
    known_difference = known_errors and unrounded[0] == unrounded[1]
    return Comparison(
        scored,
        images - scored,
        float(agreement[0]),
        float(agreement[1]),
        float(largest),
        top1.error_percents if known_errors else None,
        top5.error_percents if known_errors else None,
        (top1.only_first_wrong, top1.only_second_wrong),
        top1.p,
        (top5.only_first_wrong, top5.only_second_wrong),
        top5.p,
        same_pixels if comparable else None,
        tuple(sorted(differing, key=lambda each: -(each.first_probability + each.second_probability))),
        top1,
        top5,
        top1.difference_percent if known_difference else None,
        top1.interval95_percent if known_difference else None,
        top5.difference_percent if known_difference else None,
        top5.interval95_percent if known_difference else None,
        (int(scored_by_one[0]), int(scored_by_one[1])),
        tuple(gained),
        tuple(lost),
        decoders,
        unrounded,
    )


def _in_step(one: Iterable[Scores], other: Iterable[Scores]) -> Iterator[tuple[Scores, Scores]]:
    """Pairs of the same parts of both tables. Raises ScoresError, which tells the images of the whole tables."""
    pairs = itertools.zip_longest(one, other)
    heads = next(pairs, (None, None))
    if heads[0] is None or heads[1] is None:
        raise ScoresError("a table has no images: expected two tables of the same images")

    checked = 0
    for a, b in itertools.chain([heads], pairs):
        if a is None or b is None or not have_same_images(a, b):
            counts = [checked, checked]
            for place, part in enumerate(itertools.chain([a, b], itertools.chain.from_iterable(pairs))):
                counts[place % 2] += len(part.images) if part else 0
            raise ScoresError(say_other_images(heads[0], heads[1], *counts))
        check_same_images(a, b)
        yield a, b
        checked += len(a.images)


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
