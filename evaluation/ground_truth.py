"""Where the objects of a data set really are, and which of its images count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infer.annotations import (
    AnnotationError,
    Box,
    boxes_beside,
    boxes_of,
    class_of,
    find_annotations,
    read_annotation,
)
from infer.dataset import DEVKIT, VAL, Dataset, DatasetError
from infer.encoded import File
from infer.tree import TAR, Folder, open_folder
from infer.views import Size

BOXES = "ILSVRC2012_bbox_val_v3"
BLACKLIST = "validation_blacklist.txt"
"""How the names of the devkits' files end: ILSVRC2014_clsloc_validation_blacklist.txt; that of detection is another."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The boxes of the image's class, in an image of `size_px` (None: of the image itself)."""

    boxes: tuple[Box, ...]
    size_px: Size | None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """For each image of a data set its truth, or None if it does not count: `blacklisted` of them, or `broken`, the
    message of each XML that could not be read. has_blacklist: whether there was a list."""

    truths: tuple[Truth | None, ...]
    blacklisted: int
    broken: tuple[str, ...]
    has_blacklist: bool


def read_ground_truth(dataset: Dataset, annotations: Path | None, blacklist: Path | None) -> GroundTruth:
    """annotations: the XMLs, by default BOXES beside the images; blacklist: by default the devkit's, if there is one.

    Raises DatasetError where they are missing, or one is for an image that is not blacklisted.
    """
    folder = open_folder(annotations) if annotations else boxes_beside(_root(dataset), BOXES)
    files = find_annotations(folder)
    listed = File(blacklist) if blacklist else _devkits_blacklist(dataset)
    unwanted = _read_blacklist(listed) if listed else frozenset()
    stems = [item.name.rpartition("/")[2].rpartition(".")[0] for item in dataset.items]
    if len(set(stems)) < len(stems):
        raise DatasetError(f"{dataset.root}: two images differ by their folders alone, so an XML could be of either")
    counted = [number not in unwanted for number in range(1, len(stems) + 1)]
    lacking = [stem for stem, counts in zip(stems, counted, strict=True) if counts and stem not in files]
    if lacking:
        raise DatasetError(
            f"{folder.path}: no XML for {len(lacking)} of {len(stems)} images ({lacking[0]}.xml ...): expected the "
            "bounding boxes of this data set, or name others by --annotations"
        )
    find = class_of(dataset.classes, dataset.class_names)
    truths: list[Truth | None] = []
    broken: list[str] = []
    for item, stem, counts in zip(dataset.items, stems, counted, strict=True):
        truths.append(None)
        if counts:
            try:
                found = read_annotation(files[stem], f"{stem}.xml")
                truths[-1] = Truth(boxes_of(found, item.label, find), found.size_px)
            except AnnotationError as error:
                broken.append(str(error))
    return GroundTruth(tuple(truths), counted.count(False), tuple(broken), listed is not None)


def _root(dataset: Dataset) -> Folder:
    """What holds the images' folder, the boxes' and the devkit. Raises DatasetError."""
    images_alone = dataset.root.name == f"{VAL}{TAR}"
    return open_folder(dataset.root.parent if images_alone else dataset.root)


def _devkits_blacklist(dataset: Dataset) -> File | None:
    try:
        devkit = _root(dataset).folder(DEVKIT)
        files = devkit.folder("data").files if devkit.holds("data") else {}
    except (DatasetError, KeyError):  # shards have no devkit, nor need others have one
        return None
    names: Sequence[str] = sorted(name for name in files if name.endswith(BLACKLIST) and "_det_" not in name)
    return files[names[-1]] if names else None


def _read_blacklist(file: File) -> frozenset[int]:
    """Numbers of images in the order of their names, from 1. Raises DatasetError."""
    try:
        words = file.read_bytes().decode(errors="replace").split()
    except OSError as error:
        raise DatasetError(f"{file.path}: cannot be read ({error.strerror})") from None
    wrong = [word for word in words if not (word.isascii() and word.isdigit() and int(word) > 0)]
    if wrong:
        raise DatasetError(f"{file.path}: {wrong[0][:20]!r} is not the number of an image, expected one on each line")
    return frozenset(map(int, words))
