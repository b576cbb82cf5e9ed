"""The images that a run learns from, and those that it is tried on, each with its target."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from infer.data.dataset import Dataset, DatasetError, Item, has_validation, open_dataset
from infer.data.shards import Split
from infer.spec import ModelSpec

from ..processes import say
from ..recipe import Learnt, Recipe, RecipeError
from .augment import Augmentation
from .batches import Centers, Crops, TargetFunction, read_bytes
from .box_targets import with_boxes
from .multibox import MultiBoxTargets, WholeImages, open_multibox
from .regions import ProposalFiles, RegionCenters, RegionCrops, RegionItems, open_regions

SAMPLE = 200
"""Images in which a rotation is looked for."""


class Examples(NamedTuple):
    """Images with the function that makes their targets; None where the targets are their labels."""

    dataset: Dataset
    target: TargetFunction | None = None

    def crops(self, augment: Augmentation, spec: ModelSpec, *, seed: int, epoch: int) -> Crops:
        """What one epoch draws from: augmented crops, or regions."""
        if isinstance(self.dataset.items, RegionItems):
            return RegionCrops(self.dataset, augment, spec, seed=seed, epoch=epoch)
        exif = spec.preprocessing.exif
        return Crops(self.dataset, augment, seed=seed, epoch=epoch, target=self.target, exif=exif)

    def centers(self, spec: ModelSpec) -> Centers:
        """What a net is tried on: the central view of each image, or regions."""
        if isinstance(self.dataset.items, RegionItems):
            return RegionCenters(self.dataset, spec)
        if isinstance(self.target, MultiBoxTargets):
            return WholeImages(self.dataset, spec, self.target)
        return Centers(self.dataset, spec, self.target)

    @property
    def listing_digest(self) -> str:
        """A digest of the images' names and labels, wherever they lie; of regions, of these."""
        if isinstance(self.dataset.items, RegionItems):
            return self.dataset.items.listing_digest
        digest = hashlib.sha256()
        for item in self.dataset.items:
            digest.update(f"{item.name.rpartition('/')[2]}\t{item.label}\n".encode())
        if isinstance(self.target, MultiBoxTargets):
            digest.update(self.target.digest.encode())
        return digest.hexdigest()[:16]


class ValSplit(NamedTuple):
    """The share of each class that is kept for validation, by a seed; names `known` to be kept come first."""

    share: float
    seed: int
    known: Collection[str] = ()


def open_examples(
    data: Path,
    task: Learnt,
    reading: Mapping[str, Any] | None = None,
    *,
    known: tuple[str, ...] = (),
    split: ValSplit | None = None,
) -> tuple[Examples, Examples | None]:
    """(images to learn from, images to be tried on); the second is None where there are none. Raises DatasetError.

    reading: options of `open_dataset`, for both. known: the classes of the net, where there is one already; without
    it a folder that holds no image is no class. split: takes the second from the first.
    """
    dataset = open_dataset(data, "train", **reading or {})
    for note in dataset.notes:
        say(note)
    _check_labels(data, dataset, "image to train on")
    if dataset.classes != known:
        dataset = _without_empty_classes(dataset)

    seen = {item.label for item in dataset.items}
    empty = [name for label, name in enumerate(dataset.classes) if label not in seen]
    if empty:
        say(f"{data}: no image to train on of {len(empty)} of {len(dataset.classes)} classes ({', '.join(empty[:5])})")

    if split is None:
        others = open_held_out(data, dataset, reading)
        training = _examples(dataset, "train", task)
        return training, None if others is None else _examples(others, "val", task)

    if has_validation(data):
        raise DatasetError(f"{data}: has validation images of its own: leave out --val-split {split.share:g}")
    dataset, others = split_dataset(dataset, split)
    return _examples(dataset, "train", task), _examples(others, "train", task)


def open_region_examples(
    data: Path, recipe: Recipe, reading: Mapping[str, Any] | None, proposals: ProposalFiles | None
) -> tuple[Examples, Examples | None]:
    """(regions to learn from, regions to be tried on); the second is None without proposals for them.

    Raises RecipeError without proposals, DatasetError, ProposalsError.
    """
    if proposals is None:
        raise RecipeError(
            f"{recipe.name}: learns from proposals, expected --proposals FILE: python -m evaluation.proposals "
            f"--data {data} --split train -o FILE"
        )
    given = {name: value for name, value in (reading or {}).items() if value and name != "limit"}
    if given:
        raise RecipeError(f"{recipe.name}: --{next(iter(given))} is for classification (docs/detection.md)")
    training, validation = open_regions(data, proposals, limit=(reading or {}).get("limit"), seed=recipe.seed)
    return Examples(training), None if validation is None else Examples(validation)


def open_multibox_examples(
    data: Path, recipe: Recipe, reading: Mapping[str, Any] | None
) -> tuple[Examples, Examples | None]:
    """(images with boxes to learn from, images to be tried on or None). Raises DatasetError and RecipeError."""
    training, others = open_multibox(data, recipe, reading or {})
    return Examples(*training), None if others is None else Examples(*others)


def split_dataset(dataset: Dataset, split: ValSplit) -> tuple[Dataset, Dataset]:
    """(images to learn from, images to be tried on): a share of each class, at least one image where it has two.

    A function of seed, names and `known` alone: an image more or less moves one other at most, in its class.
    Raises DatasetError where a share of each class is no image at all.
    """
    of_class: dict[int, list[Item]] = {}
    for item in dataset.items:
        of_class.setdefault(item.label, []).append(item)

    held, known = set(), set(split.known)
    for items in of_class.values():
        count = min(len(items) - 1, max(1, round(split.share * len(items))))
        ranked = sorted(items, key=lambda item: (item.name not in known, _rank(split.seed, item.name)))
        held |= {item.name for item in ranked[:count]}
    if not held:
        raise DatasetError(f"{dataset.root}: --val-split needs a class of two images at least, for one to be kept")
    single = [dataset.classes[label] for label, items in of_class.items() if len(items) == 1]
    if single:
        say(f"{dataset.root}: --val-split keeps none of {len(single)} classes of one image ({', '.join(single[:5])})")

    learnt, tried = (
        dataclasses.replace(dataset, items=[item for item in dataset.items if (item.name in held) is kept])
        for kept in (False, True)
    )
    return learnt, dataclasses.replace(tried, is_part=True)


def say_turned(dataset: Dataset) -> None:
    """Says how many photographs lie on their side or head as they are stored, of a sample of them."""
    count = min(SAMPLE, len(dataset.items))
    sample = [dataset.items[number * len(dataset.items) // count] for number in range(count)]
    turned = sum(_is_turned(read_bytes(item)) for item in sample)
    if turned:
        of = f"{count} images" if count == len(dataset.items) else f"a sample of {count} images"
        how = "turned by their camera, and are used as stored: --exif apply turns them"
        say(f"{dataset.root}: {turned} of {of} were {how}")


def _is_turned(data: bytes) -> bool:
    """True where EXIF says a rotation; what cannot be read says none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except Exception:  # whatever Pillow raises for a stranger's file: decoding it has the say
        return False


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\t{name}".encode()).digest()


def _without_empty_classes(dataset: Dataset) -> Dataset:
    """The data set without the classes whose folders hold no image."""
    if not dataset.empty_classes:
        return dataset
    empty = set(dataset.empty_classes)
    kept = [label for label, name in enumerate(dataset.classes) if name not in empty]
    place = {label: number for number, label in enumerate(kept)}
    items = [dataclasses.replace(item, label=place[item.label]) for item in dataset.items]
    classes, names = (tuple(own[label] for label in kept) for own in (dataset.classes, dataset.class_names))
    return dataclasses.replace(dataset, items=items, classes=classes, class_names=names, devkit_order=())


def _examples(dataset: Dataset, split: Split, task: Learnt) -> Examples:
    return Examples(dataset) if task == "classify" else Examples(*with_boxes(dataset, split))


def open_held_out(data: Path, training: Dataset, reading: Mapping[str, Any] | None = None) -> Dataset | None:
    """The validation images of a data set, labelled by the classes of those to train on; None where it has none.

    Raises DatasetError where it has some that cannot be used, so that no run goes without them by accident.
    """
    if not has_validation(data):
        return None
    dataset = open_dataset(data, "val", **reading or {})
    for note in dataset.notes:
        say(note)
    _check_labels(data, dataset, "validation image, or none of them")

    # The classes may be listed in another order, or be fewer; a folder without images is none.
    place = {name: label for label, name in enumerate(training.classes)}
    foreign = [name for name in dataset.classes if name not in place and name not in dataset.empty_classes]
    if foreign:
        raise DatasetError(
            f"{data}: {len(foreign)} of {len(dataset.classes)} classes of the validation images are none to train on "
            f"({foreign[0]} ...): expected the same classes"
        )
    items = [dataclasses.replace(item, label=place[dataset.classes[item.label]]) for item in dataset.items]
    return dataclasses.replace(dataset, items=items, classes=training.classes, class_names=training.class_names)


def _check_labels(data: Path, dataset: Dataset, what: str) -> None:
    unlabelled = next((item.name for item in dataset.items if item.label < 0), None)
    if unlabelled is not None:
        raise DatasetError(f"{data}: {unlabelled} has no label, expected one for every {what}")
