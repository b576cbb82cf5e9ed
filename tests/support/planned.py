"""The views of every protocol that a net admits, each once."""

from __future__ import annotations

from typing import Any

from infer.spec import ModelSpec
from infer.views import PROTOCOLS, MergedPlan, default_scales, merge_plans, plan_views


def protocols_of(spec: ModelSpec) -> list[str]:
    return [name for name in PROTOCOLS if not (spec.fixed_size and "dense" in name)]


def plan_of(spec: ModelSpec, photo: Any) -> MergedPlan:
    """Of its protocols in their order, each at its smallest scale; the first view is the centre."""
    size = photo.shape[:2]
    return merge_plans(
        size, [plan_views(spec, name, size, default_scales(spec, name)[:1]) for name in protocols_of(spec)]
    )
