"""One GPU for an engine: CUDA's driver API on cuda-python, or on PyCUDA where cuda-python is not installed.

A `Device` is the primary context of one GPU, which is torch's and TensorRT's too, so that they can share a process.
Everything but `current` and `close` wants the context to be the thread's current one: `with device.current(): ...`.
Nothing is initialised by importing this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from .driver import CudaError, Event, Graph, Memory, Pinned, Resource, Stream

if TYPE_CHECKING:
    from .cuda_python import CudaPythonDriver
    from .pycuda import PyCudaDriver

    Driver: TypeAlias = PyCudaDriver | CudaPythonDriver


R = TypeVar("R", bound=Resource)


class Device:
    """A GPU and what was taken of it, all of which `close` gives back, but for the context (driver.py). Usable from
    several threads."""

    def __init__(self, ordinal: int = 0) -> None:
        """Raises CudaError without a binding, a driver or such a GPU."""
        self.ordinal = ordinal
        self.driver = _driver(ordinal)  # for the calls that take nothing and give nothing back
        self.name = self.driver.name
        self.target = "sm{}{}".format(*self.driver.capability)  # compute capability as `sm86`
        self._held: dict[Resource, None] = {}
        self._closed = False

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context this thread's current one; afterwards the one before is current again."""
        if self._closed:
            raise CudaError(f"GPU {self.ordinal} was closed: open the engine again")
        self.driver.push()
        try:
            yield
        except BaseException:
            with contextlib.suppress(CudaError):  # the first failure is the one to be told
                self.driver.pop()
            raise
        self.driver.pop()

    def allocate(self, nbytes: int) -> Memory:
        try:
            return self._hold(self.driver.allocate(nbytes))
        except CudaError as error:
            if "out of memory" not in str(error):
                raise
            free, total = self.driver.memory_info()
            told = f"out of memory ({nbytes / 1e6:.1f} MB wanted, {free / 1e6:.0f} of {total / 1e6:.0f} MB free)"
            message = str(error).replace("out of memory", told, 1)
        raise CudaError(message)

    def pin(self, nbytes: int) -> Pinned:
        return self._hold(self.driver.pin(nbytes))

    def stream(self) -> Stream:
        return self._hold(self.driver.stream())

    def event(self, *, timing: bool = False) -> Event:
        return self._hold(self.driver.event(timing))

    def free(self, resource: Resource) -> None:
        """Gives one resource back before `close` does; the driver waits until nothing uses it. Twice is no error."""
        if resource in self._held:
            del self._held[resource]
            self.driver.free(resource)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """The graph of what `work` puts into the stream, which does not run now.

        Meanwhile this thread can neither wait nor allocate.
        """
        self.driver.begin_capture(stream)
        try:
            work()
        except BaseException:
            with contextlib.suppress(CudaError):
                self.driver.free(self.driver.end_capture(stream))
            raise
        return self._hold(self.driver.end_capture(stream))

    def close(self) -> None:
        """Gives everything back, last things first, whatever fails on the way. Raises the first failure; twice is no
        error."""
        if self._closed:
            return

        failed: list[CudaError] = []
        with _collecting(failed), self.current():
            while self._held:
                with _collecting(failed):
                    self.driver.free(self._held.popitem()[0])
        self._closed = True
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
        from .cuda_python import CudaPythonDriver

        return CudaPythonDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    try:
        from .pycuda import PyCudaDriver

        return PyCudaDriver(ordinal)
    except ImportError as error:
        reasons.append(str(error))
    raise CudaError(
        f"no way to the GPU ({'; '.join(reasons)}): pip install 'verydeep[cuda-python]' (cuda-bindings 12.6 or "
        "newer) or 'verydeep[cuda]' (PyCUDA), on a machine with NVIDIA's driver"
    )
