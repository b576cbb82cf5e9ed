"""The view graph: a net with everything that stands between a decoded image and a posterior, as one torch module.

Three interfaces share the same end. `views` takes the decoded image, filter taps and index tables; `images` takes
ready u8 views; `nchw` takes preprocessed floats. Pixels are exact integers until the mean is subtracted. In a half
graph everything after that is FP16, but for LRN, the spatial mean and the softmax. Nothing here knows ONNX beyond
the two operators that torch would otherwise export inexactly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec
from infer.taps import PRECISION_BITS
from trainer.lrn import LRN
from trainer.zoo import Net

ALWAYS = ("posterior", "posterior_positions", "pixel_sums")
"""Outputs of every engine (for `nchw` the host sums the pixels)."""
ON_REQUEST = ("score_map", "features", "pixels")
"""`pixels` i32 [V, 3, h, w] is the views as the graph sees them, for tests."""


@torch.library.custom_op("verydeep::integer_divide", mutates_args=())
def integer_divide(x: Tensor, divisor: int) -> Tensor:
    """Exact for non-negative int32; torch would export it through floats, which is wrong in 0.001 % of values."""
    return torch.div(x, divisor, rounding_mode="trunc")


@integer_divide.register_fake
def _(x: Tensor, divisor: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("verydeep::lrn", mutates_args=())
def lrn(x: Tensor, n: int, alpha: float, beta: float, k: float) -> Tensor:
    """One operator, which torch would export as a dozen."""
    return F.local_response_norm(x, n, alpha, beta, k)


@lrn.register_fake
def _(x: Tensor, n: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(x)


class OneLRN(nn.Module):
    """LRN as one operator in FP32, whatever the type around it."""

    def __init__(self, norm: LRN) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        normalised: Tensor = lrn(x.float(), norm.n, norm.alpha, norm.beta, norm.k)
        return normalised.to(x.dtype)


class Rescale(nn.Module):
    """u8 [H0, W0, 3] -> i32 [3, H, W], as Pillow rescales, bit for bit: columns, then rows (see infer/taps.py)."""

    def forward(
        self, image: Tensor, col_first: Tensor, col_taps: Tensor, row_first: Tensor, row_taps: Tensor
    ) -> Tensor:
        x = image.to(torch.int32).permute(2, 0, 1)  # cast first: TensorRT cannot transpose bytes
        return _one_axis(_one_axis(x, 2, col_first, col_taps), 1, row_first, row_taps)


def _one_axis(x: Tensor, axis: int, first: Tensor, taps: Tensor) -> Tensor:
    """Gathers K source lines for each output line of `axis`, multiplies by taps [K, n] and sums."""
    count, n = taps.shape
    offsets = torch.arange(count, dtype=torch.int32, device=x.device)[:, None]
    source = torch.clamp(first[None] + offsets, min=0, max=x.shape[axis] - 1)
    lines = torch.index_select(x, axis, source.reshape(-1)).reshape((*x.shape[:axis], count, n, *x.shape[axis + 1 :]))
    weights = taps if axis == 2 else taps[:, :, None]
    total = (lines * weights).sum(axis, dtype=torch.int32) + (1 << (PRECISION_BITS - 1))
    rounded: Tensor = integer_divide(torch.clamp(total, min=0), 1 << PRECISION_BITS)
    return torch.clamp(rounded, max=255)


class GatherViews(nn.Module):
    """i32 [3, H, W], index tables [V, h] and [V, w] -> i32 [V, 3, h, w]. Indices beyond the image are clamped."""

    def forward(self, pixels: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        index = torch.clamp(rows[:, :, None] + cols[:, None, :], min=0, max=flat.shape[1] - 1)
        views = torch.index_select(flat, 1, index.reshape(-1)).reshape((3, *index.shape))
        return views.permute(1, 0, 2, 3)


class PixelSums(nn.Module):
    """i32 [V, 6] of i32 [V, 3, h, w]: sums per channel, plain, then weighted by 1 + (flat index mod 2)."""

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(2)
        weights = 1 + torch.arange(flat.shape[2], dtype=torch.int32, device=flat.device) % 2
        return torch.cat((flat.sum(2, dtype=torch.int32), (flat * weights).sum(2, dtype=torch.int32)), 1)


class Graph(nn.Module):
    """A net from integer pixels i32 [V, 3, h, w] to its outputs, in the order of `outputs`."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: Net, spec: ModelSpec, outputs: Sequence[str]) -> None:
        super().__init__()
        net = copy.deepcopy(net).eval()
        _replace_norms(net)
        self.dtype = torch.float16 if spec.precision == "fp16" else torch.float32
        self.net: Any = net.to(self.dtype)
        self.rescale, self.gather_views, self.pixel_sums = Rescale(), GatherViews(), PixelSums()
        self.outputs = tuple(outputs)
        self.divides = any(value != 1 for value in spec.preprocessing.std_rgb)
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean_rgb)[:, None, None])
        self.register_buffer("std", torch.tensor(spec.preprocessing.std_rgb)[:, None, None])

    def from_pixels(self, pixels: Tensor) -> tuple[Tensor, ...]:
        x = pixels.float() - self.mean
        return self.from_input(x / self.std if self.divides else x, pixels)

    def from_input(self, x: Tensor, pixels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Outputs from preprocessed input f32 [V, 3, h, w]; those of `pixels` only where there are any."""
        penultimate = self.net.penultimate(x.to(self.dtype))
        score_map = self.net.classify(penultimate).float()  # [V, classes, h', w']
        computed = {"posterior": torch.softmax(score_map.mean((2, 3)), 1)}
        if "posterior_positions" in self.outputs:
            computed["posterior_positions"] = torch.softmax(score_map, 1).mean((2, 3))
        if "score_map" in self.outputs:
            computed["score_map"] = score_map
        if "features" in self.outputs:
            computed["features"] = penultimate.float().mean((2, 3))
        if pixels is not None:
            computed |= {"pixel_sums": self.pixel_sums(pixels), "pixels": pixels}
        return tuple(computed[name] for name in self.outputs)


class ViewsGraph(Graph):
    """Inputs `image` u8 [H0, W0, 3], taps of both axes, index tables of V views."""

    def forward(
        self,
        image: Tensor,
        col_first: Tensor,
        col_taps: Tensor,
        row_first: Tensor,
        row_taps: Tensor,
        rows: Tensor,
        cols: Tensor,
    ) -> tuple[Tensor, ...]:
        pixels = self.rescale(image, col_first, col_taps, row_first, row_taps)
        return self.from_pixels(self.gather_views(pixels, rows, cols))


class ImagesGraph(Graph):
    """Input `images` u8 [N, h, w, 3]: ready views."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.from_pixels(images.to(torch.int32).permute(0, 3, 1, 2))


class NchwGraph(Graph):
    """Input `input` f32 [N, 3, h, w]: RGB, mean subtracted and divided by std on the host."""

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        return self.from_input(input)


GRAPHS: dict[str, type[Graph]] = {"views": ViewsGraph, "images": ImagesGraph, "nchw": NchwGraph}


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, LRN):
            setattr(module, name, OneLRN(child))
        else:
            _replace_norms(child)
