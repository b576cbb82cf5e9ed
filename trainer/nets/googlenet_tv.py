"""The GoogLeNet of torchvision's weights, fully convolutional, its batch norms folded into the convolutions.

Not the paper's net: no LRN; 3x3 convolutions where Table 1 says 5x5 (inherited from TF-slim, pytorch/vision issue
906); a 2x2 pool before 5a; 20 % dropout. In training every convolution had a batch norm, so there is no training it
here. torchvision averages the last map over all of a larger image; here the window stays 7x7, as in googlenet.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .googlenet import STEM, TABLE, Row


class Inception(nn.Module):
    """Four branches side by side, concatenated over channels; c5 of the table is a second 3x3 convolution."""

    def __init__(self, channels: int, row: Row) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, row.c1, 1)
        self.conv3x3_reduce = nn.Conv2d(channels, row.c3_reduce, 1)
        self.conv3x3 = nn.Conv2d(row.c3_reduce, row.c3, 3, padding=1)
        self.second3x3_reduce = nn.Conv2d(channels, row.c5_reduce, 1)
        self.second3x3 = nn.Conv2d(row.c5_reduce, row.c5, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, padding=1)
        self.pool_proj = nn.Conv2d(channels, row.pool_proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.conv1x1(x),
            self.conv3x3(F.relu(self.conv3x3_reduce(x))),
            self.second3x3(F.relu(self.second3x3_reduce(x))),
            self.pool_proj(self.pool(x)),
        )
        return torch.cat([F.relu(branch) for branch in branches], 1)


class GoogLeNetTV(nn.Module):
    """Input [N, 3, h, w] float, normalised, h and w >= crop_px. Output: class score map [N, classes, h', w'].

    `width` scales every convolution.
    """

    def __init__(self, *, classes: int, width: float = 1.0, crop_px: int = 224) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        c1, c2_reduce, c2 = map(scaled, STEM)
        self.conv1 = nn.Conv2d(3, c1, 7, stride=2, padding=3)
        self.conv2_reduce = nn.Conv2d(c1, c2_reduce, 1)
        self.conv2 = nn.Conv2d(c2_reduce, c2, 3, padding=1)
        self.pool1, self.pool2 = (nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(2))
        self.pool_before = nn.ModuleDict(
            {"4a": nn.MaxPool2d(3, 2, ceil_mode=True), "5a": nn.MaxPool2d(2, 2, ceil_mode=True)}
        )
        self.inception = nn.ModuleDict()
        channels = c2
        for name, paper_row in TABLE.items():
            row = Row(*map(scaled, paper_row))
            self.inception[name] = Inception(channels, row)
            channels = row.out
        self.last_pool = nn.AvgPool2d(crop_px // 32, 1)
        self.drop = nn.Dropout(0.2)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def penultimate(self, x: Tensor) -> Tensor:
        """The averaged activations before the classifier: [N, 1024 * width, h', w']."""
        x = self.pool1(F.relu(self.conv1(x)))
        x = self.pool2(F.relu(self.conv2(F.relu(self.conv2_reduce(x)))))
        for name, block in self.inception.items():
            if name in self.pool_before:
                x = self.pool_before[name](x)
            x = block(x)
        pooled: Tensor = self.drop(self.last_pool(x))
        return pooled

    def classify(self, penultimate: Tensor) -> Tensor:
        """Class score map from the penultimate activations."""
        scores: Tensor = self.classifier(penultimate)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.penultimate(x))

    def training_scores(self, x: Tensor) -> tuple[tuple[float, Tensor], ...]:
        """(loss weight, class scores [N, classes]) of its one classifier."""
        return ((1.0, self(x).mean((2, 3))),)
