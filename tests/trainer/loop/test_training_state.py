"""trainer/loop/training_state.py: the plain mean of the iterates, and the moving one it becomes; which steps count."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import random_net, slim_spec
from torch import nn

from trainer.loop.execution import Execution
from trainer.loop.training_state import TrainingState, WeightAverage
from trainer.processes import Peers
from trainer.recipes import RECIPES


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


def test_a_step_that_the_scaler_skips_is_not_averaged() -> None:
    """FP16's first scale of 2^16 overflows these gradients: the steps until it has shrunk change nothing."""
    recipe = dataclasses.replace(RECIPES["mini-a"], average="polyak", average_decay=1.0, momentum=0.0)
    spec = slim_spec("A")
    peers = Peers(torch.device("cpu"))
    state = TrainingState(recipe, spec, random_net(spec), Execution(precision="fp16"), peers)
    with torch.no_grad():
        state.net.get_submodule("fc8").weight.mul_(1000)  # scores, and so gradients, that half does not hold
    pixels = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    batch = (pixels, torch.zeros(4, 3), torch.arange(4), torch.zeros(4, dtype=torch.int64))

    before = {name: tensor.clone() for name, tensor in state.net.state_dict().items()}
    state.average = WeightAverage(state.net, 1.0)
    taken = 0
    for _ in range(25):
        last = {name: tensor.clone() for name, tensor in state.net.state_dict().items()}
        state.step([batch], 1e-9)
        taken += any(not torch.equal(tensor, last[name]) for name, tensor in state.net.state_dict().items())
        assert state.average.steps == taken
    assert 0 < taken < 25
    assert state.weights().keys() == before.keys()
