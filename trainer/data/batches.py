"""Batches from a data set: decode, augment, stack; deterministic per (seed, epoch, index), whoever makes them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from infer.data.dataset import Dataset, DatasetError, Item
from infer.data.known_images import image_number
from infer.errors import Refused
from infer.pixels.decode import ImageError, Pixels, decode
from infer.pixels.render import FILTERS, render
from infer.processes.bounded import how_ended
from infer.processes.cores import usable_cores
from infer.processes.owned import end_with_parent
from infer.processes.pipeline import ahead
from infer.spec import Exif, ModelSpec
from infer.views import plan_views, rescaled_px

from ..recipe import Sampling
from .augment import Augmentation, Placement

TargetFunction = Callable[[int, Placement], Tensor]
"""Makes the target of an image, from its index and the place of its crop."""
TrainingBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""u8 pixels [N, crop, crop, 3], colour shifts f32 [N, 3] in grey levels, targets [N, ...], and the numbers i64 [N] by
which the images' files are known (infer/data/known_images.py)."""


SECONDS_TO_BE_SEEN = 0.5
BACKGROUND_SHARE = 3
"""Regions of background for each of an object in a batch: 96 to 32."""
PREFETCHED = 4
"""Batches that each loading process makes ahead of their turn."""


class ProcessLost(Refused):
    """The end of a process that decoded for this one, before its time; one line."""


def read_pixels(item: Item, exif: Exif = "ignore") -> Pixels:
    """u8 RGB [h, w, 3]. Raises ImageError for what is no whole image, DatasetError for what cannot be read at all."""
    return decode(read_bytes(item), exif=exif, name=item.name)


def read_bytes(item: Item) -> bytes:
    """The bytes of an image's file. Raises DatasetError."""
    try:
        return item.read_bytes()
    except OSError as error:
        raise DatasetError(f"{item.name}: cannot be read ({error.strerror}) from {item.path}") from None


class Crops(TorchDataset[tuple[Tensor, Tensor, int | Tensor, int]]):
    """Augmented crops of one epoch.

    An item is (u8 [crop, crop, 3], colour shift f32 [3], label or `target`, number of the image's file).
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Augmentation,
        *,
        seed: int,
        epoch: int,
        target: TargetFunction | None = None,
        exif: Exif = "ignore",
    ) -> None:
        self.items, self.exif = dataset.items, exif
        self.augment, self.key, self.target = augment, (seed, epoch), target

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> ArrayLike:
        """The label of each item."""
        return [item.label for item in self.items]

    def __getitem__(self, draw: int) -> tuple[Tensor, Tensor, int | Tensor, int]:
        """Draws from 0 are the images in order, from len(self) on the images once more, each with another crop."""
        index = draw % len(self.items)
        item, rng = self.items[index], default_rng((*self.key, draw))
        data = read_bytes(item)
        image = decode(data, exif=self.exif, name=item.name)  # [h, w, 3]
        place = self.augment.place((image.shape[0], image.shape[1]), rng)
        crop, shift = self.augment.cut(image, place, rng)
        target = item.label if self.target is None else self.target(index, place)
        return torch.from_numpy(crop), torch.from_numpy(shift), target, image_number(data)


def cores_here() -> int:
    """This process's share of the cores that it may use; a cluster's job has fewer of them than its machine."""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of this run, as torchrun says
    return max(1, usable_cores() // processes_here)


def loader_workers() -> int:
    """Processes that decode and augment for this one: half of its cores; the steps have the others."""
    return max(1, cores_here() // 2)


def batches(
    crops: Crops,
    batch: int,
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
    sampling: Sampling = "all",
    pin: bool = False,
) -> Iterator[TrainingBatch]:
    """Batches of one epoch, as `share_draws` shares them; start: the number of the first, those before are not made.

    pin: in memory that a GPU reads on its own.
    """
    draws = share_draws(crops.key, crops.labels, batch, rank=rank, world=world, parts=parts, sampling=sampling)
    return load(crops, draws[start:].reshape(-1, draws.shape[-1]), pin=pin)


def share_draws(
    key: tuple[int, int],
    labels: ArrayLike,
    batch: int,
    *,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
    sampling: Sampling = "all",
) -> NDArray[np.int64]:
    """The draws of one epoch in its own random order: [batches, parts, piece]. What does not fill a batch is dropped.

    key: (seed, epoch). batch: of all `world` processes together; this one, `rank`, gets its share in `parts` pieces,
    one after another. Raises ValueError for a batch that cannot be shared so.
    """
    piece, left_over = divmod(batch, world * parts)
    if left_over:
        raise ValueError(f"a batch of {batch} for {world} processes with {parts} pieces each")

    rng, of_class = default_rng(key), np.asarray(labels)
    count = len(of_class)
    if sampling == "all":
        order = rng.permutation(count)
    elif sampling == "balanced":
        order = _balanced(of_class, rng)
    else:
        order = _share_of_objects(of_class, batch, rng)
    shared: NDArray[np.int64] = order[: len(order) // batch * batch].reshape(-1, world, parts, piece)
    return shared[:, rank]


def _balanced(labels: NDArray[np.int64], rng: Generator) -> NDArray[np.int64]:
    """As many draws as there are images, as many of each class, up to one, in random order.

    A class goes through all of its images before one comes again, which is then another draw: a count of images later.
    """
    count, classes = len(labels), np.unique(labels)
    rounds = -(-count // len(classes))
    of_classes = []
    for label in classes:
        own = rng.permutation(np.flatnonzero(labels == label))
        times, place = np.divmod(np.arange(rounds), len(own))
        of_classes.append(own[place] + times * count)

    # whole rounds of all classes, then a part of one in random order
    table = np.stack(of_classes)[rng.permutation(len(classes))].T  # [rounds, classes]
    return rng.permutation(table.reshape(-1)[:count])


def _share_of_objects(labels: NDArray[np.int64], batch: int, rng: Generator) -> NDArray[np.int64]:
    """Draws in which each batch has a quarter of regions of objects, in random order; of labels i32 [R], the largest of
    which is background. Raises ValueError for a batch that has no quarter."""
    if batch % (1 + BACKGROUND_SHARE):
        raise ValueError(f"a batch of {batch} regions, expected a multiple of {1 + BACKGROUND_SHARE}")
    background = labels.max()
    quarter = batch // (1 + BACKGROUND_SHARE)
    objects = rng.permutation(np.flatnonzero(labels < background))
    nothing = rng.permutation(np.flatnonzero(labels == background))
    count = min(len(objects) // quarter, len(nothing) // (batch - quarter))
    parts = [own[: count * n].reshape(count, n) for own, n in ((objects, quarter), (nothing, batch - quarter))]
    return rng.permuted(np.concatenate(parts, 1), axis=1).reshape(-1)


class Centers(TorchDataset[tuple[Tensor, int | Tensor, int] | None]):
    """The central view of each image, as protocol `center` sees it: (u8 [crop, crop, 3], label or `target`, index).

    None for an image that cannot be read.
    """

    def __init__(self, dataset: Dataset, spec: ModelSpec, target: TargetFunction | None = None) -> None:
        self.items, self.spec, self.target = dataset.items, spec, target

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int] | None:
        item, spec = self.items[index], self.spec
        try:
            image = read_pixels(item, spec.preprocessing.exif)
        except ImageError:
            return None
        size = (image.shape[0], image.shape[1])
        view = plan_views(spec, "center", size).views[0]
        pixels = torch.from_numpy(np.ascontiguousarray(render(image, [view], spec)[0]))
        if self.target is None:
            return pixels, item.label, index

        # The view's edges in pixels of the image, where those of a crop are, too.
        top, left, height, width = view.box
        rescaled = rescaled_px(size, view.short_side_px, spec.preprocessing.long_side_rounding)
        down, across = size[0] / rescaled[0], size[1] / rescaled[1]
        edges = (left * across, top * down, (left + width) * across, (top + height) * down)
        place = Placement(size, *edges, filter=FILTERS[spec.preprocessing.filter], mirrored=False)
        return pixels, self.target(index, place), index


def center_batches(
    centers: Centers, batch: int, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """u8 [N, crop, crop, 3], targets [N, ...] and indices i64 [N] of this process's images, without unreadable ones."""
    own = np.arange(rank, len(centers.items), world)
    for made in load(centers, [own[at : at + batch] for at in range(0, len(own), batch)]):
        if made is not None:
            yield made


def load(items: TorchDataset[Any], places: Iterable[NDArray[np.int64]], *, pin: bool = False) -> Iterator[Any]:
    """The items at each of `places` as a batch, made ahead of time by processes that end with this.

    Raises what making an item raises, in one line: the first that is no whole image or cannot be read; ProcessLost
    where one of the processes was ended.
    """
    loader = DataLoader(
        items,
        batch_sampler=places,  # type: ignore[arg-type]  # arrays serve as lists of numbers, and take less memory
        num_workers=loader_workers(),
        prefetch_factor=PREFETCHED,
        collate_fn=_collate,
        worker_init_fn=_quiet_worker,
        pin_memory=pin,
        multiprocessing_context="fork",  # they share the list of images: as a copy, ImageNet's is half a gigabyte each
    )
    batches = _without_handler(loader)
    try:
        yield from ahead(batches)  # a busy process needs milliseconds to hand a batch over
    except (ImageError, DatasetError) as error:
        # The message holds the other process's traceback; its last line is "module.Class: " and what was said.
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from None
    except (RuntimeError, OSError, EOFError) as error:
        lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError) or "DataLoader worker" in str(error)
        ended = _how_ended(batches._workers) if lost else []
        if not ended:
            raise
        raise ProcessLost(
            f"a process that decodes images {how_ended(ended[0])}: what was trained is kept, go on with --resume"
        ) from None
    finally:
        # Now, not when the last traceback is gone: Python waits for its children when it ends, and these for work.
        batches._shutdown_workers()


def _how_ended(processes: Sequence[Any]) -> list[int]:
    """The exit statuses of processes that failed; one that was killed just now has a moment to be seen as such."""
    for process in processes:
        process.join(SECONDS_TO_BE_SEEN)
    return [process.exitcode for process in processes if process.exitcode]


def _without_handler(loader: DataLoader[Any]) -> Any:
    """The loader's iterator, which looks after its processes where it waits for them.

    Its handler of SIGCHLD would raise wherever this process is, such as half way through a step.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _collate(items: list[Any]) -> Any:
    """The items that there are, stacked; None if there is none."""
    found = [item for item in items if item is not None]
    return default_collate(found) if found else None


def _quiet_worker(worker: int) -> None:
    """Sets a loading process to one thread, and to ignore signals.

    torchrun and clusters send them to all processes; they are the main one's business, and its end is theirs.
    """
    end_with_parent()
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
