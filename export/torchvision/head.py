"""The head of a VGG net: the linear layers behind its features, as the paper's three, fc6, fc7 and fc8.

A state dict names layers with weights alone. What lies between two linear layers, a ReLU or a Dropout or nothing, is
told by the places that their numbers leave free, and said where that is not certain.

Fewer than three layers are written as three that compute the same: behind a ReLU the identity changes nothing, and
y = relu(y) - relu(-y) carries a value of any sign through one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, permutations

import torch
from torch import Tensor

from .reading import WeightsError

Linear = tuple[Tensor, Tensor]
"""Weight [out, in], or [out, in, k, k], and bias [out]."""

USUAL = (("classifier.0", "classifier.3", "classifier.6"), ("classifier.1", "classifier.4", "classifier.6"))
"""torchvision's places of its linear layers, and those of before March 2017, with the dropouts first."""
TIMM = ("pre_logits.fc1", "pre_logits.fc2")
ROOTS = ("classifier", "pre_logits", "head", "fc")


def linear_layers(state: dict[str, Tensor], root: str) -> tuple[list[str], list[str]]:
    """(names of the linear layers of a head in order, remarks). Raises WeightsError for what is no chain of them."""
    inside = [name for name in state if name.split(".")[0] in ROOTS]
    names = [
        name.removesuffix(".weight") for name in inside if name.endswith(".weight") and state[name].dim() in (2, 4)
    ]
    last = state[f"{names[-1]}.weight"] if names else None
    if last is None or last.isnan().all():
        raise WeightsError("has no classifier, like torchvision's IMAGENET1K_FEATURES: use weights with one")
    others = [name for name in inside if name.rpartition(".")[0] not in names]
    if others:
        raise WeightsError(
            f"{others[0][:80]} in its head is of no linear layer (a batch norm?): another net than ours, export it "
            "with torch.onnx.export and import that with python -m export.from_onnx"
        )

    names = _in_order(names, state)
    for before, after in pairwise(names):
        given, read = state[f"{before}.weight"].shape[0], state[f"{after}.weight"].shape[1]
        if given != read:
            raise WeightsError(
                f"{after} reads {read} values, and {before} before it gives {given}: a changed state dict"
            )
        if _places_between(before, after) == 0:
            raise WeightsError(
                f"{after} follows {before} with no place for a ReLU between them: another net than ours, export it "
                "with torch.onnx.export and import that with python -m export.from_onnx"
            )
    certain = len(names) == 1 or tuple(names[:2]) == TIMM or any(_is_usual(names, usual) for usual in USUAL)
    return names, [] if certain else [f"taken for granted: a ReLU after {' and '.join(names[:-1])}, which no file says"]


def three_layers(
    names: Sequence[str], head: Sequence[Linear], channels: int, side: int
) -> tuple[dict[str, Linear], list[str]]:
    """(fc6, fc7 and fc8 that compute what the chain does, remarks); fc6 [out, channels, side, side].

    Raises WeightsError for a chain that they cannot compute.
    """
    if len(head) > 3:
        raise WeightsError(
            f"a head of {len(head)} linear layers ({', '.join(names)}), VGG has three: another net than ours, export "
            "it with torch.onnx.export and import that with python -m export.from_onnx"
        )
    weight, bias = head[0]
    if weight[0].numel() != channels * side**2:
        raise WeightsError(_other_input(names[0], weight, channels, side))
    first = weight.reshape(len(weight), channels, side, side), bias

    # one layer: each value and its negative go through both ReLUs
    if len(head) == 1:
        both = torch.cat([first[0], -first[0]]), torch.cat([bias, -bias])
        one = torch.eye(len(bias))
        last = torch.cat([one, -one], 1), torch.zeros(len(bias))
        return {"fc6": both, "fc7": _identity(2 * len(bias)), "fc8": last}, ["its one linear layer written as three"]

    if len(head) == 2:
        return {"fc6": first, "fc7": _identity(len(bias)), "fc8": head[1]}, ["its two linear layers written as three"]

    # three of different widths: zeros make them the same
    second, last = head[1], head[2]
    width = max(len(bias), len(second[1]))
    if len(bias) == len(second[1]):
        return {"fc6": first, "fc7": second, "fc8": last}, []
    widened = {
        "fc6": (_padded(first[0], width), _padded(bias, width)),
        "fc7": (_padded(_padded(_flat(second[0]), width).T, width).T.contiguous(), _padded(second[1], width)),
        "fc8": (_padded(_flat(last[0]).T, width).T.contiguous(), last[1]),
    }
    return widened, [f"its layers of {len(bias)} and {len(second[1])} made {width} wide with zeros"]


def _in_order(names: list[str], state: dict[str, Tensor]) -> list[str]:
    """Orders layers by number; words in the file's order, or, where that is the alphabet's, as their sizes follow."""
    if all(part.isdigit() for name in names for part in name.split(".")[1:]) or TIMM[0] in names:
        return sorted(names, key=_order)

    def follow(order: Sequence[str]) -> bool:
        sizes = [state[f"{name}.weight"].shape[:2] for name in order]
        return all(before[0] == after[1] for before, after in pairwise(sizes))

    fitting = [list(order) for order in permutations(names) if follow(order)] if len(names) <= 4 else []
    return names if follow(names) or len(fitting) != 1 else fitting[0]


def _order(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    """timm's first two before the rest, then by number."""
    parts = [(not _is_number(part), int(part) if _is_number(part) else 0, part) for part in name.split(".")[1:]]
    return ROOTS[1:].index(name.split(".")[0]) if name.split(".")[0] in ROOTS[1:] else 0, parts


def _places_between(before: str, after: str) -> int | None:
    """Layers without weights that fit between two of one Sequential, by their numbers; None: they do not say."""
    for one, other in zip(before.split("."), after.split("."), strict=False):
        if one != other:
            return int(other) - int(one) - 1 if _is_number(one) and _is_number(other) else None
    return None


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10


def _is_usual(names: Sequence[str], usual: Sequence[str]) -> bool:
    """True for these places; the last may be a Sequential there, such as (Dropout, Linear)."""
    *first, last = names
    return first == list(usual[:2]) and re.fullmatch(rf"{re.escape(usual[2])}(\.\d+)?", last) is not None


def _other_input(name: str, weight: Tensor, channels: int, side: int) -> str:
    got, expected = weight[0].numel(), channels * side**2
    per_channel = got / channels
    said = f"{name} reads {got} values, expected {expected}: {channels} channels of {side}x{side} positions"
    if per_channel == 1:
        return f"{said}; with a pool to one position it is another net than ours, of crops of 32 px say --crop 32"
    if per_channel == round(per_channel**0.5) ** 2:
        return f"{said}; of crops of {32 * round(per_channel**0.5)} px say --crop"
    return said


def _identity(width: int) -> Linear:
    return torch.eye(width), torch.zeros(width)


def _flat(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """With rows of zeros below."""
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])
