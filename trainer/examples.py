"""The images a run learns from, and those it is tried on, each with what it is to be answered with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from infer.dataset import Dataset, DatasetError, open_dataset
from infer.spec import Task

from .box_targets import with_boxes
from .data import Target


class Examples(NamedTuple):
    """target: None where the labels are what is to be answered."""

    dataset: Dataset
    target: Target | None = None


def open_examples(data: Path, task: Task) -> tuple[Examples, Examples | None]:
    """(to learn from, to be tried on); the second is None where there are no such images. Raises DatasetError."""
    dataset = open_dataset(data, "train")
    unlabelled = next((item.name for item in dataset.items if item.label < 0), None)
    if unlabelled is not None:
        raise DatasetError(f"{data}: {unlabelled} has no label, expected one for every image to train on")
    others = held_out(data, dataset)

    def of(images: Dataset) -> Examples:
        return Examples(images) if task == "classify" else Examples(*with_boxes(images))

    return of(dataset), None if others is None else of(others)


def held_out(data: Path, training: Dataset) -> Dataset | None:
    """The labelled validation images of a data set; None where it has none beside those to train on."""
    try:
        dataset = open_dataset(data, "val")
    except DatasetError:
        return None
    if dataset.items[0].name == training.items[0].name or dataset.classes != training.classes:
        return None
    return dataset if all(item.label >= 0 for item in dataset.items) else None
