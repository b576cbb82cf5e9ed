"""The seven nets typed anew from the papers' tables, with fully connected heads on flattened features.

Nothing here comes from trainer/: convolutions in the order of the tables, weights copied in that order.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# VGG Table 1, row by row: "3-64" is a 3x3 convolution of 64 channels; | a max pool.
VGG_TABLE_1 = {
    "A": "3-64 | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "A-LRN": "3-64 LRN | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "B": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "C": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 1-256 | 3-512 3-512 1-512 | 3-512 3-512 1-512 |",
    "D": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 | 3-512 3-512 3-512 | 3-512 3-512 3-512 |",
    "E": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 3-256 | 3-512 3-512 3-512 3-512 | 3-512 3-512 3-512 3-512 |",
}

# GoogLeNet Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
INCEPTIONS = [
    [64, 96, 128, 16, 32, 32],  # 3a
    [128, 128, 192, 32, 96, 64],  # 3b
    "pool",
    [192, 96, 208, 16, 48, 64],  # 4a
    "aux",
    [160, 112, 224, 24, 64, 64],  # 4b
    [128, 128, 256, 24, 64, 64],  # 4c
    [112, 144, 288, 32, 64, 64],  # 4d
    "aux",
    [256, 160, 320, 32, 128, 128],  # 4e
    "pool",
    [256, 160, 320, 32, 128, 128],  # 5a
    [384, 192, 384, 48, 128, 128],  # 5b
]


def plain_lrn(x: Tensor, *, alpha: float, k: float, n: int = 5, beta: float = 0.75) -> Tensor:
    """b_i = a_i / (k + alpha * sum of a_j^2 over n channels around i)^beta: AlexNet, section 3.3, alpha on the sum."""
    channels = x.shape[1]
    squares = x * x
    out = torch.empty_like(x)
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i + n // 2)
        out[:, i] = x[:, i] / (k + alpha * squares[:, low : high + 1].sum(1)) ** beta
    return out


class PlainVGG(nn.Module):
    """Class scores [N, classes] of crops."""

    def __init__(self, net: str, *, classes: int, width: float, fc_width: int, crop_px: int) -> None:
        super().__init__()
        self.plan: list[nn.Module | str] = []
        convolutions, channels = [], 3
        for word in VGG_TABLE_1[net].split():
            if word[0] in "13":
                kernel, out = int(word[0]), int(int(word[2:]) * width)
                convolutions.append(nn.Conv2d(channels, out, kernel, padding={3: 1, 1: 0}[kernel]))
                self.plan.append(convolutions[-1])
                channels = out
            else:
                self.plan.append(word)
        self.convolutions = nn.ModuleList(convolutions)
        self.fc6 = nn.Linear(channels * (crop_px // 32) ** 2, fc_width)  # 25088 -> 4096
        self.fc7 = nn.Linear(fc_width, fc_width)
        self.fc8 = nn.Linear(fc_width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.plan:
            if step == "|":
                x = F.max_pool2d(x, 2, 2)
            elif step == "LRN":
                x = plain_lrn(x, alpha=1e-4, k=2)
            else:
                x = F.relu(step(x))
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(torch.flatten(x, 1))))))


class PlainGoogLeNet(nn.Module):
    """Class scores [N, classes] of crops: the classifier's, then those of the auxiliary heads if there are any."""

    def __init__(self, *, classes: int, width: float, fc_width: int, crop_px: int, heads: bool) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: float, kernel: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, int(outputs), kernel, stride, kernel // 2)

        w = width
        self.stem = nn.ModuleList(
            [
                convolution(3, 64 * w, 7, 2),
                convolution(int(64 * w), 64 * w, 1),
                convolution(int(64 * w), 192 * w, 3),
            ]
        )
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        channels = int(192 * w)
        for row in INCEPTIONS:
            if isinstance(row, list):
                one, reduce3, three, reduce5, five, proj = (int(c * w) for c in row)
                self.blocks.append(
                    nn.ModuleList(
                        [
                            convolution(channels, one, 1),
                            convolution(channels, reduce3, 1),
                            convolution(reduce3, three, 3),
                            convolution(channels, reduce5, 1),
                            convolution(reduce5, five, 5),
                            convolution(channels, proj, 1),
                        ]
                    )
                )
                channels = one + three + five + proj
            elif row == "aux" and heads:
                conv, side = int(128 * w), (crop_px // 16 - 5) // 3 + 1
                self.heads.append(
                    nn.ModuleList(
                        [
                            convolution(channels, conv, 1),
                            nn.Linear(conv * side * side, fc_width),
                            nn.Linear(fc_width, classes),
                        ]
                    )
                )
        self.window = crop_px // 32  # 7 for 224
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        conv1, reduce2, conv2 = self.stem
        x = plain_lrn(pool(F.relu(conv1(x))), alpha=1e-4 / 5, k=1)  # Caffe divides alpha by n
        x = F.relu(conv2(F.relu(reduce2(x))))
        x = pool(plain_lrn(x, alpha=1e-4 / 5, k=1))
        blocks, heads, scores = iter(self.blocks), iter(self.heads), []
        for row in INCEPTIONS:
            if row == "pool":
                x = pool(x)
            elif row == "aux":
                if self.heads:
                    conv, fc, classifier = next(heads)
                    seen = F.relu(conv(F.avg_pool2d(x, 5, 3)))
                    scores.append(classifier(F.relu(fc(seen.flatten(1)))))
            else:
                one, reduce3, three, reduce5, five, proj = next(blocks)
                x = torch.cat(
                    [
                        F.relu(one(x)),
                        F.relu(three(F.relu(reduce3(x)))),
                        F.relu(five(F.relu(reduce5(x)))),
                        F.relu(proj(F.max_pool2d(x, 3, 1, 1))),
                    ],
                    1,
                )
        return [self.classifier(F.avg_pool2d(x, self.window, 1).flatten(1)), *scores]


def give_weights(plain: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Shares `tensors` with `plain`, in order; a convolution that covers its whole input becomes a Linear layer."""
    given = {}
    for (name, parameter), tensor in zip(plain.named_parameters(), tensors, strict=True):
        if parameter.shape != tensor.shape:
            assert parameter.dim() == 2, name
            assert tensor.dim() == 4, name
        given[name] = tensor.detach().reshape(parameter.shape)
    plain.load_state_dict(given, assign=True)
