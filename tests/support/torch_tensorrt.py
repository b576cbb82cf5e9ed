"""NOT TensorRT: the double of its runtime (fake_tensorrt.py) on a real GPU, with torch in place of its arithmetic.

A plugin of pytest (`-p torch_tensorrt`) for machines that have a GPU and torch but no TensorRT. It shows that the
engine's own code is right on the real driver: streams, events, addresses, pinned memory, threads, and pixels to the
bit. It says nothing of TensorRT, and no time of it is one of TensorRT. Without a GPU it runs on the simulated driver
and torch's CPU, which only tries this file.
"""

from __future__ import annotations

import ctypes
import math
import types
from collections.abc import Callable
from typing import Any

import fake_tensorrt as fake
import gpu
import numpy as np
import plans
import torch
from torch_session import TorchSession

from infer.cuda.device import Device

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


class _Raw:
    """Memory of the device as torch takes it over."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
            "strides": None,
        }


class _View:
    """Memory of the device with what fake_tensorrt.py does to an array."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def copy(self) -> torch.Tensor:
        return self._tensor.clone()

    def __setitem__(self, _: Any, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._tensor.copy_(value.reshape(self._tensor.shape))
        else:
            self._tensor.fill_(value)


class _RealDriver:
    """What the double asks of the driver, of the real one."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def current_context(self) -> int | None:
        context = ctypes.c_void_p()
        return None if self._library.cuCtxGetCurrent(ctypes.byref(context)) else context.value

    def is_lost(self) -> bool:
        return bool(self._library.cuCtxSynchronize())

    def bytes_from(self, address: int) -> int:
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        if self._library.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)):
            return 0
        return int(base.value) + int(size.value) - address

    def view(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> _View:
        if self.bytes_from(address) < math.prod(shape) * dtype.itemsize:
            fake.breach(f"{what}: no memory of the device at {address:#x}")
        return _View(torch.as_tensor(_Raw(address, shape, dtype), device=DEVICE))

    def forget(self) -> None:
        """Nothing is kept: what torch put into a stream runs without us."""

    def captures(self, stream: int) -> bool:
        status = ctypes.c_int()
        self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value == 1

    def launch(self, stream: int, work: Callable[[], None], captures: list[Any]) -> bool:
        """Puts torch's kernels into the stream, now: a host function may not call CUDA."""
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            work()
        return True


class _SimulatedDriver(fake._Driver):
    def view(self, *arguments: Any) -> Any:
        return _View(torch.from_numpy(super().view(*arguments)))


_drivers: list[Any] = []


def _driver() -> Any:
    if not _drivers:
        _drivers.append(_RealDriver() if ON_GPU else _SimulatedDriver())
    return _drivers[0]


def _here() -> str:
    device = Device()
    try:
        return device.target
    finally:
        device.close()


def write_plan(*arguments: Any, **changes: Any) -> Any:
    """A plan of the double for the GPU that is here."""
    return plans.write_plan(*arguments, **{"targets": [_here()], **changes})


torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.deterministic = True
fake._driver = _driver
fake.onnxruntime = types.SimpleNamespace(
    SessionOptions=lambda: types.SimpleNamespace(intra_op_num_threads=0),
    InferenceSession=lambda path, options, providers: TorchSession(path, DEVICE),
)
gpu.write_plan = write_plan
