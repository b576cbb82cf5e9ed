"""The makers of a run's shards: this process, one process for each GPU, or the machines of a Ray cluster.

Wherever a shard is made it has the same rows, and whoever collects them takes them in any order.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic

from ..errors import RunError
from .loop import Group, MakerOpener, Rows, Sample, Shard, Worker, group_shards, make_shards
from .on_ray import Cluster

OnImages = Callable[[int], object]
"""Hears how many more images are done."""


class ThisProcess(Generic[Sample, Rows]):
    """The engines open in this process, on one device."""

    def __init__(
        self, opener: MakerOpener[Sample, Rows], decoders: int, device: int, stack: contextlib.ExitStack
    ) -> None:
        self._maker, self._decoders = opener.open(stack, device=device), decoders
        self.known = self._maker.known

    def make(self, samples: Sequence[Sample], starts: Sequence[int], on_images: OnImages) -> Iterator[Shard[Rows]]:
        return make_shards(self._maker, samples, starts, decoders=self._decoders, on_images=on_images)


class DeviceProcesses(Generic[Sample, Rows]):
    """A process for each of `devices`. The engines are opened here too for a moment, to say what they are."""

    def __init__(self, opener: MakerOpener[Sample, Rows], decoders: int, devices: Sequence[int]) -> None:
        self._opener, self._decoders, self._devices = opener, decoders, devices
        with contextlib.ExitStack() as soon:
            maker = opener.open(soon, device=devices[0])
            self.known, self._shard_images = maker.known, maker.shard_images

    def make(self, samples: Sequence[Sample], starts: Sequence[int], on_images: OnImages) -> Iterator[Shard[Rows]]:
        """Makes the shards at `starts`, in any order. Raises RunError where a process dies, as for want of memory."""
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads
        ordinals = context.Queue()
        for device in self._devices:
            ordinals.put(device)
        threads = max(1, (os.cpu_count() or 1) // len(self._devices))
        begin = (self._opener, self.known, self._decoders, ordinals, threads)
        groups = group_shards(samples, self._shard_images, starts)

        with concurrent.futures.ProcessPoolExecutor(len(self._devices), context, _begin, begin) as pool:
            try:
                running = {pool.submit(_work, group) for group in itertools.islice(groups, 2 * len(self._devices))}
                while running:
                    done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    running |= {pool.submit(_work, group) for group in itertools.islice(groups, len(done))}
                    for future in done:
                        for shard in future.result():
                            on_images(shard.images)
                            yield shard
            except BrokenProcessPool:
                raise RunError(
                    "a process of --device ended without a word, as when memory runs out: what is done is kept, go on "
                    "with --resume"
                ) from None
            finally:  # whatever ends this, nobody waits for shards that nobody takes
                for process in multiprocessing.active_children():
                    process.terminate()


def open_crew(
    opener: MakerOpener[Sample, Rows], args: argparse.Namespace, stack: contextlib.ExitStack
) -> ThisProcess[Sample, Rows] | DeviceProcesses[Sample, Rows] | Cluster[Sample, Rows]:
    """Opens the engines where --device or --ray says (see arguments.add_run_options); `stack` closes them.

    Each of the three has `known`, which says what the engines are (see ShardMaker), and `make`, which makes the shards
    at the given starts and says to `on_images` how many more images are done.
    Raises EngineError, PlanError or RunError.
    """
    if args.ray is not None:
        return Cluster(opener, args.ray, args.ray_actors, args.workers, stack)
    devices = args.device or [0]
    if len(devices) > 1:
        return DeviceProcesses(opener, args.workers, devices)
    return ThisProcess(opener, args.workers, devices[0], stack)


_worker: Worker[Any, Any] | None = None


def _begin(opener: MakerOpener[Any, Any], known: object, decoders: int, ordinals: Any, threads: int) -> None:
    """Opens the engines of this process, once. Ctrl-C is for the process that collects."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = Worker(opener, known, decoders, device=ordinals.get(), threads=threads)


def _work(group: Group[Any]) -> list[Any]:
    assert _worker is not None
    return _worker(group)
