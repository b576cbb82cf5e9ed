"""Who makes the shards of a run: this process, one process for each GPU, or the machines of a Ray cluster.

Wherever a shard is made it has the same rows, and whoever collects them takes them in any order.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

from infer.data.dataset import Dataset, Item
from infer.engine import Provider

from ..errors import RunError
from .engines import Identities, Members, open_members
from .identity import Described, describe
from .score import Shard, score, shard_images
from .submission import Plan

GROUP = 4
"""Shards of a task: decoding runs ahead of the engine within one."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a process needs to know but its device and its images. `dataset` has no items."""

    plan: Plan
    dataset: Dataset
    described: Described
    provider: Provider
    strict: bool
    decoders: int
    mistakes: int


Group = tuple[int, Sequence[Item]]
"""The first image of some shards, and the images of them all."""


class Worker:
    """One process with its engines open. Raises EngineError, PlanError or RunError."""

    def __init__(self, job: Job, device: int = 0, threads: int = 0) -> None:
        self._job, self._stack = job, contextlib.ExitStack()
        self._members = open_members(job.plan, job.provider, self._stack, device=device, threads=threads)
        here = describe(self._members.engines, self._members.protocols, job.plan.pooling, job.described[0][0]["commit"])
        if here != job.described:
            raise RunError(
                f"{socket.gethostname()}: an engine here is another file, or another version runs it, than where the "
                "run began: use the same engines and the same code on every machine"
            )

    def __call__(self, group: Group) -> list[Shard]:
        first, items = group
        shards = run_here(self._job, self._members, replace(self._job.dataset, items=items))
        return [replace(shard, first=first + shard.first) for shard in shards]


def run_here(
    job: Job,
    members: Members,
    dataset: Dataset,
    *,
    starts: Sequence[int] | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Iterator[Shard]:
    """Shards by this process."""
    return score(
        members.engines,
        members.protocols,
        dataset,
        job.described,
        starts=starts,
        strict=job.strict,
        workers=job.decoders,
        mistakes=job.mistakes,
        on_images=on_images,
    )


def run_on_devices(
    job: Job, members: Identities, dataset: Dataset, starts: Sequence[int], devices: Sequence[int]
) -> Iterator[Shard]:
    """Shards by one process for each of `devices`. Raises RunError where one dies, as for want of memory."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's threads
    ordinals = context.Queue()
    for device in devices:
        ordinals.put(device)
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    groups = groups_of(dataset, shard_images(members.protocols), starts)
    with concurrent.futures.ProcessPoolExecutor(len(devices), context, _begin, (job, ordinals, threads)) as pool:
        try:
            running = {pool.submit(_work, group) for group in itertools.islice(groups, 2 * len(devices))}
            while running:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                running |= {pool.submit(_work, group) for group in itertools.islice(groups, len(done))}
                for future in done:
                    yield from future.result()
        except BrokenProcessPool:
            raise RunError(
                "a process of --device ended without a word, as when memory runs out: what is done is kept, go on "
                "with --resume"
            ) from None
        finally:  # whatever ends this, nobody waits for shards that nobody takes
            for process in multiprocessing.active_children():
                process.terminate()


def groups_of(dataset: Dataset, size: int, starts: Sequence[int]) -> Iterator[Group]:
    """`starts` of shards of `size` images, up to GROUP together where they follow each other."""
    run: list[int] = []
    for start in [*starts, -1]:
        if run and (len(run) == GROUP or start != run[-1] + size):
            yield run[0], dataset.items[run[0] : run[-1] + size]
            run = []
        run.append(start)


_worker: Worker | None = None


def _begin(job: Job, ordinals: Any, threads: int) -> None:
    """Opens the engines of this process, once. Ctrl-C is for the process that collects."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = Worker(job, ordinals.get(), threads)


def _work(group: Group) -> list[Shard]:
    assert _worker is not None
    return _worker(group)
