"""How many objects proposals cover, at an intersection over union, against the number of proposals of an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tabulate import tabulate

from infer.boxes.overlap import overlaps

from ..scores.metrics import ErrorRate, error_rate

LEVELS = (0.5, 0.7)
"""Intersections over union at which an object counts as covered."""
BUDGETS = (10, 30, 100, 200, 300, 1000, 2000)
"""Numbers of proposals of an image, the best of each method, at which a curve is told."""
NEVER = np.iinfo(np.int64).max
PAPER = (
    "GoogLeNet (section 8): superpixels of twice the size and 200 MultiBox proposals, together about 60 % of R-CNN's "
    "proposals, cover 93 % instead of 92 %"
)


@dataclass
class Coverage:
    """What a method covers of the images so far: `add` counts one.

    first: for each level and object, the number of the image's first proposal that covers it, from 1, or NEVER.
    """

    first: list[list[NDArray[np.int64]]] = field(default_factory=lambda: [[] for _ in LEVELS])
    proposals: list[int] = field(default_factory=list)

    def add(self, boxes: ArrayLike, objects: ArrayLike) -> None:
        """Counts an image with proposals [N, 4], the best first, and objects [M, 4]."""
        shared = overlaps(boxes, objects)
        self.proposals.append(len(shared))
        for level, numbers in zip(LEVELS, self.first, strict=True):
            hit = shared >= level
            first = hit.argmax(0) + 1 if len(shared) else np.zeros(hit.shape[1], np.int64)
            numbers.append(np.where(hit.any(0), first, NEVER))

    @property
    def mean_proposals(self) -> float:
        return float(np.mean(self.proposals)) if self.proposals else 0.0

    @property
    def objects(self) -> int:
        return sum(map(len, self.first[0]))

    def covered(self, level: float, budget: int = NEVER - 1) -> ErrorRate | None:
        """The share of objects that the first `budget` proposals cover, with its interval; None without objects."""
        numbers = np.concatenate([np.zeros(0, np.int64), *self.first[LEVELS.index(level)]])
        return error_rate(int((numbers <= budget).sum()), len(numbers)) if len(numbers) else None

    def to_json(self) -> dict[str, Any]:
        budgets = [*(budget for budget in BUDGETS if budget < max(self.proposals, default=0)), None]
        return {
            "proposals": round(self.mean_proposals, 3),
            "covered_percent": {
                str(level): {str(budget or "all"): self._percent(level, budget) for budget in budgets}
                for level in LEVELS
            },
            "interval95_percent": {str(level): self._interval(level) for level in LEVELS},
        }

    def _percent(self, level: float, budget: int | None) -> float | None:
        rate = self.covered(level, budget or NEVER - 1)
        return None if rate is None else round(rate.percent, 3)

    def _interval(self, level: float) -> list[float] | None:
        rate = self.covered(level)
        return None if rate is None else [round(end, 3) for end in rate.interval95_percent]


def recall_text(coverage: dict[str, Coverage]) -> str:
    """The tables to print: what all proposals cover, and what the first few of each image do."""
    rows = [
        [name, f"{own.mean_proposals:.1f}", *(_said(own.covered(level)) for level in LEVELS)]
        for name, own in coverage.items()
    ]
    headers = ["method", "proposals an image", *(f"covered at IoU {level:g} %" for level in LEVELS)]
    whole = tabulate(rows, headers, tablefmt="github", disable_numparse=True)

    most = max((max(own.proposals, default=0) for own in coverage.values()), default=0)
    budgets = [budget for budget in BUDGETS if budget < most]
    if not budgets:
        return f"{whole}\n\n{PAPER}"
    curves = [[name, *(_short(own, budget) for budget in budgets)] for name, own in coverage.items()]
    headers = ["covered at IoU 0.5 % by the first", *map(str, budgets)]
    return "\n\n".join([whole, tabulate(curves, headers, tablefmt="github", disable_numparse=True), PAPER])


def _said(rate: ErrorRate | None) -> str:
    if rate is None:
        return "no objects"
    low, high = rate.interval95_percent
    return f"{rate.percent:.2f} [{low:.1f}, {high:.1f}]"


def _short(coverage: Coverage, budget: int) -> str:
    rate = coverage.covered(LEVELS[0], budget)
    return "" if rate is None else f"{rate.percent:.1f}"


def combinations(methods: Sequence[str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """(name, methods) of each row: every method alone and, of several, all together, those with few boxes first."""
    yield from ((method, (method,)) for method in methods)
    if len(methods) > 1:
        yield " + ".join(methods), tuple(sorted(methods, key=lambda method: method != "multibox"))
