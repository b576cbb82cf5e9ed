"""Numbers from posteriors and labels alone: errors with intervals, confusion, calibration, agreement, class order.

A table comes as parts (see table.parts), so it need not fit into memory: ErrorCounts and Details count part by part,
`top_errors` and `details` count one whole table. `select` narrows the parts to any subset of their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.stats import binomtest

from .table import OUT_OF_RANGE, Scores

BINS = 15
"""Bins of confidence in a calibration: Guo et al. 2017 (arXiv 1706.04599), section 2."""
TOP5_CLASSES = 6
"""Classes from which on a top-5 error says anything: of five classes one is always right."""
MIN_EXPLAINED_PERCENT = 10
"""No net in the right order is worse than this, and no untrained one in any order as good."""
FAR_MORE = 3
"""Least factor from the upper 95 % bound of what the permutation must beat to the lower bound of what it explains."""
KNOWN_SHARE = 0.9
"""Least share of what the permutation explains that a known order must explain to be named."""

Counts = csr_array
"""Numbers of images [label, answer], sparse: 21,841 classes have 477,029,281 pairs, and few of them images."""
Order = NDArray[np.int64]
"""The answer that stands for each label, i64 [classes]; -1 for none."""


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
    """Wrong top-k answers over the labelled images of a table, for each k; an unreadable image counts as wrong.

    `not_finite` counts the answers to images that could be read which are no numbers; they are wrong, too.
    """

    def __init__(self, ks: Sequence[int] = (1, 5)) -> None:
        self._ks, self._wrong, self._labelled = ks, np.zeros(len(ks), np.int64), 0
        self._seen, self._beyond = 0, 0
        self.not_finite = 0

    def add(self, part: Scores) -> None:
        wrong = wrong_answers(part, self._ks)
        self._wrong += wrong.sum(1)
        self._labelled += wrong.shape[1]
        self._seen += int(part.readable.sum())
        self._beyond += part.statuses.count(OUT_OF_RANGE)
        self.not_finite += int((part.readable & ~np.isfinite(part.posterior).all(1)).sum())

    def rates(self) -> tuple[ErrorRate | None, ...]:
        """The error for each k; None without labels, and where the engine can see no image that can be read."""
        known = self._labelled and not self.blind
        return tuple(error_rate(int(wrong), self._labelled) if known else None for wrong in self._wrong)

    @property
    def blind(self) -> bool:
        """True where images were beyond the engine's range, and all that were not could not be read."""
        return self._beyond > 0 and not self._seen


def top_errors(parts: Iterable[Scores], ks: Sequence[int]) -> tuple[ErrorRate | None, ...]:
    """Top-k error for each k over the labelled images of one table; None as of `ErrorCounts.rates`."""
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

    confusion: i64 [true class, first answer], sparse; unanswered: i64 [true class], images unreadable or not finite.
    bin_images: i64 [BINS], the answered images by the posterior of their first answer, in equal bins.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.confusion = csr_array((len(classes), len(classes)), dtype=np.int64)
        self.unanswered = np.zeros(len(classes), np.int64)
        self.bin_images = np.zeros(BINS, np.int64)
        self._bin_confidence = np.zeros(BINS)  # sums over the images of each bin
        self._bin_right = np.zeros(BINS)
        self._square_distance = 0.0  # of the posteriors from the truth, a sum over the answered images

    def add(self, part: Scores) -> None:
        labelled = part.labels >= 0
        answered = labelled & part.readable & np.isfinite(part.posterior).all(1)
        np.add.at(self.unanswered, part.labels[labelled & ~answered], 1)

        posterior, labels = part.posterior[answered], part.labels[answered]  # [answered, classes], [answered]
        answers = posterior.argmax(1)
        self.confusion = self.confusion + _count(labels, answers.astype(np.int32), len(self.classes))

        confidence = posterior.max(1, initial=0).astype(np.float64)
        shares = np.clip(confidence, 0, 1)  # of what is no posterior, too
        bins = np.maximum(np.ceil(shares * BINS).astype(np.int64) - 1, 0)  # (i/BINS, (i+1)/BINS]
        np.add.at(self.bin_images, bins, 1)
        np.add.at(self._bin_confidence, bins, confidence)
        np.add.at(self._bin_right, bins, answers == labels)

        # the sum over the classes of (posterior - truth)^2, the truth being 1 for one class and 0 for the others
        true = np.take_along_axis(posterior, labels[:, None].astype(np.int64), 1).astype(np.float64)
        self._square_distance += float(np.square(posterior, dtype=np.float64).sum() - 2 * true.sum() + len(labels))

    def block(self, places: Sequence[int]) -> NDArray[np.int64]:
        """The confusion of a few classes alone, i64 [true class, first answer]."""
        found: NDArray[np.int64] = self.confusion[list(places)].tocsc()[:, list(places)].toarray()
        return found

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
        found = self.confusion.tocoo()
        wrong = [
            (-int(images), int(i), int(j))
            for i, j, images in zip(found.row, found.col, found.data, strict=True)
            if i != j and images
        ]
        return [(self.classes[i], self.classes[j], -images) for images, i, j in sorted(wrong)[:count]]

    @property
    def expected_calibration_error_percent(self) -> float | None:
        """Mean distance of confidence and accuracy over the bins, weighted by their images; None without images."""
        images = self.bin_images
        if not images.sum():
            return None
        return float(100 * (images * np.abs(self.bin_confidence - self.bin_accuracy)).sum() / images.sum())

    @property
    def brier_score(self) -> float | None:
        """The mean over the answered images of sum_k (posterior_k - truth_k)^2, from 0 to 2; None without images.

        Brier 1950, Monthly Weather Review 78(1), as it was defined; some halve it.
        """
        images = int(self.bin_images.sum())
        return self._square_distance / images if images else None


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

    def halves(self) -> tuple[Counts, Counts]:
        """Numbers of images [label, answer], of the even and of the odd images of each class."""
        labels = np.concatenate([np.zeros(0, np.int32), *self._labels])  # [images]
        answers = np.concatenate([np.zeros(0, np.int32), *self._answers])

        # images of one class follow each other, in their order; each is numbered in its class
        order = np.argsort(labels, kind="stable")
        labels, answers = labels[order], answers[order]
        is_odd = (np.arange(len(labels)) - np.searchsorted(labels, labels)) % 2 == 1
        even, odd = (_count(labels[half], answers[half], self._classes) for half in (~is_odd, is_odd))
        return even, odd


def explain_order(found: FirstAnswers, class_names: Sequence[str] = (), devkit_order: Sequence[int] = ()) -> str | None:
    """One line that another order of the classes explains the answers of a table; None where none does.

    A model that seems to know nothing may know its classes in another order. A permutation of the classes is fitted to
    the even images of each class and measured on the odd ones, so that chance explains nothing. It is reported only
    where it explains far more than the model's own answers, than one constant answer, and than MIN_EXPLAINED_PERCENT.
    So an untrained net, a good net and a few images of each class give no remark.

    A known order is recognised by class_names and devkit_order (ILSVRC2012_ID - 1 of each class), both in the order of
    the data set, as infer.data.dataset.Dataset has them.
    """
    even, odd = found.halves()
    images = int(odd.sum())
    if images == 0:
        return None

    # what the permutation must beat: the model's right answers, one constant answer
    both = even + odd
    own = error_rate(int(both.trace()), int(both.sum()))  # a rate of right answers: the interval is the same
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
    orders = _known_orders(class_names, devkit_order, len(order))
    known = max(orders, key=lambda known: _explained(odd, known[1]))
    named = f", {known[0]}" if _explained(odd, known[1]) >= KNOWN_SHARE * right else ""

    # the example is the class with the most images that are explained by moving it
    moved = np.flatnonzero((order >= 0) & (order != np.arange(len(order))))
    example = int(moved[_at(even, moved, order[moved]).argmax()])
    chance = "at chance" if own.interval95_percent[0] <= constant_percent else "little better than chance"
    return (
        f"{found.model} answers {chance} ({own.percent:.2f} %), but a permutation of the classes explains "
        f"{explained.percent:.1f} % of its answers (e.g. class {example} is called {order[example]}): the classes of "
        f"the model or the data set are in another order{named}"
    )


def _count(labels: NDArray[np.int32], answers: NDArray[np.int32], classes: int) -> Counts:
    """Numbers of images [label, answer]: as large as there are images, not as the square of the classes."""
    ones = np.ones(len(labels), np.int64)
    return csr_array((ones, (labels, answers)), shape=(classes, classes))  # the same place twice is summed


def _at(counts: Counts, labels: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(counts[labels, answers]).ravel()


def _fit(counts: Counts) -> Order:
    """The permutation that explains the most images of counts [label, answer]; -1 where it says nothing of a label."""
    found = counts.tocoo()
    labels, rows = np.unique(found.row, return_inverse=True)
    answers, columns = np.unique(found.col, return_inverse=True)

    # the matching wants every label matched: each has a column of its own that explains no image
    most = int(counts.max()) + 1
    own = np.arange(len(labels))
    costs = np.concatenate([most - found.data, np.full(len(labels), most)])
    places = (np.concatenate([rows, own]), np.concatenate([columns, len(answers) + own]))
    matched = min_weight_full_bipartite_matching(csr_array((costs, places)))

    order = np.full(counts.shape[0], -1, np.int64)
    explains = matched[1] < len(answers)
    order[labels[matched[0][explains]]] = answers[matched[1][explains]]
    return order


def _explained(counts: Counts, order: Order) -> int:
    """Images of counts [label, answer] whose answer is the one that `order` has for their label."""
    labels = np.flatnonzero(order >= 0)
    return int(_at(counts, labels, order[labels]).sum())


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
