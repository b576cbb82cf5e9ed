"""Local response normalisation, always in FP32: in half precision x*x overflows above |x| of about 256.

Convention of Caffe, torch and ONNX: alpha is divided by n. AlexNet's paper has alpha on the plain sum, so its 1e-4
with n = 5 is 5e-4 here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LRN(nn.Module):
    """x / (k + alpha / n * sum of x^2 over n neighbouring channels)^beta, on [N, C, h, w]."""

    def __init__(self, n: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.n, self.alpha, self.beta, self.k = n, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x.float(), self.n, self.alpha, self.beta, self.k).to(x.dtype)

    def extra_repr(self) -> str:
        return f"n={self.n}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
