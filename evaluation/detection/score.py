"""What tables of classified regions come to: the detections of each net and of all together, and how right they are."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infer.boxes.detecting import Detections as Found
from infer.boxes.detecting import Suppression, find_objects
from infer.data.detection import DetectionData, boxes_in
from infer.spec import Size

from ..errors import ScoresError
from .intervals import Mean, mean_with_interval
from .metric import Detections, Judged, Precisions, Rule, Truth, judge, precisions_of, truth_of
from .mistakes import Mistakes, sort_mistakes
from .table import ClassifiedImage, exif_of, read_head, read_regions

RULES: dict[str, Rule] = {"ilsvrc-det": "ilsvrc", "voc": "voc", "coco": "coco"}
"""The rule of each kind of data set. VOC's of 2007 was another: --rule voc07."""
ENSEMBLE = " + "


@dataclass(frozen=True, slots=True)
class ImageFound:
    """What a system finds in an image of a data set, classes as the data set numbers them."""

    image: str
    status: str
    pixel_digest: str
    size_px: Size
    found: Found


@dataclass(slots=True)
class System:
    """A net, or several whose posteriors are averaged, with what it finds in each image."""

    name: str
    nets: tuple[str, ...]
    images: list[ImageFound] = field(default_factory=list)
    regions: int = 0  # that were classified
    not_finite: int = 0  # of these; nothing is found there


@dataclass(frozen=True, slots=True)
class Measured:
    """How right a system is, by a rule; objects: the truth in pixels of the images that it saw."""

    system: System
    precisions: Precisions
    mean: Mean
    judged: list[list[Judged]]
    mistakes: list[Mistakes]
    truth: Truth


def detect(tables: Sequence[Path], data: DetectionData, how: Suppression, *, by_order: bool = False) -> list[System]:
    """Each net of the tables as a system, then all together where there are several.

    Raises ScoresError for tables of other images, regions or classes than the first, or of another data set.
    """
    heads = [read_head(path) for path in tables]
    for path, head in zip(tables, heads, strict=True):
        if head.classes != heads[0].classes:
            raise ScoresError(f"{path}: of other classes than {tables[0]}: their posteriors cannot be averaged")
        if head.images != len(data.items):
            raise ScoresError(
                f"{path}: {head.images} images, but the data set has {len(data.items)}: use the same --data, --split "
                "and --limit"
            )
    exifs = [exif_of(path) for path in tables]
    for path, exif in zip(tables, exifs, strict=True):
        if exif != exifs[0]:
            raise ScoresError(
                f"{path}: of images seen by --exif {exif}, {tables[0]} by --exif {exifs[0]}: their regions differ"
            )
    place = classes_of_data(heads[0].classes, data, str(tables[0]), by_order=by_order)
    nets = tell_apart([net for head in heads for net in head.nets])
    systems = [System(net, (net,)) for net in nets]
    if len(nets) > 1:
        systems.append(System(ENSEMBLE.join(nets), tuple(nets)))

    for number, (item, rows) in enumerate(zip(data.items, _same_images(tables), strict=True)):
        if rows[0].image != item.name:
            raise ScoresError(f"{tables[0]}: image {number + 1} is {rows[0].image}, but the data set has {item.name}")
        posteriors = [posterior for row in rows for posterior in row.posteriors]
        if len(posteriors) > 1:
            posteriors.append(np.mean(posteriors, axis=0, dtype=np.float64))
        for system, posterior in zip(systems, posteriors, strict=True):
            found = find_objects(posterior, rows[0].boxes, how)
            found = found._replace(classes=place[found.classes])
            row = rows[0]
            system.images.append(ImageFound(row.image, row.status, row.pixel_digest, row.size_px, found))
            system.regions += len(row.boxes)
            system.not_finite += int((~np.isfinite(posterior).all(1)).sum())
    return systems


def tell_apart(nets: Sequence[str]) -> list[str]:
    """Names of nets, those that come more than once with a number: nets of one recipe have one name."""
    seen: Counter[str] = Counter()
    told = []
    for net in nets:
        seen[net] += 1
        told.append(f"{net} ({seen[net]})" if nets.count(net) > 1 else net)
    return told


def _same_images(tables: Sequence[Path]) -> Iterator[tuple[ClassifiedImage, ...]]:
    """The rows of all tables, image by image. Raises ScoresError where they are not of the same regions."""
    with contextlib.ExitStack() as stack:
        rows = [stack.enter_context(contextlib.closing(read_regions(path))) for path in tables]
        for own in zip(*rows, strict=True):
            for path, one in zip(tables[1:], own[1:], strict=True):
                first = own[0]
                same = one.image == first.image and one.size_px == first.size_px
                if not same or not np.array_equal(one.boxes, first.boxes):
                    raise ScoresError(
                        f"{path}: has other regions of {one.image} than {tables[0]} of {first.image}: posteriors are "
                        "averaged region by region, so classify the same proposals"
                    )
            yield own


def classes_of_data(classes: Sequence[str], data: DetectionData, of: str, *, by_order: bool) -> NDArray[np.int32]:
    """The data set's number of each class of a net, whose last is background. Raises ScoresError for other classes."""
    own = classes[:-1]
    if by_order:
        if len(own) != len(data.classes):
            raise ScoresError(f"{of}: {len(own)} classes and background, but {data.root} has {len(data.classes)}")
        # a name that both have says that the orders differ
        moved = [pair for pair in zip(data.classes, own, strict=True) if pair[0] != pair[1] and pair[0] in own]
        if moved:
            raise ScoresError(
                f"{of}: --classes-by-order: {moved[0][0]} would be taken for {moved[0][1]}, but the net has a class of "
                "that name at another place: leave the option out, or use a net of this data set"
            )
        return np.arange(len(own), dtype=np.int32)
    number = {name: place for place, name in enumerate(data.classes)}
    unknown = [name for name in own if name not in number]
    lacking = set(data.classes) - set(own)
    if unknown or lacking:
        which = f"{unknown[0]!r} is none of its" if unknown else f"its {sorted(lacking)[0]!r} is none of the net's"
        raise ScoresError(
            f"{of}: the net's classes are not those of {data.root} ({which}): use a net of this data set, or "
            "--classes-by-order where only their names differ"
        )
    return np.array([number[name] for name in own], np.int32)


def measure(system: System, data: DetectionData, rule: Rule) -> Measured:
    """How right a system is. An image that could not be read has its objects, all missed, in the pixels stated."""
    objects = []
    for own, stated, image in zip(data.objects, data.sizes_px, system.images, strict=True):
        size = image.size_px if min(image.size_px) > 0 else stated
        objects.append(own if size is None else boxes_in(own, stated, size))
    truth = truth_of(objects, len(data.classes), data.not_counted)
    detections = detections_by_class(system, len(data.classes))
    judged = [judge(truth, label, own, rule) for label, own in enumerate(detections)]
    mean = mean_with_interval(judged, rule)
    return Measured(system, precisions_of(judged, rule), mean, judged, sort_mistakes(truth, detections, rule), truth)


def detections_by_class(system: System, classes: int) -> list[Detections]:
    """The detections of each class, image by image."""
    counts = [len(image.found.classes) for image in system.images]
    number = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    label = np.concatenate([image.found.classes for image in system.images])
    score = np.concatenate([image.found.scores for image in system.images])
    boxes = np.concatenate([image.found.boxes for image in system.images]).astype(np.float64)
    found = []
    for one in range(classes):
        own = label == one
        found.append(Detections(number[own], score[own], boxes[own]))
    return found
