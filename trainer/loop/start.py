"""The weights that a net starts from: random ones, or the layers of a trained net."""

from __future__ import annotations

from torch import nn

from infer.spec import Task

from ..checkpoint import Checkpoint, CheckpointError, split_weights
from ..nets.vgg import FROM_A, FULLY_CONNECTED
from ..nets.zoo import Net
from ..recipe import Start


def start_weights(net: Net, start: Start, *, sigma: float = 0.01) -> None:
    """Fills the net with random weights of mean zero, from torch's random numbers, and biases of zero.

    he: normal, sigma sqrt(2 / fan in) (arXiv 1502.01852, equation 10). glorot: uniform up to
    sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, equation 16; VGG section 3.1's later advice).
    normal: `sigma` for every layer (VGG section 3.1, whose variance of 10^-2 is not AlexNet's 0.01^2).
    """
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue

        if start == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif start == "glorot":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.normal_(layer.weight, 0.0, sigma)

        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def copy_layers(net: Net, source: Checkpoint, task: Task) -> None:
    """Copies layers of a trained net into `net`, which learns `task`.

    Nets with the same layers: all of them; but a net for boxes takes all but the last from a classifier (VGG
    appendix A). Other nets: the layers that the paper starts deeper nets from (FROM_A). Raises CheckpointError where
    the layers do not fit.
    """
    own = net.state_dict()
    if split_weights(own)[0].keys() != source.weights.keys():
        taken = {name: t for name, t in source.weights.items() if _layer(name) in FROM_A}
    elif task != source.spec.task:
        taken = {name: t for name, t in source.weights.items() if _layer(name) != FULLY_CONNECTED[-1]}
    else:
        taken = source.weights

    unfit = [name for name, t in taken.items() if name not in own or own[name].shape != t.shape]
    if unfit or not taken:
        raise CheckpointError(
            f"--init: {source.spec.name} (net {source.spec.net}) does not fit: {', '.join(unfit) or 'no layer'}"
        )
    net.load_state_dict(taken, strict=False)


def _layer(name: str) -> str:
    """`conv1_1` from `conv1_1.weight`."""
    return name.split(".")[0]
