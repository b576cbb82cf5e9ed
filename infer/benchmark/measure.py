"""Latency and throughput of engines on this machine, for each protocol and batch, and where the time goes.

A run is what an application does with a batch of images that have just come in: decode, `load`, `run`, one after the
other, with nothing else under way. Runs come after WARM_UP others that do not count.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..engine import Engine, EngineError, Starting
from ..open import open_engine
from ..pixels.decode import decode
from ..views import ViewPlan, default_scales, out_of_range, plan_views
from .flops import plan_flops
from .peak import Peak, device_name, device_peak

WARM_UP = 2
LEAST_RUNS, LEAST_S = 10, 5.0
STEPS = ("decode", "upload", "compute", "readback")
"""`upload` is Engine.load and Engine.start, but for what overlaps with `compute`, the time inside the runtime;
`readback` is the rest of the wait for the result, in which an engine on the host makes its inputs ready, too."""

Seconds = NDArray[np.float64]
"""[runs, steps]"""


def time_runs(engine: Engine, data: bytes, plan: ViewPlan, batch: int, runs: int | None) -> Seconds:
    """Seconds of each step of each run. Raises EngineError, ImageError.

    Without `runs` there are LEAST_RUNS of them at least, and LEAST_S seconds.
    """
    for _ in range(WARM_UP):
        _run(engine, data, plan, batch)
    seconds: list[list[float]] = []
    started = time.perf_counter()
    while len(seconds) < (runs or LEAST_RUNS) or (runs is None and time.perf_counter() - started < LEAST_S):
        seconds.append(_run(engine, data, plan, batch))
    return np.array(seconds)


def _run(engine: Engine, data: bytes, plan: ViewPlan, batch: int) -> list[float]:
    """Seconds of each step. Every image is decoded for itself, since pixels on the device are not uploaded again."""
    before, started = engine.seconds, time.perf_counter()
    images = [decode(data, exif=engine.spec.preprocessing.exif) for _ in range(batch)]
    decoded = time.perf_counter()
    loaded, plans = engine.load(images), [plan] * batch

    if isinstance(engine, Starting):
        work = engine.start(loaded, plans)
        uploaded = time.perf_counter()
        work.result()
    else:
        uploaded = time.perf_counter()
        engine.run(loaded, plans)
    ended, compute = time.perf_counter(), engine.seconds - before

    # A GPU begins while the host still hands over: what overlaps is time of computing.
    upload = min(uploaded, ended - compute) - decoded
    return [decoded - started, upload, compute, ended - decoded - upload - compute]


def figures(seconds: Seconds, batch: int, flops_per_image: int | None, peak: Peak | None) -> dict[str, Any]:
    """The figures of some runs, as in --json.

    Latencies are of a run, percentiles between neighbours linear; the split is a run's mean; the share of the peak
    counts `compute` alone.
    """
    latency, share = seconds.sum(1), None  # [runs]
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
    """A row of --json for each protocol and batch, of an encoded image.

    options: keyword arguments of `open_engine`; say: is told what is measured next. Raises EngineError, ImageError,
    PlanError.
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
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    colours = coarse.resize((500, 375), Image.Resampling.BICUBIC)
    noisy = np.asarray(colours) + random.normal(0, 25, (375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
