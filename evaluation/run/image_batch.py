"""A few images through one engine: plans of all protocols, every distinct view once, a row for each image."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.engine import DeviceImage, Engine, Started, start
from infer.spec import Size
from infer.views import MergedPlan, ViewPlan, merge_plans, out_of_range, plan_views

from ..errors import RunError
from ..scores.table import OK
from .images import Decoded
from .protocol import Protocol

OUT_OF_RANGE = "out of range"
PLANS = 64
"""Image sizes whose plans are kept: most photographs of a data set have one of a few sizes."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one engine and protocol made of one image; `views` holds each view's posterior, f32 [views, classes]."""

    status: str
    pixels: str = ""
    posterior: NDArray[np.float32] | None = None
    plan: ViewPlan | None = None
    views: NDArray[np.float32] | None = None

    @property
    def view_pixels(self) -> int:
        """Pixels of all views: the work that the protocol is for a convolutional net."""
        return sum(view.size_px[0] * view.size_px[1] for view in self.plan.views) if self.plan else 0


class Planned(NamedTuple):
    """For images of one size: the plans of the protocols that can see it, by number, merged; why others cannot."""

    plans: dict[int, ViewPlan]
    refused: dict[int, str]
    merged: MergedPlan


Planner = Callable[[Size], Planned]


def planner(engine: Engine, protocols: Sequence[Protocol]) -> Planner:
    """Plans of `protocols` for an image of some (height, width)."""

    @functools.lru_cache(maxsize=PLANS)
    def plan(size: Size) -> Planned:
        plans, refused = {}, {}
        for number, protocol in enumerate(protocols):
            own = plan_views(engine.spec, protocol.name, size, protocol.scales)
            reason = out_of_range(own, engine.shapes, engine.spec)
            if reason is None:
                plans[number] = own
            else:
                refused[number] = reason
        return Planned(plans, refused, merge_plans(size, list(plans.values())))

    return plan


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that an engine works on: a row for each image and protocol, those that are to come with their plans."""

    rows: list[list[Row]]
    work: Sequence[tuple[int, Planned]]
    output: str
    started: Started | None

    def collect(self) -> list[list[Row]]:
        """[image][protocol]; waits for the engine. Raises EngineError."""
        if self.started is None:
            return self.rows
        results = self.started.result()
        start = 0
        for place, (plans, _, merged) in self.work:
            own = slice(start, start + len(merged.plan))
            start = own.stop
            means = merged.weights @ results[self.output][own].astype(np.float64)
            for (number, seen), mean, places in zip(plans.items(), means, merged.places, strict=True):
                pixels = _digest(results["pixel_sums"][own][places])
                views = results[self.output][own][places]
                self.rows[place][number] = Row(OK, pixels, mean.astype(np.float32), seen, views)
        return self.rows


def start_batch(
    engine: Engine,
    protocols: Sequence[Protocol],
    plan: Planner,
    batch: Sequence[Decoded],
    image: DeviceImage,
    output: str,
    strict: bool,
) -> Running:
    """Gives an engine every distinct view of a batch, once. `image` holds the readable ones. Raises RunError."""
    rows = [[Row(decoded.status) for _ in protocols] for decoded in batch]
    work: list[tuple[int, Planned]] = []
    for place, decoded in enumerate(batch):
        if not decoded.images:
            continue
        height, width, _ = decoded.images[engine.spec.preprocessing.exif].shape
        planned = plan((height, width))
        for number, reason in planned.refused.items():
            if strict:
                raise RunError(f"{decoded.item.name}: {reason}")
            tqdm.write(f"{decoded.item.name}: {reason}", file=sys.stderr)
            rows[place][number] = Row(OUT_OF_RANGE)
        work.append((place, planned))
    if not any(planned.plans for _, planned in work):
        return Running(rows, work, output, None)
    started = start(engine, image, [planned.merged.plan for _, planned in work], (output, "pixel_sums"))
    return Running(rows, work, output, started)


def _digest(sums: NDArray[np.int32]) -> str:
    return hashlib.sha256(sums.astype("<i4").tobytes()).hexdigest()[:32]
