"""VGG's results with features and linear SVMs, as data: Tables 11 and 12 of appendix B (arXiv 1409.1556v6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .collection import Kind
from .svm import CALTECH
from .voc import OTHER

OBJECTS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's 20 classes, by the names of ImageSets/Main."""
ACTIONS = (
    *("jumping", OTHER, "phoning", "playinginstrument", "reading", "ridingbike", "ridinghorse", "running"),
    *("takingphoto", "usingcomputer", "walking"),
)
"""VOC-2012's actions, by the names of ImageSets/Action."""
CALTECH_CLASSES = {"caltech-101": 102, "caltech-256": 257}
"""Numbers of classes with the clutter (appendix B)."""


class PaperRow(NamedTuple):
    """One result in percent: mAP, or mean class recall with its standard deviation over splits."""

    method: str
    kind: Kind
    percent: float
    std_percent: float | None
    source: str


Cell = float | tuple[float, float] | None
"""Percent, or percent and standard deviation; None: not in the paper."""


def _table_11(method: str, *cells: Cell) -> list[PaperRow]:
    """Makes a result of each cell of a row that is not empty."""
    found = []
    kinds: tuple[Kind, ...] = ("voc2007", "voc2012", "caltech-101", "caltech-256")
    for kind, cell in zip(kinds, cells, strict=True):
        if cell is not None:
            percent, std = cell if isinstance(cell, tuple) else (cell, None)
            found.append(PaperRow(method, kind, percent, std, "VGG Table 11"))
    return found


def _table_12(method: str, percent: float) -> PaperRow:
    return PaperRow(method, "voc-action", percent, None, "VGG Table 12")


ROWS = (
    *_table_11("Zeiler & Fergus", None, 79.0, (86.5, 0.5), (74.2, 0.3)),
    *_table_11("Chatfield et al.", 82.4, 83.2, (88.4, 0.6), (77.6, 0.1)),
    *_table_11("He et al.", 82.4, None, (93.4, 0.5), None),
    *_table_11("Wei et al.", 81.5, 81.7, None, None),
    *_table_11("Wei et al., pre-trained on 2000 classes", 85.2, 90.3, None, None),
    *_table_11("VGG net D", 89.3, 89.0, (91.8, 1.0), (85.0, 0.2)),
    *_table_11("VGG net E", 89.3, 89.0, (92.3, 0.5), (85.1, 0.3)),
    *_table_11("VGG nets D and E", 89.7, 89.3, (92.7, 0.5), (86.2, 0.3)),
    _table_12("Oquab et al., pre-trained on 1512 classes", 70.2),
    _table_12("Gkioxari et al.", 73.6),
    _table_12("Hoai", 76.3),
    _table_12("VGG nets D and E, image only", 79.2),
    _table_12("VGG nets D and E, image and box", 84.0),
)
"""Results in the order of the tables."""


def rows_beside(
    kind: str, classes: Sequence[str], train_images: int | None, test_images: int | None
) -> tuple[list[PaperRow], str]:
    """Finds the paper's rows to show beside a result, or says why none: the data set only has the name of the paper's.

    train_images, test_images: of a class, where sets are drawn.
    """
    rows = [row for row in ROWS if row.kind == kind]
    if not rows:
        return [], ""

    why = "the paper's rows are not shown"
    names = ACTIONS if kind == "voc-action" else OBJECTS
    expected = CALTECH_CLASSES.get(kind, len(names))
    if len(classes) != expected:
        return [], f"{why}: they are of {expected} classes, this data set has {len(classes)}"

    # what trains and tests in the paper
    if kind in CALTECH_CLASSES and (train_images, test_images) != CALTECH[kind]:
        sizes = CALTECH[kind], (train_images, test_images)
        theirs, ours = (f"{train} and {test or 'all others'}" for train, test in sizes)
        return [], f"{why}: {theirs} images of a class train and test there, {ours} here"

    if kind not in CALTECH_CLASSES and set(classes) != set(names):
        other = min(set(classes) - set(names))
        return [], f"{why}: {other} is none of the classes that they are of"
    return rows, ""
