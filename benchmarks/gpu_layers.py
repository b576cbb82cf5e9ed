"""What each layer of a plan takes on the GPU, and which kernels it became: TensorRT's profiler and its inspector.

    python benchmarks/gpu_layers.py model.engine [--protocol dense] [--runs 10]

Prints JSON: for each profile that the protocol uses, {"layers": [{"name", "ms"}, ...], "inspector": what the engine
says of its layers}. The profiler waits after every layer, so the sum is more than a run takes without it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests")]

from helpers import noise

from infer.tensorrt.engine import TensorRTEngine
from infer.views import PROTOCOLS, plan_views

SIZE_PX = (375, 500)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="dense")
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    with contextlib.closing(TensorRTEngine(args.engine)) as engine:
        print(json.dumps(measure(engine, args.protocol, args.runs)))
    return 0


def measure(engine: TensorRTEngine, protocol: str, runs: int) -> dict[str, Any]:
    """The layers by the name of the profile, milliseconds as the mean of `runs`."""
    work = [noise(SIZE_PX)], [plan_views(engine.spec, protocol, SIZE_PX)]
    engine.run(engine.load(work[0]), work[1])  # contexts are made and kernels loaded
    times = {place: times_of(engine, context) for place, context in engine._loaded.contexts.items()}
    for _ in range(runs):
        engine.run(engine.load(work[0]), work[1])

    found = {}
    with engine._gpu.lock, engine._gpu.device.current():
        for place, taken in times.items():
            layers = [{"name": name, "ms": sum(ms) / runs} for name, ms in taken.items()]
            found[engine.shapes[place].name] = {"layers": layers, "inspector": inspect(engine, place)}
    return found


def times_of(engine: TensorRTEngine, context: Any) -> dict[str, list[float]]:
    """What the profiler of a context will report from now on, by layer."""
    trt, taken = engine._trt, defaultdict[str, list[float]](list)

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            taken[layer_name].append(ms)

    context.profiler = Times()
    return taken


def inspect(engine: TensorRTEngine, place: int) -> Any:
    """The layers with their kernels for the shapes that the context of a profile has now."""
    inspector = engine._loaded.engine.create_engine_inspector()
    inspector.execution_context = engine._loaded.contexts[place]
    return json.loads(inspector.get_engine_information(engine._trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(main())
