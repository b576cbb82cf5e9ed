"""Recognition of our nets in a Caffe description, by the kinds and sizes of its layers, whatever they are called; then
Caffe's layers beside ours, one by one: every parameter compared, the weights taken over.

An inner product is a convolution over all of its input, whose channels, rows and columns Caffe lists in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from infer.spec import PoolRounding
from trainer.nets import googlenet, vgg
from trainer.nets.googlenet import GoogLeNet
from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

from .net import IDLE, SOURCES, Blobs, CaffeError, Layer, blobs_of, messages, side


class Step(NamedTuple):
    """A layer of Caffe's that computes, or (`branches`) a concatenation of four chains from one place."""

    layer: Layer
    branches: tuple[tuple[Step, ...], ...] = ()


def chain(layer: Layer) -> tuple[Step, ...]:
    """The layers from the input to `layer`, in order; dropout and splits, which compute nothing here, left out.

    Raises CaffeError for a net that is neither a chain nor a chain of concatenations.
    """
    steps: list[Step] = []

    # from the classifier back to the input
    while layer.type not in SOURCES:
        if layer.type == "Concat":
            branches, layer = _branches(layer)
            steps.append(branches)
            continue
        if len(layer.inputs) != 1:
            raise CaffeError(f"layer {layer.name} ({layer.type}) has {len(layer.inputs)} inputs, expected one")
        if layer.type not in IDLE:
            steps.append(Step(layer))
        layer = layer.inputs[0]
    return tuple(reversed(steps))


def _branches(concat: Layer) -> tuple[Step, Layer]:
    """(the concatenation with its branches, the layer that all of them read from)."""
    parameters = concat.message.concat_param
    if (parameters.axis, parameters.concat_dim) != (1, 1):
        raise CaffeError(f"layer {concat.name} concatenates another axis than the channels")
    paths = [_ancestors(layer) for layer in concat.inputs]
    shared = next((layer for layer in paths[0] if all(_holds(path, layer) for path in paths)), None) if paths else None
    if shared is None:
        raise CaffeError(f"layer {concat.name} concatenates branches that begin in different places")
    branches = []
    for path in paths:
        own = path[: next(i for i, layer in enumerate(path) if layer is shared)]
        branches.append(tuple(Step(layer) for layer in reversed(own) if layer.type not in IDLE))
    return Step(concat, tuple(branches)), shared


def _ancestors(layer: Layer) -> list[Layer]:
    """The layer, what it reads from, and so on, as far as each has one input."""
    path = [layer]
    while len(path[-1].inputs) == 1:
        path.append(path[-1].inputs[0])
    return path


def _holds(path: Sequence[Layer], layer: Layer) -> bool:
    return any(other is layer for other in path)


class Shape(NamedTuple):
    """A net of ours and its sizes, as a Caffe model shows them."""

    net: str
    classes: int
    width: float
    fc_width: int
    crop_px: int
    pool_rounding: PoolRounding


def shape_of(steps: Sequence[Step], blobs: Blobs) -> Shape:
    """The net and its sizes. What is read off a few layers here is compared with all of them later."""
    net = "googlenet" if any(step.branches for step in steps) else _recognise(steps)
    rounding = _pool_rounding(steps)
    learned = [layer for layer in _flat(steps) if layer.type in ("Convolution", "InnerProduct")]
    outputs = [_outputs(layer) for layer in learned]

    # GoogLeNet's crop shows in its last pool
    if net == "googlenet":
        paper = [*googlenet.STEM, *(channels for row in googlenet.TABLE.values() for channels in row)]
        last = [step.layer for step in steps if step.layer.type == "Pooling"][-1]
        kernel = side(last.message.pooling_param, last.name, "kernel") or 7
        return Shape(net, outputs[-1], fitted_width(outputs, paper), 1024, 32 * kernel, rounding)

    # VGG's crop shows in the weights of its first fully connected layer
    fc6 = learned[-3]
    positions = blobs_of(blobs, fc6.name)[0].size / (outputs[-3] * outputs[-4])
    if positions != round(positions**0.5) ** 2 or not positions:
        raise CaffeError(f"layer {fc6.name}: its weights do not cover a square of {outputs[-4]} channels")
    crop_px = 32 * round(positions**0.5)
    paper = [item for item in vgg.TABLE[net] if isinstance(item, int) and item != vgg.ONE]
    return Shape(net, outputs[-1], fitted_width(outputs, paper), outputs[-3], crop_px, rounding)


def _flat(steps: Sequence[Step]) -> list[Layer]:
    """Every layer, branch by branch."""
    return [layer for step in steps for layer in (*(x for branch in step.branches for x in _flat(branch)), step.layer)]


def fitted_width(outputs: Sequence[int], paper: Sequence[int]) -> float:
    """The factor that rounds each of the paper's numbers of channels to the net's own.

    Where there is none, the first layer's: the layer that differs is found when all are compared.
    """
    pairs = list(zip(outputs, paper, strict=False))
    low = max((own - 0.5) / wide if own > 1 else 0.0 for own, wide in pairs)
    high = min((own + 0.5) / wide for own, wide in pairs)
    first = pairs[0][0] / pairs[0][1]
    return first if low < first < high or low >= high else (low + high) / 2


def _recognise(steps: Sequence[Step]) -> str:
    """The VGG net whose layers these are, by their kinds and kernels."""
    layers = [step.layer for step in steps if step.layer.type != "ReLU"]
    found = [_token(layer) for layer in layers[:-3]] + ["fully connected"] * 3
    tables = {net: [*_tokens(table), *["fully connected"] * 3] for net, table in vgg.TABLE.items()}
    for net, own in tables.items():
        if own == found:
            return net
    fits = {net: _common(own, found) for net, own in tables.items()}

    best = max(fits, key=lambda net: fits[net])
    place = fits[best]
    wanted = tables[best][place] if place < len(tables[best]) else "no more layers"
    got = f"layer {layers[place].name} is {found[place]}" if place < len(layers) else "the net ends"
    raise CaffeError(f"none of our nets: {got} where net {best}, which fits longest, has {wanted}")


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _tokens(table: Sequence[int | str]) -> list[str]:
    """Kinds and kernels of a net's layers: what tells A, A-LRN, B, C, D and E apart."""
    tokens, kernel = [], 3
    for item in table:
        if item == vgg.ONE:
            kernel = 1
        elif isinstance(item, int):
            tokens.append(f"a {kernel}x{kernel} convolution")
            kernel = 3
        else:
            tokens.append({vgg.POOL: "a pool", vgg.NORM: "LRN"}[item])
    return tokens


def _token(layer: Layer) -> str:
    if layer.type == "Convolution":
        kernel = side(layer.message.convolution_param, layer.name, "kernel")
        return f"a {kernel}x{kernel} convolution"
    return {"Pooling": "a pool", "LRN": "LRN"}.get(layer.type, layer.type)


def _outputs(layer: Layer) -> int:
    parameters = layer.message.convolution_param
    if layer.type == "InnerProduct":
        parameters = layer.message.inner_product_param
    if not 0 < parameters.num_output < 100_000:
        raise CaffeError(f"layer {layer.name}: num_output {parameters.num_output}, expected 1 to 100000")
    return int(parameters.num_output)


def _pool_rounding(steps: Sequence[Step]) -> PoolRounding:
    """The one way in which all pools of the net round."""
    pools = [step.layer.message.pooling_param for step in steps if step.layer.type == "Pooling"]
    floor = messages.PoolingParameter.FLOOR
    roundings: set[PoolRounding] = {"floor" if pool.round_mode == floor else "ceil" for pool in pools}
    if not roundings:
        raise CaffeError("none of our nets: it has no pools")
    if len(roundings) > 1:
        raise CaffeError("some pools of the net round up and some down, expected one way")
    return roundings.pop()


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
