"""The images of a run's page: crops as training drew them, and the validation images that were lost and won."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.data.dataset import DatasetError
from infer.drawing.figures import confusion
from infer.pixels.decode import ImageError, Pixels

from ...checkpoint import Checkpoint
from ...data.augment import augmentation_from_recipe
from ...data.batches import Crops, read_pixels
from ...data.examples import Examples
from ...recipe import Recipe
from ..schedule import phase_at

SAMPLES, CROPS = 4, 4
"""Training images on the page, and crops of each."""
THUMBNAIL_PX = 160
EXAMPLES = 12
"""Validation images of each kind."""
CONFUSED = 12
"""Classes in the figure of the confusion."""
PAIRS = 8


class Sample(NamedTuple):
    """A training image, whole and in crops, each a picture for the page."""

    name: str
    label: str
    whole: str
    crops: list[str]


class Example(NamedTuple):
    """A validation image; `picture` is empty, and the answers None, where it cannot be read."""

    name: str
    label: str
    first: str | None
    answer: str | None
    percent: float
    picture: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What a run answered to its validation images, i64 [V]: in the first epoch and the kept one, -1 if unreadable."""

    labels: NDArray[np.int64]
    first: NDArray[np.int64]
    kept: NDArray[np.int64]
    probability: NDArray[np.float32]


def read_answers(checkpoint: Checkpoint, held_out: Examples | None) -> Answers | None:
    """The answers of a checkpoint; None where it has none, or not of these images."""
    found = checkpoint.answers
    if held_out is None or not {"first", "kept", "probability"} <= found.keys():
        return None
    labels = np.array([item.label for item in held_out.dataset.items])
    answers = Answers(labels, *(found[name].numpy() for name in ("first", "kept", "probability")))
    fit = all(one.shape == labels.shape for one in (answers.first, answers.kept, answers.probability))
    return answers if fit else None


def draw_samples(recipe: Recipe, checkpoint: Checkpoint, training: Examples) -> Iterator[Sample]:
    """Some training images, of different classes where there are several, with crops of epochs over the whole run.

    The colour shift is applied. Images that cannot be read are left out.
    """
    items, spec = training.dataset.items, checkpoint.spec
    places = np.linspace(0, len(items) - 1, min(SAMPLES, len(items))).round().astype(int)
    steps_per_epoch = max(1, len(items) // recipe.batch)
    if recipe.train_layers == "last":  # its features are of the same crops in all epochs
        epochs, phases = list(range(min(CROPS, recipe.feature_draws))), [recipe.phases[-1]] * CROPS
    else:
        epochs = sorted(set(np.linspace(0, max(0, checkpoint.epochs_done - 1), CROPS).round().astype(int).tolist()))
        steps = recipe.steps(steps_per_epoch)
        phases = [phase_at(recipe, epoch * steps_per_epoch / steps) for epoch in epochs]

    for place in places:
        item, crops = items[place], []
        try:
            whole = as_picture(read_pixels(item, spec.preprocessing.exif))
            for epoch, phase in zip(epochs, phases, strict=False):
                augmentation = augmentation_from_recipe(recipe, phase, spec)
                drawn = Crops(
                    training.dataset, augmentation, seed=recipe.seed, epoch=epoch, exif=spec.preprocessing.exif
                )
                pixels, shift, *_ = drawn[int(place)]
                crops.append(as_picture((pixels.float() + shift).clamp(0, 255).round().byte().numpy()))
        except (ImageError, DatasetError):
            continue
        yield Sample(item.name, class_name(checkpoint, item.label), whole, crops)


def lost_and_won(answers: Answers, checkpoint: Checkpoint, held_out: Examples) -> tuple[list[Example], list[Example]]:
    """(images that the kept epoch has wrong, those that it has right and the first had wrong), the surest first."""
    right, right_first = answers.kept == answers.labels, answers.first == answers.labels
    order = np.argsort(-answers.probability, kind="stable")

    def shown(chosen: NDArray[np.bool_]) -> list[Example]:
        return [_example(int(place), answers, checkpoint, held_out) for place in order[chosen[order]][:EXAMPLES]]

    return shown(~right), shown(right & ~right_first)


def _example(place: int, answers: Answers, checkpoint: Checkpoint, held_out: Examples) -> Example:
    item = held_out.dataset.items[place]
    first, kept = (int(one[place]) for one in (answers.first, answers.kept))
    try:
        picture = as_picture(read_pixels(item, checkpoint.spec.preprocessing.exif))
    except (ImageError, DatasetError):
        picture = ""
    return Example(
        item.name,
        class_name(checkpoint, item.label),
        None if first < 0 else class_name(checkpoint, first),
        None if kept < 0 else class_name(checkpoint, kept),
        100 * float(answers.probability[place]),
        picture,
    )


def draw_confusion(answers: Answers, checkpoint: Checkpoint) -> tuple[str, list[tuple[str, str, int]]]:
    """(a figure of the classes with most mistakes, the pairs that are most confused: class, answer, images)."""
    classes = len(checkpoint.spec.classes)
    readable = answers.kept >= 0
    counts = np.zeros((classes, classes), np.int64)  # [true class, answer]
    np.add.at(counts, (answers.labels[readable], answers.kept[readable]), 1)
    images = np.bincount(answers.labels, minlength=classes)

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    mistakes = images - counts.diagonal() + wrong.sum(0)
    chosen = np.sort(np.argsort(-mistakes, kind="stable")[: min(CONFUSED, classes)])
    names = [class_name(checkpoint, int(label)) for label in chosen]
    figure = confusion(names, counts[np.ix_(chosen, chosen)], images[chosen])

    found = [(int(wrong[i, j]), int(i), int(j)) for i, j in zip(*wrong.nonzero(), strict=True)]
    most = sorted(found, key=lambda one: (-one[0], one[1:]))[:PAIRS]
    return figure, [(class_name(checkpoint, i), class_name(checkpoint, j), count) for count, i, j in most]


def class_name(checkpoint: Checkpoint, label: int) -> str:
    """The name of a class, or its id where it has none."""
    spec = checkpoint.spec
    return spec.class_names[label] if label < len(spec.class_names) else spec.classes[label]


def as_picture(pixels: Pixels) -> str:
    """A thumbnail as the address of an image that holds it."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
