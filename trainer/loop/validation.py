"""Errors on held-out images by the central crop, as the schedule of VGG needs them while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ..data.batches import Centers, center_batches
from ..processes import Bar
from .features import FeatureStore
from .training_state import TrainingState

BATCH = 64  # images in a forward pass


@dataclass(frozen=True, slots=True)
class Validation:
    """What the weights of inference answer to V held-out images; an image that cannot be read is wrong.

    errors: in percent, one for each way of being wrong that the objective counts. loss: its mean over those that can be
    read. answers i64 [V], probability f32 [V]: the first answer with its posterior, -1 where an image cannot be read;
    without classes all are. unreadable: how many of the images cannot be read.
    """

    errors: dict[str, float]
    loss: float
    answers: Tensor
    probability: Tensor
    unreadable: int = 0


@torch.no_grad()
def validate(state: TrainingState, images: Centers | FeatureStore) -> Validation:
    """The answers to one un-mirrored view of each image, as `evaluation.ilsvrc --protocol center` takes it.

    The processes share the images. images: or the features of their views, where the layers before are frozen.
    """
    objective, peers, count = state.objective, state.peers, len(images)
    state.net.eval()

    sums = torch.zeros(2 + len(objective.errors), dtype=torch.float64)  # images seen, their loss, and wrong in each way
    answers = torch.zeros(2, count, dtype=torch.float64)  # 1 + the answer, and its probability
    with Bar("validation", -(-count // peers.world)) as bar:
        for outputs, target, places in _outputs(state, images):
            seen = torch.tensor([len(target)])
            loss = objective.loss(outputs, target).cpu()[None] * len(target)
            sums += torch.cat([seen, loss, objective.wrong(outputs, target).cpu()])
            if state.spec.task == "classify":
                surest = torch.softmax(outputs, 1).max(1)
                answers[0, places], answers[1, places] = 1 + surest.indices.double().cpu(), surest.values.double().cpu()
            bar.update(len(target))
    state.net.train()

    seen_images, loss_sum, *wrong = peers.total(sums).tolist()
    found = peers.total(answers)
    unreadable = count - int(seen_images)
    errors = {name: 100 * (n + unreadable) / count for name, n in zip(objective.errors, wrong, strict=True)}
    return Validation(errors, loss_sum / max(1, seen_images), found[0].long() - 1, found[1].float(), unreadable)


def _outputs(state: TrainingState, images: Centers | FeatureStore) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(outputs f32 [N, channels], targets [N, ...], places i64 [N]) of this process's images, by inference weights."""
    objective, peers, device = state.objective, state.peers, state.peers.device
    weights = {name: tensor.to(objective.mean) for name, tensor in state.weights().items()}
    if isinstance(images, FeatureStore):
        last = state.net.layers[-1]
        weight, bias = weights[f"{last}.weight"].flatten(1), weights[f"{last}.bias"]
        for features, target, places in images.batches(BATCH, rank=peers.rank, world=peers.world):
            yield F.linear(features.to(weight), weight, bias).float(), target.to(device), places
        return

    for pixels, target, places in center_batches(images, BATCH, rank=peers.rank, world=peers.world):
        pixels, target = pixels.to(device), target.to(device)
        with state.execution.autocast(device):
            x = objective.pixels(pixels, torch.zeros(len(pixels), 3, device=device))
            outputs = functional_call(state.net, weights, (x,)).mean((2, 3))  # [N, channels]
        yield outputs.float(), target, places
