"""trainer/recipe.py: every recipe is whole, and `--set` changes what it says or refuses."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch

from trainer.recipe import RECIPES, Phase, Recipe, RecipeError, override
from trainer.train import phase_at
from trainer.zoo import build_net

MINI_A = RECIPES["mini-a"]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_every_recipe_builds_its_spec_and_net(recipe: Recipe) -> None:
    spec = recipe.spec(("a", "b", "c"), ("A", "B", "C"), (40.0, 41.0, 42.0))
    assert RECIPES[spec.name] is recipe
    assert (spec.net, spec.classes, spec.class_names) == (recipe.net, ("a", "b", "c"), ("A", "B", "C"))
    assert spec.preprocessing.mean_rgb == (40.0, 41.0, 42.0)
    assert spec.preprocessing.std_rgb == (64.0, 64.0, 64.0)
    assert spec.train_range_px == recipe.phases[-1].short_px
    assert (spec.crop_px, spec.width, spec.fc_width) == (recipe.crop_px, recipe.width, recipe.fc_width)
    assert spec.test_short_px == recipe.test_short_px
    assert json.loads(spec.source["recipe"]) == json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert recipe.mirror  # mirrored views are part of every protocol
    with torch.device("meta"):
        net = build_net(spec, auxiliary_heads=True).eval()
        for weight, scores in net.training_scores(torch.empty(2, 3, spec.crop_px, spec.crop_px)):
            assert weight > 0
            assert scores.shape == (2, 3)


def test_a_fixed_last_scale_is_a_single_number() -> None:
    recipe = dataclasses.replace(MINI_A, phases=(Phase(1.0, (88, 88), dropout=True),))
    assert recipe.spec(("a", "b"), (), (0.0, 0.0, 0.0)).train_short_px == 88


def test_settings_are_parsed_as_the_fields_type() -> None:
    settings = ["epochs=3", "learning_rate=1e-3", "mirror=False", "start=normal", "width=1", "seed=7", "net=D"]
    recipe = override(MINI_A, settings)
    assert recipe == dataclasses.replace(
        MINI_A, epochs=3, learning_rate=1e-3, mirror=False, start="normal", width=1.0, seed=7, net="D"
    )
    assert isinstance(recipe.width, float)
    assert override(MINI_A, []) == MINI_A
    assert override(MINI_A, ["mirror=true"]).mirror is True


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set epochs: expected key=value with a key of name, net, width"),
        ("=3", "--set =3: expected key=value"),
        ("speed=3", "--set speed=3: expected key=value"),
        ("spec=3", "--set spec=3: expected key=value"),
        ("phases=3", "--set phases=3: expected key=value"),
        ("epochs=many", "--set epochs=many: expected a value like 12"),
        ("epochs=1.5", "--set epochs=1.5: expected a value like 12"),
        ("mirror=1", "--set mirror=1: expected a value like True"),
        ("learning_rate=fast", "--set learning_rate=fast: expected a value like 0.015"),
        ("epochs=0", "epochs must be positive, got 0"),
        ("batch=-1", "batch must be positive, got -1"),
        ("learning_rate=nan", "learning_rate must be positive, got nan"),
        ("warmup=1", "warmup is a share of the steps, got 1.0"),
        ("start=glorot", "start"),
    ],
)
def test_settings_that_cannot_be_used(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        override(MINI_A, [setting])
    assert "\n" not in str(caught.value)


def test_phases_share_the_whole_run() -> None:
    halves = (Phase(0.5, (80, 80), dropout=False), Phase(0.4, (80, 80), dropout=True))
    with pytest.raises(RecipeError, match="the phases' shares must sum to 1"):
        dataclasses.replace(MINI_A, phases=halves)


def test_each_epoch_has_its_phase() -> None:
    recipe = dataclasses.replace(MINI_A, epochs=10)  # 40 % without dropout
    phases = [phase_at(recipe, epoch / 10) for epoch in range(10)]
    assert [phase.dropout for phase in phases] == [False] * 4 + [True] * 6
    thirds = dataclasses.replace(MINI_A, phases=tuple(Phase(1 / 3, (80 + i, 90), dropout=False) for i in range(3)))
    assert [phase_at(thirds, epoch / 3).short_px[0] for epoch in range(3)] == [80, 81, 82]
    assert phase_at(thirds, 1.0).short_px[0] == 82
