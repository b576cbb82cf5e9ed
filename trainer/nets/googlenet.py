"""GoogLeNet (arXiv 1409.4842, Table 1), fully convolutional, with BVLC's LRN layers and the two auxiliary heads.

Differences to the paper's text, as in BVLC's replication: the first layer is a full 7x7 convolution, and LRN stands
after the first pool and before the second. Pools round up. The last pool keeps its 7x7 window at stride 1, so a
larger image gives a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec, SpecError

from .lrn import LRN


class Widths(NamedTuple):
    """Output channels of each convolution of an inception: a row of Table 1, whose columns are named so."""

    c1: int
    c3_reduce: int
    c3: int
    c5_reduce: int
    c5: int
    pool_proj: int

    @property
    def out(self) -> int:
        """Channels of the four branches together."""
        return self.c1 + self.c3 + self.c5 + self.pool_proj


TABLE = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
STEM = (64, 64, 192)  # conv1 7x7/2, conv2 1x1, conv2 3x3
AUX_CONV = 128
AUX_AFTER = {"4a": "aux1", "4d": "aux2"}
AUX_LOSS_WEIGHT = 0.3
BOX_CHANNELS = 256
"""Channels of a MultiBox net's 1x1 convolution before its last layer; ours, the papers do not say."""
CLASSIFIER = "classifier"
"""The name of the last layer, which no batch norm follows."""


class Inception(nn.Module):
    """Four branches side by side, concatenated over channels (Table 1, Figure 2b).

    third: the convolution of the third branch by its name and kernel. The paper's net has conv5x5; torchvision's has
    a second 3x3 in its place.
    """

    def __init__(self, channels: int, widths: Widths, third: tuple[str, int]) -> None:
        super().__init__()
        self.third, kernel = third
        self.conv1x1 = nn.Conv2d(channels, widths.c1, 1)
        self.conv3x3_reduce = nn.Conv2d(channels, widths.c3_reduce, 1)
        self.conv3x3 = nn.Conv2d(widths.c3_reduce, widths.c3, 3, padding=1)
        self.add_module(f"{self.third}_reduce", nn.Conv2d(channels, widths.c5_reduce, 1))
        self.add_module(self.third, nn.Conv2d(widths.c5_reduce, widths.c5, kernel, padding=kernel // 2))
        self.pool = nn.MaxPool2d(3, 1, padding=1)
        self.pool_proj = nn.Conv2d(channels, widths.pool_proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        third_reduce, third = getattr(self, f"{self.third}_reduce"), getattr(self, self.third)
        branches = (
            self.conv1x1(x),
            self.conv3x3(F.relu(self.conv3x3_reduce(x))),
            third(F.relu(third_reduce(x))),
            self.pool_proj(self.pool(x)),
        )
        return torch.cat([F.relu(branch) for branch in branches], 1)


def scaled(channels: int, spec: ModelSpec) -> int:
    """The paper's number of channels at the spec's width."""
    return max(1, round(channels * spec.width))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class AuxiliaryHead(nn.Module):
    """A classifier beside an inception, for training only: 5x5/3 average pool, 1x1 convolution, FC, 70 % dropout,
    class scores (section 5).

    Raises SpecError where the map that it pools is smaller than 5x5.
    """

    def __init__(self, channels: int, spec: ModelSpec) -> None:
        super().__init__()
        map_px = spec.crop_px // 16
        if map_px < 5:
            raise SpecError(f"an auxiliary head needs a 5x5 map to pool, got {map_px}x{map_px}: use crop_px >= 96")
        conv, side = scaled(AUX_CONV, spec), (map_px - 5) // 3 + 1
        self.conv = nn.Conv2d(channels, conv, 1)
        self.fc = nn.Linear(conv * side * side, spec.fc_width)
        self.drop = nn.Dropout(0.7)
        self.classifier = nn.Linear(spec.fc_width, len(spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.avg_pool2d(x, 5, 3)))  # [N, conv, side, side]
        scores: Tensor = self.classifier(self.drop(F.relu(self.fc(x.flatten(1)))))  # [N, classes]
        return scores


class GoogLeNet(nn.Module):
    """The net from stem to classifier; input [N, 3, h, w] float, mean subtracted, h and w >= crop_px.

    Output: class score map [N, classes, h', w'], or of a MultiBox net [N, 5 * boxes, 1, 1] for crops: left, top, right,
    bottom as fractions of the crop and the logit of the confidence, box after box. The spec's width scales every
    convolution; its fc_width is that of the auxiliary heads (1024 in the paper). third: see Inception.
    """

    def __init__(
        self, spec: ModelSpec, *, auxiliary_heads: bool = False, third: tuple[str, int] = ("conv5x5", 5)
    ) -> None:
        super().__init__()

        # The stem: everything before the first inception.
        c1, c2_reduce, c2 = (scaled(channels, spec) for channels in STEM)
        self.conv1 = nn.Conv2d(3, c1, 7, stride=2, padding=3)
        self.norm1 = LRN(n=5, alpha=1e-4, beta=0.75, k=1.0)
        self.conv2_reduce = nn.Conv2d(c1, c2_reduce, 1)
        self.conv2 = nn.Conv2d(c2_reduce, c2, 3, padding=1)
        self.norm2 = LRN(n=5, alpha=1e-4, beta=0.75, k=1.0)
        self.pool1, self.pool2 = _pool(), _pool()

        # The inceptions, each with its auxiliary head: random starts are drawn in this order.
        self.inception = nn.ModuleDict()
        self.auxiliary = nn.ModuleDict()
        self.pool_before = nn.ModuleDict({"4a": _pool(), "5a": _pool()})
        channels = c2
        for name, row in TABLE.items():
            widths = Widths(*(scaled(one, spec) for one in row))
            self.inception[name] = Inception(channels, widths, third)
            channels = widths.out
            if auxiliary_heads and name in AUX_AFTER:
                self.auxiliary[AUX_AFTER[name]] = AuxiliaryHead(channels, spec)

        # A MultiBox net needs to know where things are: in place of the average, fewer channels of the whole map.
        side, self.box_reduce = spec.crop_px // 32, None
        if spec.task == "multibox":
            self.box_reduce = nn.Conv2d(channels, scaled(BOX_CHANNELS, spec), 1)
            channels = scaled(BOX_CHANNELS, spec)
        self.last_pool = nn.AvgPool2d(side, 1)
        self.drop = nn.Dropout(0.4)
        self.classifier = nn.Conv2d(channels, spec.channels, 1 if self.box_reduce is None else side)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of its layers with weights, in order; an inception counts as one."""
        own = () if self.box_reduce is None else ("box_reduce",)
        return "conv1", "conv2_reduce", "conv2", *(f"inception.{name}" for name in self.inception), *own, CLASSIFIER

    def stem(self, x: Tensor) -> Tensor:
        """The map before the first inception: [N, 192 * width, h / 8, w / 8], sides rounded up."""
        x = self.norm1(self.pool1(F.relu(self.conv1(x))))
        x = F.relu(self.conv2(F.relu(self.conv2_reduce(x))))
        x = self.pool2(self.norm2(x))
        return x

    def trunk(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The activations before the classifier, and the maps that the auxiliary heads see."""
        x = self.stem(x)
        seen = {}
        for name, block in self.inception.items():
            if name in self.pool_before:
                x = self.pool_before[name](x)
            x = block(x)
            if name in AUX_AFTER:
                seen[AUX_AFTER[name]] = x
        if self.box_reduce is not None:
            return self.drop(F.relu(self.box_reduce(x))), seen
        return self.drop(self.last_pool(x)), seen

    def penultimate(self, x: Tensor) -> Tensor:
        """The activations before the classifier: averages [N, 1024 * width, h', w'], or of a MultiBox net the map."""
        return self.trunk(x)[0]

    def classify(self, penultimate: Tensor) -> Tensor:
        """Class score map [N, classes, h', w'] from the penultimate activations."""
        scores: Tensor = self.classifier(penultimate)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.penultimate(x))

    def training_scores(self, x: Tensor) -> tuple[tuple[float, Tensor], ...]:
        """(loss weight, class scores [N, classes]) of the classifier and of each auxiliary head."""
        penultimate, seen = self.trunk(x)
        scores = self.classify(penultimate).mean((2, 3))
        heads = ((AUX_LOSS_WEIGHT, head(seen[name])) for name, head in self.auxiliary.items())
        return ((1.0, scores), *heads)
