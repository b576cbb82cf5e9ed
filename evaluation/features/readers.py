"""Readers of each kind of data set: VOC (voc.py), Caltech, and class folders or whatever infer.data reads.

Caltech-101 has 101_ObjectCategories, of 101 classes and BACKGROUND_Google; Caltech-256 has 256_ObjectCategories, of
001.ak47 to 257.clutter. VGG counts that class too: 102 and 257 (appendix B). What is no image there (256's RENAME2,
a folder in 056.dog) is passed over. Neither has sets: svm.py draws them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infer.data.dataset import TRAIN, VAL, open_dataset
from infer.data.folder import TAR, DatasetError, open_folder

from . import voc
from .collection import Collection, Kind, from_dataset

CALTECH_FOLDERS: dict[str, Kind] = {"101_ObjectCategories": "caltech-101", "256_ObjectCategories": "caltech-256"}


def open_folders(root: Path) -> Collection:
    """Opens a data set of infer.data: its train and val images where there are both, else all without a split.

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


def open_caltech(root: Path) -> Collection:
    """Opens all images of Caltech, without a split. Raises DatasetError, also for a class without images."""
    found = _find_caltech(root)
    if found is None:
        raise DatasetError(
            f"{root}: no {' or '.join(CALTECH_FOLDERS)} there, expected Caltech-101 or Caltech-256 unpacked"
        )

    path, kind = found
    dataset = open_dataset(path)
    empty = sorted(set(range(len(dataset.classes))) - {item.label for item in dataset.items})
    if empty:
        raise DatasetError(
            f"{open_folder(path).path / dataset.classes[empty[0]]}: a class without images: unpack it again, or "
            "remove the folder"
        )
    return Collection(kind, dataset.classes, from_dataset(dataset, ""))


def open_any_kind(root: Path) -> Collection:
    """Opens a data set of the kind that its folders say. Raises DatasetError."""
    if voc.is_voc(root):
        return voc.open_classification(root)
    return open_caltech(root) if _find_caltech(root) else open_folders(root)


READERS: dict[str, Callable[[Path], Collection]] = {
    "auto": open_any_kind,
    "voc": voc.open_classification,
    "voc-action": voc.open_action,
    "caltech": open_caltech,
    "folders": open_folders,
}


def _find_caltech(root: Path) -> tuple[Path, Kind] | None:
    """Finds the folder (or tar) of the classes, `root` or in it; a .tar.gz too, so that it is refused by name."""
    for name, kind in CALTECH_FOLDERS.items():
        packed = tuple(f"{name}{ending}" for ending in ("", TAR, f"{TAR}.gz", ".tgz"))
        if root.name in packed:
            return root, kind
        for path in (root / one for one in packed):
            if path.exists():
                return path, kind
    return None
