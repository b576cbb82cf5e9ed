"""Errors on held-out images by the central crop, as the schedule of VGG needs them while it trains."""

from __future__ import annotations

import torch
from torch.func import functional_call

from ..data.batches import Centers, center_batches
from ..processes import Bar
from .training_state import TrainingState

BATCH = 64  # images in a forward pass


@torch.no_grad()
def validate(state: TrainingState, centers: Centers) -> dict[str, float]:
    """Errors in percent of the weights of inference, one for each way of being wrong that the objective counts.

    One un-mirrored view as `evaluation.ilsvrc --protocol center` takes it; the processes share the images. An image
    that cannot be read is wrong.
    """
    net, objective, peers = state.net, state.objective, state.peers
    weights = {name: tensor.to(objective.mean) for name, tensor in state.weights().items()}
    net.eval()

    sums = torch.zeros(1 + len(objective.errors), dtype=torch.float64)  # images seen, and wrong in each way
    with Bar("validation", -(-len(centers.items) // peers.world)) as bar:
        for pixels, target in center_batches(centers, BATCH, rank=peers.rank, world=peers.world):
            pixels, target = pixels.to(peers.device), target.to(peers.device)
            with state.execution.autocast(peers.device):
                x = objective.pixels(pixels, torch.zeros(len(pixels), 3, device=peers.device))
                outputs = functional_call(net, weights, (x,)).mean((2, 3))  # [N, channels]
            sums += torch.cat([torch.tensor([len(target)]), objective.wrong(outputs.float(), target).cpu()])
            bar.update(len(target))
    net.train()

    seen, *wrong = peers.total(sums).tolist()
    count = len(centers.items)
    unreadable = count - seen
    return {name: 100 * (n + unreadable) / count for name, n in zip(objective.errors, wrong, strict=True)}
