"""What a net starts from: random weights, or the layers of a trained net."""

from __future__ import annotations

from torch import nn

from infer.spec import Task

from ..checkpoint import Checkpoint, CheckpointError, split_weights
from ..nets.vgg import FROM_A, FULLY_CONNECTED
from ..nets.zoo import Net
from ..recipe import Start


def start_weights(net: Net, start: Start, *, sigma: float = 0.01) -> None:
    """Random weights with mean zero and biases zero, from torch's random numbers.

    he: normal, sigma sqrt(2 / fan in) (arXiv 1502.01852, equation 10). glorot: uniform up to
    sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, equation 16; VGG section 3.1's later advice).
    normal: `sigma` for every layer (VGG section 3.1, whose variance of 10^-2 is not AlexNet's 0.01^2).
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if start == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif start == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.normal_(layer.weight, 0.0, sigma)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_from(net: Net, source: Checkpoint, task: Task) -> None:
    """Copies the layers that the paper starts deeper nets from (FROM_A); all layers if the nets have the same ones.

    A net for boxes takes all but the last one from a classifier (VGG appendix A). Raises CheckpointError where they do
    not fit.
    """
    own = net.state_dict()
    if split_weights(own)[0].keys() != source.weights.keys():
        taken = {n: t for n, t in source.weights.items() if n.split(".")[0] in FROM_A}
    elif task != source.spec.task:
        taken = {n: t for n, t in source.weights.items() if n.split(".")[0] != FULLY_CONNECTED[-1]}
    else:
        taken = source.weights
    unfit = [n for n, t in taken.items() if n not in own or own[n].shape != t.shape]
    if unfit or not taken:
        raise CheckpointError(
            f"--init: {source.spec.name} (net {source.spec.net}) does not fit: {', '.join(unfit) or 'no layer'}"
        )
    net.load_state_dict(taken, strict=False)
