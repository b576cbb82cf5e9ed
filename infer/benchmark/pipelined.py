"""Images a second of a long run: images are decoded ahead in threads, planned, and begun while others are computed.

As evaluation.ilsvrc has it (evaluation/run/loop.py): a GPU is given the next batch before the last one is waited for,
and images that share calls of an engine on the host are rescaled where they are decoded. Reading and writing files is
not in it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import HOST, Engine, Outputs, Started, Starting, start
from ..pixels.decode import Pixels
from ..pixels.nvjpeg import Decode
from ..pixels.render import Cache, shrink
from ..processes.pipeline import one_behind, ordered
from ..spec import Size
from ..views import ViewPlan

WARM_UP = 2
LEAST_RUNS, LEAST_S = 10, 5.0

Planner = Callable[[Size], ViewPlan]
"""The plan of an image of some (height, width)."""


class _Ready(NamedTuple):
    """A decoded image with its rescaled versions and its plan."""

    pixels: Pixels
    rescaled: Cache
    plan: ViewPlan


def time_pipelined(
    engine: Engine, data: bytes, plan: Planner, batch: int, batches: int | None, *, workers: int, decode: Decode
) -> float:
    """Images a second, from the answer to the WARM_UP-th batch on. Raises EngineError, ImageError.

    Without `batches` there are LEAST_RUNS of them at least, and LEAST_S seconds.
    """
    spec, shrunk = engine.spec, batch > 1 and engine.device == HOST
    is_enough = False

    def make_ready(_: int) -> _Ready:
        pixels = decode(data, exif=spec.preprocessing.exif)
        own, rescaled = plan((pixels.shape[0], pixels.shape[1])), Cache()
        if shrunk:
            pixels = shrink(pixels, own.views, spec, rescaled)
        return _Ready(pixels, rescaled, own)

    ready = ordered(make_ready, itertools.count(), workers, ahead=batch)

    def begin() -> Iterator[tuple[list[ViewPlan], Started]]:
        while not is_enough:
            images = list(itertools.islice(ready, batch))
            loaded = engine.load([image.pixels for image in images])
            for known, image in zip(loaded.rescaled, images, strict=True):
                known.update(image.rescaled)
            plans = [image.plan for image in images]
            yield plans, start(engine, loaded, plans, ("posterior",))

    begun = begin()
    if isinstance(engine, Starting):
        begun = one_behind(begun)

    began = seconds = 0.0
    done = 0
    for number, (plans, started) in enumerate(begun, 1):
        mean_posteriors(plans, started.result())
        if is_enough:  # what a GPU still had
            continue
        now = time.perf_counter()
        if number <= WARM_UP:
            began = now
            continue
        done, seconds = number - WARM_UP, now - began
        is_enough = done >= (batches or LEAST_RUNS) and (batches is not None or seconds >= LEAST_S)
    return batch * done / seconds


def mean_posteriors(plans: Sequence[ViewPlan], outputs: Outputs) -> list[NDArray[np.float64]]:
    """The answer to each image: the mean of its views' posteriors by their weights, f64 [classes]."""
    means, first = [], 0
    for plan in plans:
        weights = np.array([view.weight for view in plan.views])
        means.append(weights @ outputs["posterior"][first : first + len(plan)].astype(np.float64))
        first += len(plan)
    return means
