"""CUDA graphs of calls that come again: one launch instead of one for each kernel."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable

from ..cuda.driver import Graph
from ..engine import EngineError
from .gpu import Gpu

log = logging.getLogger(__name__)

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
        self._given_up = False

    def run(
        self,
        profile: int,
        shapes: Hashable,
        addresses: Hashable,
        prepare: Callable[[], None],
        enqueue: Callable[[], None],
    ) -> None:
        """Puts a call on the compute stream: by `enqueue` the first two times, then as the graph made of it.

        The capture follows a run of the same shapes and addresses, in which TensorRT does what must not be captured,
        and holds nothing but `enqueue`. Where it fails, calls go on without graphs; that is said once.
        """
        if self._shapes.get(profile) != shapes:
            self._drop(profile)
            self._shapes[profile], self._known[profile] = shapes, OrderedDict()

        known, device, stream = self._known[profile], self._gpu.device, self._gpu.compute
        graph = known.get(addresses)
        if graph is not None:
            device.driver.launch(graph, stream)
        else:
            prepare()
            enqueue()
            if addresses in known and not self._given_up:
                graph = self._capture(enqueue)

        known[addresses] = graph
        known.move_to_end(addresses)
        if len(known) > KEPT:
            self._free(known.popitem(last=False)[1])

    def close(self) -> None:
        for profile in list(self._known):
            self._drop(profile)

    def _capture(self, enqueue: Callable[[], None]) -> Graph | None:
        """The graph of a call that has just been done; None where it cannot be captured."""
        try:
            return self._gpu.device.capture(self._gpu.compute, enqueue)
        except EngineError as error:
            self._given_up = True
            log.warning("CUDA graphs are left out, kernels are launched one by one: %s", error)
            return None

    def _drop(self, profile: int) -> None:
        for graph in self._known.pop(profile, {}).values():
            self._free(graph)

    def _free(self, graph: Graph | None) -> None:
        """Gives a graph back, which CUDA does when its launches are done."""
        if graph is not None:
            self._gpu.device.free(graph)
