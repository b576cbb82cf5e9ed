"""Boxes as a box net learns them: relative to the crop, and only where the crop shows the object (VGG appendix A).

The paper leaves open what is done with several boxes, with crops that miss the object and in what frame boxes are:
- the box is, of those of the image's class, the one of which the crop shows most;
- a crop that shows less than half of it counts for nothing (OverFeat, section 4.2);
- the box is not cut off at the crop's edges; its frame is the one that infer.boxes reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from infer.data import annotations as xmls
from infer.data.annotations import AnnotationError, Box
from infer.data.dataset import TRAIN, VAL, Dataset, DatasetError
from infer.data.folder import TAR, open_folder
from infer.data.shards import Split
from infer.spec import Size

from ..processes import Bar, say
from .augment import Placement

BOXES: dict[Split, str] = {"train": "ILSVRC2012_bbox_train_v2", "val": "ILSVRC2012_bbox_val_v3"}
LEAST_VISIBLE = 0.5


class BoxTargets:
    """A TargetFunction of trainer.data.batches, for crops of images with boxes.

    A target is f32 [6]: weight (1 or 0), class, centre x and y from the crop's centre, width and height, the last
    four in units of the crop's side.
    """

    def __init__(self, labels: Sequence[int], sizes_px: Sequence[Size | None], boxes: Sequence[tuple[Box, ...]]):
        """Takes each image's class, the size that its boxes are relative to (None: its own), and its boxes."""
        self.labels, self.sizes_px, self.boxes = labels, sizes_px, boxes

    def __call__(self, index: int, at: Placement) -> Tensor:
        size = self.sizes_px[index] or at.image_px
        across, down = at.right - at.left, at.bottom - at.top  # the crop's sides in pixels of the image

        # best: the box of which the crop shows most, `most` pixels, a share `visible` of it
        best, most, visible = (0.0,) * 4, 0.0, 0.0
        for box in self.boxes[index]:
            part = xmls.fractions(box, size)
            if part is None:
                continue

            # the box's edges, and its part in the crop, in pixels of the image
            left, right = (x * at.image_px[1] for x in (part.left, part.right))
            top, bottom = (y * at.image_px[0] for y in (part.top, part.bottom))
            wide = max(0.0, min(right, at.right) - max(left, at.left))
            high = max(0.0, min(bottom, at.bottom) - max(top, at.top))

            if wide * high > most:
                most, visible = wide * high, wide * high / ((right - left) * (bottom - top))
                x, y = ((left + right) / 2 - at.left) / across - 0.5, ((top + bottom) / 2 - at.top) / down - 0.5
                best = (-x if at.mirrored else x, y, (right - left) / across, (bottom - top) / down)

        return torch.tensor([float(visible >= LEAST_VISIBLE), self.labels[index], *best])


def with_boxes(dataset: Dataset, split: Split) -> tuple[Dataset, BoxTargets]:
    """The images of a data set that have boxes of their class, and the targets that these boxes make.

    The XMLs lie beside the images as ILSVRC-2012 has them: BOXES, folders or tar archives. One that cannot be read is
    named on stderr, and its image left out. Raises DatasetError where no image has a box.
    """
    # An archive of images has its XMLs beside it, a folder may hold both.
    alone = dataset.root.name in (f"{TRAIN}{TAR}", f"{VAL}{TAR}")
    folder = xmls.boxes_beside(open_folder(dataset.root.parent if alone else dataset.root), BOXES[split])
    files, find = xmls.find_annotations(folder), xmls.class_of(dataset.classes, dataset.class_names)

    items, sizes_px, boxes = [], [], []
    with Bar("boxes", len(dataset.items)) as bar:
        for item in dataset.items:
            bar.update()
            stem = item.name.rpartition("/")[2].rpartition(".")[0]
            if stem not in files:
                continue
            try:
                annotation = xmls.read_annotation(files[stem], f"{stem}.xml")
            except AnnotationError as error:
                say(f"{folder.path}: {error}: its image is left out")
                continue
            own = xmls.boxes_of(annotation, item.label, find)
            if own:
                items.append(item)
                sizes_px.append(annotation.size_px)
                boxes.append(own)

    if not items:
        raise DatasetError(
            f"{folder.path}: no box for any of {len(dataset.items)} images, expected XMLs of their names"
        )
    return dataclasses.replace(dataset, items=items), BoxTargets([item.label for item in items], sizes_px, boxes)
