"""Batch norm behind convolutions, as a net in training has it, and folded into them, as a net that answers has it.

Its statistics are frozen unless a recipe says otherwise: a batch of a few photographs has poorer ones than the images
that the weights were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.1
"""The weight of a batch's statistics in the running ones, where these are not frozen: torch's default."""
PARTS = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a batch norm, by torch's names: gain, shift, mean and variance of its input."""


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, on [N, C, h, w], by the running statistics.

    Where they are not `frozen`, training takes the batch's own, and moves the running ones.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon, self.frozen = epsilon, True
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        own, parameters = self.training and not self.frozen, (self.weight, self.bias)
        return F.batch_norm(x, self.running_mean, self.running_var, *parameters, own, MOMENTUM, self.epsilon)


class NormedConv2d(nn.Conv2d):
    """A convolution without bias with its batch norm behind it; `norm` is a part of it by name."""

    def __init__(self, plain: nn.Conv2d, epsilon: float) -> None:
        size: tuple[int, ...] = plain.kernel_size
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            (size[0], size[1]),
            stride=plain.stride,  # type: ignore[arg-type]
            padding=plain.padding,  # type: ignore[arg-type]
            bias=False,
        )
        self.norm = BatchNorm(plain.out_channels, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(x))
        return normed


def add_batch_norms(net: nn.Module, epsilon: float, *, but: str) -> None:
    """Puts a batch norm behind every convolution of a net, except the one called `but`."""
    for path, module in list(net.named_modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and name != but and not path.startswith("auxiliary"):
                setattr(module, name, NormedConv2d(child, epsilon))


def has_norms(net: nn.Module) -> bool:
    """True for a net whose batch norms stand beside its convolutions."""
    return any(isinstance(module, BatchNorm) for module in net.modules())


def fold(weight: Tensor, bias: Tensor | float, norm: Mapping[str, Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """FP32 (weight [out, in, k, k], bias [out]) of a convolution that does what this one and its norm (PARTS) do.

    y = (x * w + b - mean) / sqrt(variance + epsilon) * gain + shift, computed in double precision.
    """
    gain, shift, mean, variance = (norm[part].double() for part in PARTS)
    scale = gain / (variance + epsilon).sqrt()
    return (weight.double() * scale[:, None, None, None]).float(), ((bias - mean) * scale + shift).float()


def fold_all(state: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """The tensors of a net with batch norms as those of the net without: each folded into its convolution."""
    folded = {}
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if layer.endswith(".norm"):
            continue
        norm = {part: state[f"{layer}.norm.{part}"] for part in PARTS if f"{layer}.norm.{part}" in state}
        if last == "weight" and norm:
            folded[name], folded[f"{layer}.bias"] = fold(tensor, 0.0, norm, epsilon)
        else:
            folded[name] = tensor
    return folded


def unfold_all(state: Mapping[str, Tensor], epsilon: float, *, but: str) -> dict[str, Tensor]:
    """The tensors of a net with batch norms that does what this one without does; but: the layer that has none.

    The norms' gains are sqrt(1 + epsilon), with a mean of 0 and a variance of 1: statistics that were folded are lost.
    """
    unfolded = {}
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if last != "bias" or layer == but:
            unfolded[name] = tensor
            continue
        one = torch.ones_like(tensor)
        values = (one * (1 + epsilon) ** 0.5, tensor, torch.zeros_like(tensor), one)
        unfolded |= {f"{layer}.norm.{part}": value for part, value in zip(PARTS, values, strict=True)}
    return unfolded
