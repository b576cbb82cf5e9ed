"""Objects of images, and the data set that they make up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...spec import Size
from ..annotations import Box, in_frame
from ..dataset import Item

Kind = Literal["ilsvrc-det", "voc", "coco"]
Split = Literal["train", "val", "test"]

POSITIVE, PARTLY, NEGATIVE, UNLISTED = 1, 0, -1, -2
"""What ILSVRC's lists say of an image and a class: all objects have boxes, not all have, there are none, nothing."""


@dataclass(frozen=True, slots=True)
class Object:
    """An object and its box, in pixels from 1, both ends included.

    ignored: VOC's `difficult`; crowd: COCO's `iscrowd`, many objects in one box. Both are neither found nor missed.
    """

    label: int
    box: Box
    ignored: bool = False
    crowd: bool = False


@dataclass(frozen=True)
class DetectionData:
    """Images of one split in the order of their names, with the objects of each.

    classes: WNIDs in sorted order (ILSVRC), names in sorted order (VOC), names in the order of category ids (COCO).
    items: their labels are -1, so that all that reads images reads these.
    objects: of each image, in pixels of the size that its annotation states; none for the images of a test set.
    sizes_px: (height, width) that the annotation states, None where it states none.
    not_counted: (image, class) pairs that do not count, of ILSVRC's blacklist.
    listed: int8 [images, classes] of POSITIVE, PARTLY, NEGATIVE and UNLISTED: ILSVRC's lists for training; None for all
    other images, whose objects of all classes are annotated.
    broken: a message for each image that is left out because its annotation cannot be used; notes: what else a user
    should know of the reading.
    """

    root: Path
    kind: Kind
    split: Split
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    items: Sequence[Item]
    objects: tuple[tuple[Object, ...], ...]
    sizes_px: tuple[Size | None, ...]
    not_counted: frozenset[tuple[int, int]] = frozenset()
    listed: NDArray[np.int8] | None = None
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Lines that a user should know of the reading, each with the data set or the image that it is of."""
        return [*(f"{self.root}: {note}" for note in self.notes), *(f"{said}: left out" for said in self.broken)]

    @property
    def listing_digest(self) -> str:
        """A digest of names, sizes in bytes, objects and what does not count, wherever the images lie."""
        digest = hashlib.sha256("\n".join((self.kind, self.split, *self.classes)).encode())
        for item, objects, size_px in zip(self.items, self.objects, self.sizes_px, strict=True):
            digest.update(f"\n{item.name.rpartition('/')[2]}\t{item.file.size_bytes()}\t{size_px}".encode())
            for one in objects:
                digest.update(f"\t{one.label} {tuple(one.box)} {one.ignored:d}{one.crowd:d}".encode())
        digest.update(repr(sorted(self.not_counted)).encode())
        if self.listed is not None:
            digest.update(np.ascontiguousarray(self.listed).tobytes())
        return digest.hexdigest()[:16]


def boxes_in(objects: Iterable[Object], stated: Size | None, image_px: Size) -> tuple[Object, ...]:
    """Objects in pixels of the image as it is: moved to its size, clipped to its edges; what is left of none goes.

    stated: the (height, width) that the boxes are of, None for the image's own.
    """
    height, width = image_px
    inside = []
    for one in objects:
        box = one.box if stated in (None, image_px) else in_frame(one.box, stated, image_px)
        box = Box(max(box.xmin, 1.0), max(box.ymin, 1.0), min(box.xmax, float(width)), min(box.ymax, float(height)))
        if box.xmax - box.xmin + 1 > 0 and box.ymax - box.ymin + 1 > 0:
            inside.append(Object(one.label, box, one.ignored, one.crowd))
    return tuple(inside)
