"""The cost of an image between host and GPU: copies, bytes, allocations, waits; counted, not timed.

    python benchmarks/transfers.py [--protocol multicrop+dense] [--image 375x500] [--scales 256,384,512] [--together 16]

The engine's own code runs on a simulated CUDA driver (tests/cudasim), whose log is counted, and a double of TensorRT
that computes nothing; sizes are those of a net with 1000 classes and crops of 224 px, whichever it is. No GPU is needed
and no time is claimed. All figures are of one image, of `--together` that are loaded at once, as evaluations do; each
call reads all weights once, 277 MB of VGG-D in FP16. The naive way is computed: every view cut on the host and uploaded
as FP32, for each model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import cudasim
from cudasim import ALLOCATIONS, WAITS, copied_bytes, count
from helpers import full_spec, write_checkpoint
from plans import write_plan

from export.to_onnx import export_onnx
from infer.views import ViewPlan, plan_views
from trainer.checkpoint import load

WARM = 3
"""Images before the one that is counted."""

VGG_D_BYTES = 2 * 138_357_544
"""Of its weights, in FP16."""

PROGRAM = """
import fake_tensorrt, numpy as np
from cudasim import mark
from pathlib import Path
from infer.tensorrt.engine import TensorRTEngine
from infer.views import plan_views
fake_tensorrt.install("tensorrt", "11.4.0.106")
engines = [TensorRTEngine(Path(path)) for path in {paths!r}]
plan = plan_views(engines[0].spec, {protocol!r}, {size!r}, {scales!r})
for number in range({warm} + 1):
    mark()
    loaded = engines[0].load([np.full((*{size!r}, 3), number, np.uint8) for _ in range({together})])
    for pending in reversed([engine.start(loaded, [plan] * {together}) for engine in engines]):
        pending.result()
mark()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--protocol", default="multicrop+dense")
    parser.add_argument("--image", default="375x500", help="height x width of the source (default: %(default)s)")
    parser.add_argument("--scales", default="256,384,512", help="(default: %(default)s)")
    parser.add_argument("--together", type=int, default=16, help="images loaded at once (default: %(default)s)")
    args = parser.parse_args()
    height, width = (int(side) for side in args.image.split("x"))
    scales = [int(scale) for scale in args.scales.split(",")]

    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for seed in (0, 1):
            spec = full_spec("A", name=f"net-{seed}", width=1 / 16, fc_width=32)
            onnx = folder / f"net-{seed}.onnx"
            export_onnx(load(write_checkpoint(folder / f"net-{seed}.pt", spec, seed)), onnx)
            paths.append(str(write_plan(onnx, folder)))

        plan = plan_views(spec, args.protocol, (height, width), scales)
        for models in (1, 2):
            for together in dict.fromkeys((1, args.together)):
                code = PROGRAM.format(
                    paths=paths[:models],
                    protocol=args.protocol,
                    size=(height, width),
                    scales=scales,
                    warm=WARM,
                    together=together,
                )
                seen = cudasim.run(code, folder, settings={"FAKE_TENSORRT": "idle"}, seconds=600)
                seen.check()
                said = f"this engine, {models} model{'s' * (models > 1)}, {together} together"
                rows.append((said, *counted(seen.between_marks()[-1], together)))
            rows.append((f"naive, {models} model{'s' * (models > 1)}", *naive(plan, models, len(spec.classes))))

    headers = (
        "of an image",
        "uploads",
        "MB to the GPU",
        "read-backs",
        "MB from it",
        "allocations",
        "waits",
        "calls",
        "weights, GB",
    )
    print(f"{plan}\n\n{tabulate(rows, headers, tablefmt='pipe', floatfmt='.2f')}")


def counted(calls: tuple[str, ...], images: int) -> tuple[object, ...]:
    up, down = "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"
    launched = count(calls, ["cuLaunchHostFunc"])
    found = (
        *(count(calls, [up]), copied_bytes(calls, up) / 1e6, count(calls, [down]), copied_bytes(calls, down) / 1e6),
        *(count(calls, ALLOCATIONS), count(calls, WAITS), launched, launched * VGG_D_BYTES / 1e9),
    )
    return tuple(number / images for number in found)


def naive(plan: ViewPlan, models: int, classes: int) -> tuple[object, ...]:
    """The counts of the naive way: FP32 views of one size and scale in a call, uploaded, run, read back, waited for."""
    calls = models * len({(view.short_side_px, view.size_px) for view in plan.views})
    pixels = sum(view.size_px[0] * view.size_px[1] for view in plan.views)
    return (
        calls,
        models * pixels * 3 * 4 / 1e6,
        calls,
        models * len(plan) * classes * 4 / 1e6,
        "",
        calls,
        calls,
        (calls * VGG_D_BYTES / 1e9),
    )


if __name__ == "__main__":
    main()
