"""Regions as a net of regions learns them: proposals with the class of the object that they cover, or background.

As R-CNN's fine-tuning has it (Girshick et al. 2014, section 2.3): a proposal that overlaps an object by 0.5 or more
has its class, as the object's own box has, every other one is background; a batch has a quarter of the first kind. Each
is warped with its context as in evaluation (infer/pixels/regions.py). Background is three regions for each other one,
drawn once from up to BACKGROUND an image, so that a large data set fits into memory. An image of which ILSVRC's lists
say that not all objects have boxes gives none.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from infer.boxes.overlap import overlaps
from infer.boxes.proposed import OK, ProposedImage, read_proposals
from infer.data.dataset import Dataset, DatasetError, Item
from infer.data.detection import DetectionData, boxes_in, open_detection
from infer.data.detection.objects import PARTLY
from infer.data.known_images import image_number
from infer.files import replacing
from infer.pixels.decode import ImageError, Pixels, decode
from infer.pixels.regions import Boxes, inside, make_picture, plan_regions
from infer.pixels.render import render
from infer.spec import ModelSpec, Size

from ..processes import say
from .augment import Augmentation
from .batches import BACKGROUND_SHARE, Centers, Crops, read_bytes

BACKGROUND_CLASS = "background"
"""The last class of a net of regions."""
BACKGROUND = 96
"""Regions of background that are kept of an image, of which those that are learnt from are drawn."""
LEAST_OVERLAP = 0.5
CALIBRATION, VERIFICATION = 200, 1_000
"""Regions that are written for the exporter."""
VALIDATED = 5_000
"""Regions that a net in training is tried on at most."""
PICTURE_BYTES = 1 << 28
"""Bytes of pictures that a loading process keeps."""


class ProposalFiles(NamedTuple):
    """The tables of proposals of the images to learn from, and of those to be tried on, if there are any."""

    training: Path
    validation: Path | None = None


@dataclass(frozen=True, slots=True)
class RegionItem(Item):
    """A region of an image of (height, width) `image_px`, with the class of its object or background."""

    box: tuple[float, float, float, float]
    image_px: Size


class RegionItems(Sequence[RegionItem]):
    """Regions of images of (height, width) `sizes_px` i32 [images, 2]: places i32 [R] of their images, labels i32 [R],
    boxes f32 [R, 4] as annotations.Box."""

    def __init__(
        self,
        images: Sequence[Item],
        sizes_px: NDArray[np.int32],
        places: NDArray[np.int32],
        labels: NDArray[np.int32],
        boxes: NDArray[np.float32],
    ) -> None:
        self.images, self.sizes_px, self.places, self.labels, self.boxes = images, sizes_px, places, labels, boxes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def listing_digest(self) -> str:
        """A digest of the images' names and their regions."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.name.rpartition('/')[2]}\n".encode())
        for array in (self.places, self.labels, self.boxes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @overload
    def __getitem__(self, number: int) -> RegionItem: ...

    @overload
    def __getitem__(self, number: slice) -> RegionItems: ...

    def __getitem__(self, number: int | slice) -> RegionItem | RegionItems:
        if isinstance(number, slice):
            return self.part(number)
        image = self.images[self.places[number]]
        left, top, right, bottom = self.boxes[number].tolist()
        height, width = self.sizes_px[self.places[number]].tolist()
        return RegionItem(image.name, int(self.labels[number]), image.file, (left, top, right, bottom), (height, width))

    def part(self, chosen: slice | NDArray[np.intp]) -> RegionItems:
        """The chosen regions."""
        return RegionItems(self.images, self.sizes_px, self.places[chosen], self.labels[chosen], self.boxes[chosen])

    def __iter__(self) -> Iterator[RegionItem]:
        return (self[number] for number in range(len(self)))


def open_regions(
    data: Path, proposals: ProposalFiles, *, limit: int | None, seed: int
) -> tuple[Dataset, Dataset | None]:
    """(regions to learn from, regions to be tried on); the second is None without proposals for it.

    Raises DatasetError and ProposalsError.
    """
    training = _regions(open_detection(data, "train", limit=limit), proposals.training, seed)
    say(f"{data}: {_count(training)} to learn from")
    if proposals.validation is None:
        return training, None

    validation = _regions(open_detection(data, "val", limit=limit), proposals.validation, seed)
    items = validation.items
    assert isinstance(items, RegionItems)
    if len(items) > VALIDATED:
        chosen = np.sort(default_rng((seed, 1)).permutation(len(items))[:VALIDATED])
        validation = dataclasses.replace(validation, items=items.part(chosen), is_part=True)
    say(f"{data}: {_count(validation)} to be tried on")
    return training, validation


def _count(regions: Dataset) -> str:
    items = regions.items
    assert isinstance(items, RegionItems)
    objects = int((items.labels < len(regions.classes) - 1).sum())
    images = len(np.unique(items.places))
    return f"{objects} regions of objects and {len(items) - objects} of background, of {images} images,"


def _regions(found: DetectionData, path: Path, seed: int) -> Dataset:
    """The labelled regions of a split, by a table of its proposals. Raises DatasetError and ProposalsError."""
    for remark in found.remarks:
        say(remark)
    if BACKGROUND_CLASS in found.classes:
        raise DatasetError(
            f"{found.root}: has a class {BACKGROUND_CLASS!r}, which is that of regions without an object"
        )
    background = len(found.classes)
    place = {item.name: number for number, item in enumerate(found.items)}

    of_objects: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    of_none: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    sizes_px = np.zeros((len(found.items), 2), np.int32)
    seen = 0
    for image in read_proposals(path):
        number = place.get(image.image)
        if number is None or image.status != OK:
            continue
        seen += 1
        sizes_px[number] = image.size_px
        labels, boxes = label_regions(found, number, image, background)
        own = labels < background
        others = np.flatnonzero(labels == background)
        if found.listed is not None and (found.listed[number] == PARTLY).any():
            others = others[:0]  # there may be objects without a box
        others = default_rng((seed, number)).permutation(others)[:BACKGROUND]
        for kept, chosen in ((of_objects, np.flatnonzero(own)), (of_none, others)):
            kept.append((np.full(len(chosen), number, np.int32), labels[chosen], boxes[chosen]))

    if not seen:
        raise DatasetError(f"{path}: no proposals for an image of {found.root}, expected those of its {found.split}")
    if seen < len(found.items):
        say(f"{path}: has proposals for {seen} of {len(found.items)} images, which alone are used")
    objects, nothing = ([np.concatenate(parts) for parts in zip(*own, strict=True)] for own in (of_objects, of_none))
    if not len(objects[0]) or not len(nothing[0]):
        what = "covers an object" if len(nothing[0]) else "is background"
        raise DatasetError(f"{path}: no proposal {what} of {found.root} by an overlap of {LEAST_OVERLAP}")
    order = default_rng((seed, 0)).permutation(len(nothing[0]))
    order = np.sort(np.resize(order, BACKGROUND_SHARE * len(objects[0])))  # fewer come more than once
    places, labels, boxes = (np.concatenate([a, b[order]]) for a, b in zip(objects, nothing, strict=True))
    return Dataset(
        root=found.root,
        items=RegionItems(found.items, sizes_px, places, labels, boxes),
        classes=(*found.classes, BACKGROUND_CLASS),
        class_names=(*found.class_names, BACKGROUND_CLASS) if found.class_names else (),
        is_ilsvrc2012_val=False,
    )


def label_regions(
    found: DetectionData, number: int, image: ProposedImage, background: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(labels i32 [R], boxes f32 [R, 4]) of an image's objects and proposals. -1: of an object that does not count."""
    objects = boxes_in(found.objects[number], found.sizes_px[number], image.size_px)
    theirs = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    of_class = np.array([-1 if each.ignored or each.crowd else each.label for each in objects], np.int32)

    counting = of_class >= 0
    boxes = np.concatenate([theirs[counting], image.boxes])
    boxes = boxes[inside(boxes.astype(np.float64), image.size_px)]
    if not len(objects):
        return np.full(len(boxes), background, np.int32), boxes
    shared = overlaps(boxes, theirs)  # [R, objects]
    counted = np.where(counting, shared, 0)
    best = counted.argmax(1)
    covers = counted[np.arange(len(boxes)), best] >= LEAST_OVERLAP
    labels = np.where(covers, of_class[best], background)
    labels[~covers & (shared >= LEAST_OVERLAP).any(1)] = -1
    return labels.astype(np.int32), boxes


class _Pictures:
    """The pictures of images that were read last."""

    def __init__(self, make: Callable[[Pixels], Pixels]) -> None:
        self._make, self._kept, self._bytes = make, OrderedDict[str, tuple[Pixels, Size, int]](), 0

    def get(self, item: RegionItem, exif: Any) -> tuple[Pixels, Size, int]:
        """(picture, size of the image, number of its file). Raises ImageError, and DatasetError, also where the image
        is of another size than its proposals are of."""
        if item.name in self._kept:
            self._kept.move_to_end(item.name)
            return self._kept[item.name]
        data = read_bytes(item)
        image = decode(data, exif=exif, name=item.name)
        size: Size = (image.shape[0], image.shape[1])
        if size != item.image_px:
            of, here = (f"{height}x{width}" for height, width in (item.image_px, size))
            raise DatasetError(
                f"{item.name}: its proposals are of an image of {of} px, not {here}: make them of these images, and "
                f"with --exif {exif}"
            )
        found = self._make(image), size, image_number(data)
        self._kept[item.name] = found
        self._bytes += found[0].nbytes
        while self._bytes > PICTURE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][0].nbytes
        return found


class RegionCrops(Crops):
    """Regions of one epoch, as Crops; the colours of each are distorted, and half are mirrored."""

    def __init__(self, dataset: Dataset, augment: Augmentation, spec: ModelSpec, *, seed: int, epoch: int) -> None:
        super().__init__(dataset, augment, seed=seed, epoch=epoch, exif=spec.preprocessing.exif)
        self.spec = spec
        self._pictures = _Pictures(lambda image: make_picture(image, spec))

    @property
    def labels(self) -> NDArray[np.int32]:
        assert isinstance(self.items, RegionItems)
        return self.items.labels

    def __getitem__(self, draw: int) -> tuple[Tensor, Tensor, int | Tensor, int]:
        item, rng = self.items[draw], default_rng((*self.key, draw))
        assert isinstance(item, RegionItem)
        picture, size, file = self._pictures.get(item, self.exif)
        (view,) = plan_regions(np.array([item.box]), size, self.spec).views
        (pixels,) = render(picture, [view], self.spec)
        crop, shift = self.augment.colour(pixels, rng, mirrored=self.augment.mirror and rng.random() < 0.5)
        return torch.from_numpy(crop), torch.from_numpy(shift), item.label, file


class RegionCenters(Centers):
    """Each region as evaluation sees it: (u8 [crop, crop, 3], label, index); None where its image cannot be read."""

    def __init__(self, dataset: Dataset, spec: ModelSpec) -> None:
        super().__init__(dataset, spec)
        self._pictures = _Pictures(lambda image: make_picture(image, spec))

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int] | None:
        item = self.items[index]
        assert isinstance(item, RegionItem)
        try:
            picture, size, _ = self._pictures.get(item, self.spec.preprocessing.exif)
        except ImageError:
            return None
        boxes: Boxes = np.array([item.box])
        (pixels,) = render(picture, plan_regions(boxes, size, self.spec).views, self.spec)
        return torch.from_numpy(pixels.copy()), item.label, index


def write_regions(folder: Path, regions: Dataset, spec: ModelSpec, most: int) -> int:
    """Writes regions as a net sees them, PNGs of the crop's size in a folder of each class; returns how many there are.

    Their central crop is then what evaluation sees, to the bit: --calibrate and --verify of the exporter take them.
    """
    seen = RegionCenters(regions, spec)
    chosen = default_rng(0).permutation(len(seen))[:most]
    written = 0
    for index in np.sort(chosen).tolist():
        found = seen[index]
        if found is None:
            continue
        pixels, label, _ = found
        assert isinstance(pixels, Tensor)
        own = folder / regions.classes[int(label)].replace("/", "_")
        own.mkdir(parents=True, exist_ok=True)
        with replacing(own / f"{index:09d}.png") as unfinished:
            Image.fromarray(pixels.numpy()).save(unfinished, "PNG")
        written += 1
    return written
