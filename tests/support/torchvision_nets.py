"""torchvision's and timm's nets said again from their documentation, in plain torch.nn, with their names of tensors.

For tests without torchvision; tests/export/test_from_torchvision_slow.py has torchvision itself. `width` is ours, so
that they can be slim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {  # convolutions in each of the five blocks, and their channels
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)
INCEPTION = {  # 1x1; 3x3 after its reduction; "5x5", which is 3x3 here, after its reduction; projection of the pool
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


def _vgg_features(name: str, width: float) -> nn.Sequential:
    plain, _, batch_norms = name.partition("_")
    layers: list[nn.Module] = []
    before = 3
    for count, full in zip(BLOCKS[plain], CHANNELS, strict=True):
        for _ in range(count):
            channels = round(full * width)
            layers.append(nn.Conv2d(before, channels, 3, padding=1))
            layers += [nn.BatchNorm2d(channels)] if batch_norms else []
            layers.append(nn.ReLU())
            before = channels
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """torchvision's: features, average to 7x7, linear layers."""

    def __init__(self, name: str, *, classes: int, width: float, fc_width: int) -> None:
        super().__init__()
        self.features = _vgg_features(name, width)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        first = round(512 * width) * 49
        self.classifier = nn.Sequential(
            *(nn.Linear(first, fc_width), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(fc_width, fc_width), nn.ReLU(), nn.Dropout()),
            nn.Linear(fc_width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class TimmVGG(nn.Module):
    """timm's: features, two convolutions, average over positions, a linear layer."""

    def __init__(self, name: str, *, classes: int, width: float, fc_width: int) -> None:
        super().__init__()
        self.features = _vgg_features(name, width)
        self.pre_logits = nn.ModuleDict(
            {"fc1": nn.Conv2d(round(512 * width), fc_width, 7), "fc2": nn.Conv2d(fc_width, fc_width, 1)}
        )
        self.head = nn.ModuleDict({"fc": nn.Linear(fc_width, classes)})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pre_logits["fc2"](F.relu(self.pre_logits["fc1"](self.features(x)))))
        return self.head["fc"](x.mean((2, 3)))


class BasicConv2d(nn.Module):
    def __init__(self, before: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    def __init__(self, before: int, one: int, reduce2: int, two: int, reduce3: int, three: int, pool: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(before, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(before, reduce2, 1), BasicConv2d(reduce2, two, 3))
        self.branch3 = nn.Sequential(BasicConv2d(before, reduce3, 1), BasicConv2d(reduce3, three, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(before, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    def __init__(self, before: int, conv: int, classes: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(before, conv, 1)
        self.fc1 = nn.Linear(conv * 16, 32)
        self.fc2 = nn.Linear(32, classes)


class GoogLeNet(nn.Module):
    """torchvision's; `transform_input` undoes ImageNet's mean and std and takes 0.5 and 0.5 instead."""

    def __init__(
        self, *, classes: int, width: float, transform_input: bool = True, auxiliary_heads: bool = False
    ) -> None:
        super().__init__()
        self.transform_input = transform_input

        def scaled(channels: int) -> int:
            return round(channels * width)

        self.conv1 = BasicConv2d(3, scaled(64), 7, 2)
        self.conv2 = BasicConv2d(scaled(64), scaled(64), 1)
        self.conv3 = BasicConv2d(scaled(64), scaled(192), 3)
        before = scaled(192)
        for name, row in INCEPTION.items():
            one, reduce2, two, reduce3, three, pool = map(scaled, row)
            self.add_module(name, InceptionBlock(before, one, reduce2, two, reduce3, three, pool))
            before = one + two + three + pool
            if auxiliary_heads and name in ("inception4a", "inception4d"):
                self.add_module("aux1" if name == "inception4a" else "aux2", AuxiliaryHead(before, 8, classes))
        self.fc = nn.Linear(before, classes)

    def map(self, x: Tensor) -> Tensor:
        """What is averaged over positions and classified."""
        if self.transform_input:
            mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
            x = (x * std + mean - 0.5) / 0.5
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name in INCEPTION:
            if name == "inception4a":
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if name == "inception5a":
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.map(x).mean((2, 3)))


def make(name: str, *, classes: int = 10, width: float = 1 / 8, fc_width: int = 32, seed: int = 0, **more: Any) -> Any:
    """A net in eval mode with random weights and batch norms that matter; "timm/vgg16" is timm's."""
    torch.manual_seed(seed)
    if name == "googlenet":
        net: nn.Module = GoogLeNet(classes=classes, width=width, **more)
    else:
        kind = TimmVGG if name.startswith("timm/") else VGG
        net = kind(name.removeprefix("timm/"), classes=classes, width=width, fc_width=fc_width)
    randomise(net)
    return net.eval()


@torch.no_grad()
def randomise(net: nn.Module) -> None:
    """Weights of He's start; batch norms of any gain, shift, mean and variance."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(1e-3, 2.0)
            module.num_batches_tracked.fill_(1000)
