"""Learning rate and phase of each step as functions of the recipe, and of what the validations said."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..recipe import Phase, Recipe


@dataclass(frozen=True, slots=True)
class Plateau:
    """The outcome of the validations so far: drops of the rate, the best error, validations since it."""

    drops: int = 0
    best_percent: float = math.inf
    since_best: int = 0

    def after(self, recipe: Recipe, error_percent: float) -> Plateau:
        """The outcome after one validation more: `patience` of them without a new best are a drop, and start anew."""
        if error_percent < self.best_percent:
            return Plateau(self.drops, error_percent)
        if self.since_best + 1 < recipe.patience:
            return dataclasses.replace(self, since_best=self.since_best + 1)
        return Plateau(self.drops + 1, self.best_percent)

    def ends(self, recipe: Recipe) -> bool:
        """True where the rate was to drop once more than it may (VGG section 3.1: three times in total)."""
        return recipe.schedule == "plateau" and self.drops > recipe.lr_drops


def learning_rate(recipe: Recipe, plateau: Plateau, *, epoch: int, done: float) -> float:
    """The rate of a step of `epoch` (from 0); `done` in (0, 1] is the share of the run that it completes."""
    if recipe.schedule == "cosine":
        return recipe.learning_rate * cosine(done, warmup=recipe.warmup)

    drops = plateau.drops if recipe.schedule == "plateau" else epoch // recipe.lr_every_epochs
    return recipe.learning_rate * recipe.lr_factor**drops


def cosine(done: float, *, warmup: float) -> float:
    """Factor in [0, 1] at `done` in [0, 1]: linear up to `warmup`, then half a cosine down to zero."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def phase_at(recipe: Recipe, done: float) -> Phase:
    """The phase of the step that follows when `done`, a share of the steps, is behind us."""
    end = 0.0
    for phase in recipe.phases:
        end += phase.share
        if done < end - 1e-9:
            return phase
    return recipe.phases[-1]
