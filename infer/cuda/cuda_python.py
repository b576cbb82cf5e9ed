"""CUDA's driver through NVIDIA's cuda-python. Used by device.py alone."""

from __future__ import annotations

import ctypes
import importlib.metadata
import time
from typing import Any

import numpy as np
from cuda.bindings import driver as cuda

from ..engine import version_numbers
from .driver import Bytes, Event, Graph, Memory, MemoryInfo, Pinned, Resource, Stream, failure


def _call(name: str, *arguments: Any) -> Any:
    """The value of a driver call. Raises CudaError."""
    try:
        code, *values = getattr(cuda, name)(*arguments)
    except RuntimeError as error:  # no driver, or one that has not this call
        raise failure(name, str(error)) from None
    if code != cuda.CUresult.CUDA_SUCCESS:
        raise failure(name, cuda.cuGetErrorString(code)[1].decode())
    return values[0] if len(values) == 1 else values


def _address(handle: Any) -> int:
    """The plain number of a handle: `int` of one is deprecated from 12.9.1 and 13.0 on, whose way the older lack."""
    try:
        from cuda.bindings.utils import get_cuda_native_handle
    except ImportError:
        return int(handle)
    return int(get_cuda_native_handle(handle))


POLL_S = 1e-4
"""Seconds between two looks at an event."""


def waiting_holds_the_lock(version: str) -> bool:
    """Whether these bindings keep Python's lock while a call waits, which would stop all other threads.

    They let it go from 12.9.1 and 13.0.0 on (release notes of cuda-bindings).
    """
    return version_numbers(version) < (12, 9, 1)


_FREE = {
    Memory: "cuMemFree",
    Pinned: "cuMemFreeHost",
    Stream: "cuStreamDestroy",
    Event: "cuEventDestroy",
    Graph: "cuGraphExecDestroy",
}


_PRIMARY: dict[int, Any] = {}
"""Primary contexts by ordinal, retained once: see driver.py."""


class CudaPythonDriver:
    """Implements `device.Driver` as PyCudaDriver does, whose methods say what each is for."""

    binding = "cuda-python"

    def __init__(self, ordinal: int) -> None:
        _call("cuInit", 0)
        self._device = _call("cuDeviceGet", ordinal)
        self.name = _call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        kinds = cuda.CUdevice_attribute
        major = _call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self._device)
        minor = _call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self._device)
        self.capability = (int(major), int(minor))
        self._polls = waiting_holds_the_lock(importlib.metadata.version("cuda-bindings"))
        if ordinal not in _PRIMARY:
            _PRIMARY[ordinal] = _call("cuDevicePrimaryCtxRetain", self._device)
        self._context = _PRIMARY[ordinal]

    def push(self) -> None:
        _call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        _call("cuCtxPopCurrent")

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(*_call("cuMemGetInfo"))

    def allocate(self, nbytes: int) -> Memory:
        handle = _call("cuMemAlloc", nbytes)
        return Memory(handle, int(handle), nbytes)  # a CUdeviceptr is a number

    def pin(self, nbytes: int) -> Pinned:
        address = int(_call("cuMemHostAlloc", nbytes, 0))
        return Pinned(address, address, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)))

    def stream(self) -> Stream:
        handle = _call("cuStreamCreate", cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        return Stream(handle, _address(handle))

    def event(self, timing: bool) -> Event:
        flags = cuda.CUevent_flags.CU_EVENT_DEFAULT if timing else cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING
        handle = _call("cuEventCreate", flags.value)
        return Event(handle, _address(handle))

    def free(self, resource: Resource) -> None:
        handle, resource.handle = resource.handle, None
        _call(_FREE[type(resource)], handle)

    def copy_in(self, address: int, source: Bytes, stream: Stream) -> None:
        _call("cuMemcpyHtoDAsync", address, source.ctypes.data, source.nbytes, stream.handle)

    def copy_out(self, target: Bytes, address: int, stream: Stream) -> None:
        _call("cuMemcpyDtoHAsync", target.ctypes.data, address, target.nbytes, stream.handle)

    def record(self, event: Event, stream: Stream) -> None:
        _call("cuEventRecord", event.handle, stream.handle)

    def wait(self, stream: Stream, event: Event) -> None:
        _call("cuStreamWaitEvent", stream.handle, event.handle, 0)

    def reached(self, event: Event) -> bool:
        if cuda.cuEventQuery(event.handle) == (cuda.CUresult.CUDA_ERROR_NOT_READY,):
            return False
        _call("cuEventQuery", event.handle)
        return True

    def synchronize(self, event: Event) -> None:
        if not self._polls:
            _call("cuEventSynchronize", event.handle)
            return
        while not self.reached(event):
            time.sleep(POLL_S)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(_call("cuEventElapsedTime", start.handle, end.handle))

    def begin_capture(self, stream: Stream) -> None:
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call("cuStreamBeginCapture", stream.handle, mode)

    def end_capture(self, stream: Stream) -> Graph:
        captured = _call("cuStreamEndCapture", stream.handle)
        try:
            handle = _call("cuGraphInstantiate", captured, 0)
        finally:
            _call("cuGraphDestroy", captured)
        return Graph(handle, _address(handle))

    def launch(self, graph: Graph, stream: Stream) -> None:
        _call("cuGraphLaunch", graph.handle, stream.handle)
