"""Confident mistakes of a score table, as OUT/mistakes/index.json lists them: a run writes it, the report reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

INDEX = "index.json"
"""Name of the list within OUT/mistakes; thumbnails lie beside it."""

Pixels = Annotated[int, msgspec.Meta(ge=1)]
SizePx = tuple[Pixels, Pixels]
"""(height, width)"""


@dataclass(frozen=True, slots=True)
class MistakeView:
    """One view of a mistaken image: how it was cut, and the posterior of the answer and of the true class in it.

    rescaled_px: size of the image after rescaling to `short_side_px`, in which `box` is (top, left, height, width).
    resize_px: side in px that the box is resized to; None where it is not.
    """

    short_side_px: int
    rescaled_px: SizePx
    box: tuple[int, int, int, int]
    resize_px: int | None
    mirrored: bool
    weight: float
    answer_probability: float
    label_probability: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A labelled image whose first answer in one score table is wrong; classes by name.

    size: the image's. views: the surest of the answer, the surest first; of `views_total` views, `views_agreeing` gave
    that answer themselves. thumbnail: file beside INDEX; None where the image could not be read again.
    """

    model: str
    runtime: str
    protocol: str
    scales: tuple[int, ...]
    pooling: str
    image: str
    label: str
    answer: str
    probability: float
    label_probability: float
    size: SizePx
    views_total: int
    views_agreeing: int
    views: tuple[MistakeView, ...]
    thumbnail: str | None


def surest(mistakes: Iterable[Mistake], count: int) -> tuple[Mistake, ...]:
    """The `count` most confident ones, the most confident first; equal ones by name."""
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.image))[:count])
