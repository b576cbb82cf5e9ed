"""What features are made of: pictures with the labels, sets and boxes of what is in them, whatever folder has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infer.dataset import TRAIN, VAL, Dataset, Item, open_dataset
from infer.tree import DatasetError, open_folder
from infer.views import Box

Kind = Literal["voc2007", "voc2012", "voc", "voc-action", "caltech-101", "caltech-256", "folders"]
Split = Literal["train", "val", "test", ""]
Labels = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Example:
    """What an SVM learns from or is asked about: an image, or a person in it.

    labels i8 [classes]: 1, -1, or 0 where it does not count or is not known; split: "" where none is given.
    """

    name: str
    split: Split
    labels: Labels
    box: Box | None = None


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
    def listing(self) -> str:
        """Digest of names, sets, labels, boxes and sizes in bytes."""
        digest = hashlib.sha256("\n".join((self.kind, *self.classes)).encode())
        for picture in self.pictures:
            digest.update(f"\n{picture.item.name}\t{picture.item.file.size_bytes()}".encode())
            for one in picture.examples:
                digest.update(f"\n{one.name}\t{one.split}\t{one.box}\t".encode() + one.labels.tobytes())
        return digest.hexdigest()[:16]


def one_of(classes: int) -> Labels:
    """i8 [classes + 1, classes]: row i labels an example of class i, the last (-1) one of an unknown class."""
    every = np.where(np.eye(classes, dtype=bool), 1, -1).astype(np.int8)
    return np.concatenate([every, np.zeros((1, classes), np.int8)])


def from_dataset(dataset: Dataset, split: Split) -> list[Picture]:
    labels = one_of(len(dataset.classes))
    return [Picture(item, (Example(item.name, split, labels[item.label]),)) for item in dataset.items]


def open_folders(root: Path) -> Collection:
    """Anything that infer.dataset reads: its train and val images where there are both, else all without a split.

    Raises DatasetError, also where train and val have different classes.
    """
    top = open_folder(root) if root.is_dir() else None
    if top is None or not any(top.holds(train) and top.holds(val) for train, val in ((TRAIN, VAL), ("train", "val"))):
        dataset = open_dataset(root, "val")
        return Collection("folders", dataset.classes, from_dataset(dataset, ""))
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    if train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise DatasetError(
            f"{root}: {different[0]} is a class of only one of train ({len(train.classes)} classes) and val "
            f"({len(val.classes)}), expected the same classes in both"
        )
    return Collection("folders", train.classes, [*from_dataset(train, "train"), *from_dataset(val, "val")])


def readers() -> dict[str, Callable[[Path], Collection]]:
    """How each kind of data set is opened; "auto" knows it by its folders."""
    from . import caltech, voc

    def auto(root: Path) -> Collection:
        if voc.is_voc(root):
            return voc.open_classification(root)
        return caltech.open_caltech(root) if caltech.is_caltech(root) else open_folders(root)

    return {
        "auto": auto,
        "voc": voc.open_classification,
        "voc-action": voc.open_action,
        "caltech": caltech.open_caltech,
        "folders": open_folders,
    }
