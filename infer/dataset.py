"""The only reader of labelled data sets: ILSVRC-2012 as distributed, or a folder of class folders.

It knows names, labels and where the bytes lie; it decodes nothing. A label is the position of the WNID (or folder
name) in sorted order; devkit ids, which follow another order, are mapped through meta.mat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

TRAIN = "ILSVRC2012_img_train"
VAL = "ILSVRC2012_img_val"
DEVKIT = "ILSVRC2012_devkit_t12"
META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")

ILSVRC2012_FIRST_LABELS = (65, 970, 230, 809, 516, 57)
"""Sorted-WNID labels of the first six validation images (Caffe's val.txt), by which the real set is known."""

Split = Literal["train", "val"]


class DatasetError(ValueError):
    """A folder that is not a data set we read; one line that says what was expected."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    name: str  # path below the data set's root, with forward slashes
    label: int  # index into Dataset.classes
    path: Path

    def read_bytes(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images in the order of their names. `id` depends on names, labels and sizes in bytes, not on the folder."""

    root: Path
    items: Sequence[Item]
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    is_ilsvrc2012_val: bool

    @property
    def id(self) -> str:
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for item in self.items:
            digest.update(f"\n{Path(item.name).name}\t{item.label}\t{item.path.stat().st_size}".encode())
        return digest.hexdigest()[:16]


def open_dataset(root: Path, split: Split = "val", *, limit: int | None = None) -> Dataset:
    """The images of one split, the first `limit` of them. Raises DatasetError.

    root: ILSVRC-2012 (ILSVRC2012_img_val flat or in WNID folders, ILSVRC2012_img_train, the devkit), or class
    folders, directly or below train/ and val/.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if (root / TRAIN).is_dir() or (root / VAL).is_dir():
        dataset = _open_ilsvrc(root, split)
    else:
        below = root / split
        dataset = _open_class_folders(below if below.is_dir() else root, root)
    if not dataset.items:
        raise DatasetError(f"{root}: no {split} images found (endings {', '.join(SUFFIXES)})")
    if limit is None or limit >= len(dataset.items):
        return dataset
    return replace(dataset, items=dataset.items[:limit], is_ilsvrc2012_val=False)


def image_files(folder: Path) -> list[Path]:
    """Every image below a folder, labelled or not, by its ending and in order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _open_ilsvrc(root: Path, split: Split) -> Dataset:
    folder = root / (TRAIN if split == "train" else VAL)
    if not folder.is_dir():
        raise DatasetError(f"{root}: no {folder.name} folder")
    devkit = root / DEVKIT / "data"
    if split == "train" or any(child.is_dir() and not child.name.startswith(".") for child in folder.iterdir()):
        dataset = _open_class_folders(folder, root)
        words = _read_meta(devkit / META)[1] if (devkit / META).is_file() else {}
        items, classes = dataset.items, dataset.classes
    else:
        for needed in (devkit / META, devkit / GROUND_TRUTH):
            if not needed.is_file():
                raise DatasetError(f"{needed}: missing, and flat validation images have their labels there")
        wnid_of_id, words = _read_meta(devkit / META)
        classes = tuple(sorted(wnid_of_id.values()))
        index = {wnid: i for i, wnid in enumerate(classes)}
        paths = _images(folder)
        lines = (devkit / GROUND_TRUTH).read_text().split()
        if len(lines) != len(paths):
            raise DatasetError(
                f"{root}: {len(paths)} validation images, but {len(lines)} labels in {GROUND_TRUTH}: one is incomplete"
            )
        try:
            labels = [index[wnid_of_id[int(line)]] for line in lines]
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{GROUND_TRUTH}: {error} is not the id of a leaf in {META}") from None
        items = [Item(p.relative_to(root).as_posix(), label, p) for p, label in zip(paths, labels, strict=True)]
    by_name = sorted(items, key=lambda item: item.path.name)
    return Dataset(
        root,
        by_name if split == "val" else items,
        classes,
        tuple(words.get(c, c) for c in classes),
        is_ilsvrc2012_val=split == "val"
        and len(items) == 50_000
        and tuple(item.label for item in by_name[:6]) == ILSVRC2012_FIRST_LABELS,
    )


def _open_class_folders(folder: Path, root: Path) -> Dataset:
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not classes:
        raise DatasetError(f"{folder}: neither ILSVRC-2012 ({VAL}, {DEVKIT}) nor class folders found")
    items = [
        Item(path.relative_to(root).as_posix(), label, path)
        for label, name in enumerate(classes)
        for path in _images(folder / name)
    ]
    return Dataset(root, items, classes, classes, is_ilsvrc2012_val=False)


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def _read_meta(path: Path) -> tuple[dict[int, str], dict[str, str]]:
    """(WNID of each leaf's ILSVRC2012_ID, words of each WNID) from the devkit's meta.mat."""
    import scipy.io

    try:
        rows = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        return (
            {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves},
            {str(row["WNID"]): str(row["words"]) for row in leaves},
        )
    except Exception as error:  # scipy raises what it likes on a damaged file
        raise DatasetError(f"{path}: not the devkit's meta.mat ({type(error).__name__}: {error})") from None
