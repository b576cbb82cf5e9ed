"""A protocol by name with its scales and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from infer.spec import ModelSpec
from infer.views import default_scales


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol by name with the scales it runs at."""

    name: str
    scales: tuple[int, ...]


Pooling = Literal["scores", "posteriors"]

POOLING_OUTPUT: dict[Pooling, str] = {"scores": "posterior", "posteriors": "posterior_positions"}
"""Mean of the class score map over positions, then softmax (the paper's words), or softmax first, then the mean."""


def resolve(names: Sequence[str], spec: ModelSpec, scales: Sequence[int] | None) -> tuple[Protocol, ...]:
    """Resolves the protocols of one model: at the given scales, or at its own defaults."""
    return tuple(Protocol(name, tuple(scales) if scales else default_scales(spec, name)) for name in names)
