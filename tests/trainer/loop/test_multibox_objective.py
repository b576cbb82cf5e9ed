"""MultiBox's loss and error against the paper's formulas, written out number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import slim_spec

from trainer.loop.objective import MultiBox, make_objective
from trainer.nets.zoo import build_net

BOXES = 6


def objective(weight: float = 0.3) -> MultiBox:
    spec = slim_spec("googlenet", task="multibox", boxes=BOXES, fixed_size=True, crop_px=96)
    made = make_objective(build_net(spec), spec, torch.channels_last, box_weight=weight)
    assert isinstance(made, MultiBox)
    return made


def literal_loss(outputs: list[list[list[float]]], targets: list[list[list[float]]], weight: float) -> float:
    total = 0.0
    for image, target in zip(outputs, targets, strict=True):
        for (*edges, logit), (*wanted, matched) in zip(image, target, strict=True):
            confidence = 1 / (1 + math.exp(-logit))
            if matched:
                total += weight / 2 * sum((a - b) ** 2 for a, b in zip(edges, wanted, strict=True))
                total -= math.log(confidence)
            else:
                total -= math.log(1 - confidence)
    return total / len(outputs)


def literal_missed(outputs: list[list[list[float]]], targets: list[list[list[float]]]) -> float:
    missed = 0.0
    for image, target in zip(outputs, targets, strict=True):
        objects = [own[:4] for own in target if own[4]]
        found = 0
        for left, top, right, bottom in objects:
            for box in image:
                across, down = min(right, box[2]) - max(left, box[0]), min(bottom, box[3]) - max(top, box[1])
                both = max(across, 0) * max(down, 0)
                areas = max(box[2] - box[0], 0) * max(box[3] - box[1], 0) + (right - left) * (bottom - top)
                if both / (areas - both) >= 0.5:
                    found += 1
                    break
        missed += (len(objects) - found) / max(1, len(objects))
    return missed


@pytest.mark.parametrize("seed", range(10))
def test_loss_and_error_are_the_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (4, BOXES, 2, 2)), 2).reshape(4, BOXES, 4)
    target = np.concatenate([corners, rng.integers(0, 2, (4, BOXES, 1))], 2)
    target[0, :, 4] = 0  # an image without objects
    near = corners[:, ::-1] + rng.normal(0, 0.05, corners.shape)
    outputs = np.concatenate([near, rng.normal(0, 2, (4, BOXES, 1))], 2)

    made = objective(0.7)
    as_tensors = torch.tensor(outputs, dtype=torch.float32).reshape(4, -1), torch.tensor(target, dtype=torch.float32)
    assert made.loss(*as_tensors).item() == pytest.approx(
        literal_loss(outputs.tolist(), target.tolist(), 0.7), rel=1e-5
    )
    assert made.wrong(*as_tensors).tolist() == pytest.approx([literal_missed(outputs.tolist(), target.tolist())])


def test_only_matched_boxes_move_and_every_confidence_does() -> None:
    target = torch.zeros(1, BOXES, 5)
    target[0, 2] = torch.tensor([0.1, 0.1, 0.5, 0.5, 1])
    outputs = torch.zeros(1, 5 * BOXES, requires_grad=True)
    objective().loss(outputs, target).backward()
    assert outputs.grad is not None
    gradient = outputs.grad.view(BOXES, 5)
    np.testing.assert_allclose(gradient[2], [-0.03, -0.03, -0.15, -0.15, -0.5], atol=1e-6)
    others = [number for number in range(BOXES) if number != 2]
    assert (gradient[others, :4] == 0).all() and (gradient[others, 4] == 0.5).all()


def test_a_step_of_the_whole_net_has_a_finite_loss() -> None:
    made = objective()
    pixels = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    loss, wrong = made(pixels, torch.zeros(2, 3), torch.zeros(2, BOXES, 5))
    loss.backward()
    assert loss.isfinite() and wrong == 0
