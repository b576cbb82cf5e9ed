"""Local response normalisation, never in less than FP32: in half precision x*x overflows above |x| of about 256.

Convention of Caffe, torch and ONNX: alpha is divided by n. AlexNet's paper has alpha on the plain sum, so its 1e-4
with n = 5 is 5e-4 here. torch's own local_response_norm gives the same numbers, but takes three to six times as long
to train with on a CPU: its window is a pool over a fifth dimension, and its power a general one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LRN(nn.Module):
    """x / (k + alpha / n * sum of x^2 over n neighbouring channels)^beta, on [N, C, h, w]."""

    def __init__(self, n: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.n, self.alpha, self.beta, self.k = n, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # [N, C, h, w]
        channels = wide.shape[1]

        # the sum over the window, as n shifted additions
        squares = F.pad(wide.square(), (0, 0, 0, 0, self.n // 2, (self.n - 1) // 2))
        sums = squares[:, :channels]
        for offset in range(1, self.n):
            sums = sums + squares[:, offset : offset + channels]
        scale = self.k + self.alpha / self.n * sums

        if self.beta == 0.75:  # both papers' power, by two square roots
            inverse_root = scale.rsqrt()
            return (wide * inverse_root * inverse_root.sqrt()).to(x.dtype)
        return (wide * scale.pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"n={self.n}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
