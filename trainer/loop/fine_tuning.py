"""A fine-tuning recipe and the weights that it goes on from: what it takes over from them, and what begins anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from infer.spec import ModelSpec

from ..nets import vgg
from ..recipe import VGG_FAMILY, Recipe, RecipeError
from ..recipes import RECIPES

NEW_LAYERS = "new_layers"
"""The key of ModelSpec.source with the layers that did not come from the weights."""
KEPT = ("importer", "origin", "weights_sha256")
"""Keys of ModelSpec.source that stay true of a net that was fine-tuned."""


FEATURE_EPOCHS = 5
"""Times as many epochs where the features are there and the last layer alone is trained: they take no time."""


def for_features(recipe: Recipe) -> Recipe:
    """A fine-tuning recipe for the last layer alone, before a user's settings."""
    return dataclasses.replace(
        recipe, epochs=FEATURE_EPOCHS * recipe.epochs, stop_after=FEATURE_EPOCHS * recipe.stop_after
    )


def fit_recipe(recipe: Recipe, weights: ModelSpec) -> Recipe:
    """A fine-tuning recipe for the net of these weights, with its widths. Raises RecipeError where it is for others."""
    wanted = tuple(vgg.TABLE) if recipe.net == VGG_FAMILY else (recipe.net,)
    if weights.net not in wanted or weights.task != "classify":
        got = weights.net if weights.task == "classify" else f"a net for boxes ({weights.task})"
        raise RecipeError(f"--init: {recipe.name} is for net {', '.join(wanted)}, {weights.name} is {got}")
    if weights.crop_px != recipe.crop_px:
        alike = (one for one in RECIPES.values() if one.fine_tune and one.net == recipe.net)
        fitting = next((f"take {one.name}" for one in alike if one.crop_px == weights.crop_px), None)
        raise RecipeError(
            f"--init: {weights.name} takes crops of {weights.crop_px} px, {recipe.name} has {recipe.crop_px}: "
            + (fitting or say_crop(recipe, weights.crop_px))
        )
    name = recipe.name.replace(VGG_FAMILY, f"{VGG_FAMILY}-{weights.net.lower()}") if len(wanted) > 1 else recipe.name
    exif = weights.preprocessing.exif
    return dataclasses.replace(
        recipe, name=name, net=weights.net, width=weights.width, fc_width=weights.fc_width, exif=exif
    )


def say_crop(recipe: Recipe, crop_px: int) -> str:
    """What to set so that a recipe has crops of another size, with scales that grow alike."""
    phases = ",".join(
        f"{phase.share:g}:{'-'.join(str(round(px * crop_px / recipe.crop_px)) for px in phase.short_px)}"
        + (":dropout" if phase.dropout else "")
        for phase in recipe.phases
    )
    test_px = round(recipe.test_short_px * crop_px / recipe.crop_px)
    return f"--set crop_px={crop_px} phases={phases} test_short_px={test_px}"


def fine_tuned_spec(
    recipe: Recipe, weights: ModelSpec, classes: tuple[str, ...], class_names: tuple[str, ...]
) -> ModelSpec:
    """The spec of a net that goes on from weights, with their preprocessing, on these classes."""
    low, high = recipe.phases[-1].short_px
    source = {key: weights.source[key] for key in KEPT if key in weights.source}
    source |= {"recipe": recipe.to_json(), "fine_tuned_from": weights.name}
    return dataclasses.replace(
        weights.with_exif(recipe.exif),
        name=recipe.name,
        classes=classes,
        class_names=class_names,
        train_short_px=low if low == high else (low, high),
        test_short_px=recipe.test_short_px,
        source=source,
    )


def row_of_class(weights: ModelSpec, classes: Sequence[str]) -> list[int] | None:
    """The place of each class in the last layer of weights for the same classes; None for weights of others."""
    place = {name: number for number, name in enumerate(weights.classes)}
    return [place[name] for name in classes] if place.keys() == set(classes) else None
