"""Work that is on the GPU and has not been waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cuda.driver import Event, Memory, Pinned
from ..engine import DeviceImage, Outputs, in_order
from ..graph_inputs import Call
from .gpu import ALIGNMENT, Gpu, Left, Resident, aligned


class Output(NamedTuple):
    """An output of one call: its place in the block of all outputs, in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Layout(NamedTuple):
    """The outputs of some calls in one block of `nbytes`; those that are read back, `names`, lie first."""

    places: Sequence[Mapping[str, Output]]
    names: Sequence[str]
    nbytes: int

    @property
    def read_bytes(self) -> int:
        ends = [
            place.offset + aligned(place.nbytes)
            for own in self.places
            for name, place in own.items()
            if name in self.names
        ]
        return max(ends, default=ALIGNMENT)


Addresses = Sequence[Mapping[str, int]]
"""For each call the places of its outputs on the device."""


class Pending:
    """A plan's work on the GPU. `result` waits for it, once; an uncollected one costs its buffers' next user a wait."""

    def __init__(
        self,
        gpu: Gpu,
        image: DeviceImage,
        resident: Resident,
        calls: Sequence[Call],
        layout: Layout,
        spent: Callable[[float], None],
    ) -> None:
        """spent: gets the seconds that the GPU computed."""
        self._gpu, self._calls, self._layout, self._spent = gpu, calls, layout, spent
        self._image: DeviceImage | None = image  # whose buffers must stay until this was collected
        self._resident: Resident | None = resident
        self._collected = False

        self._buffers: list[Memory | Pinned] = []
        self._events: list[Event] = []  # the end of all
        self._timed: list[Event] = []  # start and end of computing
        self._token = resident.user = object()
        resident.idle = False

    def run(self, warm_up: Callable[[Addresses], None], enqueue: Callable[[Addresses], None]) -> None:
        """Enqueues the calls and the read-back of their outputs.

        `warm_up` and `enqueue` get the outputs' addresses; the first is not counted as time of computing.
        """
        gpu, device = self._gpu, self._gpu.device

        # Everything is in a list before anything can fail, so that it is given back.
        self._events.append(gpu.event())
        self._timed.append(gpu.event(timing=True))
        self._timed.append(gpu.event(timing=True))
        memory = gpu.memory(self._layout.nbytes)
        self._buffers.append(memory)
        self._host = gpu.pinned(self._layout.read_bytes)
        self._buffers.append(self._host)

        addresses = []
        for own in self._layout.places:
            addresses.append({name: memory.address + place.offset for name, place in own.items()})
        warm_up(addresses)
        start, end = self._timed
        device.record(start, gpu.compute)
        enqueue(addresses)
        device.record(end, gpu.compute)

        device.wait(gpu.download, end)
        device.copy_out(self._host.array[: self._layout.read_bytes], memory.address, gpu.download)
        device.record(self._events[0], gpu.download)

    def result(self) -> Outputs:
        """Waits, and returns what Engine.run does. Raises CudaError."""
        gpu, device = self._gpu, self._gpu.device
        with device.current():
            if not device.reached(self._events[0]):
                device.synchronize(self._events[0])  # not under the lock: others go on meanwhile

            parts = []
            for call, places in zip(self._calls, self._layout.places, strict=True):
                parts.append((call.places, self._outputs(call, places)))
            results = in_order(parts, self._layout.names)  # copies, so that the host's buffer can be used again

            with gpu.lock:
                self._spent(device.elapsed_ms(*self._timed) / 1e3)
                self._collected = True
                gpu.reuse(self._buffers, self._events, self._timed)
                if self._resident is not None and self._resident.user is self._token:
                    self._resident.idle = True
                self._image = self._resident = None
        return results

    def _outputs(self, call: Call, places: Mapping[str, Output]) -> Outputs:
        """Outputs of one call, in the host's buffer; pixel sums of the host where the graph has none."""
        found: Outputs = {}
        for name in self._layout.names:
            if name in places:
                place = places[name]
                block = self._host.array[place.offset : place.offset + place.nbytes]
                found[name] = block.view(place.dtype).reshape(place.shape)
            elif call.sums is not None:
                found[name] = call.sums
        return found

    def __del__(self) -> None:
        if not self._collected:
            self._gpu.returned.append(Left(False, self._buffers, self._events, self._timed))
