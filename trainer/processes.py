"""The processes of a run, as torchrun starts them: who they are, what they tell each other, which one speaks."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from infer.data.known_images import KnownImages
from infer.errors import Refused, one_line


class ExecutionError(Refused):
    """A device, precision or number of processes that cannot be had; one line."""


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
    """Prints a line on stderr, from the first process alone, without tearing a progress bar."""
    if int(os.environ.get("RANK", "0")) == 0:
        tqdm.write(one_line(line), file=sys.stderr)


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
