"""Pictures of where a net looks, class score maps of dense views over the image, and of boxes with their names.

A dense view gives class scores at positions `stride_px` apart: position i looks at the crop that begins at i times that
(in the mirrored view from the right), the last one perhaps beyond the edge. The picture shows each position's
posterior, the softmax of its scores: its own value at the centre of its receptive field, between centres linear,
averaged over the view and its mirror and over the scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..boxes.finding import BoxNet, Guess, Merging, find_windows, guess
from ..data.annotations import Box
from ..engine import Engine
from ..files import replacing
from ..pixels.decode import Pixels
from ..pixels.render import resize
from ..spec import ModelSpec, Size
from ..views import plan_views

SHOWN_PX = 448
"""Longer side of a panel's image."""
MARGIN, TITLE, BAR = 8, 24, 12  # px
OPACITY = 0.55
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of a picture's name, and Pillow's name of each format."""
HEAT = cv2.COLORMAP_INFERNO

BEYOND_PX = {"googlenet": 14.5, "googlenet-tv": 6.5}
"""Distance of a receptive field's centre below and right of its crop's middle; VGG's is in the middle.

A 2x2 pool at stride 2 sees what it replaces, GoogLeNet's 3x3 pools one row and column more on that side.
"""

Heat = NDArray[np.float64]


def heat(engine: Engine, image: Pixels, scales: Sequence[int], classes: Sequence[int], shown: Size) -> Heat:
    """Posteriors of some classes at each place of the image, f64 [classes, H, W] for a picture of (H, W).

    Raises EngineError for an engine without `score_map`.
    """
    size, loaded = (image.shape[0], image.shape[1]), engine.load([image])
    found = np.zeros((len(classes), *shown))  # [classes, H, W]

    for scale in scales:  # maps of different sizes are different outputs
        plan = plan_views(engine.spec, "dense", size, [scale])
        scores = engine.run(loaded, [plan], ("score_map",))["score_map"].astype(np.float64)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        posterior = (scores / scores.sum(1, keepdims=True))[:, classes]  # [views, classes, h', w']

        for view, own in zip(plan.views, posterior, strict=True):
            rows = _between(own.shape[1], view.size_px[0], shown[0], engine.spec)
            cols = _between(own.shape[2], view.size_px[1], shown[1], engine.spec)
            over = rows @ own @ cols.T
            found += (over[..., ::-1] if view.mirrored else over) / (len(plan) * len(scales))
    return found


def _between(positions: int, side_px: int, shown_px: int, spec: ModelSpec) -> Heat:
    """Weights [shown_px, positions] that interpolate along an axis; beyond the outer centres nothing changes."""
    pixel = (np.arange(shown_px) + 0.5) * side_px / shown_px  # in the view
    first_centre = spec.crop_px / 2 + BEYOND_PX.get(spec.net, 0)
    place = np.clip((pixel - first_centre) / spec.stride_px, 0, positions - 1)
    first = np.minimum(place.astype(np.int64), max(positions - 2, 0))
    weights = np.zeros((shown_px, positions))
    weights[np.arange(shown_px), first] = 1 - (place - first)
    weights[np.arange(shown_px), np.minimum(first + 1, positions - 1)] += place - first
    return weights


def shown_size(image: Pixels) -> Size:
    """(height, width) of a panel's image."""
    scale = SHOWN_PX / max(image.shape[:2])
    return max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))


def draw_maps(image: Pixels, heats: Heat, titles: Sequence[str]) -> Image.Image:
    """The image, and beside it a panel for each class: its heat over the image, with a bar from 0 to its largest."""
    height, width = heats.shape[1:]
    plain = resize(image, (height, width), "bicubic")
    across, down = width + 2 * MARGIN, height + TITLE + 3 * MARGIN + BAR + TITLE
    columns = min(3, len(titles) + 1)
    rows = -(-(len(titles) + 1) // columns)
    sheet = Image.new("RGB", (across * columns, down * rows), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)

    for number, title in enumerate(("image", *titles)):
        x, y = number % columns * across + MARGIN, number // columns * down + MARGIN
        pen.text((x, y), _fitting(pen, title, font, width), "black", font)
        panel = plain
        if number:
            own = heats[number - 1]
            most = float(own.max())
            colours = _colours(own / most if most > 0 else own)
            panel = np.round((1 - OPACITY) * plain + OPACITY * colours).astype(np.uint8)

            # the bar, with 0 and the largest value below its ends
            bar, below = y + TITLE + height + MARGIN, y + TITLE + height + MARGIN + BAR
            sheet.paste(Image.fromarray(_colours(np.tile(np.linspace(0, 1, width), (BAR, 1)))), (x, bar))
            pen.text((x, below), "0", "black", font)
            said = f"{most:.3g}"
            pen.text((x + width - pen.textlength(said, font), below), said, "black", font)
        sheet.paste(Image.fromarray(panel), (x, y + TITLE))
    return sheet


def _colours(values: Heat) -> Pixels:
    """Colours u8 RGB [h, w, 3] of values from 0 to 1."""
    return np.asarray(cv2.applyColorMap(np.round(255 * values).astype(np.uint8), HEAT)[..., ::-1], np.uint8)


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """`text` on one line, as far as there is room for it."""
    text = " ".join(text.split())
    while pen.textlength(text, font) > width and len(text) > 1:
        text = text[:-2].rstrip() + "…"
    return text


def write_maps(
    engine: Engine, image: Pixels, scales: Sequence[int], best: Sequence[tuple[int, str]], out: Path
) -> None:
    """Draws a map for each (class, title) of `best`, into `out`, named as one of SUFFIXES.

    Raises EngineError, and OSError where the picture cannot be written.
    """
    heats = heat(engine, image, scales, [index for index, _ in best], shown_size(image))
    write_picture(draw_maps(image, heats, [title for _, title in best]), out)


def write_picture(picture: Image.Image, out: Path) -> None:
    """Writes a picture in the format of its name. Raises OSError."""
    with replacing(out) as unfinished:
        picture.save(unfinished, format=SUFFIXES[out.suffix.lower()])


COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231")
"""Colours of the first, second, ... box, then again."""


def draw_boxes(image: Pixels, boxes: Sequence[Box], labels: Sequence[str]) -> Pixels:
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

    `out` is named as one of SUFFIXES. Raises EngineError, and OSError where it cannot be written.
    """
    windows = find_windows(nets, classifier, image, mean=False)
    guesses = guess(windows, [label for label, _ in best], Merging())
    found = [(one.box, title) for one, (_, title) in zip(guesses, best, strict=True) if one is not None]
    write_picture(Image.fromarray(draw_boxes(image, [box for box, _ in found], [title for _, title in found])), out)
    return guesses
