"""Local response normalisation written out, for graphs that a GPU computes in half.

TensorRT-RTX makes three kernels of an LRN node between two casts, and keeps three FP32 maps in memory. Of what is
written here it makes one, which reads halves and writes halves and computes in FP32 between them, so that squares need
no prescale: docs/precision.md has the kernels, memory and errors of this form and of others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .writer import GraphWriter


class Norm(NamedTuple):
    """Attributes of an LRN node, with ONNX's defaults."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


def write_lrn(w: GraphWriter, x: str, name: str, channels: int, norm: Norm) -> str:
    """x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta, of `x` f32 [N, channels, h, w].

    The operator LRN of ONNX, whose window begins (size - 1) // 2 channels before its own; outside there are zeros.
    """
    size, alpha, beta, bias = norm
    square = w.op("Mul", [x, x], f"{name}.square")
    total = square
    own = np.arange(channels)

    for offset in range(-((size - 1) // 2), size // 2 + 1):
        inside = (own + offset >= 0) & (own + offset < channels)
        if offset == 0 or not inside.any():
            continue

        # the neighbour's square; its own in place of one that is not there, so that an infinite one stays its own
        neighbour = w.constant(f"{name}.at{offset:+}", np.where(inside, own + offset, own).astype(np.int32))
        shifted = w.op("Gather", [square, neighbour], f"{name}.square{offset:+}", axis=1)
        if not inside.all():
            mask = w.constant(f"{name}.inside{offset:+}", inside.astype(np.float32).reshape(-1, 1, 1))
            shifted = w.op("Mul", [shifted, mask], f"{name}.inner{offset:+}")
        total = w.op("Add", [total, shifted], f"{name}.sum{offset:+}")

    factor = w.constant(f"{name}.alpha", np.float32(alpha) / np.array(size, np.float32))
    scale = w.op("Mul", [total, factor], f"{name}.scaled")
    scale = w.op("Add", [scale, w.constant(f"{name}.bias", np.array(bias, np.float32))], f"{name}.scale")

    if beta == 0.75:  # both papers' power, by two square roots
        inverse_root = w.op("Reciprocal", [w.op("Sqrt", [scale], f"{name}.root")], f"{name}.inverse_root")
        fourth_root = w.op("Sqrt", [inverse_root], f"{name}.inverse_fourth_root")
        return w.op("Mul", [w.op("Mul", [x, inverse_root], f"{name}.once"), fourth_root], name)
    power = w.op("Pow", [scale, w.constant(f"{name}.beta", np.array(-beta, np.float32))], f"{name}.power")
    return w.op("Mul", [x, power], name)
