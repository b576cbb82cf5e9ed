"""The embedded data set of single digits, in the shape of ILSVRC-2012.

Each of the 1,797 digits that scikit-learn ships (BSD) is placed at a random size and position on a larger, weakly
textured canvas of varied size and aspect ratio; class folders, flat validation images, the devkit and bounding boxes
are as the original has them. No digit is in both sets. Among the images are, as in the original, a grey-scale JPEG, a
CMYK JPEG, a PNG named .JPEG and one with an EXIF rotation. The same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from tqdm import tqdm

from infer.data.dataset import TRAIN, VAL
from infer.data.devkit import DEVKIT, GROUND_TRUTH, META

from .files import DEVKIT_ORDER, SPECIAL, WNIDS, WORDS, whole_folder, write_image, write_synsets

VAL_DIGITS = 400
RENDERINGS = 4
SHORT_SIDE_PX = (72, 200)
MAX_ASPECT = 1.5

BOX_XML = """\
<annotation>
	<folder>{folder}</folder>
	<filename>{name}</filename>
	<size>
		<width>{rendering.pixels.shape[1]}</width>
		<height>{rendering.pixels.shape[0]}</height>
		<depth>3</depth>
	</size>
	<object>
		<name>{wnid}</name>
		<bndbox>
			<xmin>{rendering.box[0]}</xmin>
			<ymin>{rendering.box[1]}</ymin>
			<xmax>{rendering.box[2]}</xmax>
			<ymax>{rendering.box[3]}</ymax>
		</bndbox>
	</object>
</annotation>"""
"""An image's box as ILSVRC-2012 has it."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """An image of the data set, with its label and its one box."""

    pixels: NDArray[np.uint8]  # [h, w, 3] RGB
    digit: int
    box: tuple[int, int, int, int]  # xmin, ymin, xmax, ymax of the digit's ink, from 1, inclusive, as ILSVRC's XMLs


def make(
    directory: Path, *, seed: int = 0, train_digits: int | None = None, val_digits: int = VAL_DIGITS
) -> tuple[int, int]:
    """Writes the data set to `directory`, whole or not at all; returns the numbers of training and validation images.

    `train_digits` limits how many digits are rendered for training (each RENDERINGS times); default all that are not
    used for validation.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = default_rng(seed).permutation(len(bunch.images))
    val, train = order[:val_digits], order[val_digits:][:train_digits]

    total = len(train) * RENDERINGS + len(val)
    with whole_folder(directory) as folder, tqdm(total=total, desc="miniature", unit="img", disable=None) as progress:
        # training images in class folders, each class numbered from 1
        counts = [0] * 10
        for number, rendering in enumerate(_renderings(bunch, np.repeat(train, RENDERINGS), (seed, 1))):
            wnid = WNIDS[rendering.digit]
            counts[rendering.digit] += 1
            name = f"{wnid}_{counts[rendering.digit]}"
            write_image(folder / TRAIN / wnid / f"{name}.JPEG", rendering.pixels, SPECIAL.get(number))
            _write_box(folder / "ILSVRC2012_bbox_train_v2" / wnid / f"{name}.xml", name, rendering)
            progress.update()

        # validation images in one folder, numbered from 1
        labels = []
        for number, rendering in enumerate(_renderings(bunch, val, (seed, 2)), start=1):
            name = f"ILSVRC2012_val_{number:08d}"
            write_image(folder / VAL / f"{name}.JPEG", rendering.pixels, SPECIAL.get(number))
            _write_box(folder / "ILSVRC2012_bbox_val_v3" / "val" / f"{name}.xml", name, rendering)
            labels.append(rendering.digit)
            progress.update()

        _write_devkit(folder / DEVKIT, labels, counts)
    return len(train) * RENDERINGS, len(val)


def _renderings(bunch: object, indices: NDArray[np.intp], key: tuple[int, int]) -> Iterator[Rendering]:
    """The digits of these indices, each drawn by random numbers of its own: of `key` and its place."""
    images, target = bunch.images, bunch.target  # type: ignore[attr-defined]
    for number, index in enumerate(indices):
        yield render(images[index], int(target[index]), default_rng((*key, number)))


def render(digit_image: NDArray[np.float64], digit: int, rng: Generator) -> Rendering:
    """An 8x8 digit (0-16) on a canvas: light ink near the middle of a dark ground with two pieces of clutter."""
    # the size of the canvas
    short = int(rng.integers(SHORT_SIDE_PX[0], SHORT_SIDE_PX[1], endpoint=True))
    long = round(short * rng.uniform(1.0, MAX_ASPECT))
    height, width = (short, long) if rng.random() < 0.5 else (long, short)

    # the ground: coarse colours blown up, noise, two ellipses
    coarse = rng.uniform(20, 60, (5, 6, 3)).astype(np.float32)
    canvas = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    canvas += np.asarray(rng.normal(0, 3, canvas.shape), np.float32)
    for _ in range(2):
        center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(2, short // 6)), int(rng.integers(2, short // 6)))
        colour = tuple(float(c) for c in rng.uniform(40, 110, 3))
        cv2.ellipse(canvas, center, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)

    # the digit
    side = round(short * rng.uniform(0.60, 0.85))
    left, top = (_near_middle(extent, side, rng) for extent in (width, height))
    ink = cv2.resize((digit_image / 16).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colour_rgb = np.asarray(rng.uniform(170, 255, 3), np.float32)
    patch = canvas[top : top + side, left : left + side]
    patch += (colour_rgb - patch) * ink[..., None]

    ys, xs = np.nonzero(ink > 0.3)
    box = (left + int(xs.min()) + 1, top + int(ys.min()) + 1, left + int(xs.max()) + 1, top + int(ys.max()) + 1)
    return Rendering(canvas.round().clip(0, 255).astype(np.uint8), digit, box)


def _near_middle(extent: int, side: int, rng: Generator) -> int:
    """Offset of a span of `side` in `extent`: anywhere within 12 % of the free room around the middle."""
    middle, room = (extent - side) / 2, min((extent - side) / 2, 0.12 * extent)
    return int(middle + rng.uniform(-room, room))


def _write_box(path: Path, name: str, rendering: Rendering) -> None:
    """An XML as ILSVRC-2012 has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = "val" if "_val_" in name else name.split("_")[0]
    path.write_text(BOX_XML.format(folder=folder, name=name, rendering=rendering, wnid=WNIDS[rendering.digit]))


def _write_devkit(devkit: Path, labels: list[int], counts: list[int]) -> None:
    """Writes meta.mat with the ten leaves, then one inner node as the original has; ground truth as devkit ids."""
    texts = ("ILSVRC2012_ID", "WNID", "words", "gloss")
    numbers = ("num_children", "children", "wordnet_height", "num_train_images")
    rows: list[tuple[object, ...]] = []
    for row, digit in enumerate(DEVKIT_ORDER):
        gloss = f"handwritten digit {digit}"
        rows.append((row + 1, WNIDS[digit], WORDS[digit], gloss, 0, np.zeros((1, 0)), 0, counts[digit]))
    children = np.arange(1, 11)[None]
    rows.append((11, "n99000010", "digit", "a handwritten digit", 10, children, 1, 0))
    write_synsets(devkit / "data" / META, texts + numbers, rows)

    ids = [DEVKIT_ORDER.index(digit) + 1 for digit in labels]
    (devkit / "data" / GROUND_TRUTH).write_text("".join(f"{i}\n" for i in ids))
