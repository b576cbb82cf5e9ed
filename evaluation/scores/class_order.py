"""Whether a model that seems to know nothing knows its classes in another order than the data set has them.

A permutation of the classes is fitted to the even images of each class and measured on the odd ones, so that what
chance lets it explain is not counted. It is reported only where that is far more than the model's own answers, than
one constant answer, and than MIN_EXPLAINED_PERCENT: an untrained net, a good one, and few images per class say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .metrics import error_rate
from .table import Scores

MIN_EXPLAINED_PERCENT = 10
"""No net in the right order is worse than this, and no untrained one in any order as good."""
FAR_MORE = 3
"""Times: the lower 95 % bound of what the permutation explains against the upper one of what it is compared with."""
KNOWN_SHARE = 0.9
"""Of what the permutation explains, what a known order must explain to be named."""

Order = NDArray[np.int64]


def explain_order(
    parts: Iterable[Scores], class_names: Sequence[str] = (), devkit_order: Sequence[int] = ()
) -> str | None:
    """One line that says that another order of the classes explains the answers of a table, None where none does.

    parts: of one score table. class_names and devkit_order (ILSVRC2012_ID - 1 of each class), both in the order of the
    data set, are what a known order is recognised by: infer.dataset.Dataset has them.
    """
    model, even, odd = _count(parts)
    images = int(odd.sum())
    if images == 0:
        return None
    both = even + odd
    own = error_rate(int(np.trace(both)), int(both.sum()))  # of right answers here: the interval is the same
    constant_percent = 100 * int(odd.sum(1).max()) / images
    least = max(MIN_EXPLAINED_PERCENT, FAR_MORE * constant_percent, FAR_MORE * own.interval95_percent[1])
    if least >= 100:
        return None
    order = _fit(even)
    right = _explained(odd, order)
    explained = error_rate(right, images)
    if explained.interval95_percent[0] <= least:
        return None
    known = max(_known_orders(class_names, devkit_order, len(odd)), key=lambda known: _explained(odd, known[1]))
    named = f", {known[0]}" if _explained(odd, known[1]) >= KNOWN_SHARE * right else ""
    moved = np.where(order == np.arange(len(order)), 0, even[np.arange(len(order)), order])
    example = int(moved.argmax())
    chance = "at chance" if own.interval95_percent[0] <= constant_percent else "little better than chance"
    return (
        f"{model} answers {chance} ({own.percent:.2f} %), but a permutation of the classes explains "
        f"{explained.percent:.1f} % of its answers (e.g. class {example} is called {order[example]}): the classes of "
        f"the model or the data set are in another order{named}"
    )


def _count(parts: Iterable[Scores]) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """(name of the model, counts i64 [label, answer] of the even and of the odd images of each class)."""
    model, counts, seen = "", np.zeros((2, 0, 0), np.int64), np.zeros(0, np.int64)
    for part in parts:
        if not model:
            size = part.posterior.shape[1]
            model, counts, seen = part.model, np.zeros((2, size, size), np.int64), np.zeros(size, np.int64)
        answered = (part.labels >= 0) & part.readable & np.isfinite(part.posterior).all(1)
        answers = part.posterior.argmax(1)
        for label, answer in zip(part.labels[answered].tolist(), answers[answered].tolist(), strict=True):
            counts[seen[label] % 2, label, answer] += 1
            seen[label] += 1
    return model, counts[0], counts[1]


def _fit(counts: NDArray[np.int64]) -> Order:
    """The answer that stands for each label, each for one, with the most images explained."""
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1], np.int64)


def _explained(counts: NDArray[np.int64], order: Order) -> int:
    """Images whose answer is the one that `order` has for their label; -1 for none."""
    labels = np.flatnonzero(order >= 0)
    return int(counts[labels, order[labels]].sum())


def _known_orders(class_names: Sequence[str], devkit_order: Sequence[int], classes: int) -> Sequence[tuple[str, Order]]:
    """(name, answer for each label) of the orders that are known to be mistaken for one another."""
    labels = np.arange(classes)
    after = np.where(labels + 1 < classes, labels + 1, -1)
    orders = [
        ("one apart: each class is called the next, as by a model whose first class is a background", after),
        ("one apart: each class is called the one before, as where the data set begins with a background", labels - 1),
    ]
    for keys, said in (
        (class_names, "the alphabetical order of their names in the one, that of their WNIDs in the other"),
        (devkit_order, "that of the devkit's ids (ILSVRC2012_ID) in the one, that of the WNIDs in the other"),
    ):
        if len(keys) == classes:
            by_key = np.array(sorted(range(classes), key=keys.__getitem__), np.int64)
            orders += [(said, np.argsort(by_key)), (said, by_key)]
    return orders
