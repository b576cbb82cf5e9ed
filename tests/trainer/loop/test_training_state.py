"""trainer/loop/training_state.py: the plain mean of the iterates, and the moving one it becomes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.loop.training_state import WeightAverage


def averages(decay: float, values: list[float]) -> list[float]:
    net = nn.Linear(1, 1, bias=False)
    average, found = WeightAverage(net, decay), []
    for value in values:
        nn.init.constant_(net.weight, value)
        average.update(net)
        found.append(average.weights["weight"].item())
    return found


def test_a_decay_of_one_is_the_plain_mean_of_all_iterates() -> None:
    values = [4.0, 8.0, 0.0, -4.0, 2.0]
    assert averages(1.0, values) == pytest.approx([4, 6, 4, 2, 2])


def test_it_moves_once_the_mean_would_hold_back_more() -> None:
    """Until 1 / (1 - 0.75) = 4 iterates it is their mean, then 3/4 of itself and 1/4 of the newest."""
    found = averages(0.75, [4.0, 8.0, 0.0, -4.0, 10.0, 0.0])
    assert found == pytest.approx([4, 6, 4, 2, 2 * 0.75 + 10 * 0.25, (2 * 0.75 + 2.5) * 0.75])


def test_the_net_is_left_alone() -> None:
    net = nn.Linear(1, 1, bias=False)
    before = net.weight.detach().clone()
    average = WeightAverage(net, 1.0)
    average.weights["weight"].fill_(5)
    assert torch.equal(net.weight, before)
