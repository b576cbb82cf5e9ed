"""Scenes of real digits on textured ground: what the embedded data set of detection shows.

Ink is at least LEAST_CONTRAST levels lighter than what it lies on, so that a person, and selective search, see each
digit at once. Clutter, which no box is around, is fainter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from infer.data.annotations import Box

WIDTH_PX = (150, 320)
ASPECT = (0.62, 1.25)
"""Height to width."""
DIGIT_PX = (22, 110)
"""Heights of digits."""
LEAST_SHARE = 20.5 / 214
"""Height of a digit to the width of its image, at least: 20 px and more where the image is rescaled to 214 px."""
LARGEST_SHARE = 0.72
"""Height of a digit to the image's shorter side, at most."""
MOST_DIGITS = 6
OVERLAP = 0.12
"""Part of the smaller of two boxes that the larger one may cover."""
PLACES = 60
"""Places that are tried for a digit before it is left out."""
GROUND, CLUTTER, INK = (15, 75), (30, 100), (185, 255)
"""Levels of grey, of each colour, at least and at most."""
LEAST_CONTRAST = 70
VISIBLE = 0.5
"""Coverage by ink that counts as the digit's, for its box."""


class Digit(NamedTuple):
    """A digit of the collection."""

    image: NDArray[np.float64]  # [8, 8], 0 to 16
    digit: int


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, and the digits on it with the boxes around their ink; later ones lie above earlier ones."""

    pixels: NDArray[np.uint8]  # [h, w, 3] RGB
    digits: tuple[tuple[int, Box], ...]


def draw_scene(digits: Sequence[Digit], rng: Generator) -> Scene:
    """A scene of these digits, at most MOST_DIGITS; one for which no place is found is left out."""
    width = int(rng.integers(*WIDTH_PX, endpoint=True))
    height = round(width * rng.uniform(*ASPECT))
    canvas = _draw_ground(height, width, rng)

    # the more digits, the smaller the largest of them
    least = max(DIGIT_PX[0], LEAST_SHARE * width)
    room = 0.8 * np.sqrt(height * width / max(len(digits), 1))
    largest = max(least, min(DIGIT_PX[1], LARGEST_SHARE * min(height, width), room))

    placed: list[tuple[int, Box]] = []
    for one in digits:
        ink = _stretch(one.image, np.exp(rng.uniform(np.log(least), np.log(largest))), rng)
        place = _find_place(ink.shape, (height, width), [box for _, box in placed], rng)
        if place is not None:
            _lay(canvas, ink, place, rng)
            placed.append((one.digit, _box(ink.shape, place)))
    return Scene(canvas.round().clip(0, 255).astype(np.uint8), tuple(placed))


def _draw_ground(height: int, width: int, rng: Generator) -> NDArray[np.float32]:
    """[h, w, 3]: coarse colours blown up, a grain, and clutter: ellipses, bars and bent lines."""
    coarse = rng.uniform(*GROUND, (5, 6, 3)).astype(np.float32)
    canvas = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    noise = np.asarray(rng.normal(0, 1, canvas.shape), np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.6, 2.0))
    canvas += grain * np.float32(rng.uniform(3, 7) / max(float(grain.std()), 1e-3))

    short = min(height, width)
    for _ in range(int(rng.integers(2, 6))):
        colour = tuple(float(level) for level in rng.uniform(*CLUTTER, 3))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        a, b = (int(rng.integers(3, max(4, short // 5))) for _ in range(2))
        kind = rng.integers(0, 3)
        if kind == 0:
            cv2.ellipse(canvas, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(canvas, (x, y), (x + a, y + b), colour, -1, cv2.LINE_AA)
        else:
            corners = np.stack([rng.integers(-a, a + 1, 4) + x, rng.integers(-b, b + 1, 4) + y], 1).astype(np.int32)
            cv2.polylines(canvas, [corners], False, colour, max(2, short // 50), cv2.LINE_AA)
    return canvas


def _stretch(image: NDArray[np.float64], height_px: float, rng: Generator) -> NDArray[np.float32]:
    """The digit's coverage, 0 to 1, cut to its visible ink, which is about `height_px` high."""
    fine = cv2.resize((image / 16).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    fine = ((fine - 0.3) / 0.4).clip(0, 1)  # edges are as sharp as those of things in photographs
    ys, xs = np.nonzero(fine > VISIBLE)
    cut = fine[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]

    high = max(2, round(height_px))
    wide = max(2, round(high * cut.shape[1] / cut.shape[0] * rng.uniform(0.8, 1.2)))
    return np.asarray(cv2.resize(cut, (wide, high), interpolation=cv2.INTER_AREA), np.float32)


def _find_place(
    shape: tuple[int, ...], size_px: tuple[int, int], boxes: Sequence[Box], rng: Generator
) -> tuple[int, int] | None:
    """(top, left) inside an image of this size where no box covers too much of another; None if none is found."""
    (high, wide), (height, width) = shape[:2], size_px
    if high > height - 4 or wide > width - 4:
        return None
    for _ in range(PLACES):
        top, left = int(rng.integers(2, height - high - 1)), int(rng.integers(2, width - wide - 1))
        own = _box(shape, (top, left))
        if all(_covered(own, box) <= OVERLAP for box in boxes):
            return top, left
    return None


def _covered(one: Box, other: Box) -> float:
    """The part of the smaller box that lies in the other."""
    wide = min(one.xmax, other.xmax) - max(one.xmin, other.xmin) + 1
    high = min(one.ymax, other.ymax) - max(one.ymin, other.ymin) + 1
    areas = [(box.xmax - box.xmin + 1) * (box.ymax - box.ymin + 1) for box in (one, other)]
    return max(wide, 0) * max(high, 0) / min(areas)


def _lay(canvas: NDArray[np.float32], ink: NDArray[np.float32], place: tuple[int, int], rng: Generator) -> None:
    """Lays a digit on the canvas in one colour, lighter than what is under it wherever it can be."""
    top, left = place
    patch = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    under = float(np.median(patch))
    colour = np.asarray(rng.uniform(max(INK[0], min(under + LEAST_CONTRAST, 235)), INK[1], 3), np.float32)
    patch += (colour - patch) * ink[..., None]


def _box(shape: tuple[int, ...], place: tuple[int, int]) -> Box:
    """The box of a digit that fills `shape` and lies at (top, left)."""
    top, left = place
    return Box(left + 1, top + 1, left + shape[1], top + shape[0])
