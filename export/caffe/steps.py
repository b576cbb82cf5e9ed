"""Recognition of our nets in a Caffe description, by the kinds and sizes of its layers, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infer.spec import PoolRounding
from trainer.nets import googlenet, vgg

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
