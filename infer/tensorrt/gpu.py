"""One GPU for all engines of a process: its streams and buffers, what lies on it of a loaded image, and work on it.

Uploads, computations and read-backs have a stream each, so that those of neighbouring images overlap. Computations of
all engines share one, in whose order they can share the memory for activations, too. Buffers are kept and used again.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cuda.device import Device
from ..cuda.driver import CudaError, Event, Memory, Pinned
from ..engine import DeviceImage, Outputs, in_order
from ..graph_inputs import ALIGNMENT, Call, Feed, Packed, Unwritten

LARGE = 1 << 18
"""Bytes from which an array is not compared: tables and taps have less, pixels more."""
TABLES_BYTES = 1 << 26
"""Bytes of tables and taps that stay on the device from image to image."""
SMALLEST_BUFFER, BUFFER_STEP = 1 << 16, 1 << 24
SCRATCH_STEP = 1 << 21
"""Bytes in which buffers, and the memory for activations, grow."""

B = TypeVar("B", Memory, Pinned)


class Tensor(NamedTuple):
    """An input that lies on the device."""

    address: int
    shape: tuple[int, ...]


def aligned(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Gpu:
    """A device, its three streams and its buffers. Use it under `lock`, inside `device.current()`."""

    def __init__(self, ordinal: int) -> None:
        self.lock = threading.RLock()
        self.device = Device(ordinal)
        self.users = 0
        self.scratch: Memory | None = None
        self.returned: deque[Left] = deque()
        self._memory: list[Memory] = []
        self._pinned: list[Pinned] = []
        self._events: dict[bool, list[Event]] = {False: [], True: []}  # by timing
        self._tables: OrderedDict[int, Table] = OrderedDict()  # by id, those last used at the end
        self._tables_bytes = 0

        try:
            with self.device.current():
                self.upload, self.compute, self.download = (self.device.stream() for _ in range(3))
        except CudaError:
            self.device.close()
            raise

    def activations(self, nbytes: int) -> Memory:
        """Memory for activations, of this size at least, which earlier work may still be using."""
        if self.scratch is None or self.scratch.nbytes < nbytes:
            if self.scratch is not None:
                scratch, self.scratch = self.scratch, None
                self.drain()
                self.device.free(scratch)
            self.scratch = self._allocate(-(-nbytes // SCRATCH_STEP) * SCRATCH_STEP)
        return self.scratch

    def memory(self, nbytes: int) -> Memory:
        """A buffer on the device, to be given back to `reuse`."""
        return self._take(self._memory, nbytes, self._allocate)

    def pinned(self, nbytes: int) -> Pinned:
        """A buffer on the host, to be given back to `reuse`."""
        return self._take(self._pinned, nbytes, self.device.pin)

    def event(self, *, timing: bool = False) -> Event:
        """An event, to be given back to `reuse`."""
        free = self._events[timing]
        return free.pop() if free else self.device.event(timing=timing)

    def reuse(
        self, buffers: Iterable[Memory | Pinned], events: Iterable[Event] = (), timed: Iterable[Event] = ()
    ) -> None:
        """Takes back what nothing on the device uses any more."""
        for buffer in buffers:
            (self._memory if isinstance(buffer, Memory) else self._pinned).append(buffer)  # type: ignore[arg-type]
        self._events[False] += events
        self._events[True] += timed

    def tables(self, arrays: Iterable[NDArray[Any]], used: list[Uploaded]) -> dict[int, Tensor]:
        """Read-only arrays on the device, by their id, where they stay for the next images as long as there is room.

        used: gets what must be kept as long as the arrays are used.
        """
        wanted = {id(array): array for array in arrays}
        new = {key: array for key, array in wanted.items() if key not in self._tables}
        if new:
            uploaded = Uploaded(self, new)
            for key, array in new.items():
                self._tables[key] = Table(array, uploaded.tensors[key], uploaded)
                self._tables_bytes += array.nbytes
        for key in wanted:
            self._tables.move_to_end(key)
        found = {key: self._tables[key].tensor for key in wanted}
        used += {id(self._tables[key].uploaded): self._tables[key].uploaded for key in wanted}.values()
        while self._tables_bytes > TABLES_BYTES and len(self._tables) > len(wanted):
            _, oldest = self._tables.popitem(last=False)
            self._tables_bytes -= oldest.array.nbytes
        return found

    def drain(self) -> None:
        """Waits until the device has done all that the streams hold."""
        for stream in (self.upload, self.compute, self.download):
            event = self.event()
            self.device.driver.record(event, stream)
            self.device.driver.synchronize(event)
            self._events[False].append(event)

    def close(self) -> None:
        """Gives everything back."""
        self._tables.clear()
        self.device.close()

    def _take(self, free: list[B], nbytes: int, make: Callable[[int], B]) -> B:
        """The smallest free buffer of this size at least, or a new one."""
        while self.returned:
            left = self.returned.popleft()
            if not left.idle:
                self.drain()
            self.reuse(left.buffers, left.events, left.timed)

        fitting = [buffer for buffer in free if buffer.nbytes >= nbytes]
        if not fitting:
            return make(_rounded(nbytes))
        smallest = min(fitting, key=lambda buffer: buffer.nbytes)
        free.remove(smallest)
        return smallest

    def _allocate(self, nbytes: int) -> Memory:
        """New memory; where there is too little, buffers that nobody uses make room."""
        try:
            return self.device.allocate(nbytes)
        except CudaError:
            if not self._memory:
                raise
        while self._memory:
            self.device.free(self._memory.pop())
        return self.device.allocate(nbytes)


class Left(NamedTuple):
    """Buffers and events that somebody leaves behind; `idle` where nothing on the device uses them any more."""

    idle: bool
    buffers: Sequence[Memory | Pinned]
    events: Sequence[Event] = ()
    timed: Sequence[Event] = ()


class Uploaded:
    """Arrays that went to the device in one copy, which `compute` waits for. Gives their memory back when it goes."""

    def __init__(self, gpu: Gpu, arrays: Mapping[Any, NDArray[Any] | Unwritten]) -> None:
        self._gpu, driver = gpu, gpu.device.driver
        self._buffers: list[Memory | Pinned] = []
        self._events: list[Event] = []
        self.idle = False  # nothing on the device uses it
        self.tensors: dict[Any, Tensor] = {}

        total = sum(aligned(array.nbytes) for array in arrays.values())
        staging = gpu.pinned(total)
        self._buffers.append(staging)
        memory = gpu.memory(total)
        self._buffers.append(memory)
        place = 0
        for key, array in arrays.items():
            own = staging.array[place : place + array.nbytes]
            if isinstance(array, Unwritten):
                array.write(own)
            else:
                own[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.tensors[key] = Tensor(memory.address + place, tuple(array.shape))
            if isinstance(array, Packed):
                for start, image in _parts(array):
                    self.tensors[_key(image)] = Tensor(memory.address + place + start, image.shape)
            place += aligned(array.nbytes)

        event = gpu.event()
        self._events.append(event)
        driver.copy_in(memory.address, staging.array[:total], gpu.upload)
        driver.record(event, gpu.upload)
        driver.wait(gpu.compute, event)

    def __del__(self) -> None:
        self._gpu.returned.append(Left(self.idle, self._buffers, self._events))


class Table(NamedTuple):
    """A read-only array on the device."""

    array: NDArray[Any]  # so that its id stays its own
    tensor: Tensor
    uploaded: Uploaded


class Resident:
    """A loaded image on a GPU: pixels, taps, tables, each once, for every engine and protocol."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._tensors: dict[Any, Tensor] = {}
        self._kept: list[NDArray[Any] | Unwritten] = []  # so that their ids stay theirs
        self._tables: list[Uploaded] = []  # so that they stay where they are
        self._uploaded: list[Uploaded] = []
        self.user: object = None  # the last work that uses it

    def put(self, feeds: Sequence[Feed]) -> list[dict[str, Tensor]]:
        """The inputs of some calls on the device. New arrays go up in one copy, which `compute` waits for.

        Read-only arrays are those of other images, too. Of others, small ones are known by their content, large ones
        by being the same object.
        """
        keys = [{name: _key(array) for name, array in feed.items()} for feed in feeds]
        new: dict[Any, NDArray[Any] | Unwritten] = {}
        tables: dict[Any, NDArray[Any]] = {}
        for feed, named in zip(feeds, keys, strict=True):
            for name, array in feed.items():
                if named[name] not in self._tensors:
                    (tables if name != "image" and _is_table(array) else new)[named[name]] = array

        if tables:
            self._tensors |= self._gpu.tables(tables.values(), self._tables)
            self._kept += tables.values()
        for packed in [array for array in new.values() if isinstance(array, Packed)]:
            for _, image in _parts(packed):
                new.pop(_key(image), None)  # it goes up within
        if new:
            self._uploaded.append(Uploaded(self._gpu, new))
            self._tensors |= self._uploaded[-1].tensors
            self._kept += new.values()
            self.busy()
        return [{name: self._tensors[key] for name, key in named.items()} for named in keys]

    def busy(self, user: object = None) -> None:
        """Says that work on the device uses it: that of `user`."""
        self.user = user
        for uploaded in self._uploaded:
            uploaded.idle = False

    def done(self, user: object) -> None:
        """Says that the work of `user` is done. If it was the last, nothing on the device uses the image any more."""
        if self.user is user:
            for uploaded in self._uploaded:
                uploaded.idle = True


def _parts(packed: Packed) -> list[tuple[int, NDArray[np.uint8]]]:
    """(place in bytes, image) of those images that calls may have for themselves."""
    places = [3 * start for start in packed.starts]
    return [(place, image) for place, image in zip(places, packed.images, strict=True) if place % ALIGNMENT == 0]


def _is_table(array: NDArray[Any] | Unwritten) -> bool:
    return not isinstance(array, Unwritten) and not array.flags.writeable


def _key(array: NDArray[Any] | Unwritten) -> Any:
    if isinstance(array, Unwritten) or not array.flags.writeable or array.nbytes > LARGE:
        return id(array)
    return array.dtype.str, array.shape, array.tobytes()


def _rounded(nbytes: int) -> int:
    """A buffer's size, so that other images find it fitting: a power of two, or a multiple of a step if large."""
    return max(SMALLEST_BUFFER, min(1 << (nbytes - 1).bit_length(), -(-nbytes // BUFFER_STEP) * BUFFER_STEP))


_GPUS: dict[int, Gpu] = {}
_GPUS_LOCK = threading.RLock()  # whatever the garbage collector closes meanwhile


def open_gpu(ordinal: int) -> Gpu:
    """The process's own Gpu of this number, to be closed as often as it was opened. Raises CudaError."""
    with _GPUS_LOCK:
        if ordinal not in _GPUS:
            _GPUS[ordinal] = Gpu(ordinal)
        _GPUS[ordinal].users += 1
        return _GPUS[ordinal]


def close_gpu(gpu: Gpu) -> None:
    """Gives everything back with the last user."""
    with _GPUS_LOCK, gpu.lock:
        gpu.users -= 1
        if gpu.users == 0:
            _GPUS.pop(gpu.device.ordinal, None)
            gpu.close()


# Work that is on the GPU and has not been waited for.


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
        self._token = object()
        resident.busy(self._token)

    def run(self, warm_up: Callable[[Addresses], None], enqueue: Callable[[Addresses], None]) -> None:
        """Enqueues the calls and the read-back of their outputs.

        `warm_up` and `enqueue` get the outputs' addresses; the first is not counted as time of computing.
        """
        gpu, driver = self._gpu, self._gpu.device.driver

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
        driver.record(start, gpu.compute)
        enqueue(addresses)
        driver.record(end, gpu.compute)

        driver.wait(gpu.download, end)
        driver.copy_out(self._host.array[: self._layout.read_bytes], memory.address, gpu.download)
        driver.record(self._events[0], gpu.download)

    def result(self) -> Outputs:
        """Waits, and returns what Engine.run does. Raises CudaError."""
        gpu, driver = self._gpu, self._gpu.device.driver
        with gpu.device.current():
            if not driver.reached(self._events[0]):
                driver.synchronize(self._events[0])  # not under the lock: others go on meanwhile

            parts = []
            for call, places in zip(self._calls, self._layout.places, strict=True):
                parts.append((call.places, self._outputs(call, places)))
            results = in_order(parts, self._layout.names)  # copies, so that the host's buffer can be used again

            with gpu.lock:
                self._spent(driver.elapsed_ms(*self._timed) / 1e3)
                self._collected = True
                gpu.reuse(self._buffers, self._events, self._timed)
                if self._resident is not None:
                    self._resident.done(self._token)
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
