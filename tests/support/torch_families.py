"""Small nets of the families that people bring, in plain torch, with what is particular to each; torch's answers.

Sides of 64 px. Batch norms have the statistics of real photographs, and the head is scaled, so that scores of different
images differ and a wrong pixel shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec
from infer.views import View, rescaled_px

CROP_PX, CLASSES = 64, 10
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def conv_norm(before: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


class Residual(nn.Module):
    """ResNet's basic block, with a shortcut of 1x1 where the size changes."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv_norm(before, channels, 3, stride), conv_norm(channels, channels, 3)
        self.shortcut = conv_norm(before, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.two(F.relu(self.one(x))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 24, 2))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class Squeeze(nn.Module):
    """Squeeze and excitation: each channel weighed by what the whole map holds."""

    def __init__(self, channels: int, inner: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.inner, self.gate = inner(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.inner(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """An inverted residual: expanded, depthwise, squeezed, projected."""

    def __init__(
        self, before: int, channels: int, kernel: int, stride: int, act: type[nn.Module], squeeze: nn.Module
    ) -> None:
        super().__init__()
        wide = before * 4
        self.layers = nn.Sequential(
            *(conv_norm(before, wide, 1), act(), conv_norm(wide, wide, kernel, stride, wide), act()),
            *(squeeze, conv_norm(wide, channels, 1)),
        )
        self.residual = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(before: int, channels: int, kernel: int, stride: int) -> Inverted:
            return Inverted(before, channels, kernel, stride, nn.SiLU, Squeeze(before * 4, nn.SiLU, nn.Sigmoid))

        self.features = nn.Sequential(
            *(conv_norm(3, 8, 3, 2), nn.SiLU(), block(8, 8, 3, 1), block(8, 12, 3, 2), block(12, 16, 5, 2)),
            *(block(16, 16, 5, 1), conv_norm(16, 32, 1), nn.SiLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(before: int, channels: int, kernel: int, stride: int) -> Inverted:
            squeeze = Squeeze(before * 4, nn.ReLU, nn.Hardsigmoid)
            return Inverted(before, channels, kernel, stride, nn.Hardswish, squeeze)

        self.features = nn.Sequential(
            *(conv_norm(3, 8, 3, 2), nn.Hardswish(), block(8, 12, 3, 2), block(12, 12, 5, 1), block(12, 16, 5, 2)),
            *(conv_norm(16, 32, 1), nn.Hardswish()),
        )
        self.head = nn.Sequential(nn.Linear(32, 40), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(40, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class PlaneNorm(nn.LayerNorm):
    """Over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.wide = nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, 4 * channels)
        self.narrow, self.scale = nn.Linear(4 * channels, channels), nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.scale * self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 12, 4, 4), PlaneNorm(12, eps=1e-6), ConvNeXtBlock(12)),
            *(PlaneNorm(12, eps=1e-6), nn.Conv2d(12, 24, 2, 2), ConvNeXtBlock(24)),
        )
        self.norm, self.head = PlaneNorm(24, eps=1e-6), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.norm(F.adaptive_avg_pool2d(self.layers(x), 1)), 1))


class Encoder(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.layers(self.norm2(x))


class ViT(nn.Module):
    """Patches of 16 px, a class token, an embedding of places for 64x64 px alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 16, 16)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 17, 24) * 0.5)
        self.encoders, self.norm = nn.Sequential(Encoder(24), Encoder(24)), nn.LayerNorm(24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        views = x.shape[0]
        x = self.patches(x).reshape(views, 24, 16).permute(0, 2, 1)
        x = torch.cat([self.token.expand(views, -1, -1), x], 1) + self.places
        return self.head(self.norm(self.encoders(x))[:, 0])


FAMILIES: dict[str, type[nn.Module]] = {
    "resnet": ResNet,
    "efficientnet": EfficientNet,
    "convnext": ConvNeXt,
    "vit": ViT,
    "mobilenet_v3": MobileNetV3,
}


def make(family: str, photos: Sequence[NDArray[np.uint8]], seed: int = 0) -> nn.Module:
    """A seeded net in evaluation mode that tells these photographs apart."""
    torch.manual_seed(seed)
    net = FAMILIES[family]()
    settle(net, cuts(photos, CROP_PX))
    return net


def cuts(photos: Sequence[NDArray[np.uint8]], side_px: int, each: int = 8, seed: int = 0) -> Tensor:
    """Squares of photographs, each rescaled to half as much again, as a net takes them: f32 [n, 3, side, side]."""
    rng, found = np.random.default_rng(seed), []
    for photo in photos:
        small = Image.fromarray(photo).resize((side_px * 3 // 2, side_px * 3 // 2), Image.Resampling.BILINEAR)
        for top, left in rng.integers(0, side_px // 2, (each, 2)):
            found.append(network_input(np.asarray(small)[top : top + side_px, left : left + side_px]))
    return torch.cat(found)


@torch.no_grad()
def settle(net: nn.Module, images: Tensor, quiet: tuple[str, ...] = ()) -> None:
    """Gives batch norms the statistics of images, by a pass in training mode, and the last layer's scores a mean of 0
    and a deviation of 3 over them.

    quiet: how the names of batch norms end that end a residual branch. Their gains are small, as after training: with
    fifty blocks as loud as what they are added to, every rounding grows.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all that it has seen
            module.bias.normal_(0, 0.3)
            module.weight.uniform_(*((0.1, 0.4) if quiet and name.endswith(quiet) else (0.5, 1.5)))
    net.train()
    for batch in images.split(8):
        net(batch)
    net.eval()

    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    head.weight.normal_()
    head.bias.zero_()
    scores = torch.cat([net(batch) for batch in images.split(8)])
    gain = 3 / (scores - scores.mean(0)).std()
    head.weight.mul_(gain)
    head.bias.copy_(-scores.mean(0) * gain)


def network_input(pixels: NDArray[np.uint8], mean: Sequence[float] = MEAN) -> Tensor:
    """f32 [1, 3, h, w] of u8 RGB [h, w, 3]."""
    levels = (torch.tensor(np.array(pixels), dtype=torch.float64) - torch.tensor(mean)) / torch.tensor(STD)
    return levels.permute(2, 0, 1)[None].float()


def cut_by_pillow(photo: NDArray[np.uint8], view: View, spec: ModelSpec) -> NDArray[np.uint8]:
    """The pixels of a view as torchvision's transforms cut them: columns first, whatever Pillow would do."""
    height, width = rescaled_px(photo.shape[:2], view.short_side_px, spec.preprocessing.long_side_rounding)
    image = _resized(Image.fromarray(photo), height, width)
    top, left, high, wide = view.box
    image = image.crop((left, top, left + wide, top + high))
    if view.resize_px:
        image = _resized(image, view.resize_px, view.resize_px)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else image)


def _resized(image: Image.Image, height: int, width: int) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    return image.resize((width, image.height), bilinear).resize((width, height), bilinear)


@torch.inference_mode()
def log_posteriors(net: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """(log posteriors [views, classes], the standard deviation of the class scores), of views of any sizes."""
    scores = torch.cat([net(x) for x in inputs]).double()
    return torch.log_softmax(scores, 1).numpy(), float(scores.std())
