"""Images with what was found on them, and what was not."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.data.annotations import Box

from ..metric import Detections, Truth
from ..mistakes import KINDS, NEITHER, RIGHT, Mistakes
from .values import Mark

LONGEST_PX, QUALITY = 480, 80


def encode_picture(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of an image, [h, w, 3] RGB, at most LONGEST_PX high and wide."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def choose_images(mistakes: Sequence[Mistakes], images: int, count: int) -> list[int]:
    """So many images, sorted: half of them have the surest wrong detections, the others are evenly spaced."""
    count = min(count, images)
    wrong = [
        (-float(own.judged.score[place]), int(own.judged.image[place]))
        for own in mistakes
        for place in np.flatnonzero(own.kind >= 0)[:count]
    ]
    surest = list(dict.fromkeys(image for _, image in sorted(wrong)))[: (count + 1) // 2]
    others = [image for image in range(images) if image not in set(surest)]
    spaced = [others[number * len(others) // (count - len(surest))] for number in range(count - len(surest))]
    return sorted([*surest, *spaced])


def marks_of(
    truth: Truth,
    detections: Sequence[Detections],
    mistakes: Sequence[Mistakes],
    words: Sequence[str],
    image: int,
) -> list[Mark]:
    """The marks of one image: of as many of the surest detections of each class as it has objects, and what was missed.

    words: of each class, its name for readers.
    """
    marks = []
    for label, own in enumerate(mistakes):
        counted = np.flatnonzero(own.kind != NEITHER)[: int(own.judged.objects.sum())]
        for place in counted[own.judged.image[counted] == image]:
            kind, box = int(own.kind[place]), Box(*map(float, detections[label].boxes[own.judged.order[place]]))
            text = f"{words[label]} {own.judged.score[place]:.2f}"
            if kind == RIGHT:
                marks.append(Mark("right", box, text))
            else:
                said = KINDS[kind] if own.other[place] < 0 else f"is {words[int(own.other[place])]}"
                marks.append(Mark("wrong", box, f"{text}: {said}"))

        objects = truth.objects[label]
        # also those that only a detection that is not shown has found
        found = own.judged.found[counted]
        counts = objects.counts & (objects.image == image) & ~np.isin(objects.image, truth.not_counted[label])
        counts[found[found >= 0]] = False
        marks += [Mark("missed", Box(*map(float, box)), f"{words[label]}: missed") for box in objects.boxes[counts]]
    return marks
