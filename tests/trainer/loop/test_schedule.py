"""trainer/loop/schedule.py: each schedule's rates written out, and when a plateau drops the rate or ends the run."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from trainer.loop.schedule import Plateau, cosine, learning_rate
from trainer.recipes import RECIPES

VGG = dataclasses.replace(RECIPES["vgg-a"], patience=2)


def rates(errors: list[float]) -> list[float]:
    """The rate before each validation and after the last one."""
    plateau, found = Plateau(), []
    for epoch, error in enumerate(errors):
        found.append(learning_rate(VGG, plateau, epoch=epoch, done=0.5))
        plateau = plateau.after(VGG, error)
    return [*found, learning_rate(VGG, plateau, epoch=len(errors), done=0.5)]


def test_the_rate_drops_where_validations_bring_no_new_best() -> None:
    assert rates([90, 80, 81, 80, 79]) == pytest.approx([1e-2, 1e-2, 1e-2, 1e-2, 1e-3, 1e-3])
    assert rates([50, 51, 49, 52, 53]) == pytest.approx([1e-2] * 5 + [1e-3])


def test_after_a_drop_the_patience_is_whole_again() -> None:
    assert rates([50, 50, 50, 50, 50]) == pytest.approx([1e-2] * 3 + [1e-3] * 2 + [1e-4])


def test_vgg_ends_where_a_fourth_drop_would_come() -> None:
    plateau, validations = Plateau(), 0
    while not plateau.ends(VGG):
        plateau, validations = plateau.after(VGG, 50.0), validations + 1
    assert (plateau.drops, validations) == (4, 1 + 4 * 2)
    assert not plateau.ends(dataclasses.replace(VGG, schedule="cosine"))


def test_googlenet_loses_4_percent_every_8_epochs() -> None:
    recipe = RECIPES["googlenet"]
    found = [learning_rate(recipe, Plateau(), epoch=epoch, done=0.5) for epoch in range(17)]
    assert found[:8] == [0.01] * 8
    assert found[8:16] == pytest.approx([0.0096] * 8)
    assert found[16] == pytest.approx(0.009216)


def test_a_cosine_rises_over_its_warmup_and_falls_to_zero() -> None:
    recipe = RECIPES["mini-a"]
    found = [learning_rate(recipe, Plateau(), epoch=0, done=step / 1000) / recipe.learning_rate for step in range(1001)]
    assert found[25] == pytest.approx(0.5)
    assert max(found) == found[50] == pytest.approx(1.0)
    assert found[525] == pytest.approx(0.5)
    assert found[1000] == pytest.approx(0.0, abs=1e-12)
    assert cosine(0.25, warmup=0.0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_cosine_rises_then_falls_without_a_step_back() -> None:
    rate = [cosine(step / 1000, warmup=0.05) for step in range(1001)]
    assert rate[0] == 0
    assert rate[50] == 1
    assert rate[1000] == pytest.approx(0, abs=1e-15)
    assert all(0 <= value <= 1 for value in rate)
    assert all(before < after for before, after in pairwise(rate[:51]))
    assert all(before > after for before, after in pairwise(rate[50:]))
    assert cosine(0, warmup=0) == 1
