"""Average precision of detections, by the rules of four benchmarks. Arrays in, numbers out; it reads no file.

All begin alike: the detections of a class, the surest first, are each right, wrong, or neither, and the precision that
is reached at each recall is averaged. Boxes count pixels from 1, both ends included, so that a box from xmin to xmax is
xmax - xmin + 1 wide; COCO's, which run from x to x + width, are as wide in that form.

- "ilsvrc" (the devkit's eval_detection.m): a detection is right if an object of its class that no surer one has found
  overlaps it by min(0.5, w h / ((w + 10) (h + 10))) or more, w and h being that object's; of several it finds the one
  that overlaps most. AP is the area under the curve's envelope.
- "voc" (PASCAL VOC's VOCevaldet.m from 2010): of all objects of its class only the one that overlaps most is looked at.
  If by 0.5 or more, the detection is right where it is the first, wrong where not. AP is the area, too.
- "voc07": the same; AP is the mean of the best precision at recalls of 0, 0.1, ... 1 or more.
- "coco" (pycocotools' COCOeval): as "ilsvrc" with thresholds of 0.5, 0.55, ... 0.95, at 101 recalls, the mean of all of
  these; the 100 surest detections of a class in an image are looked at.

Equal scores keep the order of images, then that in which they were given; of equal overlaps the first object counts,
by "coco" the last. A detection that would be wrong is neither where it overlaps an object that is ignored, or where a
part of it that large lies in a crowd of its class; crowds, of which only COCO knows, are so in all rules. Pairs of an
image and a class that do not count (ILSVRC's blacklist) have neither objects nor detections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infer.data.detection import Object

Rule = Literal["ilsvrc", "voc07", "voc", "coco"]
Boxes = NDArray[np.float64]  # [n, 4]: xmin, ymin, xmax, ymax

LEAST_OVERLAP = 0.5
TOLERANCE_PX = 10
COCO_OVERLAPS = np.linspace(0.5, 0.95, 10)
COCO_RECALLS = np.linspace(0.0, 1.0, 101)
COCO_MOST = 100
"""Detections of a class in an image."""
VOC07_RECALLS = np.arange(11) / 10


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections of one class, in any order: `image` is the number of each one's image."""

    image: NDArray[np.int32]  # [n]
    score: NDArray[np.float32]  # [n]
    boxes: Boxes  # [n, 4]

    def __post_init__(self) -> None:
        assert self.image.shape == self.score.shape and self.boxes.shape == (len(self.image), 4)


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one class in the order of their images; `counts` is false for what is ignored, and for crowds."""

    image: NDArray[np.int32]  # [n]
    boxes: Boxes  # [n, 4]
    counts: NDArray[np.bool_]  # [n]
    crowd: NDArray[np.bool_]  # [n]


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of each class in so many images, and the images that do not count for it."""

    images: int
    objects: tuple[Objects, ...]
    not_counted: tuple[NDArray[np.int32], ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The detections of one class, the surest first, of images that count; at one threshold of overlap.

    order: places among the detections as they were given; found: the object that each right one found, else -1.
    objects: how many objects of the class count, in each image.
    """

    order: NDArray[np.int64]  # [n]
    image: NDArray[np.int32]  # [n]
    score: NDArray[np.float32]  # [n]
    right: NDArray[np.bool_]  # [n]
    wrong: NDArray[np.bool_]  # [n]; neither of the two: it does not count
    found: NDArray[np.int64]  # [n]
    objects: NDArray[np.int32]  # [images]


@dataclass(frozen=True, slots=True)
class Curve:
    """Recall and precision of a class after each detection that counts, the surest first."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    score: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Precisions:
    """The average precision of each class, 0 to 1, nan without an object that counts; and its curve.

    aps_by_overlap: [thresholds, classes]; of the rule "coco" ten, of others one. Curves are at the first.
    """

    rule: Rule
    aps: NDArray[np.float64]
    aps_by_overlap: NDArray[np.float64]
    curves: tuple[Curve, ...]
    objects: NDArray[np.int64]  # [classes] that count

    @property
    def mean_percent(self) -> float:
        """The mean over classes that have an object; nan where none has."""
        return mean_percent(self.aps)


def mean_percent(aps: NDArray[np.float64]) -> float:
    known = aps[~np.isnan(aps)]
    return 100 * float(known.mean()) if known.size else float("nan")


def truth_of(objects: Sequence[Iterable[Object]], classes: int, not_counted: Collection[tuple[int, int]] = ()) -> Truth:
    """The truth of images in which are these objects, in pixels of the same size as the detections."""
    rows: list[list[tuple[int, Object]]] = [[] for _ in range(classes)]
    for image, own in enumerate(objects):
        for one in own:
            rows[one.label].append((image, one))
    left_out: list[list[int]] = [[] for _ in range(classes)]
    for image, label in sorted(not_counted):
        left_out[label].append(image)

    return Truth(
        len(objects),
        tuple(
            Objects(
                np.array([image for image, _ in own], np.int32),
                np.array([one.box for _, one in own], np.float64).reshape(-1, 4),
                np.array([not (one.ignored or one.crowd) for _, one in own], np.bool_),
                np.array([one.crowd for _, one in own], np.bool_),
            )
            for own in rows
        ),
        tuple(np.array(own, np.int32) for own in left_out),
    )


def average_precisions(truth: Truth, detections: Sequence[Detections], rule: Rule) -> Precisions:
    """The average precision of each class; detections: of each class."""
    judged = [judge(truth, label, own, rule) for label, own in enumerate(detections)]
    return precisions_of(judged, rule)


def precisions_of(judged: Sequence[Sequence[Judged]], rule: Rule) -> Precisions:
    """The same of detections that are judged already, for each class at each threshold."""
    aps = np.array([[_average(one, rule) for one in of_class] for of_class in judged]).T
    curves = tuple(curve_of(of_class[0]) for of_class in judged)
    objects = np.array([of_class[0].objects.sum() for of_class in judged], np.int64)
    return Precisions(rule, aps.mean(0), aps, curves, objects)


def judge(truth: Truth, label: int, detections: Detections, rule: Rule) -> list[Judged]:
    """Judges the detections of a class, once for each threshold of the rule."""
    objects, left_out = truth.objects[label], truth.not_counted[label]
    order = _in_order(detections, left_out, COCO_MOST if rule == "coco" else None)
    image, boxes = detections.image[order], detections.boxes[order]
    counts = objects.counts & ~np.isin(objects.image, left_out)
    per_image = np.bincount(objects.image[counts], minlength=truth.images).astype(np.int32)

    thresholds = _thresholds(objects.boxes, rule)  # [thresholds, objects]
    right, neither = (np.zeros((len(thresholds), len(order)), np.bool_) for _ in range(2))
    found = np.full((len(thresholds), len(order)), -1, np.int64)
    for here, there in _pairs_of_images(image, objects.image):
        own = _Image(overlaps(boxes[here], objects.boxes[there], objects.crowd[there]), thresholds[:, there])
        own.counts, own.crowd = objects.counts[there], objects.crowd[there]
        for row, place in enumerate(here):
            found_here, neither[:, place] = own.voc(row) if rule.startswith("voc") else own.greedy(row, rule)
            right[:, place] = found_here >= 0
            found[:, place] = np.where(found_here >= 0, there.start + found_here, -1)

    return [
        Judged(
            order,
            image,
            detections.score[order],
            right[number],
            ~(right[number] | neither[number]),
            found[number],
            per_image,
        )
        for number in range(len(thresholds))
    ]


def overlaps(boxes: Boxes, objects: Boxes, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[detections, objects]: intersection over union; of a crowd, over the area of the detection."""
    low, high = (
        np.maximum(boxes[:, None, :2], objects[None, :, :2]),
        np.minimum(boxes[:, None, 2:], objects[None, :, 2:]),
    )
    sides = (high - low + 1).clip(0)
    shared = sides[..., 0] * sides[..., 1]
    own, other = (((each[:, 2:] - each[:, :2]) + 1).prod(1) for each in (boxes, objects))
    whole = np.where(crowd, own[:, None], own[:, None] + other - shared)
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def curve_of(judged: Judged) -> Curve:
    """Recall and precision after each detection that counts."""
    counted = judged.right | judged.wrong
    right, every = np.cumsum(judged.right[counted]), np.arange(1, counted.sum() + 1)
    objects = int(judged.objects.sum())
    recall = right / objects if objects else np.full(len(right), np.nan)
    return Curve(recall, right / every, judged.score[counted])


class _Image:
    """The objects of a class in one image, which of them are found at each threshold."""

    counts: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    def __init__(self, overlap: NDArray[np.float64], thresholds: NDArray[np.float64]) -> None:
        self.overlap, self.thresholds = overlap, thresholds
        self.taken = np.zeros(thresholds.shape, np.bool_)

    def greedy(self, row: int, rule: Rule) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(object found or -1, whether it does not count) at each threshold."""
        overlap = self.overlap[row]
        enough = overlap >= self.thresholds
        if not enough.any():
            return np.full(len(enough), -1), np.zeros(len(enough), np.bool_)

        free = enough & ~self.taken
        place = _best(overlap, free & self.counts, rule)
        missing = place < 0
        beside = _best(overlap, (free | (enough & self.crowd)) & ~self.counts, rule)
        beside = np.where(missing, beside, -1)
        for number, one in enumerate(np.where(missing, beside, place)):
            if one >= 0 and (self.counts[one] or rule == "coco"):
                self.taken[number, one] = True
        return place, beside >= 0

    def voc(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The same by VOC's rule: the object that overlaps most, or a crowd where the detection would be wrong."""
        overlap, nothing = self.overlap[row], np.array([-1])
        inside = np.array([bool((overlap[self.crowd] >= LEAST_OVERLAP).any())])
        single = np.where(self.crowd, -1.0, overlap)
        most = int(single.argmax())
        if single[most] < LEAST_OVERLAP:
            return nothing, inside
        if not self.counts[most]:
            return nothing, np.array([True])
        if self.taken[0, most]:
            return nothing, inside
        self.taken[0, most] = True
        return np.array([most]), np.array([False])


def _best(overlap: NDArray[np.float64], allowed: NDArray[np.bool_], rule: Rule) -> NDArray[np.int64]:
    """The allowed object that overlaps most at each threshold, -1 for none; of equals the first, by "coco" the last."""
    shown = np.where(allowed, overlap, -1.0)
    best = shown.shape[1] - 1 - shown[:, ::-1].argmax(1) if rule == "coco" else shown.argmax(1)
    return np.where(allowed.any(1), best, -1)


def _thresholds(boxes: Boxes, rule: Rule) -> NDArray[np.float64]:
    """[thresholds, objects]: overlaps that are enough."""
    if rule == "coco":
        return np.repeat(COCO_OVERLAPS[:, None], len(boxes), 1)
    if rule != "ilsvrc":
        return np.full((1, len(boxes)), LEAST_OVERLAP)
    width, height = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    tolerant = width * height / ((width + TOLERANCE_PX) * (height + TOLERANCE_PX))
    return np.minimum(LEAST_OVERLAP, tolerant)[None]


def _in_order(detections: Detections, left_out: NDArray[np.int32], most: int | None) -> NDArray[np.int64]:
    """The places of the detections of images that count, the surest first; at most so many of an image."""
    order = np.lexsort((detections.image, -detections.score.astype(np.float64)))
    order = order[~np.isin(detections.image[order], left_out)]
    if most is None:
        return order
    image = detections.image[order]
    by_image = np.argsort(image, kind="stable")
    rank = np.empty(len(order), np.int64)
    first = np.searchsorted(image[by_image], image[by_image], side="left")
    rank[by_image] = np.arange(len(order)) - first
    return order[rank < most]


def _pairs_of_images(
    image: NDArray[np.int32], object_image: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """(places of its detections in their order, slice of its objects) of each image that has both."""
    by_image = np.argsort(image, kind="stable")
    in_order = image[by_image]
    both = np.intersect1d(in_order, object_image)
    ends = [np.searchsorted(each, both, side=side) for each in (in_order, object_image) for side in ("left", "right")]
    for first, last, start, stop in zip(*ends, strict=True):
        yield by_image[first:last], slice(int(start), int(stop))


def _average(judged: Judged, rule: Rule) -> float:
    """The average precision at one threshold."""
    curve = curve_of(judged)
    if not judged.objects.sum():
        return float("nan")
    weights = np.ones((1, len(judged.objects)), np.int32)
    return float(weighted_aps(judged, weights, rule)[0]) if len(curve.recall) else 0.0


def weighted_aps(judged: Judged, weights: NDArray[np.int32], rule: Rule) -> NDArray[np.float64]:
    """The average precision of images that are there `weights` times, [samples, images]; nan without an object.

    Detections behind the last right one change nothing, and are left out.
    """
    last = int(np.flatnonzero(judged.right)[-1]) + 1 if judged.right.any() else 0
    own = weights[:, judged.image[:last]]  # [samples, n]
    right, wrong = (np.cumsum(own * mask[:last], 1, dtype=np.float64) for mask in (judged.right, judged.wrong))
    objects = (weights @ judged.objects).astype(np.float64)[:, None]

    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / objects
        precision = np.where(right > 0, right / (right + wrong), 0.0)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    if rule in ("ilsvrc", "voc"):
        aps = (np.diff(recall, axis=1, prepend=0.0) * envelope).sum(1)
    else:
        points = COCO_RECALLS if rule == "coco" else VOC07_RECALLS
        padded = np.pad(envelope, ((0, 0), (0, 1)))  # recalls that are not reached have 0
        aps = np.array([line[np.searchsorted(r, points)].mean() for line, r in zip(padded, recall, strict=True)])
    return np.where(objects[:, 0] > 0, aps, np.nan)
