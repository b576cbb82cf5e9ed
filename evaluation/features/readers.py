"""Readers of each kind of data set: VOC (voc.py), Caltech, and class folders or whatever infer.data reads.

Caltech-101 has 101_ObjectCategories, of 101 classes and BACKGROUND_Google; Caltech-256 has 256_ObjectCategories, of
001.ak47 to 257.clutter. VGG counts that class too: 102 and 257 (appendix B). What is no image there (256's RENAME2,
a folder in 056.dog) is passed over. Neither has sets: svm.py draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from infer.data.dataset import has_training, has_validation, open_dataset
from infer.data.folder import TAR, DatasetError, open_folder

from . import voc
from .collection import Collection, Kind, from_dataset, limited

SETS: tuple[Literal["train"], Literal["val"]] = ("train", "val")
CALTECH_FOLDERS: dict[str, Kind] = {"101_ObjectCategories": "caltech-101", "256_ObjectCategories": "caltech-256"}


def open_folders(
    root: Path,
    labels: Path | None = None,
    columns: Mapping[str, str] | None = None,
    only: Path | None = None,
) -> Collection:
    """Opens a data set of infer.data: its train and val images where there are both, else all without a split.

    labels, columns, only: as of `open_dataset`. Raises DatasetError, also where train and val have different classes.
    """
    if not (has_validation(root) and has_training(root)):
        dataset = open_dataset(root, "val", labels=labels, columns=columns, only=only)
        return Collection("folders", dataset.classes, from_dataset(dataset, ""), tuple(dataset.notes))

    train, val = (open_dataset(root, split, labels=labels, columns=columns, only=only) for split in SETS)
    if train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise DatasetError(
            f"{root}: {different[0]} is a class of only one of train ({len(train.classes)} classes) and val "
            f"({len(val.classes)}), expected the same classes in both"
        )
    notes = tuple(dict.fromkeys([*train.notes, *val.notes]))
    return Collection("folders", train.classes, [*from_dataset(train, "train"), *from_dataset(val, "val")], notes)


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
    return Collection(kind, dataset.classes, from_dataset(dataset, ""), tuple(dataset.notes))


READERS: dict[str, Callable[[Path], Collection]] = {
    "voc": voc.open_classification,
    "voc-action": voc.open_action,
    "caltech": open_caltech,
    "folders": open_folders,
}


def kind_of(root: Path) -> str:
    """The reader for a data set, by its folders."""
    if voc.is_voc(root):
        return "voc"
    return "caltech" if _find_caltech(root) else "folders"


def open_collection(
    root: Path,
    kind: str = "auto",
    *,
    limit: int | None = None,
    labels: Path | None = None,
    columns: Mapping[str, str] | None = None,
    only: Path | None = None,
) -> Collection:
    """Opens a data set by the reader of its kind, or of the kind that its folders say.

    limit: so many pictures, evenly spaced over sets and classes. labels, columns, only: as of
    `open_dataset`. Raises DatasetError, also for these of a kind that has its own.
    """
    kind = kind_of(root) if kind == "auto" else kind
    given = [name for name, value in (("--labels", labels), ("--columns", columns), ("--only", only)) if value]
    if kind == "folders":
        return limited(open_folders(root, labels, columns, only), limit, root)
    if given:
        raise DatasetError(f"{root}: {given[0]} is for folders and shards of images, a {kind} data set has its own")
    return limited(READERS[kind](root), limit, root)


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
