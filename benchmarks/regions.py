"""What the host does for 1,000 regions of an image before a GPU classifies them: tables of taps, or the regions drawn.

    python benchmarks/regions.py [--regions 1000] [--images 40]

Regions are random boxes of a 375x500 picture, for a crop of 224 px. `tables`: the calls of an engine whose views are
regions (infer/tensorrt/calls.py), written to a buffer that is used again, as that of an upload. `drawn`: the pixels of
the regions, as an engine of the interface `images` takes them, three images. Bytes are what goes over the bus. Each
image has new boxes, but the axes' taps are kept, as in a run: the first, and the median of the last quarter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from infer.engine import load_on_host
from infer.graph_inputs import Unwritten
from infer.pixels.regions import make_picture, plan_regions
from infer.spec import ModelSpec, Preprocessing
from infer.tensorrt.calls import make_calls
from infer.tensorrt.gpu import aligned
from infer.views import ViewPlan, crops_shape, with_regions

SIZE = 375, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--views", type=int, default=100, help="regions of a call")
    args = parser.parse_args()

    spec = ModelSpec("g", "googlenet", ("a", "background"), Preprocessing((123.0, 117.0, 104.0)), 256)
    shapes = [with_regions(crops_shape(spec, args.views))]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)

    def plan(number: int) -> ViewPlan:
        across, down = (np.sort(rng.uniform(1, side, (args.regions, 2)), 1) for side in SIZE[::-1])
        boxes = np.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], 1)
        return plan_regions(boxes, SIZE, spec)

    def report(name: str, work: Callable[[Any], int], images: int) -> None:
        seconds, size = [], 0
        for number in range(images):
            prepared = plan(number)
            started = time.perf_counter()
            size = work(prepared)
            seconds.append(time.perf_counter() - started)
        later = 1e3 * statistics.median(seconds[-(images // 4 or 1) :])
        print(f"{name:<8} {later:8.1f} ms (first {1e3 * seconds[0]:.1f})  {size / 1e6:8.1f} MB")

    staging = np.empty(1 << 28, np.uint8)

    def tables(prepared: ViewPlan) -> int:
        loaded = load_on_host([make_picture(image, spec)])
        calls = list(make_calls(loaded, [prepared], spec, shapes))
        place = 0
        for array in {id(array): array for call in calls for array in call.feed.values()}.values():
            own = staging[place : place + array.nbytes]
            if isinstance(array, Unwritten):
                array.write(own)
            else:
                own[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            place += aligned(array.nbytes)
        return place

    def drawn(prepared: ViewPlan) -> int:
        return load_on_host([make_picture(image, spec)]).render([(0, view) for view in prepared.views], spec).nbytes

    print(f"{args.regions} regions of {SIZE[0]}x{SIZE[1]} px, {args.views} a call")
    report("plan", lambda _: len(plan(0).views) and 0, args.images)
    report("tables", tables, args.images)
    report("drawn", drawn, 3)


if __name__ == "__main__":
    main()
