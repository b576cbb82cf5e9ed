"""Pillow's filter coefficients, so that any runtime can rescale as Pillow does, bit for bit.

Each output pixel is a sum of `taps[k, i] * source[first[i] + k]` in int32, plus 2^21, clipped below at 0, divided by
2^22 and clipped above at 255; columns first, then rows. The coefficients are computed in double and in Pillow's order
of operations (Pillow's Resample.c: precompute_coeffs, normalize_coeffs_8bpc).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec import Filter

PRECISION_BITS = 22
Doubles = NDArray[np.float64]

AXES = 128
"""Axes whose coefficients are kept, 20 kB each or so: most photographs of a data set have one of a few sizes."""


class Taps(NamedTuple):
    """One axis: `first` i32 [n_out], the first source index; `taps` i32 [K, n_out], zero beyond the filter's end."""

    first: NDArray[np.int32]
    taps: NDArray[np.int32]


def _bicubic(x: Doubles) -> Doubles:
    a, x = -0.5, np.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _bilinear(x: Doubles) -> Doubles:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


_FILTERS: dict[Filter, tuple[Callable[[Doubles], Doubles], float]] = {
    "bicubic": (_bicubic, 2.0),
    "bilinear": (_bilinear, 1.0),
}


def count_taps(n_in: int, n_out: int, filter: Filter) -> int:
    """K: how many source pixels one output pixel may need."""
    return math.ceil(_FILTERS[filter][1] * max(n_in / n_out, 1.0)) * 2 + 1


@functools.lru_cache(maxsize=AXES)
def make_taps(n_in: int, n_out: int, filter: Filter) -> Taps:
    """Coefficients that rescale an axis of `n_in` pixels to `n_out`; read-only, since they are kept."""
    kernel, support = _FILTERS[filter]
    scale = n_in / n_out
    filter_scale = max(scale, 1.0)  # a filter that shrinks is wider: antialiased
    support *= filter_scale

    center = (np.arange(n_out) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)  # astype truncates, as C does
    end = np.minimum((center + support + 0.5).astype(np.int64), n_in)

    k = np.arange(count_taps(n_in, n_out, filter))[:, None]  # [K, 1]
    weights = kernel((k + first - center + 0.5) * (1.0 / filter_scale)) * (k < end - first)  # [K, n_out]
    total = np.zeros(n_out)
    for row in weights:  # one by one, in Pillow's order of summation
        total += row
    weights /= total

    half = np.where(weights < 0, -0.5, 0.5)
    taps = Taps(first.astype(np.int32), (weights * (1 << PRECISION_BITS) + half).astype(np.int32))
    for array in taps:
        array.flags.writeable = False
    return taps


def identity_taps(n: int) -> Taps:
    """Taps that leave an axis as it is (K = 1), for pixels rescaled elsewhere."""
    return Taps(np.arange(n, dtype=np.int32), np.full((1, n), 1 << PRECISION_BITS, np.int32))
