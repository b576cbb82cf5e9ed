"""The GoogLeNet of torchvision's weights, fully convolutional, its batch norms folded into the convolutions.

Not the paper's net: no LRN; 3x3 convolutions where Table 1 says 5x5 (inherited from TF-slim, pytorch/vision issue
906); a 2x2 pool before 5a; 20 % dropout. In training every convolution had a batch norm, so there is no training it
here. torchvision averages the last map over all of a larger image; here the window stays 7x7, as in googlenet.py.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from infer.spec import ModelSpec

from .googlenet import GoogLeNet


class GoogLeNetTV(GoogLeNet):
    """The paper's net but for the four differences; input [N, 3, h, w] float, normalised, h and w >= crop_px.

    Output: class score map [N, classes, h', w']. The spec's width scales every convolution.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, third=("second3x3", 3))
        del self.norm1, self.norm2
        self.pool_before["5a"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.drop = nn.Dropout(0.2)

    def stem(self, x: Tensor) -> Tensor:
        """The map before the first inception, without LRN."""
        x = self.pool1(F.relu(self.conv1(x)))
        x = self.pool2(F.relu(self.conv2(F.relu(self.conv2_reduce(x)))))
        return x
