"""Views of an image as pixels, made on the host with Pillow and NumPy, and Pillow's filter coefficients ("taps").

Engines that take ready pixels need such views. They are also the oracle of the view graph, which computes the same
values bit for bit, by the taps: each output pixel is a sum of `taps[k, i] * source[first[i] + k]` in int32, plus 2^21,
clipped below at 0, divided by 2^22 and clipped above at 255; columns first, then rows. The coefficients are computed
in double and in Pillow's order of operations (Pillow's Resample.c: precompute_coeffs, normalize_coeffs_8bpc).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..spec import Filter, ModelSpec, Size
from ..views import AS_LOADED, View, rescaled_px
from .decode import Pixels

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
    return read_only(Taps(first.astype(np.int32), (weights * (1 << PRECISION_BITS) + half).astype(np.int32)))


def read_only(taps: Taps) -> Taps:
    """Taps that nobody changes, since they are kept."""
    for array in taps:
        array.flags.writeable = False
    return taps


@functools.lru_cache(maxsize=AXES)
def identity_taps(n: int) -> Taps:
    """Taps that leave an axis as it is (K = 1), for pixels rescaled elsewhere; read-only, since they are kept."""
    return read_only(Taps(np.arange(n, dtype=np.int32), np.full((1, n), 1 << PRECISION_BITS, np.int32)))


FILTERS: dict[Filter, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def resize(image: Pixels, size_px: Size, filter: Filter) -> Pixels:
    """Pillow's resize to (height, width), columns first, then rows.

    In two calls, because Pillow 13 resamples rows first where that is cheaper, which rounds differently.
    """
    height, width = size_px
    columns = Image.fromarray(image).resize((width, image.shape[0]), FILTERS[filter])
    return np.asarray(columns.resize((width, height), FILTERS[filter]))


Cache = dict[tuple[Size, Filter], Pixels]
"""Rescaled versions of one image."""


def rescale(image: Pixels, short_side_px: int, spec: ModelSpec, cache: Cache | None = None) -> Pixels:
    """u8 [h, w, 3], the shorter side `short_side_px`; taken from `cache` or put there."""
    cache = {} if cache is None else cache
    if short_side_px == AS_LOADED:
        return image
    size = rescaled_px((image.shape[0], image.shape[1]), short_side_px, spec.preprocessing.long_side_rounding)
    key = (size, spec.preprocessing.filter)
    if key not in cache:
        cache[key] = resize(image, *key)
    return cache[key]


def shrink(image: Pixels, views: Iterable[View], spec: ModelSpec, cache: Cache) -> Pixels:
    """Puts into `cache` all rescaled versions that `views` are cut from; returns what is left to know, the size.

    That is an image u8 [h, w, 0], of no channels: whoever asks it for another version gets an error, never pixels.
    """
    for view in views:
        rescale(image, view.short_side_px, spec, cache)
    return np.empty((*image.shape[:2], 0), np.uint8)


def source_of(image: Pixels, view: View, spec: ModelSpec, cache: Cache) -> Pixels:
    """The pixels that a view is cut from, at `view.cut`: the rescaled image u8 [h, w, 3].

    For GoogLeNet's resized square, and a region, it is the square, cut from the rescaled image and resized from there.
    """
    rescaled = rescale(image, view.short_side_px, spec, cache)
    if view.resize_px is None:
        return rescaled
    top, left, height, width = view.box
    resized = resize(rescaled[top : top + height, left : left + width], view.resized_px, spec.preprocessing.filter)
    if view.inner is None:
        return resized
    square = np.empty((*view.size_px, 3), np.uint8)
    square[:] = rescaled[-1, -1]
    top, left, height, width = view.inner
    square[top : top + height, left : left + width] = resized
    return square


def render(image: Pixels, views: Sequence[View], spec: ModelSpec, cache: Cache | None = None) -> list[Pixels]:
    """The pixels of each view, u8 [h, w, 3], in the order of `views`. Each scale is rescaled once."""
    cache = {} if cache is None else cache

    rendered = []
    for view in views:
        top, left, height, width = view.cut
        pixels = source_of(image, view, spec, cache)[top : top + height, left : left + width]
        rendered.append(pixels[:, ::-1] if view.mirrored else pixels)
    return rendered


def normalise(pixels: Pixels, spec: ModelSpec) -> NDArray[np.float32]:
    """f32 [V, 3, h, w] of views u8 [V, h, w, 3]: mean subtracted, divided by std, as an `nchw` graph takes them."""
    mean, std = (np.array(v, np.float32) for v in (spec.preprocessing.mean_rgb, spec.preprocessing.std_rgb))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))


def pixel_sums(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """i32 [V, 6] of views u8 [V, h, w, 3]: sums per channel, plain, then weighted by 1 + (flat index mod 2)."""
    count, height, width, _ = pixels.shape
    flat = pixels.reshape(count, height * width, 3)
    plain = flat.sum(1, dtype=np.int32)
    odd = flat[:, 1::2].sum(1, dtype=np.int32)
    return np.concatenate([plain, plain + odd], 1)
