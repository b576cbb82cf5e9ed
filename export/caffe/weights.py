"""Caffe's layers beside ours, one by one: every parameter compared, the weights taken over.

An inner product is a convolution over all of its input, whose channels, rows and columns Caffe lists in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.nets.googlenet import GoogLeNet
from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

from .net import Blobs, CaffeError, Layer, blobs_of, side
from .steps import Step


class Expected(NamedTuple):
    """A step of one of our nets: its module, or the branches of an inception; `name` is that of its weights."""

    name: str
    module: nn.Module | None
    branches: tuple[tuple[Expected, ...], ...] = ()


def layers_of(net: Net) -> tuple[Expected, ...]:
    """The layers of one of our nets as Caffe has them, without dropout."""
    if not isinstance(net, GoogLeNet):
        return tuple(Expected(name, layer) for name, layer in net.named_children() if not isinstance(layer, nn.Dropout))

    layers: list[Expected] = []
    for name in ("conv1", "pool1", "norm1", "conv2_reduce", "conv2", "norm2", "pool2"):
        layers += _with_relu(name, net.get_submodule(name))
    for name, block in net.inception.items():
        if name in net.pool_before:
            layers.append(Expected(f"pool_before.{name}", net.pool_before[name]))
        branches = []
        for parts in INCEPTION:
            branch: list[Expected] = []
            for part in parts:
                branch += _with_relu(f"inception.{name}.{part}", block.get_submodule(part))
            branches.append(tuple(branch))
        layers.append(Expected(f"inception {name}", None, tuple(branches)))
    return (*layers, Expected("last_pool", net.last_pool), Expected("classifier", net.classifier))


def _with_relu(name: str, module: nn.Module) -> list[Expected]:
    """A layer of GoogLeNet, with a ReLU behind a convolution."""
    relu = [Expected("", nn.ReLU())] if isinstance(module, nn.Conv2d) else []
    return [Expected(name, module), *relu]


INCEPTION = (("conv1x1",), ("conv3x3_reduce", "conv3x3"), ("conv5x5_reduce", "conv5x5"), ("pool", "pool_proj"))
"""The branches of an inception in the order in which they are concatenated."""


def weights_from_caffe(steps: Sequence[Step], expected: Sequence[Expected], blobs: Blobs) -> dict[str, Tensor]:
    """Our weights from Caffe's, layer by layer. Raises CaffeError for the first layer that differs."""
    state: dict[str, Tensor] = {}

    for step, own in zip(steps, expected, strict=False):
        if own.branches:
            if len(step.branches) != len(own.branches):
                raise CaffeError(f"layer {step.layer.name} ({step.layer.type}), expected a Concat of 4 ({own.name})")
            for branch, inner in zip(step.branches, own.branches, strict=True):
                state |= weights_from_caffe(branch, inner, blobs)
        elif isinstance(own.module, nn.Conv2d):
            state |= _convolution(step.layer, own.name, own.module, blobs)
        else:
            assert own.module is not None
            _check(step.layer, own.module)

    if len(steps) != len(expected):
        longer = f"layer {steps[len(expected)].layer.name} more" if len(steps) > len(expected) else "too few layers"
        raise CaffeError(f"the net has {longer} than ours: {len(steps)} steps, expected {len(expected)}")
    return state


def _convolution(layer: Layer, name: str, module: nn.Conv2d, blobs: Blobs) -> dict[str, Tensor]:
    if layer.type == "Convolution":
        given = layer.message.convolution_param
        sizes = tuple(side(given, layer.name, what) for what in ("kernel", "stride", "pad"))
        own = (module.kernel_size[0], module.stride[0], int(module.padding[0]))
        _require(layer, "kernel, stride and pad", sizes, own)
        _require(layer, "groups", given.group, 1)
        _require(layer, "dilation", set(given.dilation) or {1}, {1})
    else:
        inner = name.startswith(("fc", "classifier"))
        _require(layer, "type", layer.type, "InnerProduct" if inner else "Convolution")
        given = layer.message.inner_product_param
        _require(layer, "transpose", given.transpose, False)

    # what both have: outputs, biases and weights
    _require(layer, "num_output", given.num_output, module.out_channels)
    _require(layer, "bias_term", given.bias_term, True)
    found = blobs_of(blobs, layer.name)
    _require(layer, "number of blobs", len(found), 2)
    weight, bias_values = found
    _require(layer, "biases", bias_values.size, module.out_channels)

    shape = tuple(module.weight.shape)  # [out, in, k, k]
    own_shape = shape if layer.type == "Convolution" else (shape[0], shape[1] * shape[2] * shape[3])
    _require(layer, "shape of the weights", _without_ones(weight.shape), _without_ones(own_shape))
    return {
        f"{name}.weight": torch.from_numpy(weight.reshape(shape)),  # an inner product's inputs are (C, H, W), flat
        f"{name}.bias": torch.from_numpy(bias_values.reshape(-1)),
    }


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Old files write (1, 1, out, in) for an inner product."""
    return tuple(size for size in shape if size != 1)


def _check(layer: Layer, module: nn.Module) -> None:
    """Raises CaffeError where a layer without weights is another than ours."""
    match module:
        case nn.ReLU():
            _require(layer, "type", layer.type, "ReLU")
            _require(layer, "negative_slope", layer.message.relu_param.negative_slope, 0)
        case LRN():
            _require(layer, "type", layer.type, "LRN")
            given = layer.message.lrn_param
            _require(layer, "norm_region", given.norm_region, 0)

            found = (given.local_size, *(round(value, 9) for value in (given.alpha, given.beta, given.k)))
            _require(layer, "local_size, alpha, beta and k", found, (module.n, module.alpha, module.beta, module.k))
        case nn.MaxPool2d() | nn.AvgPool2d():
            _require(layer, "type", layer.type, "Pooling")
            given = layer.message.pooling_param
            _require(layer, "method", given.pool, int(isinstance(module, nn.AvgPool2d)))
            if not given.global_pooling:
                sizes = tuple(side(given, layer.name, what) for what in ("kernel", "stride", "pad"))
                _require(layer, "kernel, stride and pad", sizes, (module.kernel_size, module.stride, module.padding))


def _require(layer: Layer, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise CaffeError(f"layer {layer.name} ({layer.type}): {what} {found}, expected {expected}")
