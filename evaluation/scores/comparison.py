"""Two score tables of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ScoresError
from .metrics import agreement_percent, mcnemar, top_errors
from .table import Scores, check_same_images


@dataclass(frozen=True, slots=True)
class Difference:
    """An image whose first answers differ: what each says and how sure it is."""

    image: str
    label: str | None
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """`images` counts those that both could score; errors are of all labelled ones, None without labels."""

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
    differing: tuple[Difference, ...]  # the largest differences of confidence first


def compare(one: Scores, other: Scores) -> Comparison:
    """Raises ScoresError unless the tables have the same images and classes, and one that both could score."""
    check_same_images(one, other)
    seen = one.readable & other.readable
    if not seen.any():
        raise ScoresError(f"none of {len(seen)} images was scored by both {one.model} and {other.model}")
    errors = list(zip(top_errors([one], (1, 5)), top_errors([other], (1, 5)), strict=True))
    percents = [(a.percent, b.percent) if a and b else None for a, b in errors]
    tests = [mcnemar(one, other, k) for k in (1, 5)]
    same_views = all(one.metadata[key] == other.metadata[key] for key in ("protocol", "scales"))
    comparable = same_views and all(
        digest for scores in (one, other) for digest in np.array(scores.pixel_digests)[seen]
    )
    return Comparison(
        int(seen.sum()),
        int((~seen).sum()),
        agreement_percent(one, other, 1),
        agreement_percent(one, other, 5),
        float(np.abs(one.posterior[seen] - other.posterior[seen]).max()),
        percents[0],
        percents[1],
        (tests[0].only_first_wrong, tests[0].only_second_wrong),
        tests[0].p,
        (tests[1].only_first_wrong, tests[1].only_second_wrong),
        tests[1].p,
        int((np.array(one.pixel_digests) == np.array(other.pixel_digests))[seen].sum()) if comparable else None,
        _differing(one, other, np.flatnonzero(seen)),
    )


def _differing(one: Scores, other: Scores, places: np.ndarray) -> tuple[Difference, ...]:
    classes = one.classes
    found = []
    for place in places:
        a, b = (int(scores.posterior[place].argmax()) for scores in (one, other))
        if a != b:
            label = int(one.labels[place])
            known = classes[label] if label >= 0 else None
            sure = float(one.posterior[place, a]), float(other.posterior[place, b])
            found.append(Difference(one.images[place], known, classes[a], sure[0], classes[b], sure[1]))
    return tuple(sorted(found, key=lambda each: -(each.first_probability + each.second_probability)))
