"""Errors under another truth: against loops over lists that are written out here, and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_scores
from numpy.typing import NDArray

from evaluation.rescore.count import rescore
from evaluation.rescore.truth import Groups, Subset, Truth, labelled
from evaluation.scores.metrics import top_errors
from evaluation.scores.table import Scores

CLASSES, IMAGES = 9, 150
CHANCE = np.random.default_rng(3)
POSTERIOR = CHANCE.dirichlet(np.full(CLASSES, 0.6), IMAGES).round(2).astype(np.float32)  # with ties
LABELS = CHANCE.integers(-1, CLASSES, IMAGES).astype(np.int32)
RIGHT = [sorted(CHANCE.choice(CLASSES, CHANCE.integers(0, 4), replace=False).tolist()) for _ in range(IMAGES)]
UNREADABLE = 5


def table() -> Scores:
    """Ties, images that could not be read, and one answer that is no number."""
    posterior = POSTERIOR.copy()
    posterior[-UNREADABLE:] = 0
    posterior[7, 2] = np.nan
    return make_scores(posterior, LABELS, ("ok",) * (IMAGES - UNREADABLE) + ("broken",) * UNREADABLE)


def cut(scores: Scores, rows: int = 40) -> list[Scores]:
    return [scores.rows(range(first, min(first + rows, IMAGES))) for first in range(0, IMAGES, rows)]


def truth_of(right: list[list[int]]) -> Truth:
    starts = np.cumsum([0, *map(len, right)])
    return Truth(starts, np.array([place for own in right for place in own], np.int32))


def errors_by_hand(
    right: list[list[int]], allowed: list[int], k: int, members: tuple[tuple[int, ...], ...] = ()
) -> tuple[int, int]:
    """(wrong, images): an image counts where a right class is allowed, and is right where its first k have one."""
    scores, wrong, images = table(), 0, 0
    for row, own, status in zip(scores.posterior.tolist(), right, scores.statuses, strict=True):
        wanted = set(own) & set(allowed)
        for group in members:
            if wanted & set(group):
                wanted |= set(group)
        if not wanted:
            continue
        images += 1
        order = sorted(allowed, key=lambda place: (-row[place], place))
        is_number = all(value == value for value in row)
        wrong += status != "ok" or not is_number or not set(order[:k]) & wanted
    return wrong, images


def counts(found: object, k: int) -> tuple[int, int]:
    rate = found.errors[(1, 5).index(k)]  # type: ignore[attr-defined]
    images: int = found.images  # type: ignore[attr-defined]
    return round(rate.percent * images / 100), images


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("allowed", [None, [0, 2, 3, 5, 6, 8], [4, 7]])
def test_several_right_classes_and_masked_ones_are_what_loops_count(allowed: list[int] | None, k: int) -> None:
    subset = None if allowed is None else Subset(np.array(allowed), ())
    found = rescore(cut(table()), truth_of(RIGHT), subset, None)
    wrong, images = errors_by_hand(RIGHT, allowed or list(range(CLASSES)), k)
    assert counts(found, k) == (wrong, images)
    assert 0 < images < IMAGES
    assert found.images + found.unlabelled + found.other_classes == IMAGES
    assert found.unlabelled == sum(not own for own in RIGHT)


@pytest.mark.parametrize("k", [1, 5])
def test_classes_that_mean_one_object_are_all_right(k: int) -> None:
    allowed, own = [0, 1, 2, 4, 5, 6, 7], [[label] if label >= 0 else [] for label in LABELS.tolist()]
    subset = Subset(np.array(allowed), ((1, 3, 5), (0, 6)))  # places among the allowed: classes 1 4 6, and 0 7
    found = rescore(cut(table()), labelled(LABELS), subset, None)
    assert counts(found, k) == errors_by_hand(own, allowed, k, ((1, 4, 6), (0, 7)))


def test_the_tables_own_labels_change_nothing() -> None:
    found = rescore(cut(table()), labelled(LABELS), None, None)
    assert found.errors == found.errors_before == top_errors([table()], (1, 5))
    assert found.images == found.images_before
    every = Subset(np.arange(CLASSES), ())
    assert rescore(cut(table()), labelled(LABELS), every, None).errors == found.errors


def test_errors_of_groups_are_those_of_their_images_alone() -> None:
    of: NDArray[np.int64] = np.arange(IMAGES) % 4 - 1
    found = rescore(cut(table()), labelled(LABELS), None, Groups(("x", "y", "z", "none of them"), of, ()))
    for place, (name, images, errors) in enumerate(found.groups):
        own = table().rows(np.flatnonzero(of == place).tolist())
        assert (name, errors) == ("xyz"[place], top_errors([own], (1, 5)))
        assert images == (own.labels >= 0).sum()
    assert len(found.groups) == 3
