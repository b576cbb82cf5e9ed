"""The images a run learns from, and those it is tried on, each with what it is to be answered with."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

from infer.data.dataset import Dataset, DatasetError, Split, has_validation, open_dataset
from infer.spec import Task

from ..processes import say
from .batches import Target
from .box_targets import with_boxes


class Examples(NamedTuple):
    """target: None where the labels are what is to be answered."""

    dataset: Dataset
    target: Target | None = None

    @property
    def listing_digest(self) -> str:
        """A digest of names and labels, wherever the images lie."""
        digest = hashlib.sha256()
        for item in self.dataset.items:
            digest.update(f"{item.name.rpartition('/')[2]}\t{item.label}\n".encode())
        return digest.hexdigest()[:16]


def open_examples(data: Path, task: Task) -> tuple[Examples, Examples | None]:
    """(to learn from, to be tried on); the second is None where there are no such images. Raises DatasetError."""
    dataset = open_dataset(data, "train")
    unlabelled = next((item.name for item in dataset.items if item.label < 0), None)
    if unlabelled is not None:
        raise DatasetError(f"{data}: {unlabelled} has no label, expected one for every image to train on")
    of_class = {item.label for item in dataset.items}
    empty = [name for label, name in enumerate(dataset.classes) if label not in of_class]
    if empty:
        say(f"{data}: no image to train on of {len(empty)} of {len(dataset.classes)} classes ({', '.join(empty[:5])})")
    others = held_out(data, dataset)

    def of(images: Dataset, split: Split) -> Examples:
        return Examples(images) if task == "classify" else Examples(*with_boxes(images, split))

    return of(dataset, "train"), None if others is None else of(others, "val")


def held_out(data: Path, training: Dataset) -> Dataset | None:
    """The validation images of a data set, labelled by the classes of those to train on; None where it has none.

    Raises DatasetError where there are some that nobody can be tried on: a run without them is no accident then.
    """
    if not has_validation(data):
        return None
    dataset = open_dataset(data, "val")
    unlabelled = next((item.name for item in dataset.items if item.label < 0), None)
    if unlabelled is not None:
        raise DatasetError(
            f"{data}: {unlabelled} has no label, expected one for every validation image, or none of them"
        )
    place = {name: label for label, name in enumerate(training.classes)}
    foreign = [name for name in dataset.classes if name not in place]
    if foreign:
        raise DatasetError(
            f"{data}: {len(foreign)} of {len(dataset.classes)} classes of the validation images are none to train on "
            f"({foreign[0]} ...): expected the same classes"
        )
    items = [dataclasses.replace(item, label=place[dataset.classes[item.label]]) for item in dataset.items]
    return dataclasses.replace(dataset, items=items, classes=training.classes, class_names=training.class_names)
