"""ILSVRC's detection task (DET), as it is distributed.

Two layouts. Of 2013 and 2014, archives unpacked beside each other: ILSVRC2013_DET_val, ILSVRC2013_DET_bbox_val,
ILSVRC2014_DET_train, ILSVRC2014_DET_bbox_train, ILSVRC2013_DET_test and ILSVRC2014_devkit, whose data/det_lists names
the images. From 2015, and by Kaggle: ILSVRC/Data/DET, Annotations/DET, ImageSets/DET, and devkit or ILSVRC2015_devkit.
A tar archive stands for the folder of its name.

The classes are those that the lists are numbered by, 200, of the synsets of meta_det.mat. Images are known by their
names without folders, since lists of 2014 name some without. In the lists for training an image of a class is positive,
all of whose objects have boxes, partly positive, or negative; that of another class says nothing of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..annotations import AnnotationError, boxes_beside, find_annotations, read_annotation
from ..dataset import Item
from ..devkit import META_BYTES, read_meta
from ..folder import DatasetError, File, Folder
from .annotated import Annotated, read_xmls
from .lists import check_there, enter, images_below, read_bytes, read_rows, say_some
from .objects import NEGATIVE, PARTLY, POSITIVE, UNLISTED, DetectionData, Split

META = "meta_det.mat"
CLASSES = 200
"""Classes of the task, the first of the devkit's synsets; where lists are numbered, as many as these."""
IMAGES = re.compile(r"ILSVRC(20\d\d)_DET_(train|val|test)(\.tar)?")
DEVKIT = re.compile(r"ILSVRC(20\d\d)_devkit|devkit")
BLACKLIST = re.compile(r"ILSVRC(20\d\d)_det_validation_blacklist\.txt")
TRAIN_LIST = re.compile(r"train_((?P<kind>pos|part|neg)_)?(?P<number>[1-9]\d{0,3})\.txt")
LABELS = {"pos": POSITIVE, "part": PARTLY, "neg": NEGATIVE}

NUMBERED = re.compile(r"(\S+)\s+(\d{1,9})")
NAMED = re.compile(r"(\S+)()")
LABELLED = re.compile(r"(\S+)\s+(-?1|0)")
PAIR = re.compile(r"(\d{1,9})\s+(n\d{8})")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things lie: folders of images and of XMLs with the names of the former, lists, the devkit's data."""

    top: Folder
    images: list[tuple[str, Folder]]
    boxes: list[Folder]
    lists: Folder | None
    devkit: Folder | None


def is_ilsvrc(top: Folder) -> bool:
    """True where the folders of one of the layouts lie here, or below ILSVRC."""
    names = {*top.folders, *top.files}
    return _is_kaggle(top) or "ILSVRC" in top.folders or any(map(IMAGES.fullmatch, names))


def open_ilsvrc(top: Folder, root: Path, split: Split, negatives: bool) -> DetectionData:
    """The images of a split. Raises DatasetError."""
    layout = _find(top, root, split)
    images: dict[str, tuple[str, File]] = {}
    for name, folder in layout.images:
        images = {**images_below(folder, name), **images}
    if not images:
        raise DatasetError(f"{layout.images[0][1].path}: no images of {split} in it or below it")

    xmls: dict[str, File] = {}
    for folder in layout.boxes:
        xmls = {**find_annotations(folder), **xmls}
    classes, class_names, numbers, notes = _classes(layout, xmls)

    # the images of the split, and what the lists say of them
    listed: dict[str, NDArray[np.int8]] | None = None
    indices: dict[str, int] = {}
    if split == "train":
        listed = _read_train_lists(layout, numbers, negatives)
        names = sorted(listed if listed is not None else set(images) & set(xmls))
    else:
        indices = _read_indices(layout, split, images)
        names = sorted(indices)
    shown = layout.lists.path if layout.lists else root
    check_there(names, images, shown, layout.images[0][1].path)
    left_out = len(images) - len(names)
    if left_out:
        notes.append(f"{left_out} images of {split} are in no list that was read, left out")

    items = [Item(images[name][0], -1, images[name][1]) for name in names]
    if split == "test":
        nothing: tuple[None, ...] = (None,) * len(items)
        return DetectionData(
            root, "ilsvrc-det", split, classes, class_names, items, ((),) * len(items), nothing, notes=tuple(notes)
        )

    annotated = _read(names, items, xmls, classes, listed, layout)
    kept = [names[place] for place in annotated.places]
    return DetectionData(
        root,
        "ilsvrc-det",
        split,
        classes,
        class_names,
        annotated.items,
        tuple(annotated.objects),
        tuple(annotated.sizes_px),
        _not_counted(layout, kept, indices, classes) if split == "val" else frozenset(),
        None if listed is None else np.stack([listed[name] for name in kept]) if kept else None,
        tuple(annotated.broken),
        (*notes, *annotated.notes()),
    )


def _is_kaggle(top: Folder) -> bool:
    return all(enter(top, name, "DET") is not None for name in ("Data", "Annotations"))


def _find(top: Folder, root: Path, split: Split) -> _Layout:
    """The layout of what lies in a folder. Raises DatasetError."""
    beside = [top]
    inside = enter(top, "ILSVRC")
    if inside is not None and not _is_kaggle(top):
        top, beside = inside, [inside, top]
    if _is_kaggle(top):
        images = enter(top, "Data", "DET", split)
        if images is None:
            raise DatasetError(f"{top.path}/Data/DET/{split}: no such folder")
        boxes = enter(top, "Annotations", "DET", split)
        if boxes is None and split != "test":
            raise DatasetError(f"{top.path}/Annotations/DET/{split}: no such folder, expected the XMLs there")
        lists = enter(top, "ImageSets", "DET")
        return _Layout(top, [(f"Data/DET/{split}", images)], [boxes] if boxes else [], lists, _devkit(beside))

    # the newest first: what is in it twice is taken from there
    years = sorted({found[1] for name in (*top.folders, *top.files) for found in [IMAGES.fullmatch(name)] if found})
    named = [f"ILSVRC{year}_DET_{split}" for year in reversed(years)]
    folders = [(name, folder) for name in named for folder in [enter(top, name)] if folder is not None]
    if not folders:
        raise DatasetError(f"{root}: no ILSVRC2014_DET_{split} or ILSVRC2013_DET_{split}, expected the {split} images")
    boxes_named = [name.replace("_DET_", "_DET_bbox_") for name, _ in folders]
    xmls = [boxes_beside(top, name) for name in boxes_named if split != "test"]
    devkit = _devkit([top])
    return _Layout(top, folders, xmls, enter(devkit, "det_lists") if devkit else None, devkit)


def _devkit(places: Iterable[Folder]) -> Folder | None:
    """The data folder of the newest devkit. Raises DatasetError where it is packed."""
    for place in places:
        found = sorted(name for name in map(_unpacked, (*place.folders, *place.files)) if DEVKIT.fullmatch(name))
        for name in reversed(found):
            for ending in (".tgz", ".tar.gz"):
                if f"{name}{ending}" in place.files and not place.holds(name):
                    raise DatasetError(f"{place.path / name}{ending}: is compressed, expected it unpacked: tar -xzf it")
            data = enter(place, name, "data")
            if data is not None:
                return data
    return None


def _unpacked(name: str) -> str:
    return name.removesuffix(".tar").removesuffix(".tgz").removesuffix(".tar.gz")


def _classes(
    layout: _Layout, xmls: Mapping[str, File]
) -> tuple[tuple[str, ...], tuple[str, ...], dict[int, int], list[str]]:
    """(classes, their names, the place of each of the devkit's ids among them, notes). Raises DatasetError."""
    devkit = layout.devkit
    if devkit is None:
        names = _names_in(_val_boxes(layout.top) or xmls)
        if not names:
            raise DatasetError(
                f"{layout.top.path}: no devkit with data/{META}, and no XML to know the classes from: put it there"
            )
        note = f"no devkit with data/{META}, so the classes are the {len(names)} that the XMLs name"
        return names, names, {}, [note]

    if META not in devkit.files:
        raise DatasetError(f"{devkit.path / META}: no such file, expected the synsets of the task")
    shown = devkit.path / META
    synsets = read_meta(read_bytes(devkit.files[META], shown, META_BYTES), shown)
    lists = map(TRAIN_LIST.fullmatch, layout.lists.files if layout.lists else ())
    numbered = [int(found["number"]) for found in lists if found]
    count = max(numbered, default=CLASSES)
    wnids = {number: wnid for number, wnid in synsets.wnid_of_id.items() if 1 <= number <= count}
    if len(wnids) < count and numbered:
        raise DatasetError(f"{shown}: {len(wnids)} synsets with ids up to {count}, which the lists are numbered by")
    if not wnids or len(set(wnids.values())) < len(wnids):
        raise DatasetError(f"{shown}: no synsets with ids from 1, each once, expected the task's {CLASSES}")
    classes = tuple(sorted(wnids.values()))
    place = {wnid: label for label, wnid in enumerate(classes)}
    return (
        classes,
        tuple(synsets.words[wnid] for wnid in classes),
        {number: place[wnid] for number, wnid in wnids.items()},
        [],
    )


def _val_boxes(top: Folder) -> dict[str, File]:
    """The XMLs of validation, where every class has an object, so that all splits have the same classes."""
    for path in (("Annotations", "DET", "val"), ("ILSVRC2013_DET_bbox_val",)):
        folder = enter(top, *path)
        if folder is not None:
            return find_annotations(folder)
    return {}


def _names_in(xmls: Mapping[str, File]) -> tuple[str, ...]:
    """The WNIDs that objects have, in order; XMLs that cannot be read are named later."""
    names = set()
    for stem, file in xmls.items():
        with contextlib.suppress(AnnotationError):
            names |= {name for name, _ in read_annotation(file, stem).objects}
    return tuple(sorted(names))


def _read_train_lists(
    layout: _Layout, numbers: Mapping[int, int], negatives: bool
) -> dict[str, NDArray[np.int8]] | None:
    """What the lists say of each image that has an object, or with `negatives` of every one. Raises DatasetError."""
    folder = layout.lists
    found = {name: match for name in (folder.files if folder else ()) if (match := TRAIN_LIST.fullmatch(name))}
    if folder is None or not found or not numbers:
        return None

    listed: dict[str, NDArray[np.int8]] = {}
    for name, match in sorted(found.items()):
        kind, label = match["kind"], numbers[int(match["number"])]
        if kind == "neg" and not negatives:
            continue
        pattern, expected = (
            (NAMED, "the name of an image") if kind else (LABELLED, "the name of an image and 1, 0 or -1")
        )
        for image, said in read_rows(folder.files[name], folder.path / name, pattern, expected):
            value = LABELS[kind] if kind else int(said)
            if value == NEGATIVE and not negatives:
                continue
            stem = image.rpartition("/")[2]
            if stem not in listed:
                listed[stem] = np.full(len(numbers), UNLISTED, np.int8)
            listed[stem][label] = value
    return listed


def _read_indices(layout: _Layout, split: Split, images: Mapping[str, object]) -> dict[str, int]:
    """The index of each image of validation or test, by which the blacklist knows it. Raises DatasetError."""
    file = layout.lists.files.get(f"{split}.txt") if layout.lists else None
    if layout.lists is None or file is None:
        return {name: index for index, name in enumerate(sorted(images), start=1)}

    shown = layout.lists.path / f"{split}.txt"
    rows = read_rows(file, shown, NUMBERED, "the name of an image and its index")
    if not rows:
        raise DatasetError(f"{shown}: empty, expected the name of an image and its index on each line")
    names = [name.rpartition("/")[2] for name, _ in rows]
    check_there(names, images, shown, layout.images[0][1].path)
    return {name: int(index) for name, (_, index) in zip(names, rows, strict=True)}


def _read(
    names: list[str],
    items: list[Item],
    xmls: Mapping[str, File],
    classes: tuple[str, ...],
    listed: Mapping[str, NDArray[np.int8]] | None,
    layout: _Layout,
) -> Annotated:
    """The objects of the images. Raises DatasetError where an image that has some has no XML."""
    # negative images have none, and no objects
    needed = [listed is None or bool((listed[name] >= PARTLY).any()) for name in names]
    lacking = [name for name, needs in zip(names, needed, strict=True) if needs and name not in xmls]
    if lacking:
        raise DatasetError(
            f"{layout.boxes[0].path}: no XML for {len(lacking)} of {len(names)} images ({say_some(lacking)}): expected "
            "one for each that is listed with an object"
        )
    index = {wnid: label for label, wnid in enumerate(classes)}
    with_xml = [(place, name) for place, name in enumerate(names) if name in xmls]
    expected = f"the WNID of one of the {len(classes)} classes, like {classes[0]}"
    pairs = ((items[place], xmls[name]) for place, name in with_xml)
    annotated = read_xmls(pairs, lambda name: index.get(name, -1), expected, "counted")
    annotated.places = [with_xml[place][0] for place in annotated.places]

    for place, name in enumerate(names):
        if name not in xmls:
            annotated.add(place, items[place], (), None, name)
    return annotated.sorted()


def _not_counted(
    layout: _Layout, names: list[str], indices: Mapping[str, int], classes: tuple[str, ...]
) -> frozenset[tuple[int, int]]:
    """(image, class) pairs of the devkit's newest blacklist. Raises DatasetError."""
    files = layout.devkit.files if layout.devkit else {}
    newest = max((name for name in files if BLACKLIST.fullmatch(name)), default=None)
    if newest is None or layout.devkit is None:
        return frozenset()

    shown = layout.devkit.path / newest
    known = set(indices.values())
    place_of = {indices[name]: place for place, name in enumerate(names)}
    labels = {wnid: label for label, wnid in enumerate(classes)}
    pairs = set()
    for index, wnid in read_rows(layout.devkit.files[newest], shown, PAIR, "an image's index and a WNID"):
        if wnid not in labels:
            raise DatasetError(f"{shown}: {wnid} is none of the {len(labels)} classes, expected another blacklist")
        if int(index) not in known:
            raise DatasetError(f"{shown}: no image has the index {index}, expected those of val.txt")
        if int(index) in place_of:
            pairs.add((place_of[int(index)], labels[wnid]))
    return frozenset(pairs)
