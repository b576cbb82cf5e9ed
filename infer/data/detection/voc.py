"""PASCAL VOC for detection: VOCdevkit/VOC2007 and others, with JPEGImages, Annotations and ImageSets/Main.

ImageSets/Main/train.txt, val.txt and test.txt name the images of a split; CLASS_train.txt and the like name the classes
by the names of their files. Where several years have the split, all of them are taken: 2007 and 2012 for training.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ..annotations import AnnotationError, find_annotations, read_annotation
from ..dataset import Item
from ..folder import DatasetError, File, Folder
from .annotated import read_xmls
from .lists import check_there, enter, images_below, read_rows, say_some
from .objects import DetectionData, Split

YEAR = re.compile(r"VOC20\d\d")
CLASS_LIST = re.compile(r"(.+)_(train|val|trainval|test)\.txt")
LINE = re.compile(r"(\S+)(\s+-?\d)?")


def is_voc(top: Folder) -> bool:
    """True where VOC's folders lie here, below a year, or below VOCdevkit."""
    return bool(_years(top))


def open_voc(top: Folder, root: Path, split: Split) -> DetectionData:
    """The images of a split, of all years that have it. Raises DatasetError."""
    years = _years(top)
    classes = _classes([folder for _, folder in years])
    having = [(name, folder) for name, folder in years if f"{split}.txt" in _sets(folder).files]
    if not having:
        there = ", ".join(sorted({name for _, folder in years for name in _sets(folder).files if "_" not in name}))
        raise DatasetError(f"{root}: no ImageSets/Main/{split}.txt, there is {there or 'none'}")

    items: list[Item] = []
    pairs: list[tuple[Item, File]] = []
    for name, folder in having:
        own = _images(name, folder, split)
        items += own
        xmls = find_annotations(_below(folder, "Annotations"))
        stems = {item.name: item.name.rpartition("/")[2].rpartition(".")[0] for item in own}
        lacking = [stem for stem in stems.values() if stem not in xmls]
        if lacking and split != "test":
            raise DatasetError(
                f"{folder.path}/Annotations: no XML for {len(lacking)} of {len(own)} images ({say_some(lacking)}), "
                f"expected one for each that {split}.txt names"
            )
        pairs += [(item, xmls[stem]) for item in own for stem in [stems[item.name]] if stem in xmls]

    notes = [f"images of {', '.join(name for name, _ in having)}"] if len(years) > 1 else []
    if split == "test" and not pairs:  # a server has them
        nothing = (None,) * len(items)
        notes.append("no annotations of these images")
        return DetectionData(root, "voc", split, classes, classes, items, ((),) * len(items), nothing, notes=(*notes,))
    if len(pairs) < len(items):
        notes.append(f"{len(items) - len(pairs)} images of {split} without an XML, left out")

    index = {name: label for label, name in enumerate(classes)}
    annotated = read_xmls(
        pairs, lambda name: index.get(name, -1), f"one of the {len(classes)} classes, like {classes[0]}", "ignored"
    )
    return DetectionData(
        root,
        "voc",
        split,
        classes,
        classes,
        annotated.items,
        tuple(annotated.objects),
        tuple(annotated.sizes_px),
        broken=tuple(annotated.broken),
        notes=(*notes, *annotated.notes()),
    )


def _years(top: Folder) -> list[tuple[str, Folder]]:
    """(path below the root, folder) of each year; ("", the folder) where it is one itself."""
    if all(top.holds(name) for name in ("JPEGImages", "Annotations", "ImageSets")):
        return [("", top)]
    inside = enter(top, "VOCdevkit")
    above, prefix = (inside, "VOCdevkit/") if inside is not None else (top, "")
    names = sorted({name.removesuffix(".tar") for name in (*above.folders, *above.files)} - {""})
    return [(f"{prefix}{name}", above.folder(name)) for name in names if YEAR.fullmatch(name) and above.holds(name)]


def _below(folder: Folder, *names: str) -> Folder:
    found = enter(folder, *names)
    if found is None:
        raise DatasetError(f"{folder.path}/{'/'.join(names)}: no such folder, expected VOC's as distributed")
    return found


def _sets(folder: Folder) -> Folder:
    return _below(folder, "ImageSets", "Main")


def _images(name: str, folder: Folder, split: Split) -> list[Item]:
    """The images that the split's list names, in the order of their names. Raises DatasetError."""
    sets, images = _sets(folder), _below(folder, "JPEGImages")
    there = images_below(images, f"{name}/JPEGImages".lstrip("/"))
    shown = sets.path / f"{split}.txt"
    named = sorted(row[0] for row in read_rows(sets.files[f"{split}.txt"], shown, LINE, "the name of an image"))
    if not named:
        raise DatasetError(f"{shown}: empty, expected the name of an image on each line")
    check_there(named, there, shown, images.path)
    return [Item(there[stem][0], -1, there[stem][1]) for stem in named]


def _classes(folders: list[Folder]) -> tuple[str, ...]:
    """The classes, by the names of their lists or, where there are none, by those in all XMLs. Raises DatasetError."""
    named = {found[1] for folder in folders for found in map(CLASS_LIST.fullmatch, _sets(folder).files) if found}
    if not named:
        for folder in folders:
            for stem, file in find_annotations(_below(folder, "Annotations")).items():
                with contextlib.suppress(AnnotationError):
                    named |= {name for name, _ in read_annotation(file, stem).objects}
    if not named - {""}:
        raise DatasetError(f"{folders[0].path}: no CLASS_train.txt in ImageSets/Main and no object in any XML")
    return tuple(sorted(named))
