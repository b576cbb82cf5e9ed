"""Batches from a data set: decode, augment, stack; deterministic per (seed, epoch, index), whoever makes them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from infer.data.dataset import Dataset, DatasetError, Item
from infer.pixels.decode import ImageError, Pixels, decode
from infer.pixels.render import FILTERS, render
from infer.spec import Exif, ModelSpec
from infer.views import plan_views, rescaled_px

from .augment import Augmentation, Placement

Target = Callable[[int, Placement], Tensor]
"""What an image is to be answered with, by its index and where its crop lies."""


def pixels_of(item: Item, exif: Exif = "ignore") -> Pixels:
    """u8 RGB [h, w, 3]. Raises ImageError for what is no whole image, DatasetError for what cannot be read at all."""
    try:
        data = item.read_bytes()
    except OSError as error:
        raise DatasetError(f"{item.name}: cannot be read ({error.strerror}) from {item.path}") from None
    return decode(data, exif=exif, name=item.name)


class Crops(TorchDataset[tuple[Tensor, Tensor, int | Tensor]]):
    """Augmented crops of one epoch. An item is (u8 [crop, crop, 3], colour shift f32 [3], label or `target`)."""

    def __init__(
        self, dataset: Dataset, augmentation: Augmentation, *, seed: int, epoch: int, target: Target | None = None
    ) -> None:
        self.items = dataset.items
        self.augmentation, self.key, self.target = augmentation, (seed, epoch), target

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int | Tensor]:
        item, rng = self.items[index], default_rng((*self.key, index))
        image = pixels_of(item)
        place = self.augmentation.place((image.shape[0], image.shape[1]), rng)
        crop, shift = self.augmentation.cut(image, place, rng)
        target = item.label if self.target is None else self.target(index, place)
        return torch.from_numpy(crop), torch.from_numpy(shift), target


def processes_here() -> int:
    """How many processes of the run share this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores_here() -> int:
    """This process's share of the cores that it may use, which a cluster's job has fewer of than its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes_here())


def loader_workers() -> int:
    """Processes that decode and augment for this one: half of its cores; the steps have the others."""
    return max(1, cores_here() // 2)


def batches(
    crops: Crops, batch: int, *, start: int = 0, rank: int = 0, world: int = 1, parts: int = 1, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of one epoch in its own random order: u8 [N, crop, crop, 3], f32 [N, 3], targets [N, ...].

    batch: of all `world` processes together; this one, `rank`, gets its share in `parts` pieces, one after another.
    What does not fill a batch is dropped. start: the number of the first batch; those before it are not made. pin: in
    memory that a GPU reads on its own.
    """
    piece, left_over = divmod(batch, world * parts)
    if left_over:
        raise ValueError(f"a batch of {batch} for {world} processes with {parts} pieces each")
    order = default_rng(crops.key).permutation(len(crops))[: len(crops) // batch * batch]
    pieces = order.reshape(-1, world, parts, piece)[start:, rank].reshape(-1, piece)
    return _made(crops, pieces, pin=pin)


class Centers(TorchDataset[tuple[Tensor, int | Tensor] | None]):
    """The central view of each image, as protocol `center` sees it: (u8 [crop, crop, 3], label or `target`).

    None for an image that cannot be read.
    """

    def __init__(self, dataset: Dataset, spec: ModelSpec, target: Target | None = None) -> None:
        self.items, self.spec, self.target = dataset.items, spec, target

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor] | None:
        item, spec = self.items[index], self.spec
        try:
            image = pixels_of(item, spec.preprocessing.exif)
        except ImageError:
            return None
        size = (image.shape[0], image.shape[1])
        view = plan_views(spec, "center", size).views[0]
        pixels = torch.from_numpy(np.ascontiguousarray(render(image, [view], spec)[0]))
        if self.target is None:
            return pixels, item.label
        top, left, height, width = view.box
        rescaled = rescaled_px(size, view.short_side_px, spec.preprocessing.long_side_rounding)
        down, across = size[0] / rescaled[0], size[1] / rescaled[1]
        edges = (left * across, top * down, (left + width) * across, (top + height) * down)
        place = Placement(size, *edges, filter=FILTERS[spec.preprocessing.filter], mirrored=False)
        return pixels, self.target(index, place)


def center_batches(centers: Centers, batch: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """u8 [N, crop, crop, 3] and targets [N, ...] of the images that this process has of all, but those unreadable."""
    own = np.arange(rank, len(centers.items), world)
    for made in _made(centers, [own[at : at + batch] for at in range(0, len(own), batch)]):
        if made is not None:
            yield made


def _made(
    items: TorchDataset[Any], places: Sequence[NDArray[np.int64]] | NDArray[np.int64], *, pin: bool = False
) -> Iterator[Any]:
    """The items at each of `places` as a batch, made ahead of time by processes that end with this.

    Raises what making an item raises, in one line: the first that is no whole image or cannot be read.
    """
    loader = DataLoader(
        items,
        batch_sampler=_Lists(places),
        num_workers=loader_workers(),
        prefetch_factor=4,
        collate_fn=_collate,
        worker_init_fn=_quiet_worker,
        pin_memory=pin,
        multiprocessing_context="fork",  # they share the list of images: as a copy, ImageNet's is half a gigabyte each
    )
    batches = iter(loader)
    try:
        yield from _one_ahead(batches)
    except (ImageError, DatasetError) as error:  # with the other process's traceback, "module.Class: " and what it said
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
    finally:  # not when the last traceback is gone: Python waits for its children when it ends, and these wait for work
        batches._shutdown_workers()  # type: ignore[attr-defined]


def _one_ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same, each received while the one before is worked on: a busy process takes milliseconds to hand one over."""
    with ThreadPoolExecutor(1) as receiver:
        following = receiver.submit(next, batches, _END)
        while (batch := following.result()) is not _END:
            following = receiver.submit(next, batches, _END)
            yield batch


_END = object()


class _Lists:
    """Rows of numbers, as lists when they are wanted: those of a whole epoch would take gigabytes."""

    def __init__(self, rows: Sequence[NDArray[np.int64]] | NDArray[np.int64]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return (row.tolist() for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def _collate(items: list[Any]) -> Any:
    """The items that there are, stacked; None if there is none."""
    found = [item for item in items if item is not None]
    return default_collate(found) if found else None


def _quiet_worker(worker: int) -> None:
    """One thread, and signals, which torchrun and clusters send to all processes, are the main one's business."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
