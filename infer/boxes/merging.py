"""Greedy merging of boxes, OverFeat's (arXiv 1312.6229, section 4.3) as VGG's appendix A uses it.

Of all boxes the two that match best are made one, again and again, until no two match well enough. A merged box has
the mean of its boxes' coordinates and, for a class, the sum of that class's scores at the windows that its boxes came
from. The papers leave open, and it is chosen here:
- "average": the mean of all boxes that went into a merged one, each counted once (VGG: "averaging their coordinates");
- which boxes: those of all windows, scales and nets, however unsure the classifier is of a window; it rates them;
- match_score, see MATCHES, and the score above which boxes are left apart, `at`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
