"""Folders of files that are called like images, for what only lists them."""

from __future__ import annotations

from pathlib import Path

from infer.data.dataset import VAL, Dataset
from infer.data.devkit import DEVKIT, GROUND_TRUTH


def fill(root: Path, *names: str) -> Path:
    """Writes files of these names, each with its name as content."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(dataset: Dataset) -> list[tuple[str, str]]:
    """(name, class) of each image."""
    return [(item.name, dataset.classes[item.label]) for item in dataset.items]


def keep_first(root: Path, count: int) -> Path:
    """Removes the validation images after the first `count` from a copy of the miniature, and their labels."""
    for path in sorted((root / VAL).iterdir())[count:]:
        path.unlink()
    labels = root / DEVKIT / "data" / GROUND_TRUTH
    labels.write_text("\n".join(labels.read_text().split()[:count]) + "\n")
    return root
