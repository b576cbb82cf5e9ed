"""CUDA's driver through PyCUDA. Used by device.py alone.

PyCUDA gives a stream or an event back when its last reference goes, and only in the context that it came from. So no
frame of this file has a variable that holds one: a traceback would keep it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .driver import Bytes, Event, Graph, Memory, MemoryInfo, Pinned, Resource, Stream, failure

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING of cuda.h, which PyCUDA has no name for."""
CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating. PyCUDA knows nothing of graphs."""


_PRIMARY: dict[int, Any] = {}
"""Primary contexts by ordinal, retained once: see driver.py."""


class PyCudaDriver:
    """Implements `device.Driver`: one GPU, whose context is current in every call but `push`."""

    binding = "pycuda"

    def __init__(self, ordinal: int) -> None:
        self._cuda = importlib.import_module("pycuda.driver")
        with self._calling():
            self._cuda.init()
            device = self._cuda.Device(ordinal)
            self.name: str = device.name()
            self.capability: tuple[int, int] = device.compute_capability()
            if ordinal not in _PRIMARY:
                _PRIMARY[ordinal] = device.retain_primary_context()
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(_PRIMARY[ordinal]))  # PyCUDA would release it with Python
            self._context = _PRIMARY[ordinal]

    def push(self) -> None:
        with self._calling():
            self._context.push()

    def pop(self) -> None:
        with self._calling():
            self._cuda.Context.pop()

    def memory_info(self) -> MemoryInfo:
        with self._calling():
            return MemoryInfo(*map(int, self._cuda.mem_get_info()))

    def allocate(self, nbytes: int) -> Memory:
        with self._calling():
            memory = Memory(self._cuda.mem_alloc(nbytes), 0, nbytes)
        memory.address = int(memory.handle)
        return memory

    def pin(self, nbytes: int) -> Pinned:
        with self._calling():
            array: Bytes = self._cuda.pagelocked_empty(nbytes, np.uint8)
        return Pinned(array.base, array.ctypes.data, array)

    def stream(self) -> Stream:
        with self._calling():
            stream = Stream(self._cuda.Stream(NON_BLOCKING), 0)
        stream.address = int(stream.handle.handle)
        return stream

    def event(self, timing: bool) -> Event:
        with self._calling():
            flags = self._cuda.event_flags
            return Event(self._cuda.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING), 0)

    def free(self, resource: Resource) -> None:
        """Gives a resource back. A failure of the driver is no error here: PyCUDA says it on stderr."""
        with self._calling():
            if isinstance(resource, Memory | Pinned):
                resource.handle.free()
            elif isinstance(resource, Graph):
                _call("cuGraphExecDestroy", resource.handle)
            resource.handle = None

    def copy_in(self, address: int, source: Bytes, stream: Stream) -> None:
        """Bytes to the device, in the stream's order. `source` must be pinned and stay as it is until then."""
        with self._calling():
            self._cuda.memcpy_htod_async(address, source, stream.handle)

    def copy_out(self, target: Bytes, address: int, stream: Stream) -> None:
        """Bytes from the device, in the stream's order; `target` must be pinned and holds them once that is reached."""
        with self._calling():
            self._cuda.memcpy_dtoh_async(target, address, stream.handle)

    def record(self, event: Event, stream: Stream) -> None:
        """Puts the event behind all work of the stream so far."""
        with self._calling():
            event.handle.record(stream.handle)

    def wait(self, stream: Stream, event: Event) -> None:
        """Makes the stream's further work run after the event; the host goes on."""
        with self._calling():
            stream.handle.wait_for_event(event.handle)

    def reached(self, event: Event) -> bool:
        with self._calling():
            return bool(event.handle.query())

    def synchronize(self, event: Event) -> None:
        """Waits until the event is reached: on this thread alone, Python's lock is given away."""
        with self._calling():
            event.handle.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two reached events made with `timing`."""
        with self._calling():
            return float(start.handle.time_till(end.handle))

    def begin_capture(self, stream: Stream) -> None:
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.address), CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: Stream) -> Graph:
        captured, graph = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamEndCapture", ctypes.c_void_p(stream.address), ctypes.byref(captured))
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(graph), captured, ctypes.c_ulonglong(0))
        finally:
            _call("cuGraphDestroy", captured)
        return Graph(graph, graph.value or 0)

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Puts the graph's work into the stream."""
        _call("cuGraphLaunch", graph.handle, ctypes.c_void_p(stream.address))

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Raises CudaError where PyCUDA raises its own: `cuMemAlloc failed: out of memory`."""
        try:
            yield
        except self._cuda.Error as error:
            call, _, cause = str(error).partition(" failed: ")
            raise failure(call, cause.partition(" - ")[0]) from None


def _call(name: str, *arguments: object) -> None:
    """A call that PyCUDA does not have. Raises CudaError."""
    driver = ctypes.CDLL("libcuda.so.1")
    code = getattr(driver, name)(*arguments)
    if code:
        cause = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(cause))
        raise failure(name.partition("_v")[0], (cause.value or b"unknown error").decode())
