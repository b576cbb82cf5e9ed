"""What weights that others released are known to score on ILSVRC-2012's validation set: errors in percent, sourced.

`protocol` is ours where theirs is the same one; their rescaling, or their way to write it down, may still differ.
"""

from __future__ import annotations

from typing import NamedTuple


class Released(NamedTuple):
    """One published result of released weights."""

    weights: str
    net: str
    protocol: str
    scales: tuple[int, ...]
    top1_error_percent: float | None
    top5_error_percent: float
    source: str


def _torchvision(weights: str, net: str, top1: float, top5: float, source: str) -> Released:
    """From accuracies, as they are published."""
    return Released(weights, net, "center", (256,), round(100 - top1, 3), round(100 - top5, 3), source)


MATCONVNET = "MatConvNet, pretrained models"
KERAS = "Keras applications, repository README"
RELEASE_NOTES = "the authors' release notes"
TORCHVISION = "torchvision, models"
TIMM = "timm, results table"

LEDGER = (
    Released("Oxford VGG-16", "D", "dense", (384,), None, 8.1, RELEASE_NOTES),
    Released("Oxford VGG-16", "D", "dense", (256, 384, 512), None, 7.5, RELEASE_NOTES),
    Released("Oxford VGG-19", "E", "dense", (384,), None, 8.0, RELEASE_NOTES),
    Released("Oxford VGG-16", "D", "center", (256,), 28.5, 9.9, MATCONVNET),
    Released("Oxford VGG-19", "E", "center", (256,), 28.7, 9.9, MATCONVNET),
    Released("Oxford VGG-16", "D", "center", (256,), 29.032, 10.122, "OpenVINO, vgg16"),
    Released("Oxford VGG-16", "D", "center", (256,), 28.732, 9.950, KERAS),
    Released("Oxford VGG-19", "E", "center", (256,), 28.744, 10.012, KERAS),
    Released("Oxford VGG-16", "D", "ten-crop", (256,), None, 8.834, KERAS),
    Released("Oxford VGG-19", "E", "ten-crop", (256,), None, 8.774, KERAS),
    Released("Oxford VGG-16", "D", "center", (256,), 28.5, 10.2, "TF-slim"),
    Released("Oxford VGG-19", "E", "center", (256,), 28.9, 10.2, "TF-slim"),
    Released("Oxford VGG-16", "D", "ten-crop", (256,), 28.07, 9.33, "He et al., ResNet Table 3"),
    Released("BVLC GoogLeNet", "googlenet", "center", (256,), 31.3, 11.1, "BVLC, bvlc_googlenet readme"),
    Released("Princeton GoogLeNet", "googlenet", "center", (256,), 34.2, 12.9, MATCONVNET),
    _torchvision("torchvision vgg11", "A", 69.020, 88.628, TORCHVISION),
    _torchvision("torchvision vgg16", "D", 71.592, 90.382, TORCHVISION),
    _torchvision("torchvision vgg11_bn", "A", 70.370, 89.810, TORCHVISION),
    _torchvision("torchvision vgg16_bn", "D", 73.360, 91.516, TORCHVISION),
    _torchvision("torchvision googlenet", "googlenet-tv", 69.778, 89.530, TORCHVISION),
    _torchvision("torchvision vgg11", "A", 69.050, 88.630, TIMM),
    _torchvision("torchvision vgg13", "B", 69.950, 89.262, TIMM),
    _torchvision("torchvision vgg16", "D", 71.594, 90.398, TIMM),
    _torchvision("torchvision vgg19", "E", 72.400, 90.878, TIMM),
    _torchvision("torchvision vgg11_bn", "A", 70.374, 89.802, TIMM),
    _torchvision("torchvision vgg13_bn", "B", 71.560, 90.372, TIMM),
    _torchvision("torchvision vgg16_bn", "D", 73.354, 91.490, TIMM),
    _torchvision("torchvision vgg19_bn", "E", 74.230, 91.848, TIMM),
)
