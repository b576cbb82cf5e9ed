"""How far an ONNX engine's class score maps are from torch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import network_input
from numpy.typing import NDArray

from infer.onnx_engine import OnnxEngine
from infer.pixels.render import render
from infer.views import View, ViewPlan, plan_views
from trainer.checkpoint import load

TOLERANCE = 1e-4  # of the scores' standard deviation


def whole(spec: Any, image: NDArray[np.uint8], scale: int) -> ViewPlan:
    """The whole image at a scale, and its mirror."""
    return plan_views(spec, "dense", image.shape[:2], [scale])


def plans_for(spec: Any, image: NDArray[np.uint8]) -> list[ViewPlan]:
    """Three sizes: the smallest allowed, an odd one, a larger one."""
    crop = spec.crop_px
    smallest = ViewPlan("smallest", image.shape[:2], (View(crop, (0, 0, crop, crop)),))
    return [smallest, whole(spec, image, crop + 13), whole(spec, image, 2 * crop)]


@torch.inference_mode()
def score_error(engine: OnnxEngine, checkpoint: Path, image: NDArray[np.uint8], plans: Sequence[ViewPlan]) -> float:
    """Largest difference of a class score map from torch's, in standard deviations of torch's scores."""
    net, spec = load(checkpoint).build(), engine.spec
    worst = 0.0
    for plan in plans:
        for number, pixels in enumerate(render(image, plan.views, spec)):
            one = ViewPlan("one", plan.image_px, (plan.views[number],))
            expected = net(network_input(pixels.copy(), spec)).numpy()[0]
            got = engine.run(engine.load([image]), [one], ["score_map"])["score_map"][0]
            assert got.shape == expected.shape
            worst = max(worst, float(np.abs(got - expected).max() / expected.std()))
    return worst
