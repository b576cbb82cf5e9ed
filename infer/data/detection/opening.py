"""Opens any data set of detection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..folder import DatasetError, open_folder
from ..spread import say_part, spread
from .coco import is_coco, open_coco
from .ilsvrc import is_ilsvrc, open_ilsvrc
from .objects import DetectionData, Split
from .voc import is_voc, open_voc


def open_detection(root: Path, split: Split, *, limit: int | None = None, negatives: bool = False) -> DetectionData:
    """The images of a split with their objects. Raises DatasetError.

    root: the folder that holds ILSVRC's detection task, PASCAL VOC or COCO as they are distributed (see these modules).
    limit: so many images, evenly spaced, always the same. negatives: of ILSVRC's training images those without any
    object too, which its lists call negative for some classes; their lists are long.
    """
    top = open_folder(root)
    if is_coco(top):
        data = open_coco(top, root, split)
    elif is_voc(top):
        data = open_voc(top, root, split)
    elif is_ilsvrc(top):
        data = open_ilsvrc(top, root, split, negatives)
    else:
        raise DatasetError(
            f"{root}: no data set of detection: expected ILSVRC2013_DET_val or ILSVRC/Data/DET, VOCdevkit/VOC2007, or "
            "annotations/instances_val2017.json"
        )

    if not data.items:
        why = f": {data.broken[0]}" if data.broken else ""
        raise DatasetError(f"{root}: no {split} image whose annotation can be used{why}")
    if split != "test" and not any(data.objects):
        raise DatasetError(f"{root}: no {split} image has an object")
    return _limited(data, limit)


def _limited(data: DetectionData, limit: int | None) -> DetectionData:
    """The data set, or `limit` images of it, evenly spaced."""
    count = len(data.items)
    if limit is None or limit >= count:
        return data
    places = spread([0] * count, limit)
    new_place = {place: number for number, place in enumerate(places)}
    pairs = ((new_place[place], label) for place, label in data.not_counted if place in new_place)
    return replace(
        data,
        items=[data.items[place] for place in places],
        objects=tuple(data.objects[place] for place in places),
        sizes_px=tuple(data.sizes_px[place] for place in places),
        not_counted=frozenset(pairs),
        listed=None if data.listed is None else data.listed[places],
        notes=(*data.notes, say_part([-1] * limit, [-1] * count)),
    )
