"""Boxes drawn over an image, each with its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..boxes.finding import BoxNet, Guess, find_windows, guess
from ..boxes.merging import Merging
from ..data.annotations import Box
from ..engine import Engine
from ..pixels.decode import Pixels
from .maps import write_picture

COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231")
"""Colours of the first, second, ... box, then again."""


def draw(image: Pixels, boxes: Sequence[Box], labels: Sequence[str]) -> Pixels:
    """A copy of `image` u8 [h, w, 3] with each box and, in its upper left, its label; the first is above the others."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    pen, line = ImageDraw.Draw(canvas), max(2, min(height, width) // 150)
    font = ImageFont.load_default(max(10, min(height, width) // 24))

    for number, (box, label) in reversed(list(enumerate(zip(boxes, labels, strict=True)))):
        colour = COLOURS[number % len(COLOURS)]
        left = min(max(round(box.xmin) - 1, 0), width - 1)
        top = min(max(round(box.ymin) - 1, 0), height - 1)
        right, bottom = max(round(box.xmax) - 1, left), max(round(box.ymax) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=colour, width=line)

        # the label in the box's upper left, moved to where it is all in the image
        words = " ".join(label.split())
        wide, high = pen.textbbox((0, 0), words, font)[2:]
        x = max(min(left, width - wide - 2 * line), 0)
        y = max(min(top, height - high - 2 * line), 0)
        pen.rectangle((x, y, x + wide + 2 * line, y + high + 2 * line), fill=colour)
        pen.text((x + line, y + line), words, "black", font)
    return np.asarray(canvas)


def write_boxes(
    nets: Sequence[BoxNet], classifier: Engine, image: Pixels, best: Sequence[tuple[int, str]], out: Path
) -> list[Guess | None]:
    """Draws the box of each (class, title) of `best`, where there is one, into `out`; returns the boxes.

    `out` is named as one of maps.SUFFIXES. Raises EngineError, and OSError where it cannot be written.
    """
    windows = find_windows(nets, classifier, image, mean=False)
    guesses = guess(windows, [label for label, _ in best], Merging())
    found = [(one.box, title) for one, (_, title) in zip(guesses, best, strict=True) if one is not None]
    write_picture(Image.fromarray(draw(image, [box for box, _ in found], [title for _, title in found])), out)
    return guesses
