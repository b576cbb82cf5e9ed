"""Three rates of engines on this machine, for each protocol and batch, and where the time goes.

Latency: a run is what an application does with a batch of images that have just come in, from their bytes to the mean
posterior of each: decode, plan, `load`, `run`, one after the other, with nothing else under way. Compute alone: the
time inside the runtime in these runs. Pipelined: what a long run gives, where decoding and the engine overlap
(pipelined.py). All come after WARM_UP runs that do not count.
"""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cuda.device import Device
from ..cuda.driver import CudaError
from ..engine import HOST, Engine, EngineError, Starting
from ..open import open_engine
from ..pixels.decode import decode
from ..pixels.nvjpeg import Decode, DecoderName, open_decoder
from ..processes.cores import usable_cores
from ..spec import ModelSpec, Size
from ..views import ViewPlan, default_scales, out_of_range, plan_views
from .pipelined import LEAST_RUNS, LEAST_S, WARM_UP, Planner, mean_posteriors, time_pipelined
from .points import EvaluatedRun

STEPS = ("decode", "upload", "compute", "readback")
"""`decode` is with the plan of the views. `upload` is Engine.load and Engine.start, but for what overlaps with
`compute`, the time inside the runtime; `readback` is the rest of the wait for the answer, in which an engine on the
host makes its inputs ready, too, and views are averaged."""

Seconds = NDArray[np.float64]
"""[runs, steps]"""


def time_runs(
    engine: Engine, data: bytes, plan: Planner, batch: int, runs: int | None, decode: Decode = decode
) -> Seconds:
    """Seconds of each step of each run. Raises EngineError, ImageError.

    Without `runs` there are LEAST_RUNS of them at least, and LEAST_S seconds.
    """
    for _ in range(WARM_UP):
        _run(engine, data, plan, batch, decode)
    seconds: list[list[float]] = []
    started = time.perf_counter()
    while len(seconds) < (runs or LEAST_RUNS) or (runs is None and time.perf_counter() - started < LEAST_S):
        seconds.append(_run(engine, data, plan, batch, decode))
    return np.array(seconds)


def _run(engine: Engine, data: bytes, plan: Planner, batch: int, decode: Decode) -> list[float]:
    """Seconds of each step. Every image is decoded for itself, since pixels on the device are not uploaded again."""
    before, started = engine.seconds, time.perf_counter()
    images = [decode(data, exif=engine.spec.preprocessing.exif) for _ in range(batch)]
    plans = [plan((image.shape[0], image.shape[1])) for image in images]
    decoded = time.perf_counter()
    loaded = engine.load(images)

    if isinstance(engine, Starting):
        work = engine.start(loaded, plans)
        uploaded = time.perf_counter()
        mean_posteriors(plans, work.result())
    else:
        uploaded = time.perf_counter()
        mean_posteriors(plans, engine.run(loaded, plans))
    ended, compute = time.perf_counter(), engine.seconds - before

    # A GPU begins while the host still hands over: what overlaps is time of computing.
    upload = min(uploaded, ended - compute) - decoded
    return [decoded - started, upload, compute, ended - decoded - upload - compute]


def figures(seconds: Seconds, batch: int, flops_per_image: int | None, peak: Peak | None) -> dict[str, Any]:
    """The figures of some runs, as in --json.

    Latencies are of a run, percentiles between neighbours linear; `images_per_second` is that of runs one after the
    other; the split is a run's mean; the share of the peak counts `compute` alone.
    """
    latency, share = seconds.sum(1), None  # [runs]
    if flops_per_image is not None and peak is not None:
        share = 100 * flops_per_image * batch / seconds[:, 2].mean() / peak.flops_per_second
    compute_s = float(seconds[:, 2].sum())
    return {
        "runs": len(seconds),
        "latency_ms": {f"p{q}": 1e3 * float(np.percentile(latency, q)) for q in (50, 90, 99)},
        "images_per_second": batch * len(seconds) / float(latency.sum()),
        "split_ms": dict(zip(STEPS, (1e3 * seconds.mean(0)).tolist(), strict=True)),
        "flops_per_image": flops_per_image,
        "share_of_peak_percent": share,
        "compute_images_per_second": batch * len(seconds) / compute_s if compute_s else None,
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
    decoder: DecoderName = "cpu",
    workers: int = 1,
    evaluated: EvaluatedRun | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """A row of --json for each protocol and batch, of an encoded image.

    options: keyword arguments of `open_engine`; workers: threads that decode where that overlaps; evaluated: a run
    that must have this engine's error by each protocol; say: is told what is measured next. Raises DecoderError,
    EngineError, ImageError, PlanError, PointError.
    """
    say(f"{path}: opening")
    decode = open_decoder(decoder, (options or {}).get("device", 0))
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
            known = evaluated and evaluated.result_of(path, engine, protocol, own_scales)

            def plan_image(size: Size, protocol: str = protocol, own_scales: Sequence[int] = own_scales) -> ViewPlan:
                return plan_views(spec, protocol, size, own_scales)

            for batch in batches:
                say(f"{path}: {protocol}, batch {batch}")
                seconds = time_runs(engine, data, plan_image, batch, runs, decode)
                say(f"{path}: {protocol}, batch {batch}, pipelined")
                planned = functools.lru_cache(plan_image)  # as evaluations plan, once for each size
                pipelined = time_pipelined(engine, data, planned, batch, runs, workers=workers, decode=decode)
                yield {
                    "engine": str(path),
                    "protocol": protocol,
                    "device": device,
                    **figures(seconds, batch, plan_flops(spec, plan), peak),
                    "pipelined_images_per_second": pipelined,
                    "workers": workers,
                    "decoder": decoder,
                    "batch": batch,
                    "scales": list(own_scales),
                    "views_per_image": len(plan),
                    "image": {"height_px": height, "width_px": width, "bytes": len(data)},
                    "model": spec.name,
                    "engine_sha256": engine.sha256,
                    "runtime": engine.runtime,
                    "arithmetic": engine.arithmetic,
                    "cuda_graphs": bool((options or {}).get("cuda_graphs")),
                    "warm_up_runs": WARM_UP,
                    "peak": peak and peak._asdict(),
                    "evaluated": known and msgspec.to_builtins(known),
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


# Peak of a device, floating-point operations a second: measured on a CPU, from NVIDIA's data sheets for a GPU

TENSOR_TFLOPS = {
    "Tesla T4": 65,  # T4 data sheet
    "NVIDIA A10": 125,  # A10 data sheet
    "NVIDIA A30": 165,  # A30 data sheet
    "NVIDIA A100-SXM4-40GB": 312,  # A100 data sheet
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA L4": 121,  # L4 data sheet, half of what it gives with sparsity; so all below but the GeForce
    "NVIDIA L40S": 362,  # L40S data sheet
    "NVIDIA H100 PCIe": 756,  # H100 data sheet
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H200": 989,  # H200 data sheet
    "NVIDIA GeForce RTX 3090": 142,  # GA102 white paper; of GeForce cards with sums in FP16
    "NVIDIA GeForce RTX 4090": 330,  # Ada white paper
    "NVIDIA GeForce RTX 5090": 419,  # RTX Blackwell white paper
}
"""Dense FP16 of the tensor cores, by the driver's name of the GPU."""
SUMS_DIFFER = "NVIDIA GeForce"
"""How cards are called that reach half as much where products are summed in FP32 (white papers: 71, 165, 209.5).

Which sums a kernel has is TensorRT's choice, so the share of such a card's peak names the sums of that peak.
"""

MATRIX = 2048
"""Side of the matrices that are multiplied to measure a CPU."""
MEASURE_S = 0.5


class Peak(NamedTuple):
    """A peak; `name` says of what operations, and where the number comes from."""

    name: str
    flops_per_second: float


def device_name(engine: Engine) -> str:
    """The processor that an engine runs on, as its maker calls it."""
    if engine.device == HOST:
        return f"{_cpu_model()}, {usable_cores()} CPUs"
    try:
        device = Device(int(engine.device.removeprefix("cuda:")))
    except CudaError:  # ONNX Runtime needs neither PyCUDA nor cuda-python
        return engine.device
    name = device.name
    device.close()
    return name


def device_peak(engine: Engine, name: str) -> Peak | None:
    """The peak of the device called `name` (`device_name`); None where it is not known. Takes MEASURE_S on a CPU."""
    if engine.spec.precision == "int8":
        return None  # the products are of two kinds
    if engine.device == HOST:
        return Peak(f"float32 matrix product by NumPy, {usable_cores()} CPUs, measured", _matrix_product())
    if engine.spec.precision != "fp16" or name not in TENSOR_TFLOPS:
        return None
    sums = "summed in FP16 or FP32"
    if name.startswith(SUMS_DIFFER):
        sums = "summed in FP16 (in FP32: half of it)"
    return Peak(f"dense FP16 of the tensor cores {sums}, NVIDIA's data sheet", TENSOR_TFLOPS[name] * 1e12)


@functools.cache
def _matrix_product() -> float:
    """Floating-point operations a second, of the fastest product."""
    a = np.ones((MATRIX, MATRIX), np.float32)
    out = a @ a  # threads start, memory is touched
    seconds: list[float] = []
    while sum(seconds) < MEASURE_S or len(seconds) < 3:
        started = time.perf_counter()
        np.matmul(a, a, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * MATRIX**3 / min(seconds)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


# Floating-point operations of our nets' convolutions, two for each multiply-add, for views of any size. They follow
# from the spec, which every engine carries: a plan does not show its layers, and reading a graph would take the onnx
# library. Pooling, LRN and rescaling are not counted. Tests compare with the exported graphs.

VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_KERNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Sides of the kernels in each of the five blocks (arXiv 1409.1556, Table 1)."""

GOOGLENET_STEM = (64, 64, 192)  # 7x7/2, 1x1, 3x3
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection (arXiv 1409.4842, Table 1)."""
LARGE_KERNEL = {"googlenet": 5, "googlenet-tv": 3}
"""Side of the 5x5 kernels: torchvision's are 3x3."""


def plan_flops(spec: ModelSpec, plan: ViewPlan) -> int | None:
    """Operations of all views of an image; None for a net that is not ours."""
    if spec.net not in (*VGG_KERNELS, *LARGE_KERNEL):
        return None
    count = _vgg if spec.net in VGG_KERNELS else _googlenet
    return sum(2 * count(spec, view.size_px) for view in plan.views)


def _scaled(channels: int, spec: ModelSpec) -> int:
    return max(1, round(channels * spec.width))


def _vgg(spec: ModelSpec, size_px: Size) -> int:
    """Multiply-adds of one view."""
    (height, width), channels, total = size_px, 3, 0
    for paper, kernels in zip(VGG_CHANNELS, VGG_KERNELS[spec.net], strict=True):
        for kernel in kernels:
            total += height * width * channels * _scaled(paper, spec) * kernel**2
            channels = _scaled(paper, spec)
        up = spec.pool_rounding == "ceil"
        height, width = (height + up) // 2, (width + up) // 2
    kernel, fc = spec.crop_px // 32, spec.fc_width
    positions = (height - kernel + 1) * (width - kernel + 1)
    return total + positions * (channels * fc * kernel**2 + fc * fc + fc * len(spec.classes))


def _googlenet(spec: ModelSpec, size_px: Size) -> int:
    """Multiply-adds of one view. A 3x3 pool at stride 2 that rounds up halves, rounding down."""
    height, width = (size_px[0] + 1) // 2, (size_px[1] + 1) // 2
    conv1, reduce, channels = (_scaled(paper, spec) for paper in GOOGLENET_STEM)
    total = height * width * 3 * conv1 * 7**2

    height, width = height // 2, width // 2
    total += height * width * (conv1 * reduce + reduce * channels * 3**2)

    height, width = height // 2, width // 2
    for name, row in INCEPTION.items():
        if name in ("4a", "5a"):
            up = name == "5a" and spec.net == "googlenet-tv"  # whose last pool is 2x2
            height, width = (height + up) // 2, (width + up) // 2
        one, reduce3, three, reduce5, five, projection = (_scaled(paper, spec) for paper in row)
        total += height * width * channels * (one + reduce3 + reduce5 + projection)
        total += height * width * (reduce3 * three * 3**2 + reduce5 * five * LARGE_KERNEL[spec.net] ** 2)
        channels = one + three + five + projection

    pool = spec.crop_px // 32
    return total + (height - pool + 1) * (width - pool + 1) * channels * len(spec.classes)
