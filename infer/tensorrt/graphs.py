"""CUDA graphs of calls that come again: one launch instead of one for each kernel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from ..cuda.driver import Graph
from .gpu import Gpu

KEPT = 8
"""Graphs of a profile: a captured call has its addresses for good, and buffers alternate."""


class Graphs:
    """Graphs of calls whose shapes stay what they are. Use them under the GPU's lock.

    TensorRT's memory on the device for a context belongs to its last shapes, so other shapes end a profile's graphs.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._shapes: dict[int, Hashable] = {}
        self._known: dict[int, OrderedDict[Hashable, Graph | None]] = {}

    def run(self, profile: int, shapes: Hashable, addresses: Hashable, enqueue: Callable[[], None]) -> None:
        """Puts a call on the compute stream: by `enqueue` the first two times, then as the graph made of it.

        The capture follows a run of the same shapes, in which TensorRT does what must not be captured.
        """
        if self._shapes.get(profile) != shapes:
            self._drop(profile)
            self._shapes[profile], self._known[profile] = shapes, OrderedDict()

        known, device, stream = self._known[profile], self._gpu.device, self._gpu.compute
        graph = known.get(addresses)
        if graph is not None:
            device.launch(graph, stream)
        else:
            enqueue()
            if addresses in known:
                graph = device.capture(stream, enqueue)

        known[addresses] = graph
        known.move_to_end(addresses)
        if len(known) > KEPT:
            self._free(known.popitem(last=False)[1])

    def close(self) -> None:
        for profile in list(self._known):
            self._drop(profile)

    def _drop(self, profile: int) -> None:
        for graph in self._known.pop(profile, {}).values():
            self._free(graph)

    def _free(self, graph: Graph | None) -> None:
        """Gives a graph back, which CUDA does when its launches are done."""
        if graph is not None:
            self._gpu.device.free(graph)
