"""trainer/data.py: crops that depend on seed, epoch and index alone, each image once an epoch, the mean colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TRAIN_DIGITS

import trainer.data
from infer.dataset import Dataset, open_dataset
from infer.image import read
from trainer.augment import Augmentation
from trainer.data import Crops, batches, mean_rgb
from trainer.miniature import RENDERINGS

IMAGES = TRAIN_DIGITS * RENDERINGS


@pytest.fixture(scope="module")
def dataset(miniature_dir: Path) -> Dataset:
    return open_dataset(miniature_dir, "train")


def crops_of(dataset: Dataset, *, seed: int = 0, epoch: int = 0) -> Crops:
    return Crops(dataset, Augmentation(64, (72, 100), True, 0.1, "bicubic"), seed=seed, epoch=epoch)


def test_a_crop_depends_on_seed_epoch_and_index(dataset: Dataset) -> None:
    crop, shift, label = crops_of(dataset)[5]
    assert (crop.shape, crop.dtype, shift.shape, shift.dtype) == ((64, 64, 3), torch.uint8, (3,), torch.float32)
    assert label == dataset.items[5].label
    again = crops_of(dataset)[5]
    assert torch.equal(crop, again[0])
    assert torch.equal(shift, again[1])
    for other in (crops_of(dataset, seed=1)[5], crops_of(dataset, epoch=1)[5]):
        assert not torch.equal(crop, other[0])
        assert not torch.equal(shift, other[1])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(dataset: Dataset) -> None:
    """A crop is known by its colour shift."""

    def order(epoch: int) -> list[int]:
        crops = crops_of(dataset, epoch=epoch)
        index = {tuple(crops[i][1].tolist()): i for i in range(len(crops))}
        assert len(index) == IMAGES
        seen = []
        for pixels, shifts, labels in batches(crops, 8):
            assert (pixels.shape, shifts.shape, labels.shape) == ((8, 64, 64, 3), (8, 3), (8,))
            for crop, shift, label in zip(pixels, shifts, labels, strict=True):
                place = index[tuple(shift.tolist())]
                assert torch.equal(crop, crops[place][0])
                assert label == dataset.items[place].label
                seen.append(place)
        return seen

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second) == list(range(IMAGES))
    assert first != second
    assert first != list(range(IMAGES))
    assert order(0) == first


def test_what_does_not_fill_a_batch_is_dropped(dataset: Dataset) -> None:
    assert [len(labels) for _, _, labels in batches(crops_of(dataset), 20)] == [20, 20, 20]


def test_mean_colour(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    means = [read(item.path).reshape(-1, 3).mean(0) for item in dataset.items]
    assert mean_rgb(dataset) == pytest.approx(np.mean(means, 0).tolist(), abs=1e-3)
    monkeypatch.setattr(trainer.data, "MEAN_SAMPLE", 16)
    assert mean_rgb(dataset) == pytest.approx(np.mean(means[::4], 0).tolist(), abs=1e-3)
