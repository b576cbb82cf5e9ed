"""The embedded data set: real handwritten digits in the shape of ILSVRC-2012, made in seconds.

`python -m trainer.miniature DIR` places each of the 1,797 digits that scikit-learn ships (BSD) at a random size and
position on a larger, weakly textured canvas of varied size and aspect ratio, and writes class folders, flat
validation images, the devkit and bounding boxes as the original has them. No digit is in both sets. Among the images
are, as in the original, a grey-scale JPEG, a CMYK JPEG, a PNG named .JPEG and one with an EXIF rotation.
The same seed gives the same bytes. Nothing here knows about training.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from infer.command import Parser, exit_with, run
from infer.data.dataset import TRAIN, VAL
from infer.data.devkit import DEVKIT, GROUND_TRUTH, META
from infer.errors import Refused
from infer.processes.owned import own_file, remove_ours

WNIDS = tuple(f"n9900000{digit}" for digit in range(10))
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEVKIT_ORDER = (7, 2, 9, 0, 4, 1, 8, 5, 3, 6)
"""DEVKIT_ORDER[i] is the digit whose ILSVRC2012_ID is i + 1; like the original's, the ids are in no sorted order."""

VAL_DIGITS = 400
RENDERINGS = 4
SHORT_SIDE_PX = (72, 200)
MAX_ASPECT = 1.5
QUALITY = 92
MARK = ".verydeep-miniature"
"""A file that says that an unfinished folder is of this command."""
OURS = re.compile(
    r"\.verydeep-miniature|ILSVRC2012_devkit_t12/data/[^/]+|"
    r"ILSVRC2012_(img|bbox)_(train|val)(_v[23])?/(.+/)?(n|ILSVRC2012_val_)[0-9_]+\.(JPEG|xml)"
)
"""Names of what such a folder holds."""
SPECIAL = {3: "grey", 5: "cmyk", 8: "png", 13: "exif"}
"""Numbers of the images of each set that are stored in an unusual way."""
EXIF_ORIENTATION, ROTATED_90 = 0x0112, 6

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


def main(argv: list[str] | None = None) -> int:
    about = "The embedded data set: real handwritten digits in the shape of ILSVRC-2012, made in seconds."
    parser = Parser(prog="python -m trainer.miniature", description=about)
    parser.add_argument("dir", type=Path, help="folder to create")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return run(parser, lambda: _make_in_empty_folder(args), own_file(args.dir.resolve()))


def _make_in_empty_folder(args: argparse.Namespace) -> int:
    directory = args.dir.resolve()
    if (directory / MARK).is_file():  # a kill came just before its end
        remove_ours(directory, OURS, Refused)
    if directory.exists() and any(directory.iterdir() if directory.is_dir() else [directory]):
        raise Refused(f"{args.dir} exists and is not an empty folder: remove it or name another")
    train, val = make(directory, seed=args.seed)
    print(f"{args.dir}: {train} training images, {val} validation images, 10 classes")
    return 0


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

    # The folder is made under another name, which it loses when it is whole.
    unfinished = directory.with_name(directory.name + ".unfinished")
    if unfinished.exists() and not (unfinished / MARK).is_file():
        raise Refused(f"{unfinished}: is not of ours, and would be removed: move it away, or name another folder")
    remove_ours(unfinished, OURS, Refused)
    unfinished.mkdir(parents=True)
    (unfinished / MARK).touch()
    total = len(train) * RENDERINGS + len(val)
    with tqdm(total=total, desc="miniature", unit="img", disable=None) as progress:
        # training images in class folders, each class numbered from 1
        counts = [0] * 10
        for number, rendering in enumerate(_renderings(bunch, np.repeat(train, RENDERINGS), (seed, 1))):
            wnid = WNIDS[rendering.digit]
            counts[rendering.digit] += 1
            name = f"{wnid}_{counts[rendering.digit]}"
            _write_image(unfinished / TRAIN / wnid / f"{name}.JPEG", rendering.pixels, SPECIAL.get(number))
            _write_box(unfinished / "ILSVRC2012_bbox_train_v2" / wnid / f"{name}.xml", name, rendering)
            progress.update()

        # validation images in one folder, numbered from 1
        labels = []
        for number, rendering in enumerate(_renderings(bunch, val, (seed, 2)), start=1):
            name = f"ILSVRC2012_val_{number:08d}"
            _write_image(unfinished / VAL / f"{name}.JPEG", rendering.pixels, SPECIAL.get(number))
            _write_box(unfinished / "ILSVRC2012_bbox_val_v3" / "val" / f"{name}.xml", name, rendering)
            labels.append(rendering.digit)
            progress.update()

    _write_devkit(unfinished / DEVKIT, labels, counts)
    if directory.exists():
        directory.rmdir()  # known to be empty
    unfinished.rename(directory)
    (directory / MARK).unlink()
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


def _write_image(path: Path, pixels: NDArray[np.uint8], special: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)

    if special == "png":
        image.save(path, "PNG")
    elif special == "exif":
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = ROTATED_90
        image.save(path, "JPEG", quality=QUALITY, exif=exif)
    else:
        mode = {"grey": "L", "cmyk": "CMYK"}.get(special or "", "RGB")
        image.convert(mode).save(path, "JPEG", quality=QUALITY)


def _write_box(path: Path, name: str, rendering: Rendering) -> None:
    """An XML as ILSVRC-2012 has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = "val" if "_val_" in name else name.split("_")[0]
    path.write_text(BOX_XML.format(folder=folder, name=name, rendering=rendering, wnid=WNIDS[rendering.digit]))


def _write_devkit(devkit: Path, labels: list[int], counts: list[int]) -> None:
    """Writes meta.mat with the ten leaves, then one inner node as the original has; ground truth as devkit ids."""
    data = devkit / "data"
    data.mkdir(parents=True)

    texts = ("ILSVRC2012_ID", "WNID", "words", "gloss")
    numbers = ("num_children", "children", "wordnet_height", "num_train_images")
    synsets = np.zeros((11, 1), dtype=[(name, object) for name in (*texts, *numbers)])
    for row, digit in enumerate(DEVKIT_ORDER):
        gloss = f"handwritten digit {digit}"
        synsets[row, 0] = (row + 1, WNIDS[digit], WORDS[digit], gloss, 0, np.zeros((1, 0)), 0, counts[digit])
    children = np.arange(1, 11)[None]
    synsets[10, 0] = (11, "n99000010", "digit", "a handwritten digit", 10, children, 1, 0)

    # scipy stamps the file with the time of writing; the header's text field is 116 bytes of free form
    path = data / META
    scipy.io.savemat(path, {"synsets": synsets}, do_compression=True)
    raw = path.read_bytes()
    path.write_bytes(b"MATLAB 5.0 MAT-file, verydeep miniature".ljust(116) + raw[116:])

    ids = [DEVKIT_ORDER.index(digit) + 1 for digit in labels]
    (data / GROUND_TRUTH).write_text("".join(f"{i}\n" for i in ids))


if __name__ == "__main__":
    exit_with(main)
