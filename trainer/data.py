"""Training batches from a data set: decode, augment, stack; deterministic per (seed, epoch, index)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from infer.dataset import Dataset
from infer.image import decode

from .augment import Augmentation

MEAN_SAMPLE = 1000
"""Images from which the mean colour is taken: its standard error is then far below a grey level."""


class Crops(TorchDataset[tuple[Tensor, Tensor, int]]):
    """Augmented crops of one epoch. An item is (u8 [crop, crop, 3], colour shift f32 [3], label)."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, *, seed: int, epoch: int) -> None:
        self.items = dataset.items
        self.augmentation, self.key = augmentation, (seed, epoch)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        item = self.items[index]
        image = decode(item.read_bytes(), name=item.name)
        crop, shift = self.augmentation(image, default_rng((*self.key, index)))
        return torch.from_numpy(crop), torch.from_numpy(shift), item.label


def loader_workers() -> int:
    """Processes that decode and augment: half the cores; the steps have the others."""
    return max(1, (os.cpu_count() or 1) // 2)


def batches(crops: Crops, batch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of one epoch in its own random order: u8 [N, crop, crop, 3], f32 [N, 3], i64 [N]. The rest is dropped.

    start: the number of the first; those before it are not made.
    """
    order = default_rng(crops.key).permutation(len(crops))[start * batch :].tolist()
    loader = DataLoader(
        crops,
        batch,
        sampler=order,
        drop_last=True,
        num_workers=loader_workers(),
        prefetch_factor=4,
        worker_init_fn=_quiet_worker,
    )
    return iter(loader)


def _quiet_worker(worker: int) -> None:
    """One thread, and Ctrl-C is the main process's business."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def mean_rgb(dataset: Dataset) -> tuple[float, float, float]:
    """Mean colour in grey levels over all pixels of up to MEAN_SAMPLE images, evenly spaced in the data set."""
    step = max(1, len(dataset.items) // MEAN_SAMPLE)
    means = [decode(item.read_bytes(), name=item.name).mean((0, 1)) for item in dataset.items[::step]]
    red, green, blue = np.mean(means, 0).round(3).tolist()
    return red, green, blue
