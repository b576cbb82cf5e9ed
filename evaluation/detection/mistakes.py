"""What is wrong with detections: each false one by its kind, and the objects that none found.

The kinds are those of Hoiem, Chodpathumwan and Dai, "Diagnosing error in object detectors" (ECCV 2012), in this order:
a duplicate overlaps an object of its class, enough to be right, that a surer detection has found; another class is
named where an object of another overlaps enough; the place is wrong where the overlap with one of its own class is
LEAST_PLACE or more; the rest is background. What overlaps enough, the rule says ("coco": 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .metric import Boxes, Detections, Judged, Rule, Truth, judge, least_overlaps, overlaps

Wrong = Literal["duplicate", "other class", "place", "background"]
KINDS: tuple[Wrong, ...] = get_args(Wrong)
RIGHT, NEITHER = -1, -2
"""Beside places in KINDS."""
LEAST_PLACE = 0.1


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The detections of one class, the surest first, each with its kind, and the objects that were missed.

    kind: a place in KINDS, RIGHT or NEITHER; other: the other class of "other class", else -1.
    missed: places among the class's objects in the truth of those that count and no detection found.
    """

    judged: Judged
    kind: NDArray[np.int8]  # [n]
    other: NDArray[np.int32]  # [n]
    missed: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """How many of each kind are among as many of the surest detections as the class has objects, and all missed.

        Fewer objects have fewer chances: the counts of a system that names many more stay comparable.
        """
        objects = int(self.judged.objects.sum())
        first = self.kind[self.kind != NEITHER][:objects]
        found = {"right": int((first == RIGHT).sum())}
        found |= {kind: int((first == place).sum()) for place, kind in enumerate(KINDS)}
        return found | {"missed": len(self.missed)}


def sort_mistakes(truth: Truth, detections: Sequence[Detections], rule: Rule) -> list[Mistakes]:
    """The mistakes of each class, at the rule's first threshold."""
    boxes = np.concatenate([own.boxes for own in truth.objects])
    image = np.concatenate([own.image for own in truth.objects])
    label = np.repeat(np.arange(len(truth.objects)), [len(own.image) for own in truth.objects])
    counts = np.concatenate([own.counts for own in truth.objects])
    counts &= ~_left_out(truth, image, label)
    least = np.concatenate([least_overlaps(own.boxes, rule)[0] for own in truth.objects])

    # the objects of all classes, image by image
    order = np.argsort(image, kind="stable")
    order = order[counts[order]]
    every = _Every(boxes[order], image[order], label[order], least[order])
    return [_of_class(truth, number, own, rule, every) for number, own in enumerate(detections)]


@dataclass(frozen=True, slots=True)
class _Every:
    """All objects that count, in the order of their images."""

    boxes: Boxes
    image: NDArray[np.int32]
    label: NDArray[np.int64]
    least: NDArray[np.float64]


def _of_class(truth: Truth, label: int, detections: Detections, rule: Rule, every: _Every) -> Mistakes:
    judged = judge(truth, label, detections, rule)[0]
    kind = np.where(judged.right, RIGHT, np.where(judged.wrong, KINDS.index("background"), NEITHER)).astype(np.int8)
    other = np.full(len(kind), -1, np.int32)

    # each wrong one beside the objects of its image
    wrong = np.flatnonzero(judged.wrong)
    starts = np.searchsorted(every.image, judged.image[wrong], side="left")
    ends = np.searchsorted(every.image, judged.image[wrong], side="right")
    boxes = detections.boxes[judged.order]
    for place, start, end in zip(wrong, starts, ends, strict=True):
        if start == end:
            continue
        no_crowds = np.zeros(end - start, np.bool_)
        overlap = overlaps(boxes[place : place + 1], every.boxes[start:end], no_crowds)[0]
        same, enough = every.label[start:end] == label, overlap >= every.least[start:end]
        if (same & enough).any():
            kind[place] = KINDS.index("duplicate")
        elif (~same & enough).any():
            kind[place] = KINDS.index("other class")
            other[place] = every.label[start + int(np.where(~same & enough, overlap, -1).argmax())]
        elif (same & (overlap >= LEAST_PLACE)).any():
            kind[place] = KINDS.index("place")

    objects = truth.objects[label]
    counts = objects.counts & ~np.isin(objects.image, truth.not_counted[label])
    counts[judged.found[judged.found >= 0]] = False
    return Mistakes(judged, kind, other, np.flatnonzero(counts))


def _left_out(truth: Truth, image: NDArray[np.int32], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for objects of a pair of an image and a class that does not count."""
    mask = np.zeros(len(image), np.bool_)
    for number, images in enumerate(truth.not_counted):
        mask |= (label == number) & np.isin(image, images)
    return mask
