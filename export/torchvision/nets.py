"""Tensors of torchvision's and timm's VGG nets and of torchvision's GoogLeNet, as weights of our nets.

vgg11, 13, 16 and 19 are the paper's A, B, D and E; googlenet is a net of its own, see trainer/nets/googlenet_tv.py.
Batch norms are folded into the convolutions before them; heads that were replaced are in head.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.nets import googlenet, googlenet_tv, vgg
from trainer.nets.batch_norm import PARTS, fold

from .head import linear_layers, three_layers
from .reading import WeightsError

GOOGLENET = "googlenet-tv"
THEIRS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19", GOOGLENET: "googlenet"}
AUXILIARY = ("aux1", "aux2")

VGG_EPSILON = 1e-5
"""Of VGG's batch norms: torch's default."""
TRUNK = 32
"""Pixels of a crop for each position of the last map."""


class Layer(NamedTuple):
    """A convolution of ours, what it is called in the file, and the batch norm behind it there, if any."""

    ours: str
    theirs: str
    norm: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """Weights in our names, FP32, and what they show of their net; unfolded: with their batch norms."""

    net: str
    layers: tuple[Layer, ...]
    weights: dict[str, Tensor]
    unfolded: dict[str, Tensor]
    remarks: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.weights[f"{self.layers[-1].ours}.bias"])

    @property
    def width(self) -> float:
        """The factor, by the widest 3x3 convolution: 512 channels in the paper's VGG nets, 384 in its GoogLeNet."""
        if self.net == GOOGLENET:
            return len(self.weights["inception.5b.conv3x3.bias"]) / 384
        return len(self.weights["conv5_1.bias"]) / 512

    @property
    def fc_width(self) -> int:
        """GoogLeNet has fully connected layers in its auxiliary heads alone: the paper's."""
        return 1024 if self.net == GOOGLENET else len(self.weights["fc7.bias"])

    @property
    def origin(self) -> str:
        return THEIRS[self.net] + ("_bn" if self.net != GOOGLENET and self.layers[0].norm else "")


def weights_from_torchvision(state: dict[str, Tensor], crop_px: int = 224) -> Converted:
    """The weights of a state dict, of a net for crops of this size.

    Raises WeightsError for one that is no net of theirs, or not whole.
    """
    net, layers = recognise(state)
    rest = dict(state)
    auxiliary = [head for head in AUXILIARY if net == GOOGLENET and _drop(rest, f"{head}.")]
    remarks = [f"without {' and '.join(auxiliary)}"] if auxiliary else []
    weights: dict[str, Tensor] = {}
    unfolded: dict[str, Tensor] = {}
    for layer in layers:
        weight, bias, norm = _taken(layer, rest)
        folded = (
            fold(weight, bias, norm, googlenet_tv.EPSILON if net == GOOGLENET else VGG_EPSILON)
            if norm
            else (weight, bias)
        )
        if not all(tensor.isfinite().all() for tensor in folded):
            raise WeightsError(
                f"{layer.norm} cannot be folded: it gives weights that are not finite (variances below 0?)"
            )
        weights[f"{layer.ours}.weight"], weights[f"{layer.ours}.bias"] = folded
        if net == GOOGLENET:  # trained with its norms; VGG's nets with theirs are no nets of the paper
            unfolded[f"{layer.ours}.weight"] = weight
            without_bias = norm | {"running_mean": norm["running_mean"] - bias}
            unfolded |= {f"{layer.ours}.norm.{part}": without_bias[part] for part in PARTS}

    # the head, whose layers may be called anything
    names, said = linear_layers(rest, "fc" if net == GOOGLENET else "classifier")
    remarks += said
    head = [(_take(rest, f"{name}.weight"), _take(rest, f"{name}.bias")) for name in names]
    if rest:
        raise WeightsError(f"unknown tensor {min(rest)[:80]!r}, which {THEIRS[net]} does not have")
    if net == GOOGLENET:
        if len(names) > 1:
            raise WeightsError(f"a head of {len(names)} linear layers ({', '.join(names)}), expected one in googlenet")
        ours = {"classifier": head[0]}
    else:
        channels = len(weights[f"{layers[-1].ours}.bias"])
        ours, said = three_layers(names, head, channels, crop_px // TRUNK)
        remarks += said
    for name, (weight, bias) in ours.items():
        weights[f"{name}.weight"] = weight.reshape(*weight.shape, 1, 1) if weight.dim() == 2 else weight
        weights[f"{name}.bias"] = bias
    if unfolded:
        unfolded |= {f"{name}.{part}": weights[f"{name}.{part}"] for name in ours for part in ("weight", "bias")}
    heads = [Layer(name, names[min(place, len(names) - 1)]) for place, name in enumerate(ours)]
    return Converted(net, (*layers, *heads), weights, unfolded, tuple(remarks))


def recognise(state: dict[str, Tensor]) -> tuple[str, list[Layer]]:
    """The net whose tensors are called so, and its layers but for the head. Raises WeightsError."""
    if "inception3a.branch1.conv.weight" in state:
        return GOOGLENET, list(_googlenet_layers())
    found = {match[1] for name in state if (match := re.fullmatch(r"(features\.\d+)\.weight", name))}
    for net in vgg.TABLE.keys() & THEIRS.keys():
        for batch_norms in (False, True):
            layers = list(_vgg_features(net, batch_norms))
            if found == {name for layer in layers for name in (layer.theirs, layer.norm) if name}:
                return net, layers
    names = ", ".join(repr(name[:40]) for name in list(state)[:3])
    raise WeightsError(f"expected a VGG net of torchvision or timm, or torchvision's GoogLeNet, got {names} ...")


def _vgg_features(net: str, batch_norms: bool) -> Iterator[Layer]:
    """Convolution, batch norm if any, ReLU, pool: all numbered through."""
    index, block, number = 0, 1, 1
    for item in vgg.TABLE[net]:
        if item == vgg.POOL:
            index, block, number = index + 1, block + 1, 1
        else:
            norm = f"features.{index + 1}" if batch_norms else ""
            yield Layer(f"conv{block}_{number}", f"features.{index}", norm)
            index, number = index + (3 if batch_norms else 2), number + 1


def _googlenet_layers() -> Iterator[Layer]:
    for ours, theirs in (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3")):
        yield Layer(ours, f"{theirs}.conv", f"{theirs}.bn")

    branches = {
        "conv1x1": "branch1",
        "conv3x3_reduce": "branch2.0",
        "conv3x3": "branch2.1",
        "second3x3_reduce": "branch3.0",
        "second3x3": "branch3.1",
        "pool_proj": "branch4.1",
    }
    for block in googlenet.TABLE:
        for ours, branch in branches.items():
            theirs = f"inception{block}.{branch}"
            yield Layer(f"inception.{block}.{ours}", f"{theirs}.conv", f"{theirs}.bn")


def _taken(layer: Layer, rest: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """FP32 (weight [out, in, k, k], bias [out], batch norm by PARTS or nothing) of a layer, taken out of `rest`."""
    weight = _take(rest, f"{layer.theirs}.weight")
    if weight.dim() not in (2, 4):
        raise WeightsError(f"{layer.theirs}.weight is {list(weight.shape)}, expected two sizes or four")
    weight = weight.reshape(*weight.shape, *(1, 1)[: 4 - weight.dim()])
    channels = len(weight)
    has_bias = not layer.norm or f"{layer.theirs}.bias" in rest
    bias = _take_vector(rest, f"{layer.theirs}.bias", channels) if has_bias else torch.zeros(channels)
    norm = {part: _take_vector(rest, f"{layer.norm}.{part}", channels) for part in PARTS} if layer.norm else {}
    return weight, bias, norm


def _take_vector(rest: dict[str, Tensor], name: str, channels: int) -> Tensor:
    vector = _take(rest, name)
    if vector.shape != (channels,):
        raise WeightsError(f"{name} is {list(vector.shape)}, expected [{channels}], as many as the layer has channels")
    return vector


def _take(rest: dict[str, Tensor], name: str) -> Tensor:
    if name not in rest:
        raise WeightsError(f"lacks {name}: a truncated or changed state dict")
    tensor = rest.pop(name).float().clone()
    if not tensor.isfinite().all():
        raise WeightsError(f"{name} holds values that are not finite")
    return tensor


def _drop(rest: dict[str, Tensor], prefix: str) -> bool:
    """Takes out all tensors of this prefix; True where there were some."""
    names = [name for name in rest if name.startswith(prefix)]
    for name in names:
        del rest[name]
    return bool(names)
