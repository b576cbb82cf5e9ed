"""Peak of a device, floating-point operations a second: measured on a CPU, from NVIDIA's data sheets for a GPU."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..cuda.device import Device
from ..cuda.driver import CudaError
from ..engine import HOST, Engine

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
    "NVIDIA GeForce RTX 3090": 142,  # GA102 white paper, accumulating in FP16
    "NVIDIA GeForce RTX 4090": 330,  # Ada white paper, the same
    "NVIDIA GeForce RTX 5090": 419,  # RTX Blackwell white paper, the same
}
"""Dense FP16 of the tensor cores, by the driver's name of the GPU."""

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
        return f"{_cpu_model()}, {_cpus()} CPUs"
    try:
        device = Device(int(engine.device.removeprefix("cuda:")))
    except CudaError:  # ONNX Runtime needs neither PyCUDA nor cuda-python
        return engine.device
    name = device.name
    device.close()
    return name


def device_peak(engine: Engine, name: str) -> Peak | None:
    """The peak of the device called `name` (`device_name`); None where it is not known. Takes MEASURE_S on a CPU."""
    if engine.device == HOST:
        return Peak(f"float32 matrix product by NumPy, {_cpus()} CPUs, measured", _matrix_product())
    if engine.spec.precision != "fp16" or name not in TENSOR_TFLOPS:
        return None
    return Peak("dense FP16 of the tensor cores, NVIDIA's data sheet", TENSOR_TFLOPS[name] * 1e12)


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


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
