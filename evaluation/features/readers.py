"""How each kind of data set is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infer.data.dataset import TRAIN, VAL, open_dataset
from infer.data.folder import DatasetError, open_folder

from .collection import Collection, from_dataset


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
