"""PASCAL VOC as distributed: VOCdevkit/VOC2007 or VOC2012 with ImageSets, JPEGImages and Annotations.

Classification: ImageSets/Main/CLASS_trainval.txt and CLASS_test.txt have a line `000005 -1` for each image; 1 is an
image with the object, 0 one where each is `difficult`, which does not count, -1 one without. val.txt says which of
trainval are for validation. VOC2012's test.txt comes without labels: a server has them. Action: ImageSets/Action's
lines are `2010_006215 1 -1`, with the number of the person among the objects of the image's XML, counted from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infer.data.annotations import AnnotationError, read_annotation
from infer.data.dataset import Item
from infer.data.folder import DatasetError, File, Folder, open_folder
from infer.files import POINTER, is_pointer
from infer.views import Rect

from .collection import Collection, Example, Kind, Labels, Picture, Split

SETS = "ImageSets"
MAIN, ACTION = "Main", "Action"
KINDS: dict[str, Kind] = {"VOC2007": "voc2007", "VOC2012": "voc2012"}
"""Kinds by the folder's name; another year, or another name, is just "voc": the paper has no result for it."""
OTHER = "other"
"""People who do none of the ten actions: distractors, whose class the devkit does not evaluate."""

Key = tuple[str, int]
"""(image, number of the person in it); 0 where the example is the image."""


def is_voc(root: Path) -> bool:
    return root.is_dir() and any((folder / SETS).is_dir() for folder in (root, *_years(root)))


def open_classification(root: Path) -> Collection:
    """Opens train, val and test images with the labels of all classes. Raises DatasetError."""
    voc = _open(root)
    classes, labels = _read_labels(voc, MAIN)
    pictures = [
        Picture(item, (Example(item.name, split, own),))
        for (name, _), (split, own) in sorted(labels.items())
        for item in [voc.item(name)]
    ]
    return Collection(KINDS.get(voc.root.name, "voc"), classes, pictures)


def open_action(root: Path) -> Collection:
    """Opens the people of train, val and test images, with labels of all actions and boxes. Raises DatasetError."""
    voc = _open(root)
    classes, labels = _read_labels(voc, ACTION)
    people: dict[str, list[tuple[int, Split, Labels]]] = {}
    for (name, person), (split, own) in sorted(labels.items()):
        people.setdefault(name, []).append((person, split, own))

    xmls = _below(voc.folder, "Annotations").files
    pictures = []
    for name, of_image in people.items():
        xml = xmls.get(f"{name}.xml")
        if xml is None:
            raise DatasetError(f"{voc.root / 'Annotations'}/{name}.xml: no such file, though {SETS}/Action names it")

        boxes = _boxes(xml, voc.root)
        for person, _, _ in of_image:
            if not 1 <= person <= len(boxes):
                raise DatasetError(
                    f"{xml.path}: {len(boxes)} objects, but {SETS}/Action names person {person}: one is not of this set"
                )
        examples = (Example(f"{name}/{person}", split, own, boxes[person - 1]) for person, split, own in of_image)
        pictures.append(Picture(voc.item(name), tuple(examples)))
    return Collection("voc-action", classes, pictures)


@dataclass(frozen=True, slots=True)
class _Voc:
    root: Path
    folder: Folder
    images: dict[str, File]

    def item(self, name: str) -> Item:
        found = next((one for one in (f"{name}.jpg", f"{name}.JPG") if one in self.images), None)
        if found is None:
            raise DatasetError(
                f"{self.root / 'JPEGImages' / name}.jpg: no such file, though {SETS} names it: unpack the archives of "
                "training and test images into the same folder"
            )
        return Item(f"JPEGImages/{found}", -1, self.images[found])


def _years(root: Path) -> list[Path]:
    return sorted(path for base in (root, root / "VOCdevkit") for path in base.glob("VOC20[0-9][0-9]"))


def _open(root: Path) -> _Voc:
    years = [root] if (root / SETS).is_dir() else _years(root)
    if len(years) != 1:
        found = f"has {', '.join(path.name for path in years)}" if years else f"no {SETS} folder there"
        raise DatasetError(f"{root}: {found}, expected one like VOCdevkit/VOC2007: name it by --data")
    folder = open_folder(years[0])
    return _Voc(years[0].resolve(), folder, _below(folder, "JPEGImages").files)


def _below(folder: Folder, name: str) -> Folder:
    if not folder.holds(name):
        raise DatasetError(f"{folder.path / name}: no such folder, expected VOC's as distributed")
    return folder.folder(name)


def _read_labels(voc: _Voc, task: str) -> tuple[tuple[str, ...], dict[Key, tuple[Split, Labels]]]:
    """Reads (classes, the set and labels of every example). Raises DatasetError."""
    files = _below(_below(voc.folder, SETS), task).files
    classes = tuple(sorted(name.removesuffix(_TRAINVAL) for name in files if name.endswith(_TRAINVAL)))
    if not classes:
        raise DatasetError(f"{voc.root / SETS / task}: no CLASS{_TRAINVAL} there, expected one for each class")

    persons = task == ACTION
    labels: dict[Key, tuple[Split, Labels]] = {}
    validation = {key[0] for key, _ in _lines(files["val.txt"], labelled=False)} if "val.txt" in files else set()
    for number, name in enumerate(classes):
        read = 0
        for of_test in (False, True):
            file = files.get(f"{name}_test.txt" if of_test else f"{name}{_TRAINVAL}")
            for key, label in _lines(file, persons=persons) if file is not None else ():
                split: Split = "test" if of_test else "val" if key[0] in validation else "train"
                known = labels.setdefault(key, (split, np.zeros(len(classes), np.int8)))
                if known[0] != split:
                    raise DatasetError(f"{files[f'{name}_test.txt'].path}: {key[0]} is in trainval too")
                known[1][number] = label
                read += not of_test and label > 0

        if not read:
            raise DatasetError(f"{files[f'{name}{_TRAINVAL}'].path}: no image of {name} (1), so nothing can be learnt")

    # a test set whose labels a server keeps
    if "test.txt" in files and not any(split == "test" for split, _ in labels.values()):
        for key, _ in _lines(files["test.txt"], persons=persons, labelled=False):
            labels.setdefault(key, ("test", np.zeros(len(classes), np.int8)))
    return classes, labels


_TRAINVAL = "_trainval.txt"


def _lines(file: File, *, persons: bool = False, labelled: bool = True) -> Iterator[tuple[Key, int]]:
    """Reads ((image, person), label) of each line of a set. Raises DatasetError."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        if is_pointer(text.encode()):
            raise DatasetError(f"{file.path}: {POINTER}")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file.path}: cannot be read ({error})") from None

    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            name, *numbers = words
            person = int(numbers.pop(0)) if persons else 0
            label = int(numbers.pop(0)) if labelled else 0
            if label not in (-1, 0, 1) or (labelled and numbers):
                raise ValueError
        except (ValueError, IndexError):
            expected = "IMAGE" + " PERSON" * persons + " and 1, 0 or -1" * labelled
            raise DatasetError(f"{file.path}: line {number} is {line[:60]!r}, expected {expected}") from None

        yield (name, person), label


def _boxes(xml: File, root: Path) -> list[Rect]:
    """Reads (top, left, height, width) of each object. Raises DatasetError."""
    try:
        objects = read_annotation(xml, str(root / "Annotations" / xml.path.name)).objects
    except AnnotationError as error:
        raise DatasetError(str(error)) from None
    boxes = []
    for _, box in objects:
        left, top, right, bottom = (math.floor(edge) for edge in box)
        boxes.append((top - 1, left - 1, bottom - top + 1, right - left + 1))
    return boxes
