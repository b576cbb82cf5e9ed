"""Slim weights of four classes, folders of photographs, and recipes fitted to weights: what fine-tuning starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import slim_spec, write_checkpoint
from PIL import Image

from infer.spec import Preprocessing
from trainer.checkpoint import load
from trainer.loop.fine_tuning import fit_recipe
from trainer.recipe import Recipe, override
from trainer.recipes import RECIPES

WEIGHTS = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), filter="bilinear")
MINI = RECIPES["mini-vgg-finetune"]


def weights_for(recipe: Recipe, out: Path, net: str = "", **changes: Any) -> Path:
    """Slim weights of 4 classes with another's preprocessing, as an importer writes them."""
    name = net or ("D" if recipe.net == "vgg" else recipe.net)
    px = recipe.crop_px * 256 // 224
    values: dict[str, Any] = {
        "preprocessing": WEIGHTS,
        "crop_px": recipe.crop_px,
        "train_short_px": px,
        "width": 1 / 16,
    }
    values |= {"source": {"importer": "a test"}, "classes": tuple("wxyz")}
    spec = slim_spec(name, **{**values, **changes})
    return write_checkpoint(out, spec)


def photo_folders(out: Path, counts: dict[str, int], side: int = 80) -> Path:
    """Class folders of images of one colour each, which differ a little."""
    for number, (name, count) in enumerate(counts.items()):
        (out / name).mkdir(parents=True)
        for place in range(count):
            colour = (40 * number + 40, 200 - 30 * number, place % 256)
            Image.new("RGB", (side + 16, side), colour).save(out / name / f"{place:03d}.png")
    return out


def fitted(recipe: Recipe, weights: Path, *settings: str) -> Recipe:
    return fit_recipe(override(recipe, list(settings)), load(weights).spec)


def changed_layers(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {
        name.rpartition(".")[0]
        for name, tensor in one.items()
        if tensor.shape != other[name].shape or not torch.equal(tensor, other[name])
    }


def noisy_folders(out: Path, counts: dict[str, int], side: int = 120) -> Path:
    """Class folders of images of random pixels, no two alike, some brighter than others."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (out / name).mkdir(parents=True)
        for place in range(count):
            pixels = rng.integers(0, 64 + 16 * (place % 12), (side // 8, side // 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize((side, side)).save(out / name / f"{place:03d}.png")
    return out
