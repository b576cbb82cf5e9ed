"""The embedded data set of detection: scenes of digits in the shape of ILSVRC's detection task (DET), of 2014.

ILSVRC2014_DET_train has folders as the original: ILSVRC2014_train_0000, whose scenes are annotated in full; WNIDs,
whose images show one digit; ILSVRC2013_DET_train_extra0, ground without a digit and without an XML. The validation
images are flat and have odd numbers in their names; the devkit's det_lists and blacklist know them by others. No digit
is in both sets, and those of validation are the ones of the classification miniature of the same seed. Unusual images
are as there; besides, one XML of each set states twice its image's size, two scenes for training leave out an object
and are listed as partly annotated, and two of validation show nothing. The same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from tqdm import tqdm

from infer.data.detection.ilsvrc import META

from .digits import VAL_DIGITS
from .files import DEVKIT_ORDER, SPECIAL, WNIDS, WORDS, whole_folder, write_image, write_synsets
from .scenes import MOST_DIGITS, Digit, Scene, draw_scene

TRAIN, TRAIN_BOXES = "ILSVRC2014_DET_train", "ILSVRC2014_DET_bbox_train"
VAL, VAL_BOXES = "ILSVRC2013_DET_val", "ILSVRC2013_DET_bbox_val"
DEVKIT, LISTS = "ILSVRC2014_devkit", "det_lists"
BLACKLIST = "ILSVRC2014_det_validation_blacklist.txt"

TRAIN_SCENES, VAL_SCENES = 600, 200
ICONIC = 10
"""One of so many training images lies in the folder of a WNID, and shows one digit."""
EXTRA = 20
"""Beside so many training scenes there is one image without any digit."""
ENLARGED = 17
"""Number of the image of each set whose XML states twice its size."""
EMPTY = (21, 42)
"""Numbers of the validation images without an object."""
PARTLY = 2
"""Training scenes of which an object is not annotated."""
BLACKLISTED = 3
"""Pairs of an image and a class on the blacklist: the first object of so many images of validation."""

OBJECT_XML = """\
	<object>
		<name>{wnid}</name>
		<bndbox>
			<xmin>{xmin}</xmin>
			<xmax>{xmax}</xmax>
			<ymin>{ymin}</ymin>
			<ymax>{ymax}</ymax>
		</bndbox>
	</object>
"""
SCENE_XML = """\
<annotation>
	<folder>{folder}</folder>
	<filename>{name}</filename>
	<source>
		<database>ILSVRC_2014</database>
	</source>
	<size>
		<width>{width}</width>
		<height>{height}</height>
	</size>
{objects}</annotation>
"""
"""An image's objects as ILSVRC's detection task has them."""


def make(
    directory: Path, *, seed: int = 0, train_scenes: int = TRAIN_SCENES, val_scenes: int = VAL_SCENES
) -> tuple[int, int]:
    """Writes the data set to `directory`, whole or not at all; returns how many images of training and validation."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = default_rng(seed).permutation(len(bunch.images))
    collection = [Digit(image, int(digit)) for image, digit in zip(bunch.images, bunch.target, strict=True)]
    val, train = order[:VAL_DIGITS], order[VAL_DIGITS:]

    total = train_scenes + train_scenes // EXTRA + val_scenes
    with whole_folder(directory) as folder, tqdm(total=total, desc="miniature", unit="img", disable=None) as progress:
        lists = TrainLists()
        for number in range(1, train_scenes + 1):
            rng = default_rng((seed, 3, number))
            count = 1 if number % ICONIC == 0 else int(rng.integers(1, MOST_DIGITS, endpoint=True))
            scene = draw_scene(_choose(collection, train, count, (seed, 4, number)), rng)
            lists.write(folder, number, scene)
            progress.update()
        for number in range(1, train_scenes // EXTRA + 1):
            lists.write_extra(folder, number, draw_scene((), default_rng((seed, 5, number))))
            progress.update()

        val_scenes_made = []
        for number in range(1, val_scenes + 1):
            rng = default_rng((seed, 6, number))
            count = 0 if number in EMPTY else int(rng.integers(1, MOST_DIGITS, endpoint=True))
            scene = draw_scene(_choose(collection, val, count, (seed, 7, number)), rng)
            _write_val(folder, number, scene)
            val_scenes_made.append(scene)
            progress.update()

        devkit = folder / DEVKIT / "data"
        _write_meta(devkit / META)
        lists.write_lists(devkit / LISTS)
        _write_val_lists(devkit, val_scenes_made)
    return train_scenes + train_scenes // EXTRA, val_scenes


class TrainLists:
    """Training images as they are written, and what det_lists say of each class: pos, part or neg."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, int], list[str]] = {}
        self._partly = 0
        self._numbers = [0] * 10

    def write(self, folder: Path, number: int, scene: Scene) -> None:
        """Writes a scene and its XML."""
        digits = [digit for digit, _ in scene.digits]
        name = f"ILSVRC2014_train_0000/ILSVRC2014_train_{number:08d}"
        if number % ICONIC == 0:
            wnid = WNIDS[digits[0]]
            self._numbers[digits[0]] += 1
            name = f"{wnid}/{wnid}_{self._numbers[digits[0]]}"

        # an object that is not annotated is the second of its class
        objects = list(range(len(digits)))
        second = next((place for place in objects if digits[place] in digits[:place]), None)
        part = None
        if second is not None and self._partly < PARTLY:
            self._partly += 1
            part = digits[second]
            objects.remove(second)

        write_image(folder / TRAIN / f"{name}.JPEG", scene.pixels, SPECIAL.get(number))
        _write_xml(folder / TRAIN_BOXES / f"{name}.xml", number, scene, objects)
        for digit in range(10):
            kind = "part" if digit == part else "pos" if digit in digits else "neg"
            if kind != "neg" or number % ICONIC:  # nobody looked for other classes in images of one
                self._lists.setdefault((kind, digit), []).append(name)

    def write_extra(self, folder: Path, number: int, scene: Scene) -> None:
        """Writes an image without objects, which the lists name without its folder, as the original's do."""
        name = f"ILSVRC2013_train_{number:08d}"
        write_image(folder / TRAIN / "ILSVRC2013_DET_train_extra0" / f"{name}.JPEG", scene.pixels, None)
        for digit in range(10):
            self._lists.setdefault(("neg", digit), []).append(name)

    def write_lists(self, lists: Path) -> None:
        """Writes det_lists/train_KIND_ID.txt; ids are the devkit's."""
        lists.mkdir()
        for place, digit in enumerate(DEVKIT_ORDER, start=1):
            for kind in ("pos", "part", "neg"):
                names = self._lists.get((kind, digit), [])
                (lists / f"train_{kind}_{place}.txt").write_text("".join(f"{name}\n" for name in names))


def val_name(number: int) -> str:
    """The name of a validation image, by its place from 1: of two years, as the original has them."""
    return f"ILSVRC2012_val_{2 * number + 1:08d}" if number % 4 else f"ILSVRC2013_val_{number // 4:08d}"


def _choose(
    collection: Sequence[Digit], allowed: NDArray[np.intp], count: int, key: tuple[int, ...]
) -> tuple[Digit, ...]:
    chosen = default_rng(key).choice(allowed, count, replace=False)
    return tuple(collection[index] for index in chosen)


def _write_val(folder: Path, number: int, scene: Scene) -> None:
    name = val_name(number)
    write_image(folder / VAL / f"{name}.JPEG", scene.pixels, SPECIAL.get(number))
    _write_xml(folder / VAL_BOXES / f"{name}.xml", number, scene, range(len(scene.digits)))


def _write_xml(path: Path, number: int, scene: Scene, objects: Sequence[int]) -> None:
    """An XML with some of the scene's objects, in pixels of the size that it states."""
    times = 2 if number == ENLARGED else 1
    parts = []
    for place in objects:
        digit, (xmin, ymin, xmax, ymax) = scene.digits[place]
        edges = {"xmin": times * (xmin - 1) + 1, "ymin": times * (ymin - 1) + 1}
        edges |= {"xmax": times * xmax, "ymax": times * ymax}
        parts.append(OBJECT_XML.format(wnid=WNIDS[digit], **edges))

    height, width = (times * side for side in scene.pixels.shape[:2])
    fields = {"folder": path.parent.name, "name": path.stem, "width": width, "height": height}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCENE_XML.format(**fields, objects="".join(parts)))


def _write_meta(path: Path) -> None:
    """Writes meta_det.mat: the ten classes, then a descendant and an ancestor, which are none."""
    nothing = np.zeros((1, 0))
    rows: list[tuple[object, ...]] = []
    for place, digit in enumerate(DEVKIT_ORDER, start=1):
        children = np.array([[11]]) if digit == 7 else nothing
        rows.append((place, WNIDS[digit], WORDS[digit], f"handwritten digit {digit}", children))
    rows.append((11, "n99000011", "seven with a bar", "", nothing))
    rows.append((12, "n99000010", "digit", "a handwritten digit", np.arange(1, 11)[None]))
    write_synsets(path, ("ILSVRC2014_DET_ID", "WNID", "name", "description", "children"), rows)


def _write_val_lists(devkit: Path, scenes: Sequence[Scene]) -> None:
    """Writes val.txt, `name index` in the order of the names, and the blacklist, `index WNID`."""
    names = sorted((val_name(number), scene) for number, scene in enumerate(scenes, start=1))
    lines = [f"{name} {index}\n" for index, (name, _) in enumerate(names, start=1)]
    (devkit / LISTS / "val.txt").write_text("".join(lines))

    pairs = _first_objects(scene for _, scene in names)
    chosen = [pair for pair, _ in zip(pairs, range(BLACKLISTED), strict=False)]
    (devkit / BLACKLIST).write_text("".join(f"{index} {wnid}\n" for index, wnid in chosen))


def _first_objects(scenes: Iterator[Scene]) -> Iterator[tuple[int, str]]:
    """(index from 1, WNID) of the first object of each seventh scene that has one."""
    for index, scene in enumerate(scenes, start=1):
        if scene.digits and index % 7 == 0:
            yield index, WNIDS[scene.digits[0][0]]
