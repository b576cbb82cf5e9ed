"""What is right for each image of a score table: no class, one or several; the labels of the table, or others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.data.imagenet import words_of_wnids
from infer.data.label_file import read_column, read_label_file

from ..errors import ScoresError
from ..scores.table import UNKNOWN_LABEL, Scores
from .lists import IMAGENET_CLASSES, VAL_IMAGES, Objects, find_classes, is_nameless, number_of

LEAST_AGREEMENT, LEAST_IMAGES = 0.5, 20
"""Share of images, of so many at least, whose own label is among ReaL's, so that both mean the same images and classes.

It is 90 % in truth (Beyer et al. 2020), and 0.1 % where the order of the one is another.
"""


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one score table. spec: the model's, as it is in the table."""

    names: tuple[str, ...]
    labels: NDArray[np.int32]
    spec: dict[str, object]

    @property
    def classes(self) -> tuple[str, ...]:
        found = self.spec["classes"]
        assert isinstance(found, list)
        return tuple(found)


class Truth(NamedTuple):
    """Right classes: those of image i are `classes[starts[i] : starts[i + 1]]`. remarks: where they are from."""

    starts: NDArray[np.int64]
    classes: NDArray[np.int32]
    remarks: tuple[str, ...] = ()

    def mask(self, first: int, images: int, classes: int) -> NDArray[np.bool_]:
        """The right classes of some images in a row, [images, classes]."""
        starts = self.starts[first : first + images + 1]
        found = np.zeros((images, classes), np.bool_)
        found[np.repeat(np.arange(images), np.diff(starts)), self.classes[starts[0] : starts[-1]]] = True
        return found


def images_of(head: Scores, names: tuple[str, ...], labels: NDArray[np.int32]) -> Images:
    return Images(names, labels, json.loads(head.metadata["spec"]))


def labelled(labels: NDArray[np.int32], remarks: Sequence[str] = ()) -> Truth:
    """One right class for each image, none where its label is UNKNOWN_LABEL."""
    starts = np.concatenate([[0], np.cumsum(labels >= 0)])
    return Truth(starts, labels[labels >= 0], tuple(remarks))


def from_real(images: Images, real: Sequence[Sequence[int]], source: Path) -> Truth:
    """ReaL's right classes, by the number in each image's name. Raises ScoresError where the images are others."""
    place = find_classes(list(words_of_wnids()), images.spec, f"--real {source}")
    numbers = [number_of(name) for name in images.names]
    for name, number in zip(images.names, numbers, strict=True):
        if number is None or not 1 <= number <= VAL_IMAGES:
            raise ScoresError(
                f"--real {source}: {name} is no image of ILSVRC-2012's validation set (ILSVRC2012_val_00000001 to "
                f"{VAL_IMAGES:08d}), whose images alone have ReaL's labels"
            )
    if len(set(numbers)) < len(numbers):
        raise ScoresError(f"--real {source}: a validation image is in the table twice, expected each once")

    right = [[place[index] for index in real[number - 1]] for number in numbers if number is not None]
    counts = np.array([len(own) for own in right], np.int64)
    classes = np.array([index for own in right for index in own], np.int32)
    found = Truth(np.concatenate([[0], np.cumsum(counts)]), classes)

    # both lists are of the same images and the same order of classes
    both = [(label, own) for label, own in zip(images.labels.tolist(), right, strict=True) if own and label >= 0]
    agree = sum(label in own for label, own in both)
    if len(both) >= LEAST_IMAGES and agree < LEAST_AGREEMENT * len(both):
        raise ScoresError(
            f"--real {source}: the table's own label is among ReaL's for {agree} of {len(both)} images, expected about "
            "90 %: the labels of one of them are in another order, or of other images"
        )
    remarks = [f"{int((counts == 0).sum())} images have no right class in ReaL and are left out"]
    if both:
        remarks.append(
            f"the table's own label is among ReaL's for {100 * agree / len(both):.1f} % of {len(both)} images"
        )
    return found._replace(remarks=tuple(remarks))


def relabelled(images: Images, source: Path) -> Truth:
    """The labels of the table, but for the images that a file has others for. Raises Refused.

    A label is a class's name or, where all are numbers and no names, its index in the model; -1: no class is right.
    """
    column = read_column(read_label_file(source), images.names, source)
    words = [word for word in column.words if word != str(UNKNOWN_LABEL)]
    remarks = []
    if all(word.isascii() and word.isdecimal() for word in words) and not set(words) <= set(images.classes):
        beyond = next((word for word in words if len(word) > 9 or int(word) >= len(images.classes)), None)
        if beyond is not None:
            raise ScoresError(f"--relabel {source}: label {beyond[:20]}, expected 0 to {len(images.classes) - 1}")
        places = [int(word) for word in words]
        remarks.append(f"labels are numbers, taken as places of the model's classes (0 is {images.classes[0]} ...)")
    else:
        places = find_classes(words, images.spec, f"--relabel {source}")

    place = {**dict(zip(words, places, strict=True)), str(UNKNOWN_LABEL): UNKNOWN_LABEL}
    labels = images.labels.copy()
    given = 0
    for number, word in enumerate(column.values):
        if word is not None:
            labels[number] = place[word]
            given += 1
    if not given:
        raise ScoresError(
            f"--relabel {source}: it names none of the table's {len(labels)} images ({images.names[0]} ...)"
        )

    changed = int((labels != images.labels).sum())
    remarks.insert(0, f"labels of {given} images by the file{column.remark}: {changed} are changed")
    return labelled(labels, remarks)


class Subset(NamedTuple):
    """The classes of a model that may be answered, in order; `same`: their places here where several are one object."""

    allowed: NDArray[np.int64]
    same: tuple[tuple[int, ...], ...]


def choose(objects: Objects, images: Images, source: str) -> Subset:
    """The subset of a model's classes. Raises ScoresError where the model does not know them."""
    names = [name for own in objects for name in own]
    found = dict(zip(names, find_classes(names, images.spec, f"--subset {source}"), strict=True))
    allowed = sorted(found.values())
    at = {place: number for number, place in enumerate(allowed)}
    return Subset(np.array(allowed), tuple(tuple(at[found[name]] for name in own) for own in objects if len(own) > 1))


class Groups(NamedTuple):
    """Groups of images: `of` is the place in `names` of each image's group, i64 [images], -1 for none."""

    names: tuple[str, ...]
    of: NDArray[np.int64]
    remarks: tuple[str, ...]


def group(images: Images, source: Path, column: str) -> Groups:
    """The groups that a column of a file names. Raises Refused where no image is in any."""
    found = read_column(read_label_file(source), images.names, source, column)
    names = sorted({value for value in found.values if value is not None}, key=_natural)
    if not names:
        raise ScoresError(
            f"--groups {source}: it names none of the table's {len(images.names)} images ({images.names[0]} ...)"
        )
    place = {name: number for number, name in enumerate(names)}
    of = np.array([-1 if value is None else place[value] for value in found.values], np.int64)
    remarks = [f"groups by {source}{found.remark}"]
    if (of < 0).any():
        remarks.append(f"{int((of < 0).sum())} images are in no group")
    return Groups(tuple(names), of, tuple(remarks))


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by their size, before words."""
    is_number = name.isascii() and name.isdecimal()
    return not is_number, float(name) if is_number else 0, name


def remarks_on(images: Images) -> Iterator[str]:
    """What was taken for granted of a model's classes."""
    if is_nameless(images.classes):
        yield f"the model has no names for its classes: taken as ImageNet's {IMAGENET_CLASSES} WNIDs in sorted order"
