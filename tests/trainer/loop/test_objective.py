"""trainer/loop/objective.py: losses and wrong answers against values written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import slim_spec
from torch import Tensor, nn

from trainer.loop.objective import BoxRegression, Classification, iou
from trainer.nets.zoo import build_net


class Fixed(nn.Module):
    """A net that answers the same whatever it sees, as `heads` classifiers do."""

    def __init__(self, *heads: tuple[float, list[list[float]]]) -> None:
        super().__init__()
        self.heads = tuple((weight, torch.tensor(scores)) for weight, scores in heads)

    def training_scores(self, x: Tensor) -> tuple[tuple[float, Tensor], ...]:
        return self.heads


SPEC = slim_spec("A")
PIXELS, SHIFT = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, 3)


def test_cross_entropy_with_the_auxiliary_heads_weights() -> None:
    main, head = [[0.0, math.log(3)], [0.0, 0.0]], [[math.log(7), 0.0], [math.log(1 / 3), 0.0]]
    net = Fixed((1.0, main), (0.3, head))
    loss, wrong = Classification(net, SPEC)(PIXELS, SHIFT, torch.tensor([0, 1]))  # type: ignore[arg-type]
    expected = (math.log(4) + math.log(2)) / 2 + 0.3 * (math.log(8 / 7) + math.log(4 / 3)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert wrong.item() == 1 + int(torch.tensor(main[1]).argmax() != 1)


def test_top1_and_top5() -> None:
    scores = torch.arange(8.0).repeat(3, 1)  # class 7 is the best, then 6, 5, 4, 3
    wrong = Classification(build_net(SPEC), SPEC).wrong(scores, torch.tensor([7, 3, 2]))
    assert wrong.tolist() == [2, 1]
    few = Classification(build_net(SPEC), SPEC).wrong(scores[:, :3], torch.tensor([2, 1, 0]))
    assert few.tolist() == [2, 0]


def test_pixels_are_shifted_and_normalised() -> None:
    objective = Classification(build_net(SPEC), SPEC)
    pixels = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8)
    shift = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 0.5]])
    x = objective.pixels(pixels, shift)
    mean, std = SPEC.preprocessing.mean_rgb, SPEC.preprocessing.std_rgb
    assert x.shape == (2, 3, 5, 6)
    for image, channel in ((0, 2), (1, 0)):
        expected = (float(pixels[image, 4, 3, channel]) + float(shift[image, channel]) - mean[channel]) / std[channel]
        assert x[image, channel, 4, 3].item() == pytest.approx(expected, rel=1e-6)


def box_objective(outputs: list[list[float]]) -> BoxRegression:
    return BoxRegression(Fixed((1.0, outputs)), SPEC)  # type: ignore[arg-type]


def test_euclidean_loss_of_one_box_for_all_classes() -> None:
    objective = box_objective([[0.1, 0.2, 0.5, 0.6], [9.0, 9.0, 9.0, 9.0]])
    target = torch.tensor([[1.0, 3.0, 0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 0.0, 0.5, 0.5]])
    loss, wrong = objective(PIXELS, SHIFT, target)
    assert loss.item() == pytest.approx(0.5 * (0.01 + 0.04 + 0.01) / 2, rel=1e-5)
    assert wrong.item() == 1  # 0.4 x 0.35 of overlap in a union of 0.41; the second has no weight


def test_a_box_for_each_class_takes_that_of_the_class() -> None:
    outputs = [[float(channel) for channel in range(12)], [0.0] * 8 + [0.0, 0.0, 0.5, 0.5]]
    target = torch.tensor([[1.0, 1.0, 4.0, 5.0, 6.0, 8.0], [1.0, 2.0, 0.0, 0.0, 0.5, 0.5]])
    loss, wrong = box_objective(outputs)(PIXELS, SHIFT, target)
    assert loss.item() == pytest.approx(0.5 * 1.0 / 2)
    assert wrong.item() == 0
    exchanged = target[:, [0, 1, 2, 3, 5, 4]]
    assert box_objective(outputs)(PIXELS, SHIFT, exchanged)[0].item() > 0.5


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 1, 1), (0.5, 0, 1, 1), 1 / 3),
        ((0, 0, 1, 1), (0, 0.5, 1, 2), 1 / 2),
        ((0, 0, 1, 1), (2, 0, 1, 1), 0.0),
        ((0, 0, -1, 1), (0, 0, 1, 1), 0.0),
        ((0, 0, 0, 0), (0, 0, 1, 1), 0.0),
    ],
)
def test_iou(one: tuple[float, ...], other: tuple[float, ...], expected: float) -> None:
    assert iou(torch.tensor([one], dtype=torch.float64), torch.tensor([other])).item() == pytest.approx(expected)


def test_exactly_half_is_right() -> None:
    target = torch.tensor([[1.0, 0.0, 0.0, 0.5, 1.0, 2.0]])
    assert box_objective([[0.0, 0.0, 1.0, 1.0]]).wrong(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), target).item() == 0
    assert box_objective([[0.0] * 4]).wrong(torch.tensor([[0.0, 0.01, 1.0, 0.99]]), target).item() == 1


def test_smoothing_and_weights_of_classes() -> None:
    """By hand: scores (2, 0, 0), targets 0 and 1; three tenths of a target are shared by three classes."""
    scores, target = [[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], torch.tensor([0, 1])
    net: Any = Fixed((1.0, scores))
    right, wrong = (math.log(math.exp(2) + 2) - score for score in (2, 0))
    smoothed = [0.7 * one + 0.1 * (right + 2 * wrong) for one in (right, wrong)]
    loss, _ = Classification(net, SPEC, label_smoothing=0.3)(PIXELS, SHIFT, target)
    assert loss.item() == pytest.approx(sum(smoothed) / 2)

    objective = Classification(net, SPEC, class_weights=torch.tensor([0.5, 2.0, 1.0]))
    loss, _ = objective(PIXELS, SHIFT, target)
    assert loss.item() == pytest.approx((0.5 * right + 2.0 * wrong) / 2)
    assert objective.loss(torch.tensor(scores), target).item() == pytest.approx((right + wrong) / 2)  # of validation


def test_features_take_the_place_of_pixels() -> None:
    net = build_net(SPEC).eval()
    objective = Classification(net, SPEC)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    shift, target = torch.randn(3, 3), torch.tensor([1, 2, 3])
    with torch.inference_mode():
        features = objective.features(pixels, shift)
        assert features.shape == (3, SPEC.fc_width)
        for one, other in zip(objective(features, shift, target), objective(pixels, shift, target), strict=True):
            assert torch.allclose(one, other, rtol=1e-5)
