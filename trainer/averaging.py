"""The average of the weights over the steps (Polyak and Juditsky 1992; GoogLeNet section 6), for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """`weights` {name: tensor} are the plain mean of the iterates until 1 / (1 - decay) of them, then a moving one.

    So the random start has no weight after the first step; a decay of 1 is Polyak's own plain mean throughout.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: t.detach().clone() for name, t in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Takes in the weights after step number `iteration`, from 1."""
        share = max(1 - self.decay, 1 / iteration)
        for name, tensor in net.state_dict().items():
            self.weights[name].lerp_(tensor, share)
