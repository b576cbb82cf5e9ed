"""The little that an engine needs of CUDA's driver API, on PyCUDA, or on cuda-python where PyCUDA is not installed.

A `Device` is the primary context of one GPU, which is torch's and TensorRT's too, so that they can share a process.
Everything but `current` and `close` wants the context to be the thread's current one: `with device.current(): ...`.
Nothing is initialised by importing this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .engine import EngineError

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
"""What to do, by the driver's own words for the cause."""
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


class Stream(Resource):
    """Work in order. It does not wait for the default stream."""


class Event(Resource):
    """A place in a stream's work."""


class Graph(Resource):
    """Work of one stream that was captured, to be launched as a whole."""


class MemoryInfo(NamedTuple):
    free_bytes: int
    total_bytes: int


class Driver(Protocol):
    """One GPU through one binding. Every method may raise CudaError."""

    binding: str
    name: str
    capability: tuple[int, int]

    def push(self) -> None: ...
    def pop(self) -> None: ...
    def close(self) -> None: ...
    def memory_info(self) -> tuple[int, int]: ...
    def allocate(self, nbytes: int) -> Memory: ...
    def pin(self, nbytes: int) -> Pinned: ...
    def stream(self) -> Stream: ...
    def event(self, timing: bool) -> Event: ...
    def free(self, resource: Resource) -> None: ...
    def copy_in(self, address: int, source: Bytes, stream: Stream) -> None: ...
    def copy_out(self, target: Bytes, address: int, stream: Stream) -> None: ...
    def record(self, event: Event, stream: Stream) -> None: ...
    def wait(self, stream: Stream, event: Event) -> None: ...
    def reached(self, event: Event) -> bool: ...
    def synchronize(self, event: Event) -> None: ...
    def elapsed_ms(self, start: Event, end: Event) -> float: ...
    def begin_capture(self, stream: Stream) -> None: ...
    def end_capture(self, stream: Stream) -> Graph: ...
    def launch(self, graph: Graph, stream: Stream) -> None: ...


R = TypeVar("R", bound=Resource)


class Device:
    """A GPU and what was taken of it, all of which `close` gives back. Usable from several threads."""

    def __init__(self, ordinal: int = 0) -> None:
        """Raises CudaError without a binding, a driver or such a GPU."""
        self.ordinal = ordinal
        self._driver = _driver(ordinal)
        self._held: dict[Resource, None] = {}
        self._closed = False

    @property
    def name(self) -> str:
        return self._driver.name

    @property
    def binding(self) -> str:
        """The Python package under this: `pycuda` or `cuda-python`."""
        return self._driver.binding

    @property
    def target(self) -> str:
        """Compute capability as `sm86`."""
        return "sm{}{}".format(*self._driver.capability)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context this thread's current one, and the one before afterwards."""
        if self._closed:
            raise CudaError(f"GPU {self.ordinal} was closed: open the engine again")
        self._driver.push()
        try:
            yield
        except BaseException:
            with contextlib.suppress(CudaError):  # the first failure is the one to be told
                self._driver.pop()
            raise
        self._driver.pop()

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(*self._driver.memory_info())

    def allocate(self, nbytes: int) -> Memory:
        try:
            return self._hold(self._driver.allocate(nbytes))
        except CudaError as error:
            if "out of memory" not in str(error):
                raise
            free, total = self.memory_info()
            told = f"out of memory ({nbytes / 1e6:.1f} MB wanted, {free / 1e6:.0f} of {total / 1e6:.0f} MB free)"
            message = str(error).replace("out of memory", told, 1)
        raise CudaError(message)

    def pin(self, nbytes: int) -> Pinned:
        return self._hold(self._driver.pin(nbytes))

    def stream(self) -> Stream:
        return self._hold(self._driver.stream())

    def event(self, *, timing: bool = False) -> Event:
        return self._hold(self._driver.event(timing))

    def free(self, resource: Resource) -> None:
        """Gives one thing back before `close` does; the driver waits until nothing uses it. Twice is no error."""
        if resource in self._held:
            del self._held[resource]
            self._driver.free(resource)

    def copy_in(self, address: int, source: Bytes, stream: Stream) -> None:
        """Bytes to the device, in the stream's order. `source` must be pinned and stay as it is until then."""
        self._driver.copy_in(address, source, stream)

    def copy_out(self, target: Bytes, address: int, stream: Stream) -> None:
        """Bytes from the device, in the stream's order; `target` must be pinned and holds them once that is reached."""
        self._driver.copy_out(target, address, stream)

    def record(self, event: Event, stream: Stream) -> None:
        """Puts the event behind all work of the stream so far."""
        self._driver.record(event, stream)

    def wait(self, stream: Stream, event: Event) -> None:
        """What the stream gets from here on runs after the event; the host goes on."""
        self._driver.wait(stream, event)

    def reached(self, event: Event) -> bool:
        return self._driver.reached(event)

    def synchronize(self, event: Event) -> None:
        """Waits until the event is reached: on this thread alone, Python's lock is given away."""
        self._driver.synchronize(event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Between two reached events made with `timing`."""
        return self._driver.elapsed_ms(start, end)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` puts into the stream, which does not run. Meanwhile this thread can neither wait nor allocate."""
        self._driver.begin_capture(stream)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):
                self._driver.free(self._driver.end_capture(stream))
            raise
        return self._hold(self._driver.end_capture(stream))

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Puts the graph's work into the stream."""
        self._driver.launch(graph, stream)

    def close(self) -> None:
        """Gives everything back, last things first, whatever fails on the way. Raises the first failure; twice is no
        error."""
        if self._closed:
            return
        failed: list[CudaError] = []
        with _collecting(failed), self.current():
            while self._held:
                with _collecting(failed):
                    self._driver.free(self._held.popitem()[0])
        self._closed = True
        with _collecting(failed):
            self._driver.close()
        if failed:
            raise failed[0]

    def _hold(self, resource: R) -> R:
        self._held[resource] = None
        return resource


@contextlib.contextmanager
def _collecting(failed: list[CudaError]) -> Iterator[None]:
    try:
        yield
    except CudaError as error:
        failed.append(error)


def _driver(ordinal: int) -> Driver:
    reasons = []
    try:
        from . import cuda_pycuda

        return cuda_pycuda.PyCudaDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    try:
        from . import cuda_python

        return cuda_python.CudaPythonDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    raise CudaError(
        f"no way to the GPU ({'; '.join(reasons)}): pip install 'verydeep[cuda]' (PyCUDA) or cuda-python, on a machine "
        "with NVIDIA's driver"
    )
