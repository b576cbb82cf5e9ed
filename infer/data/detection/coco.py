"""COCO: annotations/instances_val2017.json, and the images in the folder val2017 beside it.

A box is [x, y, width, height] from the image's left upper corner, in pixels; in pixels counted from 1 it goes from
x + 1 to x + width. Nothing in the JSON is believed: all of its fields are checked, and a file's name only chooses among
the images that are there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import msgspec

from ..annotations import Box
from ..dataset import Item
from ..folder import DatasetError, Folder, composed, printable
from .annotated import MOST_OBJECTS, Annotated
from .lists import enter, read_bytes, say_some
from .objects import DetectionData, Object, Split

INSTANCES = re.compile(r"instances_(train|val|test)(\d{0,4})\.json")
MOST_BYTES = 1 << 30
"""Bytes of a JSON at most; instances_train2017.json has 470 MB."""
MOST_PX = 1e6
MOST_CATEGORIES = 10_000


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Instance(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Instances(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Instance]
    categories: list[_Category]


def is_coco(top: Folder) -> bool:
    """True where the folder annotations holds a JSON of instances."""
    folder = enter(top, "annotations")
    return folder is not None and any(map(INSTANCES.fullmatch, folder.files))


def open_coco(top: Folder, root: Path, split: Split) -> DetectionData:
    """The images of a split, of the newest year that has it. Raises DatasetError."""
    annotations = top.folder("annotations")
    found = [match for match in map(INSTANCES.fullmatch, annotations.files) if match]
    having = {match[2]: match[0] for match in found if match[1] == split}
    years = [year for year in sorted(having, reverse=True) if top.holds(f"{split}{year}")]
    if not years:
        raise DatasetError(
            f"{root}: no annotations/instances_{split}2017.json with a folder {split}2017 of images beside annotations"
        )
    year = years[0]
    shown = annotations.path / having[year]
    content = _decode(read_bytes(annotations.files[having[year]], shown, MOST_BYTES), shown)
    labels = _labels(content, shown)
    items, order = _items(content, top.folder(f"{split}{year}"), f"{split}{year}", shown)
    objects = _objects(content, labels, order, shown)

    annotated = Annotated()
    for place, (item, number) in enumerate(zip(items, order.values(), strict=True)):
        image = content.images[number]
        annotated.add(place, item, objects.get(image.id, ()), (image.height, image.width), item.name)
    names = tuple(printable(category.name) for category in sorted(content.categories, key=lambda one: one.id))
    return DetectionData(
        root,
        "coco",
        split,
        names,
        names,
        annotated.items,
        tuple(annotated.objects),
        tuple(annotated.sizes_px),
        notes=tuple(annotated.notes()),
    )


def _decode(data: bytes, shown: Path) -> _Instances:
    try:
        return msgspec.json.decode(data, type=_Instances)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DatasetError(f"{shown}: not COCO's JSON of instances ({said}): copy or download it again") from None


def _labels(content: _Instances, shown: Path) -> dict[int, int]:
    """The place of each category among all in the order of their ids. Raises DatasetError."""
    ids = sorted(category.id for category in content.categories)
    if not ids or len(ids) > MOST_CATEGORIES:
        raise DatasetError(f"{shown}: {len(ids)} categories, expected 1 to {MOST_CATEGORIES}")
    for what, values in (("id", ids), ("name", [category.name for category in content.categories])):
        twice, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise DatasetError(f"{shown}: {count} categories of the {what} {printable(str(twice))[:40]}, expected one")
    return {number: label for label, number in enumerate(ids)}


def _items(content: _Instances, folder: Folder, prefix: str, shown: Path) -> tuple[list[Item], dict[int, int]]:
    """The images in the order of their names, and where each id is in the JSON, in that order. Raises DatasetError."""
    if not content.images:
        raise DatasetError(f"{shown}: no images, expected some")
    for what, values in (
        ("id", [image.id for image in content.images]),
        ("file_name", [composed(image.file_name.removeprefix(f"{prefix}/")) for image in content.images]),
    ):
        twice, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise DatasetError(f"{shown}: {count} images have the {what} {printable(str(twice))[:60]}, expected one")
    for image in content.images:
        if not (0 < image.height <= MOST_PX and 0 < image.width <= MOST_PX):
            raise DatasetError(
                f"{shown}: image {image.id} is {image.height}x{image.width} px, expected 1 to {MOST_PX:.0f}"
            )

    there = dict(folder.walk().images)
    places = {composed(path): path for path in there}
    named = []
    for number, image in enumerate(content.images):
        path = places.get(composed(image.file_name.removeprefix(f"{prefix}/")))
        if path is not None:
            named.append((path, number))
    if len(named) < len(content.images):
        known = {number for _, number in named}
        absent = [image.file_name for number, image in enumerate(content.images) if number not in known]
        raise DatasetError(
            f"{shown}: {len(absent)} of {len(content.images)} images are not in {folder.path} ({say_some(absent)}): "
            "unpack all of them there"
        )
    named.sort()
    items = [Item(f"{prefix}/{printable(path)}", -1, there[path]) for path, _ in named]
    return items, {content.images[number].id: number for _, number in named}


def _objects(
    content: _Instances, labels: dict[int, int], order: dict[int, int], shown: Path
) -> dict[int, list[Object]]:
    """The objects of each image, by its id, in the order of the JSON. Raises DatasetError."""
    objects: dict[int, list[Object]] = {}
    for number, one in enumerate(content.annotations):
        where = f"{shown}: annotation {number}"
        if one.image_id not in order:
            raise DatasetError(f"{where} is of the image {one.image_id}, which is none of {len(order)}")
        if one.category_id not in labels:
            raise DatasetError(f"{where} is of the category {one.category_id}, which is none of {len(labels)}")
        if one.iscrowd not in (0, 1):
            raise DatasetError(f"{where} has iscrowd {one.iscrowd}, expected 0 or 1")
        if not all(math.isfinite(edge) and abs(edge) <= MOST_PX for edge in one.bbox):
            raise DatasetError(f"{where} has the bbox {list(one.bbox)}, expected pixels up to {MOST_PX:.0f}")

        x, y, width, height = one.bbox
        own = objects.setdefault(one.image_id, [])
        own.append(Object(labels[one.category_id], Box(x + 1, y + 1, x + width, y + height), crowd=one.iscrowd == 1))
        if len(own) > MOST_OBJECTS:
            raise DatasetError(f"{shown}: image {one.image_id} has more than {MOST_OBJECTS} objects")
    return objects
