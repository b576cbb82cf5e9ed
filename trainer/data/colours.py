"""Mean and principal components of the colours."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.data.dataset import Dataset, Item
from infer.errors import Refused

from .augment import Matrix
from .batches import pixels_of

SAMPLE = 1000
"""Images from which a run measures the colours itself: the mean's standard error is then far below a grey level."""


AT_ONCE = 256


class StatisticsError(Refused):
    """A file that does not hold statistics; one line."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """mean_rgb and its standard error in grey levels; components of RGB in 0..1, the largest first.

    eigenvectors: a matrix whose columns they are, each with its largest entry positive.
    """

    mean_rgb: tuple[float, float, float]
    mean_error: tuple[float, float, float]
    eigenvalues: tuple[float, float, float]
    eigenvectors: Matrix
    images: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def read(path: Path) -> Statistics:
        """Raises StatisticsError."""
        try:
            values = json.loads(path.read_text())
            matrix = np.array(values["eigenvectors"], np.float64)
            rows = [np.array(values[name], np.float64) for name in ("mean_rgb", "mean_error", "eigenvalues")]
            if matrix.shape != (3, 3) or any(row.shape != (3,) for row in rows):
                raise ValueError("expected three numbers, and three by three")
            if not all(np.isfinite(array).all() for array in (matrix, *rows)):
                raise ValueError("a value is not a number")
            if not (rows[0].min() >= 0 and 1 < rows[0].max() <= 255 and rows[2].max() <= 1):
                raise ValueError("expected a mean in grey levels, 0 to 255, and eigenvalues of RGB in 0 to 1")
            return _statistics(rows[0], rows[1], rows[2], matrix, int(values["images"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise StatisticsError(
                f"{path}: no statistics ({said}), expected a file of python -m trainer.statistics"
            ) from None


def measure(dataset: Dataset, images: int = SAMPLE) -> Statistics:
    """Of so many images at most, evenly spaced in the data set; 0: of all. Raises ImageError or DatasetError."""
    count = min(images or len(dataset.items), len(dataset.items))
    items = (dataset.items[number * len(dataset.items) // count] for number in range(count))
    sums, squares, products = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    bar = tqdm(desc="colours", total=count, unit="image", disable=None, leave=False)
    with ThreadPoolExecutor() as pool, bar:
        while some := list(itertools.islice(items, AT_ONCE)):
            for image_mean, image_products in pool.map(_moments, some):
                sums += image_mean
                squares += image_mean**2
                products += image_products
                bar.update()
    mean = sums / count
    error = np.sqrt((squares / count - mean**2).clip(min=0) / count)
    covariance = (products / count - np.outer(mean, mean)) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return _statistics(mean.round(3), error.round(3), values.round(7), (vectors * np.sign(largest)).round(6), count)


Row = NDArray[np.float64]


def _moments(item: Item) -> tuple[Row, Row]:
    """Mean [3] of an image's pixels in grey levels, and of their products [3, 3]."""
    pixels = pixels_of(item).reshape(-1, 3).astype(np.float64)
    products: Row = pixels.T @ pixels / len(pixels)
    return pixels.mean(0), products


def _statistics(mean: Row, error: Row, values: Row, vectors: Row, images: int) -> Statistics:
    def three(row: Row) -> tuple[float, float, float]:
        a, b, c = row.tolist()
        return a, b, c

    return Statistics(three(mean), three(error), three(values), tuple(map(three, vectors)), images)
