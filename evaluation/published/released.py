"""Results that are known of weights that others released: errors in percent on ILSVRC-2012's validation set.

A row's protocol and scales are ours where theirs see the same views; the label says how they rescale, as far as it is
known, which may differ from what a model's own preprocessing does here. The last rows were measured with another
rescaling than the weights were made for: they show what a mistake costs.
"""

from __future__ import annotations

from .papers import PaperNet, PublishedRow

Scales = tuple[int, ...]
"""Test scales in px. None where images were not rescaled by their shorter side: then no protocol of ours is alike."""
Percent = float | None

CAFFE = "export.from_caffe"
VGG16, VGG19, BVLC, PRINCETON = "Oxford VGG-16", "Oxford VGG-19", "BVLC GoogLeNet", "Princeton GoogLeNet"
NETS = {VGG16: "D", VGG19: "E", BVLC: "googlenet", PRINCETON: "googlenet"}

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


def _released(
    weights: str,
    net: str,
    protocol: str,
    scales: Scales,
    pixels: str,
    top1: Percent,
    top5: Percent,
    source: str,
    origin: str,
    test_top5: Percent = None,
) -> PublishedRow:
    views = f"{protocol} at {','.join(map(str, scales))}" if scales else protocol
    label = f"{weights} ({net}), {views}, {pixels}"
    return PublishedRow(label, top1, top5, test_top5, source, (PaperNet(net, None, scales),), protocol, origin)


def _caffe(
    weights: str,
    protocol: str,
    scales: Scales,
    pixels: str,
    top1: Percent,
    top5: Percent,
    source: str,
    test_top5: Percent = None,
) -> PublishedRow:
    return _released(weights, NETS[weights], protocol, scales, pixels, top1, top5, source, CAFFE, test_top5)


def _torchvision(name: str, net: str, top1: float, top5: float, source: str) -> PublishedRow:
    """A row from accuracies; the name of the weights is their origin."""
    weights, pixels = f"torchvision {name}", "bilinear, antialiased"
    return _released(weights, net, "center", (256,), pixels, _error(top1), _error(top5), source, name)


def _error(accuracy_percent: float) -> float:
    """The error of what is published as an accuracy."""
    return round(100 - accuracy_percent, 3)


RELEASED_ROWS = (
    _caffe(VGG16, "dense", (384,), UNTOLD, None, 8.1, NOTES),
    _caffe(VGG16, "dense", (256, 384, 512), UNTOLD, None, 7.5, NOTES, 7.4),
    _caffe(VGG19, "dense", (384,), UNTOLD, None, 8.0, NOTES),
    _caffe(VGG16, "center", (256,), CUBIC, 28.5, 9.9, MATCONVNET),
    _caffe(VGG19, "center", (256,), CUBIC, 28.7, 9.9, MATCONVNET),
    _caffe(PRINCETON, "center", (256,), CUBIC, 34.2, 12.9, MATCONVNET),
    _caffe(VGG16, "center", (256,), CV_CUBIC, 28.732, 9.950, KERAS),
    _caffe(VGG19, "center", (256,), CV_CUBIC, 28.744, 10.012, KERAS),
    _caffe(VGG16, "ten-crop", (256,), CV_CUBIC, None, 8.834, KERAS),
    _caffe(VGG19, "ten-crop", (256,), CV_CUBIC, None, 8.774, KERAS),
    _caffe(VGG16, "center", (256,), UNTOLD, _error(70.968), _error(89.878), OPENVINO),
    _caffe(BVLC, "center", (256,), UNTOLD, _error(68.928), _error(89.144), OPENVINO),
    _caffe(VGG16, "center", (256,), TF_LINEAR, _error(71.5), _error(89.8), SLIM),
    _caffe(VGG19, "center", (256,), TF_LINEAR, _error(71.1), _error(89.8), SLIM),
    _released(
        weights="slim Inception V1",
        net="googlenet-tv",
        protocol="center",
        scales=(),
        pixels="middle 87.5 % of both sides, warped to 224x224",
        top1=_error(69.8),
        top5=_error(89.6),
        source=SLIM,
        origin="googlenet",
    ),
    _caffe(VGG16, "center", (256,), TF_LINEAR, _error(70.894), _error(89.848), "TF-slim again, tensorflow/models 5457"),
    _caffe(VGG16, "ten-crop", (256,), UNTOLD, 28.07, 9.33, "He et al. 2015 (ResNet), Table 3"),
    _caffe(BVLC, "center", (256,), "by Caffe's tools, which warp to 256x256", 31.3, 11.1, "BVLC, bvlc_googlenet"),
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
    _caffe(VGG16, "center", (224,), "matconvnet issue 296", None, 11.6, WRONG),
    _caffe(VGG16, "center", (224,), "bicubic, tensorflow issue 50150", _error(70.08), None, WRONG),
    _caffe(VGG16, "center", (), "nearest pixel, warped to 224x224, keras-applications 99", _error(64.2), None, WRONG),
    _caffe(BVLC, "center", (), "images of one's own, 256x256, caffe issue 1927", None, _error(87.8), WRONG),
)
