"""Results that are known of weights that others released: errors in percent on ILSVRC-2012's validation set.

A row's protocol and scales are ours where theirs see the same views; the label says how they rescale, as far as it is
known, which may differ from what a model's own preprocessing does here. The last rows were measured with another
rescaling than the weights were made for: they show what a mistake costs.
"""

from __future__ import annotations

from typing import NamedTuple

from .papers import PaperNet, Percent, PublishedRow

Scales = tuple[int, ...]
"""Test scales in px. None where images were not rescaled by their shorter side: then no protocol of ours is alike."""


class Weights(NamedTuple):
    """Released weights of a net; origin: as their importer writes it into a model."""

    name: str
    net: str
    origin: str = "export.from_caffe"


VGG16, VGG19 = Weights("Oxford VGG-16", "D"), Weights("Oxford VGG-19", "E")
BVLC, PRINCETON = Weights("BVLC GoogLeNet", "googlenet"), Weights("Princeton GoogLeNet", "googlenet")
SLIM_V1 = Weights("slim Inception V1", "googlenet-tv", "googlenet")

NOTES = "Release notes of VGG-16 and VGG-19 (gist.github.com/ksimonyan)"
MATCONVNET = "MatConvNet, pretrained models"
KERAS = "keras-applications, README"
OPENVINO = "OpenVINO, Open Model Zoo"
SLIM = "TF-slim, README"
TORCHVISION = "torchvision, models"
TIMM = "timm, results-imagenet.csv"
WRONG = "Not as the weights were made for"

UNTOLD = "rescaling not told"
CUBIC = "bicubic, antialiased"
CV_CUBIC = "OpenCV's bicubic, not antialiased"  # keras-applications issue 99
TF_LINEAR = "bilinear, not antialiased"  # slim's vgg_preprocessing.py


def _row(
    weights: Weights,
    protocol: str,
    scales: Scales,
    pixels: str,
    top1: Percent,
    top5: Percent,
    source: str,
    test_top5: Percent = None,
) -> PublishedRow:
    views = f"{protocol} at {','.join(map(str, scales))}" if scales else protocol
    label = f"{weights.name} ({weights.net}), {views}, {pixels}"
    nets = (PaperNet(weights.net, None, scales),)
    return PublishedRow(label, top1, top5, test_top5, source, nets, protocol, weights.origin)


def _torchvision(name: str, net: str, top1_accuracy: float, top5_accuracy: float, source: str) -> PublishedRow:
    weights, errors = Weights(f"torchvision {name}", net, name), (_error(top1_accuracy), _error(top5_accuracy))
    return _row(weights, "center", (256,), "bilinear, antialiased", *errors, source)


def _error(accuracy_percent: float) -> float:
    """The error of what is published as an accuracy."""
    return round(100 - accuracy_percent, 3)


RELEASED_ROWS = (
    _row(VGG16, "dense", (384,), UNTOLD, None, 8.1, NOTES),
    _row(VGG16, "dense", (256, 384, 512), UNTOLD, None, 7.5, NOTES, 7.4),
    _row(VGG19, "dense", (384,), UNTOLD, None, 8.0, NOTES),
    _row(VGG16, "center", (256,), CUBIC, 28.5, 9.9, MATCONVNET),
    _row(VGG19, "center", (256,), CUBIC, 28.7, 9.9, MATCONVNET),
    _row(PRINCETON, "center", (256,), CUBIC, 34.2, 12.9, MATCONVNET),
    _row(VGG16, "center", (256,), CV_CUBIC, 28.732, 9.950, KERAS),
    _row(VGG19, "center", (256,), CV_CUBIC, 28.744, 10.012, KERAS),
    _row(VGG16, "ten-crop", (256,), CV_CUBIC, None, 8.834, KERAS),
    _row(VGG19, "ten-crop", (256,), CV_CUBIC, None, 8.774, KERAS),
    _row(VGG16, "center", (256,), UNTOLD, _error(70.968), _error(89.878), OPENVINO),
    _row(BVLC, "center", (256,), UNTOLD, _error(68.928), _error(89.144), OPENVINO),
    _row(VGG16, "center", (256,), TF_LINEAR, _error(71.5), _error(89.8), SLIM),
    _row(VGG19, "center", (256,), TF_LINEAR, _error(71.1), _error(89.8), SLIM),
    _row(SLIM_V1, "center", (), "middle 87.5 % of both sides, warped to 224x224", _error(69.8), _error(89.6), SLIM),
    _row(VGG16, "center", (256,), TF_LINEAR, _error(70.894), _error(89.848), "TF-slim again, tensorflow/models 5457"),
    _row(VGG16, "ten-crop", (256,), UNTOLD, 28.07, 9.33, "He et al. 2015 (ResNet), Table 3"),
    _row(BVLC, "center", (256,), "by Caffe's tools, which warp to 256x256", 31.3, 11.1, "BVLC, bvlc_googlenet"),
    _torchvision("vgg11", "A", 69.020, 88.628, TORCHVISION),
    _torchvision("vgg13", "B", 69.928, 89.246, TORCHVISION),
    _torchvision("vgg16", "D", 71.592, 90.382, TORCHVISION),
    _torchvision("vgg19", "E", 72.376, 90.876, TORCHVISION),
    _torchvision("vgg11_bn", "A", 70.370, 89.810, TORCHVISION),
    _torchvision("vgg13_bn", "B", 71.586, 90.374, TORCHVISION),
    _torchvision("vgg16_bn", "D", 73.360, 91.516, TORCHVISION),
    _torchvision("vgg19_bn", "E", 74.218, 91.842, TORCHVISION),
    _torchvision("googlenet", "googlenet-tv", 69.778, 89.530, TORCHVISION),
    _torchvision("vgg11", "A", 69.050, 88.630, TIMM),
    _torchvision("vgg13", "B", 69.950, 89.262, TIMM),
    _torchvision("vgg16", "D", 71.594, 90.398, TIMM),
    _torchvision("vgg19", "E", 72.400, 90.878, TIMM),
    _torchvision("vgg11_bn", "A", 70.374, 89.802, TIMM),
    _torchvision("vgg13_bn", "B", 71.560, 90.372, TIMM),
    _torchvision("vgg16_bn", "D", 73.354, 91.490, TIMM),
    _torchvision("vgg19_bn", "E", 74.230, 91.848, TIMM),
    _row(VGG16, "center", (224,), "matconvnet issue 296", None, 11.6, WRONG),
    _row(VGG16, "center", (224,), "bicubic, tensorflow issue 50150", _error(70.08), None, WRONG),
    _row(VGG16, "center", (), "nearest pixel, warped to 224x224, keras-applications 99", _error(64.2), None, WRONG),
    _row(BVLC, "center", (), "images of one's own, 256x256, caffe issue 1927", None, _error(87.8), WRONG),
)
