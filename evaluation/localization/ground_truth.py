"""The ground truth: where the objects of a data set really are, which of its images count, what is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infer.data import annotations as xmls
from infer.data.annotations import AnnotationError, Box
from infer.data.dataset import VAL, Dataset, DatasetError
from infer.data.devkit import read_devkit
from infer.data.folder import TAR, Folder, open_folder
from infer.files import POINTER, is_pointer, read_file
from infer.spec import Size

GUESSES = 5
LEAST_OVERLAP = 0.50
BOXES = "ILSVRC2012_bbox_val_v3"
BLACKLIST = "validation_blacklist.txt"
LARGEST_BYTES = 1 << 24
"""Bytes of a list of image numbers at most; the devkit's has 10,000."""
"""How the names of the devkits' files end: ILSVRC2014_clsloc_validation_blacklist.txt; that of detection is another."""
NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
"""The name of a validation image, by whose number the blacklist knows it."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Boxes of an image's class, in an image of `size_px` (None: in the image itself)."""

    boxes: tuple[Box, ...]
    size_px: Size | None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The truth of each image of a data set, None where it does not count.

    blacklisted: how many of those are on the list; broken: the message of each XML that could not be read;
    has_blacklist: whether there was a list; without: images that count but have no box of their class, so that
    whatever is found is wrong.
    """

    truths: tuple[Truth | None, ...]
    blacklisted: int
    broken: tuple[str, ...]
    has_blacklist: bool
    without: int = 0


def read_ground_truth(dataset: Dataset, annotations: Path | None, blacklist: Path | None) -> GroundTruth:
    """Reads the boxes of all images that count.

    annotations: the XMLs, by default BOXES beside the images; blacklist: by default the devkit's, if there is one.
    Raises DatasetError where they are missing, or one is for an image that is not blacklisted, or no image counts or
    none has a box of its class.
    """
    folder = open_folder(annotations) if annotations else xmls.boxes_beside(_root(dataset), BOXES)
    files = xmls.find_annotations(folder)
    unwanted = read_blacklist(blacklist) if blacklist else _devkits_blacklist(dataset)

    # every image that counts needs an XML of its name
    stems = [item.name.rpartition("/")[2].rpartition(".")[0] for item in dataset.items]
    if len(set(stems)) < len(stems):
        raise DatasetError(f"{dataset.root}: two images differ by their folders alone, so an XML could be of either")
    if unwanted and dataset.is_part and not all(map(NUMBERED.fullmatch, stems)):
        raise DatasetError(
            f"{dataset.root}: a blacklist knows images without ILSVRC-2012's names by their places among all of them, "
            "and --limit takes a part: leave --limit out"
        )
    counted = [number not in (unwanted or ()) for number in _numbers(stems)]
    lacking = [stem for stem, counts in zip(stems, counted, strict=True) if counts and stem not in files]
    if lacking:
        raise DatasetError(
            f"{folder.path}: no XML for {len(lacking)} of {len(stems)} images ({lacking[0]}.xml ...): expected the "
            "bounding boxes of this data set, or name others by --annotations"
        )

    find = xmls.class_of(dataset.classes, dataset.class_names)
    truths: list[Truth | None] = [None] * len(stems)
    labelled: list[Truth] = []
    broken: list[str] = []
    for place, (item, stem) in enumerate(zip(dataset.items, stems, strict=True)):
        if not counted[place]:
            continue
        try:
            found = xmls.read_annotation(files[stem], f"{stem}.xml")
            truth = truths[place] = Truth(xmls.boxes_of(found, item.label, find), found.size_px)
        except AnnotationError as error:
            broken.append(str(error))
            continue
        if item.label >= 0:
            labelled.append(truth)

    if not labelled:
        raise DatasetError(
            f"{dataset.root}: no image counts, all are without a label, blacklisted or without readable boxes"
        )
    without = sum(not truth.boxes for truth in labelled)
    if without == len(labelled):
        raise DatasetError(
            f"{folder.path}: no object is of its image's class, expected names like {dataset.classes[0]!r} in the XMLs"
        )
    return GroundTruth(tuple(truths), counted.count(False), tuple(broken), unwanted is not None, without)


def _root(dataset: Dataset) -> Folder:
    """Opens the folder that holds the images, the boxes and the devkit. Raises DatasetError."""
    images_alone = dataset.root.name == f"{VAL}{TAR}"
    return open_folder(dataset.root.parent if images_alone else dataset.root)


def _numbers(stems: Sequence[str]) -> list[int]:
    """Numbers images from 1: by their names where all are ILSVRC-2012's, else by their places in the order of names."""
    named = [int(found[1]) for stem in stems if (found := NUMBERED.fullmatch(stem))]
    places = {stem: number for number, stem in enumerate(sorted(stems), start=1)}
    return named if len(named) == len(stems) else [places[stem] for stem in stems]


def _devkits_blacklist(dataset: Dataset) -> frozenset[int] | None:
    """Finds the latest devkit's list, None where there is none."""
    try:
        root = _root(dataset)
    except DatasetError:  # shards have no devkit beside them
        return None
    found = read_devkit(root, lambda name: name.endswith(BLACKLIST) and "_det_" not in name)
    latest = max(found, default=None)
    return None if latest is None else _parse_blacklist(found[latest], latest)


def read_blacklist(path: Path) -> frozenset[int]:
    try:
        return _parse_blacklist(read_file(path, LARGEST_BYTES, DatasetError), str(path))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None


def _parse_blacklist(content: bytes, name: str) -> frozenset[int]:
    """Reads numbers of images (see _numbers). Raises DatasetError."""
    if is_pointer(content):
        raise DatasetError(f"{name}: {POINTER}")
    words = content.decode(errors="replace").split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0)]
    if wrong:
        raise DatasetError(f"{name}: {wrong[0][:20]!r} is not the number of an image, expected one on each line")
    return frozenset(map(int, words))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin) + 1
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin) + 1
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(one) + _area(other) - width * height)


def is_right(label: int, truths: Sequence[Box], guesses: Sequence[tuple[int, Box]]) -> bool:
    """Judges the guesses for an image of class `label`, whose boxes are `truths`, as the devkit does (eval_clsloc.m).

    One of the first five guesses must name the class and overlap one of its boxes by an intersection over union of
    0.50 or more (0.50 itself passes), where a box from xmin to xmax is xmax - xmin + 1 wide.

    guesses: (class, box), the surest first; more than GUESSES are ignored.
    """
    own = [box for named, box in guesses[:GUESSES] if named == label]
    return any(overlap(box, truth) >= LEAST_OVERLAP for box in own for truth in truths)


def _area(box: Box) -> float:
    return (box.xmax - box.xmin + 1) * (box.ymax - box.ymin + 1)
