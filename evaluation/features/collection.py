"""Pictures with the labels, sets and boxes of what is in them, whatever folder has them: features are made of these."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset, Item
from infer.views import Rect

Kind = Literal["voc2007", "voc2012", "voc", "voc-action", "caltech-101", "caltech-256", "folders"]
Split = Literal["train", "val", "test", ""]
Labels = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Example:
    """An image, or a person in it, that an SVM learns from or is asked about.

    labels i8 [classes]: 1, -1, or 0 where it does not count or is not known; split: "" where none is given.
    """

    name: str
    split: Split
    labels: Labels
    box: Rect | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An image and the examples in it."""

    item: Item
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """The pictures of a data set, in the order of their names."""

    kind: Kind
    classes: tuple[str, ...]
    pictures: Sequence[Picture]

    @property
    def listing_digest(self) -> str:
        """Digest of names, sets, labels, boxes and sizes in bytes."""
        digest = hashlib.sha256("\n".join((self.kind, *self.classes)).encode())
        for picture in self.pictures:
            digest.update(f"\n{picture.item.name}\t{picture.item.file.size_bytes()}".encode())
            for one in picture.examples:
                digest.update(f"\n{one.name}\t{one.split}\t{one.box}\t".encode() + one.labels.tobytes())
        return digest.hexdigest()[:16]


def one_of(classes: int, label: int) -> Labels:
    """Makes the labels i8 [classes] of an example of one class; -1: of an unknown class."""
    if label < 0:
        return np.zeros(classes, np.int8)
    labels = np.full(classes, -1, np.int8)
    labels[label] = 1
    return labels


def from_dataset(dataset: Dataset, split: Split) -> list[Picture]:
    seen = {item.label for item in dataset.items}
    labels = {label: one_of(len(dataset.classes), label) for label in seen}  # examples of a class share them
    return [Picture(item, (Example(item.name, split, labels[item.label]),)) for item in dataset.items]
