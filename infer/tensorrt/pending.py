"""Work that is on the GPU and has not been waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cuda.driver import Event, Memory, Pinned
from ..engine import DeviceImage
from .calls import Call
from .gpu import ALIGNMENT, Gpu, Left, Resident, aligned


class Output(NamedTuple):
    """An output of one call: its place in the block of all outputs, in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Pending:
    """A plan's work on the GPU. `result` waits for it, once; an uncollected one costs its buffers' next user a wait."""

    def __init__(self, gpu: Gpu, image: DeviceImage, resident: Resident, spent: Callable[[float], None]) -> None:
        """spent: gets the seconds that the GPU computed."""
        self._gpu, self._spent = gpu, spent
        self._image: DeviceImage | None = image  # whose buffers must stay until this was collected
        self._resident: Resident | None = resident
        self._collected = False
        self._buffers: list[Memory | Pinned] = []
        self._events: list[Event] = []  # the end of all
        self._timed: list[Event] = []  # start and end of computing
        self._token = resident.user = object()
        resident.idle = False

    def run(
        self,
        calls: Sequence[Call],
        places: Sequence[Mapping[str, Output]],
        names: Sequence[str],
        nbytes: int,
        warm_up: Callable[[Sequence[Mapping[str, int]]], None],
        enqueue: Callable[[Sequence[Mapping[str, int]]], None],
    ) -> None:
        """Enqueues the calls and the read-back of the outputs `names`, which lie first in the block of `nbytes`.

        `warm_up` and `enqueue` get the outputs' addresses; the first is not counted as time of computing.
        """
        self._calls, self._places, self._names = calls, places, names
        self._events.append(self._gpu.event())
        self._timed += [self._gpu.event(timing=True), self._gpu.event(timing=True)]
        start, end = self._timed
        read = [place for own in places for name, place in own.items() if name in names]
        self._read_bytes = max((place.offset + aligned(place.nbytes) for place in read), default=ALIGNMENT)
        gpu, device = self._gpu, self._gpu.device
        memory = gpu.memory(nbytes)
        self._buffers.append(memory)
        self._host = gpu.pinned(self._read_bytes)
        self._buffers.append(self._host)
        addresses = [{name: memory.address + place.offset for name, place in own.items()} for own in places]
        warm_up(addresses)
        device.record(start, gpu.compute)
        enqueue(addresses)
        device.record(end, gpu.compute)
        device.wait(gpu.download, end)
        device.copy_out(self._host.array[: self._read_bytes], memory.address, gpu.download)
        device.record(self._events[0], gpu.download)

    def result(self) -> dict[str, NDArray[Any]]:
        """As Engine.run. Raises CudaError."""
        gpu, device = self._gpu, self._gpu.device
        with device.current():
            if not device.reached(self._events[0]):
                device.synchronize(self._events[0])  # not under the lock: others go on meanwhile
            results = {name: self._gather(name) for name in self._names}
            with gpu.lock:
                self._spent(device.elapsed_ms(*self._timed) / 1e3)
                self._collected = True
                gpu.reuse(self._buffers, self._events, self._timed)
                if self._resident is not None and self._resident.user is self._token:
                    self._resident.idle = True
                self._image = self._resident = None
        return results

    def _gather(self, name: str) -> NDArray[Any]:
        """Rows of an output in the order of the plans."""
        rows: list[Any] = [None] * sum(len(call.places) for call in self._calls)
        for call, own in zip(self._calls, self._places, strict=True):
            values: Any = call.sums  # of a graph that has none
            if name in own:
                place = own[name]
                end = place.offset + place.nbytes
                values = self._host.array[place.offset : end].view(place.dtype).reshape(place.shape)
            for row, value in zip(call.places, values, strict=True):
                rows[row] = value
        return np.stack(rows)

    def __del__(self) -> None:
        if not self._collected:
            self._gpu.returned.append(Left(False, self._buffers, self._events, self._timed))
