"""Buffers, streams, events and graphs of CUDA's driver, and its errors.

A process retains the primary context of a GPU once and keeps it until it ends. Were it released with the last engine,
all that TensorRT's library keeps in it for the next one would be gone.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import EngineError

Bytes = NDArray[np.uint8]


class CudaError(EngineError):
    """A call of the driver that failed; one line: which, why, what to do."""


ADVICE = {
    "out of memory": "close what else runs on this GPU (nvidia-smi lists it), or build the engine with a smaller "
    "--profile",
    "no CUDA-capable device is detected": "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the ONNX model",
    "invalid device ordinal": "nvidia-smi -L lists the GPUs there are",
    "invalid device context": "use it inside `with device.current()`",
}
"""The user's next step, by the driver's own words for the cause."""

LOST = "what this process had on the GPU is lost: start it again, and look for NVRM in dmesg if it happens again"

LOSES = ("launch failure", "illegal memory access", "illegal instruction", "misaligned", "ECC", "unknown error")
"""Words of causes after which every call fails."""


def failure(call: str, cause: str) -> CudaError:
    """The error of a failed call, with advice for its cause."""
    advice = LOST if any(word in cause for word in LOSES) else ADVICE.get(cause, "nvidia-smi shows the GPU's state")
    return CudaError(f"{call} failed: {cause}: {advice}")


@dataclass(eq=False, slots=True)
class Resource:
    """Something to be given back. `handle` is the binding's own, None afterwards; `address` is the plain number."""

    handle: Any
    address: int


@dataclass(eq=False, slots=True)
class Memory(Resource):
    """Memory on the device, aligned to 256 bytes at least."""

    nbytes: int


@dataclass(eq=False, slots=True)
class Pinned(Resource):
    """Host memory that copies do not have to wait for: `array` u8 [nbytes], not to be used after `free`."""

    array: Bytes

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


class Stream(Resource):
    """Work in order. It does not wait for the default stream."""


class Event(Resource):
    """A place in a stream's work."""


class Graph(Resource):
    """Work of one stream that was captured, to be launched as a whole."""


class MemoryInfo(NamedTuple):
    """Memory of a GPU."""

    free_bytes: int
    total_bytes: int


def gpu_present() -> str | None:
    """Compute capability of the first GPU as `sm86`, None without a GPU or a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None

    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # cuda.h: ..._COMPUTE_CAPABILITY_MAJOR
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    )
    return None if failed else f"sm{major.value}{minor.value}"
