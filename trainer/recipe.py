"""Recipes: everything that decides a training run, as data. `--set key=value` overrides any plain field.

The mini recipes train on the miniature in minutes on two cores. What the small nets need, having no batch norm and
few images, was found by experiment: He's start, a first phase at nearly fixed scale without dropout (with dropout
from the start they never leave chance), and for D the first layers of A, as in the paper (VGG section 3.1).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from infer.spec import ModelSpec, Preprocessing

Start = Literal["he", "normal"]


class RecipeError(ValueError):
    """A recipe or an override that cannot be used; one line."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A share of the training steps with its scale range S and dropout."""

    share: float
    short_px: tuple[int, int]
    dropout: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    net: str
    width: float
    fc_width: int
    crop_px: int
    phases: tuple[Phase, ...]
    test_short_px: int
    epochs: int
    batch: int
    learning_rate: float  # at its highest; cosine to zero after a linear warm-up
    warmup: float = 0.05  # share of the steps
    momentum: float = 0.9  # VGG section 3.1
    weight_decay: float = 5e-4  # VGG section 3.1
    start: Start = "he"
    mirror: bool = True
    color_sigma: float = 0.1  # AlexNet's colour shift; 0 turns it off
    input_std: float = 64.0  # grey levels; the input is divided by it
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("width", "fc_width", "epochs", "batch", "learning_rate", "input_std")
        for name in positive:
            if not getattr(self, name) > 0:
                raise RecipeError(f"recipe {self.name}: {name} must be positive, got {getattr(self, name)}")
        if self.start not in get_args(Start):
            raise RecipeError(f"recipe {self.name}: start is one of {', '.join(get_args(Start))}, got {self.start!r}")
        for name in ("seed", "momentum", "weight_decay", "color_sigma"):
            if getattr(self, name) < 0:
                raise RecipeError(f"recipe {self.name}: {name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise RecipeError(f"recipe {self.name}: warmup is a share of the steps, got {self.warmup}")
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-9:
            raise RecipeError(f"recipe {self.name}: the phases' shares must sum to 1")

    def spec(
        self, classes: tuple[str, ...], class_names: tuple[str, ...], mean_rgb: tuple[float, float, float]
    ) -> ModelSpec:
        """The spec of the net that this recipe trains; the last phase's scales are its S."""
        low, high = self.phases[-1].short_px
        return ModelSpec(
            name=self.name,
            net=self.net,
            classes=classes,
            class_names=class_names,
            preprocessing=Preprocessing(mean_rgb, std_rgb=(self.input_std,) * 3),
            train_short_px=low if low == high else (low, high),
            test_short_px=self.test_short_px,
            crop_px=self.crop_px,
            width=self.width,
            fc_width=self.fc_width,
            source={"recipe": self.to_json()},
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="mini-a",
            net="A",
            width=1 / 8,
            fc_width=256,
            crop_px=64,
            phases=(Phase(0.4, (82, 90), dropout=False), Phase(0.6, (72, 120), dropout=True)),
            test_short_px=88,
            epochs=12,
            batch=32,
            learning_rate=0.015,
        ),
        Recipe(
            name="mini-d",
            net="D",
            width=1 / 8,
            fc_width=256,
            crop_px=64,
            phases=(Phase(0.4, (82, 90), dropout=False), Phase(0.6, (72, 120), dropout=True)),
            test_short_px=88,
            epochs=10,
            batch=32,
            learning_rate=0.015,
        ),
        Recipe(
            name="mini-googlenet",
            net="googlenet",
            width=1 / 4,
            fc_width=128,
            crop_px=96,
            phases=(Phase(0.4, (118, 130), dropout=False), Phase(0.6, (108, 192), dropout=True)),
            test_short_px=128,
            epochs=10,
            batch=32,
            learning_rate=0.01,
            weight_decay=2e-4,  # bvlc_googlenet
        ),
    )
}


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with `key=value` settings applied. Raises RecipeError for an unknown key or a wrong type."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        old = getattr(recipe, key, None) if key in {f.name for f in dataclasses.fields(recipe)} else None
        if not separator or not isinstance(old, int | float | str | bool):
            plain = [f.name for f in dataclasses.fields(recipe) if f.name != "phases"]
            raise RecipeError(f"--set {setting}: expected key=value with a key of {', '.join(plain)}")
        try:
            values[key] = _parse(text, type(old))
        except ValueError:
            raise RecipeError(f"--set {setting}: expected a value like {old!r}") from None
    return dataclasses.replace(recipe, **values)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
