"""A check that a model and a data set have their classes in the same order.

A model that seems to know nothing may know its classes in another order. A permutation of the classes is fitted to the
even images of each class and measured on the odd ones, so that chance explains nothing. It is reported only where it
explains far more than the model's own answers, than one constant answer, and than MIN_EXPLAINED_PERCENT. So an
untrained net, a good net and a few images of each class give no remark.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .metrics import error_rate
from .table import Scores

MIN_EXPLAINED_PERCENT = 10
"""No net in the right order is worse than this, and no untrained one in any order as good."""
FAR_MORE = 3
"""Least factor from the upper 95 % bound of what the permutation must beat to the lower bound of what it explains."""
KNOWN_SHARE = 0.9
"""Least share of what the permutation explains that a known order must explain to be named."""

Order = NDArray[np.int64]
"""The answer that stands for each label, i64 [classes]; -1 for none."""


class FirstAnswers:
    """Label and first answer of every labelled image with an answer, collected part by part: 8 bytes an image."""

    def __init__(self) -> None:
        self.model, self._classes = "", 0
        self._labels: list[NDArray[np.int32]] = []
        self._answers: list[NDArray[np.int32]] = []

    def add(self, part: Scores) -> None:
        self.model, self._classes = part.model, part.posterior.shape[1]
        answered = (part.labels >= 0) & part.readable & np.isfinite(part.posterior).all(1)
        self._labels.append(part.labels[answered])
        self._answers.append(part.posterior[answered].argmax(1).astype(np.int32))

    def halves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of images [label, answer], of the even and of the odd images of each class."""
        even, odd = np.zeros((2, self._classes, self._classes), np.int64)
        labels = np.concatenate([np.zeros(0, np.int32), *self._labels])  # [images]
        answers = np.concatenate([np.zeros(0, np.int32), *self._answers])
        for label in np.unique(labels):
            own = answers[labels == label]
            even[label] = np.bincount(own[::2], minlength=self._classes)
            odd[label] = np.bincount(own[1::2], minlength=self._classes)
        return even, odd


def explain_order(found: FirstAnswers, class_names: Sequence[str] = (), devkit_order: Sequence[int] = ()) -> str | None:
    """One line that another order of the classes explains the answers of a table; None where none does.

    A known order is recognised by class_names and devkit_order (ILSVRC2012_ID - 1 of each class), both in the order of
    the data set, as infer.data.dataset.Dataset has them.
    """
    even, odd = found.halves()
    images = int(odd.sum())
    if images == 0:
        return None

    # what the permutation must beat: the model's right answers, one constant answer
    both = even + odd
    own = error_rate(int(np.trace(both)), int(both.sum()))  # a rate of right answers: the interval is the same
    constant_percent = 100 * int(odd.sum(1).max()) / images
    least = max(MIN_EXPLAINED_PERCENT, FAR_MORE * constant_percent, FAR_MORE * own.interval95_percent[1])
    if least >= 100:
        return None

    order = _fit(even)
    right = _explained(odd, order)
    explained = error_rate(right, images)
    if explained.interval95_percent[0] <= least:
        return None

    # a known order is named where it explains nearly as much
    orders = _known_orders(class_names, devkit_order, len(odd))
    known = max(orders, key=lambda known: _explained(odd, known[1]))
    named = f", {known[0]}" if _explained(odd, known[1]) >= KNOWN_SHARE * right else ""

    # the example is the class with the most images that are explained by moving it
    labels = np.arange(len(order))
    example = int(np.where(order == labels, 0, even[labels, order]).argmax())
    chance = "at chance" if own.interval95_percent[0] <= constant_percent else "little better than chance"
    return (
        f"{found.model} answers {chance} ({own.percent:.2f} %), but a permutation of the classes explains "
        f"{explained.percent:.1f} % of its answers (e.g. class {example} is called {order[example]}): the classes of "
        f"the model or the data set are in another order{named}"
    )


def _fit(counts: NDArray[np.int64]) -> Order:
    """The permutation that explains the most images of counts [label, answer]."""
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1], np.int64)


def _explained(counts: NDArray[np.int64], order: Order) -> int:
    """Images of counts [label, answer] whose answer is the one that `order` has for their label."""
    labels = np.flatnonzero(order >= 0)
    return int(counts[labels, order[labels]].sum())


def _known_orders(class_names: Sequence[str], devkit_order: Sequence[int], classes: int) -> list[tuple[str, Order]]:
    """Orders that are known to be mistaken for one another, each with its name."""
    labels = np.arange(classes)
    after = np.where(labels + 1 < classes, labels + 1, -1)
    orders = [
        ("one apart: each class is called the next, as by a model whose first class is a background", after),
        ("one apart: each class is called the one before, as where the data set begins with a background", labels - 1),
    ]

    # an order by other keys may be the model's or the data set's
    for keys, said in (
        (class_names, "the alphabetical order of their names in the one, that of their WNIDs in the other"),
        (devkit_order, "that of the devkit's ids (ILSVRC2012_ID) in the one, that of the WNIDs in the other"),
    ):
        if len(keys) == classes:
            by_key = np.array(sorted(range(classes), key=keys.__getitem__), np.int64)
            orders += [(said, np.argsort(by_key)), (said, by_key)]
    return orders
