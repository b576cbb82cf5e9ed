"""Precision, recall and F1 of each class of a table, and their averages, from its confusion.

An image without an answer (unreadable, or not finite) counts to its class and is no answer of any. Percent throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from .metrics import Details


class ClassMeasures(msgspec.Struct, frozen=True):
    """One class. support: images of it; predicted: images whose first answer it is; right: both.

    What would be a share of nothing is None: the precision of a class that is never predicted, the recall of one
    without images.
    """

    name: str
    support: int
    predicted: int
    right: int
    precision_percent: float | None
    recall_percent: float | None
    f1_percent: float

    @property
    def is_never_predicted(self) -> bool:
        """True for a class that has images, none of which, nor any other, is taken for it."""
        return self.support > 0 and self.predicted == 0


class ClassAverages(msgspec.Struct, frozen=True):
    """Means over the classes that have images: macro, each class alike; weighted, each by its support.

    A class that is never predicted counts with a precision of 0, as scikit-learn's zero_division=0. The weighted recall
    is the accuracy, and the macro recall the balanced accuracy.
    """

    classes: int  # that have images
    never_predicted: int  # of them
    macro_precision_percent: float
    macro_recall_percent: float
    macro_f1_percent: float
    weighted_precision_percent: float
    weighted_recall_percent: float
    weighted_f1_percent: float
    balanced_accuracy_percent: float


def measure_classes(found: Details) -> list[ClassMeasures]:
    """Every class that has images or is an answer, in the model's order."""
    rows = []
    supports, rights = found.class_images.tolist(), found.confusion.diagonal().tolist()
    answers = np.asarray(found.confusion.sum(0)).tolist()
    for name, support, predicted, right in zip(found.classes, supports, answers, rights, strict=True):
        if support or predicted:
            precision = 100 * right / predicted if predicted else None
            recall = 100 * right / support if support else None
            f1 = 200 * right / (support + predicted)  # the harmonic mean of the two
            rows.append(ClassMeasures(name, support, predicted, right, precision, recall, f1))
    return rows


def average_classes(rows: Sequence[ClassMeasures]) -> ClassAverages | None:
    """The means of `measure_classes`; None where no class has images."""
    own = [row for row in rows if row.support]
    if not own:
        return None

    measures = np.array([(row.precision_percent or 0, row.recall_percent or 0, row.f1_percent) for row in own])
    macro = measures.mean(0).tolist()
    weighted = np.average(measures, axis=0, weights=[row.support for row in own]).tolist()
    return ClassAverages(
        classes=len(own),
        never_predicted=sum(row.is_never_predicted for row in own),
        macro_precision_percent=macro[0],
        macro_recall_percent=macro[1],
        macro_f1_percent=macro[2],
        weighted_precision_percent=weighted[0],
        weighted_recall_percent=weighted[1],
        weighted_f1_percent=weighted[2],
        balanced_accuracy_percent=macro[1],
    )
