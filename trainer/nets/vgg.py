"""VGG nets A, A-LRN, B, C, D, E, fully convolutional (arXiv 1409.1556, Table 1 and section 3.2).

The last three layers are convolutions: fc6 covers crop_px / 32 positions (7 for a 224 crop) without padding, so a
crop gives one position and a whole image gives a map of class scores.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from infer.spec import ModelSpec

from .lrn import LRN

POOL = "pool"
NORM = "norm"
ONE = 1  # the next convolution is 1x1 instead of 3x3; a number above is a 3x3 convolution's channels

TABLE: dict[str, tuple[int | str, ...]] = {
    "A": (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    "A-LRN": (64, NORM, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    "B": (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    "C": (64, 64, POOL, 128, 128, POOL, 256, 256, ONE, 256, POOL, 512, 512, ONE, 512, POOL, 512, 512, ONE, 512, POOL),
    "D": (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL),
    "E": (64, 64, POOL, 128, 128, POOL, 256, 256, 256, 256, POOL, 512, 512, 512, 512, POOL, 512, 512, 512, 512, POOL),
}

FULLY_CONNECTED = ("fc6", "fc7", "fc8")
FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", *FULLY_CONNECTED)
"""Layers that deeper nets take from A (section 3.1): its first four convolutions, by name, and the last three."""


class VGG(nn.Sequential):
    """The layers conv1_1 ... pool5, fc6, fc7, fc8 in order.

    Input: [N, 3, h, w] float, mean subtracted, h and w >= crop_px. Output: the class score map [N, classes, h', w'],
    or boxes [N, 4 or 4 * classes, h', w'] (ModelSpec.channels). The spec's width scales every convolution up to conv5.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(_layers(spec))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of its layers with weights, in order."""
        return tuple(name for name, layer in self.named_children() if isinstance(layer, nn.Conv2d))

    def penultimate(self, x: Tensor) -> Tensor:
        """Activations before the classifier, after ReLU: [N, fc_width, h', w']."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return x

    def classify(self, penultimate: Tensor) -> Tensor:
        """Class score map [N, classes, h', w'] from the penultimate activations."""
        scores: Tensor = self[-1](penultimate)
        return scores

    def training_scores(self, x: Tensor) -> tuple[tuple[float, Tensor], ...]:
        """(loss weight, class scores [N, classes]) of each classifier; VGG has one."""
        return ((1.0, self(x).mean((2, 3))),)


def _layers(spec: ModelSpec) -> OrderedDict[str, nn.Module]:
    """The modules of a net by name: its row of TABLE, read from left to right, then the last three layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    block, number, channels, kernel = 1, 1, 3, 3
    for item in TABLE[spec.net]:
        if item == POOL:
            layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=spec.pool_rounding == "ceil")
            block, number = block + 1, 1
        elif item == NORM:  # parameters of Krizhevsky 2012, after the ReLU
            layers[f"norm{block}"] = LRN(n=5, alpha=5e-4, beta=0.75, k=2.0)
        elif item == ONE:
            kernel = 1
        else:
            assert isinstance(item, int)
            out = max(1, round(item * spec.width))
            layers[f"conv{block}_{number}"] = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
            layers[f"relu{block}_{number}"] = nn.ReLU(inplace=True)
            channels, number, kernel = out, number + 1, 3

    # fc6 sees the last map of a crop whole, fc7 and fc8 one position
    for name, inputs, size in (("6", channels, spec.crop_px // 32), ("7", spec.fc_width, 1)):
        layers[f"fc{name}"] = nn.Conv2d(inputs, spec.fc_width, size)
        layers[f"relu{name}"] = nn.ReLU(inplace=True)
        layers[f"drop{name}"] = nn.Dropout(0.5)
    layers["fc8"] = nn.Conv2d(spec.fc_width, spec.channels, 1)
    return layers
