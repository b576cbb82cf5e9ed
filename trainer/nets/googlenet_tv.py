"""The GoogLeNet of torchvision's weights, fully convolutional, its batch norms folded into the convolutions.

Not the paper's net: no LRN; 3x3 convolutions where Table 1 says 5x5 (inherited from TF-slim, pytorch/vision issue
906); a 2x2 pool before 5a; 20 % dropout. While it is fine-tuned every convolution has its batch norm behind it.
torchvision averages the last map over all of a larger image; here the window stays 7x7, as in googlenet.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec

from .batch_norm import add_batch_norms
from .googlenet import CLASSIFIER, GoogLeNet

EPSILON = 1e-3
"""Of its batch norms: torchvision's BasicConv2d."""


class GoogLeNetTV(GoogLeNet):
    """The paper's net but for the four differences; input [N, 3, h, w] float, normalised, h and w >= crop_px.

    Output: class score map [N, classes, h', w']. The spec's width scales every convolution. batch_norms: behind every
    convolution, as in training.
    """

    def __init__(self, spec: ModelSpec, *, batch_norms: bool = False) -> None:
        super().__init__(spec, third=("second3x3", 3))
        del self.norm1, self.norm2
        self.pool_before["5a"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.drop = nn.Dropout(0.2)
        if batch_norms:
            add_batch_norms(self, EPSILON, but=CLASSIFIER)

    def stem(self, x: Tensor) -> Tensor:
        """The map before the first inception, without LRN."""
        x = self.pool1(F.relu(self.conv1(x)))
        x = self.pool2(F.relu(self.conv2(F.relu(self.conv2_reduce(x)))))
        return x
