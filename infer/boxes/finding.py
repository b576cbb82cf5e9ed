"""Boxes of the objects of an image, found by box nets (VGG's appendix A) and rated by a classifier.

A box net is an engine with the output `box_map` f32 [views, 4 or 4 * classes, h', w']: at each position of its dense
map a box as centre x, centre y, width and height; with 4 channels the same for every class (the paper's SCR), else
class c's in channels 4 c to 4 c + 3 (PCR). The paper does not say in what frame; here a box is relative to the
crop_px x crop_px window of its position, in units of crop_px, its centre measured from the window's centre. Position
(i, j) of a dense view has its window at (i * stride_px, j * stride_px) of the view. (Zero padding makes that
approximate: a dense view has it only at the image's edges, a crop at its own.)

Boxes are merged greedily, as OverFeat's (arXiv 1312.6229, section 4.3): of all boxes the two that match best are made
one, again and again, until no two match well enough. A merged box has the mean of its boxes' coordinates and, for a
class, the sum of that class's scores at the windows that its boxes came from. The papers leave open, and it is chosen
here:
- "average": the mean of all boxes that went into a merged one, each counted once (VGG: "averaging their coordinates");
- which boxes: those of all windows, scales and nets, however unsure the classifier is of a window; it rates them;
- match_score, see MATCHES, and the score above which boxes are left apart, `at`.

Also left open and chosen here: no mirrored views of box nets; a box is at least one pixel wide and high; one that is
not finite is none; merged boxes are cut off at the image's edges. Boxes of classes are rated by the softmax of the
classifier's `score_map` at each position, and the likeliest classes are those of its dense views and their mirrors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..data.annotations import Box
from ..engine import DeviceImage, Engine, EngineError, check_outputs
from ..pixels.decode import Pixels
from ..spec import ModelSpec, Size
from ..views import View, ViewPlan, out_of_range, plan_views, rescaled_px

Boxes = NDArray[np.float64]
"""[..., 4]: left, top, right, bottom as edges, not pixels."""
Match = Literal["overlap", "literal"]


def _overlap(box: Boxes, others: Boxes, unit: float) -> Boxes:
    """Distance of the centres in sides of a square as large as the two boxes on average, plus 1 - IoU."""
    both = _intersection(box, others)
    areas = _area(box), _area(others)
    side = np.sqrt((areas[0] + areas[1]) / 2)
    return _distance(box, others) / side + 1 - both / (areas[0] + areas[1] - both)


def _literal(box: Boxes, others: Boxes, unit: float) -> Boxes:
    """Distance of the centres plus the area of the intersection, the image's shorter side `unit` being 1.

    The words of the paper. Of two pairs with equal distance, the one that overlaps more is the worse match.
    """
    return _distance(box, others) / unit + _intersection(box, others) / unit**2


MATCHES: dict[Match, tuple[Callable[[Boxes, Boxes, float], Boxes], float]] = {
    "overlap": (_overlap, 0.75),
    "literal": (_literal, 0.25),
}
"""match_score and the default of `at`.

OverFeat: "the sum of the distance between centers of the two bounding boxes and the intersection area". Taken as it
stands boxes that share nothing match better than equal ones of some size, which cannot be meant, so `overlap` is the
default: the intersection counts for a match, and both terms are relative to the boxes. At its 0.75 two equal squares
are merged if they are less than 0.29 of their side apart.
"""


@dataclass(frozen=True, slots=True)
class Merging:
    """A rule of merging: a match_score, and the score `at` above which boxes are left apart."""

    match: Match = "overlap"
    at: float = MATCHES["overlap"][1]

    def __str__(self) -> str:
        return f"{self.match} at {self.at:g}"


def merge(boxes: Boxes, rule: Merging, unit: float) -> tuple[Boxes, list[list[int]]]:
    """Merged boxes f64 [M, 4] of boxes f64 [N, 4] with positive sides, and which of them each was made of.

    unit: the image's shorter side. Of equally good matches the first counts, by the lower and then by the higher
    place; the merged box stands where the lower was.
    """
    count, score = len(boxes), MATCHES[rule.match][0]
    merged = boxes.astype(np.float64)
    groups: list[list[int]] = [[place] for place in range(count)]

    # The best match of each row of pairs is kept, so that a merge looks again only at rows that it has changed.
    scores = score(merged[:, None], merged[None], unit)
    scores[np.tri(count, dtype=np.bool_)] = np.inf  # above the diagonal is every pair once
    best = scores.argmin(1) if count else np.zeros(0, np.int64)  # of each row
    least = scores[np.arange(count), best]
    alive = np.ones(count, np.bool_)

    while count:
        low = int(least.argmin())
        if not least[low] <= rule.at:
            break
        high = int(best[low])

        groups[low] += groups[high]
        groups[high] = []
        merged[low] = boxes[groups[low]].mean(0)
        alive[high] = False

        scores[high], scores[:, high] = np.inf, np.inf
        others = np.flatnonzero(alive)
        others = others[others != low]
        scores[np.minimum(others, low), np.maximum(others, low)] = score(merged[low], merged[others], unit)
        least[high] = np.inf

        before = others[others < low]
        stale = before[(best[before] == low) | (scores[before, low] <= least[before])]
        stale = np.union1d(np.append(stale, low), others[best[others] == high])
        best[stale] = scores[stale].argmin(1)
        least[stale] = scores[stale, best[stale]]

    kept = [place for place in range(count) if groups[place]]
    return merged[kept], [sorted(groups[place]) for place in kept]


def rate(groups: list[list[int]], window_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each merged box, the sum of some class's scores [N] over the windows that its boxes came from."""
    return np.array([window_scores[group].sum() for group in groups])


def _area(boxes: Boxes) -> Boxes:
    area: Boxes = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def _intersection(box: Boxes, others: Boxes) -> Boxes:
    across = np.minimum(box[..., 2], others[..., 2]) - np.maximum(box[..., 0], others[..., 0])
    down = np.minimum(box[..., 3], others[..., 3]) - np.maximum(box[..., 1], others[..., 1])
    shared: Boxes = np.maximum(across, 0) * np.maximum(down, 0)
    return shared


def _distance(box: Boxes, others: Boxes) -> Boxes:
    across = box[..., 0] + box[..., 2] - others[..., 0] - others[..., 2]
    down = box[..., 1] + box[..., 3] - others[..., 1] - others[..., 3]
    apart: Boxes = np.hypot(across, down) / 2
    return apart


OUTPUT = "box_map"
WINDOW_RULES = ("crop_px", "stride_px", "pool_rounding", "preprocessing.long_side_rounding", "preprocessing.exif")
"""Fields of a spec that say where its windows lie."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoxNet:
    """A box net with the scales it is run at; `per_class` (PCR) or one box for all classes (SCR)."""

    engine: Engine
    scales: tuple[int, ...]
    per_class: bool

    @property
    def kind(self) -> str:
        return "PCR" if self.per_class else "SCR"


@dataclass(frozen=True, slots=True)
class Guess:
    """A class, its box, and its score: the summed posterior of the windows that the box was made of."""

    label: int
    score: float
    box: Box


@dataclass(frozen=True, slots=True)
class Windows:
    """Every window of an image, of all box nets and scales.

    boxes: for each net and scale [1 or classes, windows, 4], in the image's pixels; posterior: the classifier's at
    each window, f64 [windows, classes]; mean: its posterior over the dense views, f64 [classes], if it was asked for;
    pixel_sums: the engines' own, i32 [views, 6].
    """

    image_px: Size
    boxes: tuple[Boxes, ...]
    posterior: Floats
    mean: Floats | None
    pixel_sums: NDArray[np.int32]

    def of_class(self, label: int) -> Boxes:
        """Boxes of one class at all windows, [windows, 4]."""
        return np.concatenate([own[label if len(own) > 1 else 0] for own in self.boxes])


def box_net(engine: Engine, scales: Sequence[int]) -> BoxNet:
    """Finds out what kind of box net an engine is, by a blank crop. Raises EngineError."""
    spec = engine.spec
    check_outputs(spec, [OUTPUT])
    side = spec.crop_px
    plan = plan_views(spec, "center", (side, side), [side])
    found = engine.run(engine.load([np.zeros((side, side, 3), np.uint8)]), [plan], (OUTPUT,))[OUTPUT]
    if found.shape[1] not in (4, 4 * len(spec.classes)):
        raise EngineError(
            f"{spec.name}: {OUTPUT} has {found.shape[1]} channels, expected 4 or 4 x {len(spec.classes)} classes"
        )
    return BoxNet(engine, tuple(scales), found.shape[1] != 4)


def check_together(nets: Sequence[BoxNet], classifier: Engine | None) -> None:
    """Raises EngineError unless all know the same classes and their windows are the same, or without `score_map`."""
    first = nets[0].engine.spec
    if classifier is not None:
        check_outputs(classifier.spec, ["score_map"])

    for other in [*(net.engine.spec for net in nets), *([classifier.spec] if classifier else [])]:
        if other.classes != first.classes:
            raise EngineError(f"{first.name} and {other.name} have different classes: use nets of the same data")
        for rule in WINDOW_RULES:
            mine, theirs = attrgetter(rule)(first), attrgetter(rule)(other)
            if mine != theirs:
                name = rule.rpartition(".")[2]
                raise EngineError(
                    f"{first.name} and {other.name} differ in {name} ({mine} and {theirs}): their windows are "
                    "not the same, so boxes cannot be rated"
                )


def refused(nets: Sequence[BoxNet], classifier: Engine | None, protocol: str, size: Size) -> str | None:
    """The reason why some engine cannot see an image of (height, width) by `protocol`; None if all can."""
    for engine, scales in asked_of(nets, classifier):
        plan = plan_views(engine.spec, protocol, size, scales)
        if reason := out_of_range(plan, engine.shapes, engine.spec):
            return reason
    return None


def asked_of(nets: Sequence[BoxNet], classifier: Engine | None) -> list[tuple[Engine, Sequence[int]]]:
    """Every engine with the scales at which it sees an image."""
    asked: list[tuple[Engine, Sequence[int]]] = [(net.engine, net.scales) for net in nets]
    return asked if classifier is None else [*asked, (classifier, _all_scales(nets))]


def _all_scales(nets: Sequence[BoxNet]) -> tuple[int, ...]:
    return tuple(sorted({scale for net in nets for scale in net.scales}))


def center_boxes(net: BoxNet, image: Pixels) -> tuple[Boxes, NDArray[np.int32]]:
    """(boxes [1 or classes, 4] in the image's pixels, pixel sums) of the central crop at the net's one scale."""
    size = (image.shape[0], image.shape[1])
    plan = plan_views(net.engine.spec, "center", size, net.scales)
    found = net.engine.run(net.engine.load([image]), [plan], (OUTPUT, "pixel_sums"))
    return window_boxes(found[OUTPUT][0], plan.views[0], size, net.engine.spec)[:, 0], found["pixel_sums"]


def find_windows(nets: Sequence[BoxNet], classifier: Engine, image: Pixels, *, mean: bool = True) -> Windows:
    """Boxes and posteriors of all windows of the dense views. Raises EngineError."""
    size = (image.shape[0], image.shape[1])
    loaded: dict[str, DeviceImage] = {}
    for engine in [classifier, *(net.engine for net in nets)]:
        if engine.device not in loaded:
            loaded[engine.device] = engine.load([image])

    # The classifier at every scale: its posteriors rate the boxes of all nets.
    posteriors: dict[int, Floats] = {}  # of each scale [classes, h', w']
    means, sums, boxes, windows = [], [], [], []
    for scale in _all_scales(nets):
        plan = plan_views(classifier.spec, "dense", size, [scale])
        plan = plan if mean else _unmirrored(plan)
        outputs = ("score_map", "posterior", "pixel_sums")
        seen = classifier.run(loaded[classifier.device], [plan], outputs)
        posteriors[scale] = _softmax(seen["score_map"][0].astype(np.float64))
        means.append(seen["posterior"].astype(np.float64))
        sums.append(seen["pixel_sums"])

    for net in nets:
        spec = net.engine.spec
        for scale in net.scales:
            plan = _unmirrored(plan_views(spec, "dense", size, [scale]))
            found = net.engine.run(loaded[net.engine.device], [plan], (OUTPUT, "pixel_sums"))
            box_map, posterior = found[OUTPUT][0], posteriors[scale]
            if box_map.shape[1:] != posterior.shape[1:]:
                raise EngineError(
                    f"{spec.name} has {box_map.shape[1]}x{box_map.shape[2]} positions at Q={scale}, "
                    f"{classifier.spec.name} {posterior.shape[1]}x{posterior.shape[2]}: boxes cannot be rated"
                )
            boxes.append(window_boxes(box_map, plan.views[0], size, spec))
            windows.append(posterior.reshape(len(posterior), -1).T)
            sums.append(found["pixel_sums"])

    of_views = np.concatenate(means).mean(0) if mean else None
    return Windows(size, tuple(boxes), np.concatenate(windows), of_views, np.concatenate(sums))


def window_boxes(box_map: NDArray[np.float32], view: View, image_px: Size, spec: ModelSpec) -> Boxes:
    """Boxes [1 or classes, h' * w', 4] in the image's pixels, of a map [4 or 4 * classes, h', w'] of one view.

    They may lie partly or wholly outside the image.
    """
    rescaled = rescaled_px(image_px, view.short_side_px, spec.preprocessing.long_side_rounding)
    top, left, _, _ = view.box
    _, rows, cols = box_map.shape
    crop = spec.crop_px

    # Centres in the rescaled image: of the window, plus the box's own from there.
    found = box_map.astype(np.float64).reshape(-1, 4, rows, cols) * crop  # [1 or classes, 4, h', w']
    x = left + np.arange(cols) * spec.stride_px + crop / 2 + found[:, 0]
    y = top + np.arange(rows)[:, None] * spec.stride_px + crop / 2 + found[:, 1]

    across, down = image_px[1] / rescaled[1], image_px[0] / rescaled[0]
    x, width, y, height = x * across, found[:, 2] * across, y * down, found[:, 3] * down
    width, height = np.maximum(width, 1), np.maximum(height, 1)
    edges = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
    return edges.reshape(len(edges), rows * cols, 4)


def guess(windows: Windows, labels: Sequence[int], rule: Merging) -> list[Guess | None]:
    """The best merged box for each of some classes, in their order; None where no box is finite."""
    shared = all(len(own) == 1 for own in windows.boxes)
    merged: dict[int, tuple[Boxes, list[list[int]], NDArray[np.intp]]] = {}
    guesses: list[Guess | None] = []

    for label in labels:
        key = 0 if shared else label
        if key not in merged:  # boxes of all classes are merged once
            boxes = windows.of_class(key)
            finite = np.flatnonzero(np.isfinite(boxes).all(1))
            merged[key] = (*merge(boxes[finite], rule, min(windows.image_px)), finite)

        boxes, groups, places = merged[key]
        scores = rate(groups, windows.posterior[places, label])
        best = int(scores.argmax()) if len(scores) else -1
        guesses.append(None if best < 0 else Guess(label, float(scores[best]), inside(boxes[best], windows.image_px)))
    return guesses


def inside(edges: Boxes, image_px: Size) -> Box:
    """A box of edges [4] as one of pixels, cut off at the edges of the image."""
    height, width = image_px
    left, top = min(max(float(edges[0]), 0), width - 1), min(max(float(edges[1]), 0), height - 1)
    right, bottom = max(min(float(edges[2]), width), left + 1), max(min(float(edges[3]), height), top + 1)
    return Box(left + 1, top + 1, right, bottom)


def _unmirrored(plan: ViewPlan) -> ViewPlan:
    return ViewPlan(plan.protocol, plan.image_px, tuple(view for view in plan.views if not view.mirrored))


def _softmax(scores: Floats) -> Floats:
    """Over the first axis."""
    shifted = np.exp(scores - scores.max(0, keepdims=True))
    posterior: Floats = shifted / shifted.sum(0, keepdims=True)
    return posterior
