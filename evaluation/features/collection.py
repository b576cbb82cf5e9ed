"""Pictures with the labels, sets and boxes of what is in them, whatever folder has them: features are made of these."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset, Item
from infer.data.spread import say_part, spread
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
    notes: tuple[str, ...] = ()  # lines that a user should know of the reading

    @property
    def listing_digest(self) -> str:
        """Digest of names, sets, labels, boxes and sizes in bytes."""
        digest = hashlib.sha256("\n".join((self.kind, *self.classes)).encode())
        for picture in self.pictures:
            digest.update(f"\n{picture.item.name}\t{picture.item.file.size_bytes()}".encode())
            for one in picture.examples:
                digest.update(f"\n{one.name}\t{one.split}\t{one.box}\t".encode() + one.labels.tobytes())
        return digest.hexdigest()[:16]


def limited(collection: Collection, limit: int | None, root: Path) -> Collection:
    """The collection, or `limit` pictures of it, evenly spaced over its sets and classes, always the same.

    A picture of several classes stands for the first of them.
    """
    if limit is None or limit >= len(collection.pictures):
        return collection

    groups = [_group(picture) for picture in collection.pictures]
    chosen = spread(groups, limit)
    classes = [label for _, label in groups]
    note = f"{root}: {say_part([classes[place] for place in chosen], classes)}"
    return replace(collection, pictures=[collection.pictures[i] for i in chosen], notes=(*collection.notes, note))


def _group(picture: Picture) -> tuple[str, int]:
    """The set and first class of a picture, -1 where it has none."""
    first = picture.examples[0]
    positive = np.flatnonzero(first.labels > 0)
    return first.split, int(positive[0]) if positive.size else -1


def one_of(classes: int, labels: Sequence[int] | NDArray[np.int64]) -> Labels:
    """Makes the labels i8 [labels, classes] of examples of one class each; -1: of an unknown class."""
    own = np.asarray(labels, np.int64)
    made = np.where(own[:, None] < 0, 0, -1).astype(np.int8) * np.ones(classes, np.int8)
    made[own >= 0, own[own >= 0]] = 1
    return made


def from_dataset(dataset: Dataset, split: Split) -> list[Picture]:
    seen = sorted({item.label for item in dataset.items})
    labels = dict(zip(seen, one_of(len(dataset.classes), seen), strict=True))  # examples of a class share them
    return [Picture(item, (Example(item.name, split, labels[item.label]),)) for item in dataset.items]
