"""The processes of a run, as torchrun starts them: who they are, what they tell each other, which one speaks, how."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from infer.data.known_images import KnownImages
from infer.errors import Refused, one_line

EVERY_SECONDS = 30.0
"""Between the lines that a Bar prints where there is no terminal."""


class ExecutionError(Refused):
    """A device, precision, number of processes or memory that cannot be had; one line."""


@dataclass(frozen=True, slots=True)
class Peers:
    """This process among those of its run; each has a device and an equal slice of every batch."""

    device: torch.device
    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None  # gloo's, for numbers on the host: waits for no GPU

    def total(self, sums: Tensor) -> Tensor:
        """The sums over all processes, on the host."""
        sums = sums.detach().cpu().clone()
        if self.world > 1:
            dist.all_reduce(sums, dist.ReduceOp.SUM, self.group)
        return sums

    def most(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number over all processes, so that all do what one asks for."""
        if self.world == 1:
            return list(numbers)
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self.group)
        return [int(number) for number in largest]

    def united(self, images: KnownImages) -> KnownImages:
        """The images of all processes."""
        if self.world == 1:
            return images
        texts: list[Any] = [None] * self.world
        dist.all_gather_object(texts, images.to_text(), self.group)
        return functools.reduce(KnownImages.united, map(KnownImages.from_text, texts))

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.world > 1:
            dist.barrier(self.group)


def say(line: str) -> None:
    """Prints a line on stderr, from the first process alone, without tearing a progress bar.

    A run of days goes on where nobody reads any more, such as behind a pipe whose other end is closed.
    """
    if is_first():
        with contextlib.suppress(OSError):
            tqdm.write(one_line(line), file=sys.stderr)


def say_seconds(seconds: float) -> str:
    """`40 s`, `3 min`, `4 h` or `5 days`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{math.ceil(seconds)} s"


def is_first() -> bool:
    """True in the process that speaks, or alone."""
    return int(os.environ.get("RANK", "0")) == 0


class Bar(contextlib.AbstractContextManager["Bar"]):
    """A count of what takes long, shown by the first process: a bar on a terminal, else a line each EVERY_SECONDS.

    The lines come from a thread, too, so that work whose one step takes minutes is not silent. `leave`: on a terminal
    the bar stays when it is full.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        unit: str = "image",
        done: int = 0,
        leave: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._clock, self._first, self._began = clock, done, clock()
        self._due = self._began + EVERY_SECONDS
        self._notes: dict[str, str] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()

        self.on_terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._thread: threading.Thread | None = None
        if not is_first():
            return
        if self.on_terminal:
            self._bar = tqdm(desc=title, total=total, initial=done, unit=unit, leave=leave)
        else:
            self._thread = threading.Thread(target=self._watch, name=f"progress of {title}", daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Adds to what is done."""
        with self._lock:
            self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._thread is not None:
            self._say_when_due()

    def set_postfix(self, notes: Mapping[str, str], *, refresh: bool = True) -> None:
        """Sets what is shown behind the count. refresh: draws a terminal's bar at once."""
        with self._lock:
            self._notes = dict(notes)
        if self._bar is not None:
            self._bar.set_postfix(notes, refresh=refresh)

    def close(self) -> None:
        """Ends the bar. A second call does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._due - self._clock())):
            self._say_when_due()

    def _say_when_due(self) -> None:
        with self._lock:
            now = self._clock()
            if now < self._due:
                return
            self._due = now + EVERY_SECONDS
            say(self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        """The count, the rate since the beginning, what is left by it, and the notes."""
        made = self.done - self._first
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        parts = [f"{self.title}: {self.done} of {self.total} {self.unit}s{share}"]
        if made:
            left = tqdm.format_interval((self.total - self.done) * seconds / made)
            parts += [f"{made / seconds:.3g} {self.unit}s/s", f"{left} left"]
        else:
            parts += [f"none in {tqdm.format_interval(seconds)} yet"]
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self._notes.items())])


def join(device: str) -> Peers:
    """This process among those that torchrun started, or alone. A second call joins nothing anew.

    device: `auto` takes this process's GPU where there is one. Raises ExecutionError.
    """
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    world = int(os.environ.get("WORLD_SIZE", "1"))

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ExecutionError(
                f"{torch.cuda.device_count()} GPUs for process {local} of this machine: "
                "start fewer (--nproc-per-node), or --device cpu"
            )
        torch.cuda.set_device(local)
    place = torch.device(device, local) if device == "cuda" else torch.device(device)

    if world == 1:
        return Peers(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Peers(place, rank, world, _host_group())


@functools.cache
def _host_group() -> dist.ProcessGroup:
    """The gloo group of this process, which lives as long as it: making one is a collective step."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group
