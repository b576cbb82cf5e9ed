"""Whether a run can start, or go on, with its recipe, data and checkpoint."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from infer.data.known_images import with_trained_on
from infer.errors import Refused

from ..checkpoint import Checkpoint, CheckpointError
from ..data.colours import Statistics
from ..data.examples import Examples
from ..recipe import Recipe
from .start import make_spec

ANEW = "start from its weights by --init in a new --out"
"""What is left to do where a checkpoint's weights are good, but not what it says of its run."""


class TrainingError(Refused):
    """A run that cannot start or go on; one line."""


def check_resumable(
    previous: Checkpoint,
    path: Path,
    recipe: Recipe,
    examples: Examples,
    statistics: Statistics | None,
    held_out: tuple[str, ...],
) -> None:
    """Raises TrainingError where a run cannot go on from a checkpoint: another recipe, other images or colours."""
    dataset, count = examples.dataset, len(examples.dataset.items)

    if previous.recipe != recipe.to_json():
        raise TrainingError(
            f"{path} was made by another recipe or other settings: resume with the same, or use a new --out"
        )
    if (previous.images, previous.spec.classes) != (count, dataset.classes):
        raise TrainingError(
            f"{path} was trained on {previous.images} images of {len(previous.spec.classes)} classes, {dataset.root} "
            f"has {count} of {len(dataset.classes)}: resume with the same, or start from it by --init in a new --out"
        )
    check_progress(previous, path, recipe, count)
    if previous.listing not in ("", examples.listing_digest) or previous.held_out != held_out:
        raise TrainingError(
            f"{path} was trained on other images, or other labels, than {dataset.root} has: resume with the same, or "
            "start from it by --init in a new --out"
        )
    of_run = statistics is not None and not recipe.fine_tune
    if of_run and with_trained_on(previous.spec, None) != make_spec(recipe, dataset, statistics):
        raise TrainingError(f"{path} was made with other --statistics: resume with the same, or use a new --out")


def check_progress(previous: Checkpoint, path: Path, recipe: Recipe, images: int) -> None:
    """Raises TrainingError where a checkpoint says of its run what cannot be."""
    steps_per_epoch = images // recipe.batch
    epochs = math.ceil(recipe.steps(steps_per_epoch) / steps_per_epoch) if steps_per_epoch else 0
    within_epoch = previous.steps_of_epoch <= steps_per_epoch and previous.epochs_done < epochs
    is_end = previous.steps_of_epoch == 0 and previous.epochs_done <= epochs
    if (steps_per_epoch and not (within_epoch or is_end)) or (previous.steps_of_epoch and not previous.sums[2]):
        raise TrainingError(
            f"{path} says {previous.epochs_done} epochs and {previous.steps_of_epoch} steps, of {previous.sums[2]:g} "
            f"images, of a run of {epochs} epochs with {steps_per_epoch} steps each: it is damaged, {ANEW}"
        )


@contextlib.contextmanager
def naming_checkpoint(path: Path) -> Iterator[None]:
    """Adds to what a checkpoint's state does not fit where it lies, and what is left to do."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: it is damaged, {ANEW}") from None


def check_feasible(recipe: Recipe, examples: Examples, held_out: Examples | None) -> None:
    """Raises TrainingError where the recipe cannot be followed on these data."""
    dataset, count = examples.dataset, len(examples.dataset.items)
    if count < recipe.batch:
        raise TrainingError(
            f"{count} training images do not fill a batch of {recipe.batch}: --set batch=N, or more images"
        )
    if recipe.schedule == "plateau" and held_out is None:
        raise TrainingError(
            f"{dataset.root}: schedule=plateau drops the rate where the validation error stalls, but there are no "
            "labelled validation images of the same classes: add val/, or --set schedule=cosine iterations=0"
        )
