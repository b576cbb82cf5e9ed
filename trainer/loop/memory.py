"""The memory that a step will need, known before the first: a batch that cannot fit is refused in a line, not killed.

What autograd keeps is exact: the objective runs on tensors without memory (torch's meta device), and the storages that
it saves for the backward pass are counted, each once. Layers that are not trained keep little, and so count little.
`benchmarks/training_memory.py` compares the whole with the peaks of real steps. The estimate is to stay below these, so
that nothing is refused that fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ..data.batches import PREFETCHED, loader_workers
from ..processes import ExecutionError, say
from .execution import AUTOCAST
from .training_state import TrainingState

SYSTEM = Path("/")
"""Where /proc and /sys are."""


class ControlGroups(NamedTuple):
    """Where a version of Linux's control groups, a container's limits, says what of memory."""

    root: str
    limit: str
    usage: str
    pages: tuple[str, str]  # in memory.stat: of files, which make room where it is needed


VERSION_2 = ControlGroups("sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file"))
VERSION_1 = ControlGroups(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
CLOSE = 0.8
"""The share of what is free from which on other programs, or an estimate that is too low, may be the end of a run."""
NO_LIMIT = 1 << 60
"""Version 1 says that there is none by a number near 2^63."""
REORDERED = 2
"""Copies of the largest weight that oneDNN makes in the backward pass of its layer, in its own order and back."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that steps add to what a process with a net holds already, at the peak of its second step.

    kept: by autograd for a piece of the batch. gradients, momentum: of the trained weights, where there are none yet.
    temporaries: beside them at the end of the forward pass, or in the step of the optimiser. waiting: batches that are
    read ahead.
    """

    kept: int
    gradients: int
    momentum: int
    temporaries: int
    waiting: int

    @property
    def total(self) -> int:
        return self.kept + self.gradients + self.momentum + self.temporaries + self.waiting


class Free(NamedTuple):
    """Bytes that may still be taken, and whose limit that is."""

    bytes: int
    of: str


def check_memory(run: TrainingState) -> None:
    """Raises ExecutionError for a batch whose pieces cannot fit, with the number of pieces that would. All call it.

    A batch that takes more than CLOSE of what is free is said in a line. A compiled step keeps less than is known here:
    it is not checked.
    """
    if run.execution.compile:
        return
    of_process, parts = run.recipe.batch // run.peers.world, run.execution.parts
    needed = step_memory(run, of_process // parts).total
    found = min(free_memory(run), key=lambda free: free.bytes)
    (least,) = (-most for most in run.peers.most((-found.bytes,)))  # so that all refuse, or none
    if needed <= CLOSE * least:
        return

    # The fewest pieces that fit; what is not of the batch stays.
    fit = CLOSE * least if needed <= least else least
    numbers = (more for more in range(parts + 1, of_process + 1) if of_process % more == 0)
    pieces = next((more for more in numbers if step_memory(run, of_process // more).total <= fit), None)

    batch = f"a batch of {of_process}" if parts == 1 else f"a batch of {of_process} in {parts} pieces"
    takes = f"{batch} would take {_gigabytes(needed)} more, {_gigabytes(least)} are free ({found.of})"
    if needed <= least:
        advice = "" if pieces is None else f", --parts {pieces} would leave room"
        say(f"{takes}: it ends where other programs take what is left{advice}")
        return
    if pieces is None:
        raise ExecutionError(f"{takes}: no --parts makes it fit, a single image is too much: this needs more memory")
    raise ExecutionError(f"{takes}: --parts {pieces} computes it in pieces that fit")


def step_memory(run: TrainingState, images: int) -> StepMemory:
    """What a step on pieces of so many images will take."""
    trained = sum(p.nbytes for p in run.trained.values())
    moved = [p for p in run.trained.values() if run.recipe.momentum and not run.optimizer.state.get(p)]
    momentum = sum(p.nbytes for p in moved)
    copies = trained if run.peers.world > 1 else 0  # DistributedDataParallel's buckets
    kept = kept_bytes(run, images)
    read_ahead = 0 if run.recipe.train_layers == "last" else images * run.spec.crop_px**2 * 3  # features are on a disk

    if run.peers.device.type == "cuda":
        # Its optimiser takes all gradients at once, and adds the decay to a copy of them, when nothing else is kept.
        return StepMemory(kept, trained + copies, momentum, max(0, trained - kept), read_ahead)

    reordered = 0 if run.execution.precision != "fp32" else REORDERED * _largest_weight(run)
    return StepMemory(kept, trained + copies, momentum, reordered, (PREFETCHED * loader_workers() + 2) * read_ahead)


def kept_bytes(run: TrainingState, images: int) -> int:
    """The bytes that autograd keeps of a forward pass over so many images, without the weights themselves."""
    dtype = AUTOCAST.get(run.execution.precision, next(iter(run.net.parameters())).dtype)
    state = {name: _without_memory(t, dtype) for name, t in _state(run)}
    own = {t.untyped_storage()._cdata for t in state.values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        side = run.spec.crop_px
        pixels, shift = torch.empty(images, side, side, 3, dtype=torch.uint8), torch.empty(images, 3, dtype=dtype)
        labels = torch.empty(images, dtype=torch.long)
        boxes = (run.spec.boxes, 5) if run.spec.task == "multibox" else (6,)
        target = labels if run.spec.task == "classify" else torch.empty(images, *boxes, dtype=dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome = functional_call(run.objective, state, (pixels, shift, target))
    del outcome  # which holds the graph

    # Autocast casts each weight once a pass, and keeps it.
    cast = sum(p.numel() for p in run.trained.values()) * dtype.itemsize if run.execution.precision in AUTOCAST else 0
    return cast + sum(storage.nbytes() for storage in kept.values())


def _state(run: TrainingState) -> Iterator[tuple[str, Tensor]]:
    yield from run.objective.named_parameters()
    yield from run.objective.named_buffers()


def _without_memory(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of the same shape that has no memory; of `dtype` where it holds real numbers."""
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, dtype=kind, device="meta").requires_grad_(tensor.requires_grad)


def _largest_weight(run: TrainingState) -> int:
    return max((p.nbytes for p in run.trained.values()), default=0)


def free_memory(run: TrainingState) -> list[Free]:
    """What limits the memory that this process may still take; of a machine's, its share."""
    device = run.peers.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return [Free(free + cached, "on the GPU")]

    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    shared = [*_of_machine(), *_of_control_groups()]
    shares = [Free(free.bytes // processes_here, free.of) for free in shared]
    return [*shares, *_of_process()] or [Free(NO_LIMIT, "no limit is known")]


def _of_machine() -> Iterator[Free]:
    """What the kernel says that can be had without swapping, of the whole machine."""
    for line in _lines("proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield Free(int(line.split()[1]) * 1024, "of the machine")


def _of_control_groups() -> Iterator[Free]:
    """The limits of the control groups that this process is in; pages of files make room."""
    for line in _lines("proc/self/cgroup"):
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        version = VERSION_1 if kinds else VERSION_2
        group = Path(version.root, place.lstrip("/"))
        # A limit holds for all groups below; a container may see its own as root.
        for folder in (group, *group.parents):
            if folder.is_relative_to(version.root):
                yield from _of_control_group(folder, version)


def _of_control_group(folder: Path, version: ControlGroups) -> Iterator[Free]:
    most, used = (" ".join(_lines(folder / name)) for name in (version.limit, version.usage))
    if not (most.isdecimal() and used.isdecimal()) or int(most) > NO_LIMIT:
        return
    stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
    yield Free(int(most) - int(used) + sum(int(stat.get(name, 0)) for name in version.pages), "of the container")


def _of_process() -> Iterator[Free]:
    """The limit of address space, ulimit -v."""
    try:
        import resource
    except ImportError:  # no Unix
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    for line in _lines("proc/self/statm"):
        if soft != resource.RLIM_INFINITY:
            yield Free(soft - int(line.split()[0]) * resource.getpagesize(), "of ulimit -v")


def _lines(path: Path | str) -> list[str]:
    """The lines of a file of the system; none where it has no such file."""
    try:
        return (SYSTEM / path).read_text().splitlines()
    except OSError:
        return []


def _gigabytes(count: int) -> str:
    return f"{max(0, count) / 1e9:.1f} GB"
