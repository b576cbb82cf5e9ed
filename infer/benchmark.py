"""How fast engines are on this machine: latency and throughput of each protocol and batch, and where the time goes.

python -m infer.benchmark --engine model.onnx [--protocol center,dense] [--batch 1,8] [--json]

A run is what an application does with a batch of images that have just come in: decode, `load`, `run`, one after the
other, with nothing else under way. Runs come after WARM_UP others that do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .command import Parser, add_engine_options, engine_options, run, scales_argument
from .engine import Engine, EngineError, open_engine
from .flops import plan_flops
from .image import ImageError, decode, read
from .peak import Peak, device_name, device_peak
from .views import PROTOCOLS, PlanError, ViewPlan, default_scales, out_of_range, plan_views

WARM_UP = 2
LEAST_RUNS, LEAST_S = 10, 5.0
STEPS = ("decode", "upload", "compute", "readback")
"""`upload` is Engine.load and Engine.start, but for what overlaps with `compute`, the time inside the runtime;
`readback` is the rest of the wait for the result, in which an engine on the host makes its inputs ready, too."""

Seconds = NDArray[np.float64]
"""[runs, steps]"""


def time_runs(engine: Engine, data: bytes, plan: ViewPlan, batch: int, runs: int | None) -> Seconds:
    """Each step of each run; without `runs`, LEAST_RUNS of them and LEAST_S seconds. Raises EngineError, ImageError."""
    for _ in range(WARM_UP):
        _run(engine, data, plan, batch)
    seconds: list[list[float]] = []
    started = time.perf_counter()
    while len(seconds) < (runs or LEAST_RUNS) or (runs is None and time.perf_counter() - started < LEAST_S):
        seconds.append(_run(engine, data, plan, batch))
    return np.array(seconds)


def _run(engine: Engine, data: bytes, plan: ViewPlan, batch: int) -> list[float]:
    """Seconds of each step. Every image is decoded for itself: what lies on the device already is not uploaded."""
    before, started = engine.seconds, time.perf_counter()
    images = [decode(data, exif=engine.spec.preprocessing.exif) for _ in range(batch)]
    decoded = time.perf_counter()
    pending = engine.start(engine.load(images), [plan] * batch)
    uploaded = time.perf_counter()
    pending.result()
    ended, compute = time.perf_counter(), engine.seconds - before
    upload = min(uploaded, ended - compute) - decoded
    return [decoded - started, upload, compute, ended - decoded - upload - compute]


def figures(seconds: Seconds, batch: int, flops_per_image: int | None, peak: Peak | None) -> dict[str, Any]:
    """Latencies are of a run, percentiles between neighbours linear; the split is a run's mean; the share of the peak
    counts `compute` alone."""
    latency, share = seconds.sum(1), None
    if flops_per_image is not None and peak is not None:
        share = 100 * flops_per_image * batch / seconds[:, 2].mean() / peak.flops_per_second
    return {
        "runs": len(seconds),
        "latency_ms": {f"p{q}": 1e3 * float(np.percentile(latency, q)) for q in (50, 90, 99)},
        "images_per_second": batch * len(seconds) / float(latency.sum()),
        "split_ms": dict(zip(STEPS, (1e3 * seconds.mean(0)).tolist(), strict=True)),
        "flops_per_image": flops_per_image,
        "share_of_peak_percent": share,
    }


def benchmark(
    path: Path,
    data: bytes,
    *,
    protocols: Sequence[str] = ("center",),
    scales: Sequence[int] | None = None,
    batches: Sequence[int] = (1,),
    runs: int | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """A row for each protocol and batch, of an encoded image. `say` gets to know what goes on.

    options: of `open_engine`.

    Raises EngineError, ImageError, PlanError.
    """
    say(f"{path}: opening")
    with contextlib.closing(open_engine(path, largest_short_px=max(scales or [0]), **options or {})) as engine:
        spec = engine.spec
        height, width, _ = decode(data, exif=spec.preprocessing.exif).shape
        device = device_name(engine)
        peak = device_peak(engine, device)
        for protocol in protocols:
            own_scales = scales or default_scales(spec, protocol)
            plan = plan_views(spec, protocol, (height, width), own_scales)
            if reason := out_of_range(plan, engine.shapes, spec):
                raise EngineError(f"{path}: {reason}")
            for batch in batches:
                say(f"{path}: {protocol}, batch {batch}")
                seconds = time_runs(engine, data, plan, batch, runs)
                yield {
                    "engine": str(path),
                    "protocol": protocol,
                    "device": device,
                    **figures(seconds, batch, plan_flops(spec, plan), peak),
                    "batch": batch,
                    "scales": list(own_scales),
                    "views_per_image": len(plan),
                    "image": {"height_px": height, "width_px": width, "bytes": len(data)},
                    "runtime": engine.runtime,
                    "cuda_graphs": bool((options or {}).get("cuda_graphs")),
                    "warm_up_runs": WARM_UP,
                    "peak": peak and peak._asdict(),
                }


def synthetic_jpeg() -> bytes:
    """A JPEG of 500x375 px in about as many bytes as ILSVRC's have (135 kB): smooth colours and some noise."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(colours) + random.normal(0, 25, (375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


HEADINGS = (
    *("engine", "runtime", "protocol", "scales", "batch", "runs", "p50 ms", "p90 ms", "p99 ms", "images/s"),
    *(*STEPS, "GFLOP/image", "% of peak"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people, and below it what the figures belong to."""
    lines = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    image = rows[0]["image"]
    text.append(
        f"A run is a batch of images of {image['width_px']}x{image['height_px']} px ({image['bytes'] / 1e3:.0f} kB), "
        f"{WARM_UP} more to warm up; decode to readback are means in ms, readback with what makes inputs ready."
    )
    text += dict.fromkeys(_device_line(row["device"], row["peak"]) for row in rows)
    return "\n".join(text)


def _device_line(device: str, peak: dict[str, Any] | None) -> str:
    known = "unknown" if peak is None else f"{peak['flops_per_second'] / 1e9:.0f} GFLOP/s ({peak['name']})"
    return f"{device}: peak {known}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    flops, share = row["flops_per_image"], row["share_of_peak_percent"]
    return (
        *(row["engine"], row["runtime"], row["protocol"], ",".join(map(str, row["scales"]))),
        *(str(row["batch"]), str(row["runs"])),
        *(f"{value:.2f}" for value in row["latency_ms"].values()),
        f"{row['images_per_second']:.1f}",
        *(f"{value:.2f}" for value in row["split_ms"].values()),
        "-" if flops is None else f"{flops / 1e9:.2f}",
        "-" if share is None else f"{share:.0f}",
    )


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m infer.benchmark", description="Measure how fast engines are on this machine.")
    parser.add_argument(
        "--engine", required=True, action="append", type=Path, help="model.onnx or model.engine; any number"
    )
    parser.add_argument("--protocol", type=_protocols, default=["center"], metavar="P[,P...]", help="default: center")
    parser.add_argument("--scales", type=scales_argument, metavar="Q[,Q...]", help="default: the model's own")
    parser.add_argument(
        "--batch", type=_batches, default=[1], metavar="N[,N...]", help="images loaded together (default: 1)"
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: a synthetic JPEG of 500x375 px")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"default: {LEAST_RUNS}, and more until {LEAST_S:.0f} s are over"
    )
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args(argv)
    if args.runs is not None and args.runs < 1:
        parser.error(f"--runs: expected a positive number, got {args.runs}")
    try:
        data = synthetic_jpeg() if args.image is None else _whole_file(args.image)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    rows: list[dict[str, Any]] = []
    failed = False
    for path in args.engine:
        try:
            for row in benchmark(
                path,
                data,
                protocols=args.protocol,
                scales=args.scales,
                batches=args.batch,
                runs=args.runs,
                options=engine_options(args),
                say=_say,
            ):
                _say("")
                rows.append(row)
                if args.json:
                    print(json.dumps(row), flush=True)
        except PlanError as error:
            _say("")
            parser.error(str(error))
        except EngineError as error:
            _say("")
            print(error, file=sys.stderr)
            failed = True
    if rows and not args.json:
        print(table(rows))
    return 1 if failed else 0


def _say(text: str) -> None:
    """On a terminal, in place of what was said before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _whole_file(path: Path) -> bytes:
    """An image's bytes. Raises ImageError for a file that is none."""
    read(path)
    return path.read_bytes()


def _protocols(text: str) -> list[str]:
    for name in text.split(","):
        if name not in PROTOCOLS:
            raise argparse.ArgumentTypeError(f"unknown protocol {name!r}, expected {', '.join(PROTOCOLS)}")
    return text.split(",")


def _batches(text: str) -> list[int]:
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected positive numbers like 1,8, got {text!r}")
    return numbers


if __name__ == "__main__":
    run(main)
