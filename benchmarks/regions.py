"""What the host does for 1,000 regions of an image before a GPU classifies them: tables of taps, or the regions drawn.

    python benchmarks/regions.py [--regions 1000] [--repeat 7]

Regions are random boxes of a 375x500 picture, for a crop of 224 px. `tables`: the calls of an engine whose views are
regions (infer/tensorrt/calls.py). `drawn`: the pixels of the regions, as an engine of the interface `images` takes
them. Bytes are what goes over the bus. New boxes each time, but the axes' taps are kept, as in a run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from infer.engine import load_on_host
from infer.pixels.regions import make_picture, plan_regions
from infer.spec import ModelSpec, Preprocessing
from infer.tensorrt.calls import make_calls
from infer.views import crops_shape, with_regions

SIZE = 375, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--views", type=int, default=100, help="regions of a call")
    args = parser.parse_args()

    spec = ModelSpec("g", "googlenet", ("a", "background"), Preprocessing((123.0, 117.0, 104.0)), 256)
    shapes = [with_regions(crops_shape(spec, args.views))]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)

    def plan(number: int) -> object:
        across, down = (np.sort(rng.uniform(1, side, (args.regions, 2)), 1) for side in SIZE[::-1])
        boxes = np.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], 1)
        return plan_regions(boxes, SIZE, spec)

    def report(name: str, work: Callable[[object], int], prepare: Callable[[int], object]) -> None:
        seconds, size = [], 0
        for number in range(args.repeat + 1):
            prepared = prepare(number)
            started = time.perf_counter()
            size = work(prepared)
            seconds.append(time.perf_counter() - started)
        best = 1e3 * statistics.median(seconds[1:])
        print(f"{name:<8} {best:8.1f} ms (first {1e3 * seconds[0]:.1f})  {size / 1e6:8.1f} MB")

    def tables(prepared: object) -> int:
        loaded = load_on_host([make_picture(image, spec)])
        calls = list(make_calls(loaded, [prepared], spec, shapes))
        return sum({id(array): array.nbytes for call in calls for array in call.feed.values()}.values())

    def drawn(prepared: object) -> int:
        return load_on_host([make_picture(image, spec)]).render([(0, view) for view in prepared.views], spec).nbytes

    print(f"{args.regions} regions of {SIZE[0]}x{SIZE[1]} px, {args.views} a call")
    report("plan", lambda _: len(plan(0).views) and 0, lambda _: None)
    report("tables", tables, plan)
    report("drawn", drawn, plan)


if __name__ == "__main__":
    main()
