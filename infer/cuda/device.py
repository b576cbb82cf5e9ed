"""One GPU for an engine: CUDA's driver API on PyCUDA, or on cuda-python where PyCUDA is not installed.

A `Device` is the primary context of one GPU, which is torch's and TensorRT's too, so that they can share a process.
Everything but `current` and `close` wants the context to be the thread's current one: `with device.current(): ...`.
Nothing is initialised by importing this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from .driver import Bytes, CudaError, Event, Graph, Memory, Pinned, Resource, Stream

if TYPE_CHECKING:
    from .cuda_python import CudaPythonDriver
    from .pycuda import PyCudaDriver

    Driver: TypeAlias = PyCudaDriver | CudaPythonDriver


class MemoryInfo(NamedTuple):
    """Memory of a GPU."""

    free_bytes: int
    total_bytes: int


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
        """The Python package that calls the driver: `pycuda` or `cuda-python`."""
        return self._driver.binding

    @property
    def target(self) -> str:
        """Compute capability as `sm86`."""
        return "sm{}{}".format(*self._driver.capability)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context this thread's current one; afterwards the one before is current again."""
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
        """Gives one resource back before `close` does; the driver waits until nothing uses it. Twice is no error."""
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
        """Makes the stream's further work run after the event; the host goes on."""
        self._driver.wait(stream, event)

    def reached(self, event: Event) -> bool:
        return self._driver.reached(event)

    def synchronize(self, event: Event) -> None:
        """Waits until the event is reached: on this thread alone, Python's lock is given away."""
        self._driver.synchronize(event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two reached events made with `timing`."""
        return self._driver.elapsed_ms(start, end)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """The graph of what `work` puts into the stream, which does not run now.

        Meanwhile this thread can neither wait nor allocate.
        """
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
    """The GPU through the first binding that is installed. Raises CudaError where there is none."""
    reasons = []
    try:
        from .pycuda import PyCudaDriver

        return PyCudaDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    try:
        from .cuda_python import CudaPythonDriver

        return CudaPythonDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    raise CudaError(
        f"no way to the GPU ({'; '.join(reasons)}): pip install 'verydeep[cuda]' (PyCUDA) or cuda-python, on a machine "
        "with NVIDIA's driver"
    )
