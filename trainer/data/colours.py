"""Mean and principal components of a training set's colours: measured, written and read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset, Item
from infer.errors import Refused
from infer.files import read_file
from infer.processes.pipeline import ordered

from ..processes import Bar
from .augment import Matrix, Triple
from .batches import cores_here, read_pixels

SAMPLE = 1000
"""Images from which a run measures the colours itself: the mean's standard error is then far below a grey level."""
MOST_BYTES = 100_000
"""The largest file of statistics that is read; one has some hundred bytes."""
AHEAD = 16
"""Images that may be measured before their turn, so that a large one keeps no thread waiting."""

Array = NDArray[np.float64]


class StatisticsError(Refused):
    """A file that does not hold statistics; one line."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean RGB and its standard error in grey levels; principal components of RGB in 0..1, the largest first.

    The eigenvectors are the columns of a matrix, each with its largest entry positive.
    """

    mean_rgb: Triple
    mean_error: Triple
    eigenvalues: Triple
    eigenvectors: Matrix
    images: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def read(path: Path) -> Statistics:
        """The statistics of a file that `to_json` wrote. Raises StatisticsError."""
        try:
            found = msgspec.json.decode(read_file(path, MOST_BYTES, StatisticsError), type=Statistics)
            vectors = np.array(found.eigenvectors)
            mean, error, values = (np.array(one) for one in (found.mean_rgb, found.mean_error, found.eigenvalues))

            if vectors.shape != (3, 3):
                raise ValueError("expected eigenvectors of three by three numbers")
            if not all(np.isfinite(array).all() for array in (vectors, mean, error, values)):
                raise ValueError("a value is not a number")
            if not (mean.min() >= 0 and 1 < mean.max() <= 255 and values.max() <= 1 and found.images >= 0):
                raise ValueError("expected a mean in grey levels, 0 to 255, and eigenvalues of RGB in 0 to 1")
            return found
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise StatisticsError(
                f"{path}: no statistics ({said}), expected a file of python -m trainer.statistics"
            ) from None


def measure(dataset: Dataset, images: int = SAMPLE) -> Statistics:
    """Statistics of so many images at most, evenly spaced in the data set; 0: of all.

    Raises ImageError for what is no whole image, DatasetError for what cannot be read.
    """
    count = min(images or len(dataset.items), len(dataset.items))
    items = (dataset.items[number * len(dataset.items) // count] for number in range(count))

    # sums over images: of their means, of the squares of these, of their mean products of channels
    sums, squares, products = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    with Bar("colours", count) as bar:
        for image_mean, image_products in ordered(_moments, items, cores_here(), ahead=AHEAD):
            sums += image_mean
            squares += image_mean**2
            products += image_products
            bar.update()

    mean = sums / count
    error = np.sqrt((squares / count - mean**2).clip(min=0) / count)
    covariance = (products / count - np.outer(mean, mean)) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]  # eigh has the smallest first

    # An eigenvector's sign is free: its largest entry is made positive.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    vectors = vectors * np.sign(largest)
    return _statistics_from_arrays(mean.round(3), error.round(3), values.round(7), vectors.round(6), count)


def _moments(item: Item) -> tuple[Array, Array]:
    """Mean [3] of an image's pixels in grey levels, and of their products [3, 3]."""
    pixels = read_pixels(item).reshape(-1, 3).astype(np.float64)  # [h * w, 3]
    products: Array = pixels.T @ pixels / len(pixels)
    return pixels.mean(0), products


def _statistics_from_arrays(mean: Array, error: Array, values: Array, vectors: Array, images: int) -> Statistics:
    return Statistics(_triple(mean), _triple(error), _triple(values), tuple(map(_triple, vectors)), images)


def _triple(array: Array) -> Triple:
    a, b, c = array.tolist()
    return a, b, c
