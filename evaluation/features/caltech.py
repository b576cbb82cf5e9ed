"""Caltech-101 and Caltech-256 as distributed: class folders, with the clutter that is a class of its own.

Caltech-101 has 101_ObjectCategories, of 101 classes and BACKGROUND_Google; Caltech-256 has 256_ObjectCategories, of
001.ak47 to 257.clutter. VGG counts that class too: 102 and 257 (appendix B). What is no image there (256's RENAME2,
a folder in 056.dog) is passed over. Neither has sets: evaluation.feature_svm draws them.
"""

from __future__ import annotations

from pathlib import Path

from infer.data.dataset import open_dataset
from infer.data.folder import TAR, DatasetError, open_folder

from .collection import Collection, Kind, from_dataset

FOLDERS: dict[str, Kind] = {"101_ObjectCategories": "caltech-101", "256_ObjectCategories": "caltech-256"}


def _find(root: Path) -> tuple[Path, Kind] | None:
    """The folder (or tar) of the classes, which is `root` or in it; a .tar.gz too, so that it is refused by name."""
    for name, kind in FOLDERS.items():
        packed = tuple(f"{name}{ending}" for ending in ("", TAR, f"{TAR}.gz", ".tgz"))
        if root.name in packed:
            return root, kind
        for path in (root / one for one in packed):
            if path.exists():
                return path, kind
    return None


def is_caltech(root: Path) -> bool:
    return _find(root) is not None


def open_caltech(root: Path) -> Collection:
    """All images, without a split. Raises DatasetError, also for a class without images."""
    found = _find(root)
    if found is None:
        raise DatasetError(f"{root}: no {' or '.join(FOLDERS)} there, expected Caltech-101 or Caltech-256 unpacked")
    path, kind = found
    dataset = open_dataset(path)
    empty = sorted(set(range(len(dataset.classes))) - {item.label for item in dataset.items})
    if empty:
        raise DatasetError(
            f"{open_folder(path).path / dataset.classes[empty[0]]}: a class without images: unpack it again, or "
            "remove the folder"
        )
    return Collection(kind, dataset.classes, from_dataset(dataset, ""))
