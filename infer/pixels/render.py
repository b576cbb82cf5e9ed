"""Views of an image as pixels, made on the host with Pillow and NumPy.

Engines that take ready pixels need them. They are also the oracle of the view graph, which computes the same values bit
for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..spec import Filter, ModelSpec, Size
from ..views import View, rescaled_px
from .decode import Pixels

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
    size = rescaled_px((image.shape[0], image.shape[1]), short_side_px, spec.preprocessing.long_side_rounding)
    key = (size, spec.preprocessing.filter)
    if key not in cache:
        cache[key] = resize(image, *key)
    return cache[key]


def source_of(image: Pixels, view: View, spec: ModelSpec, cache: Cache) -> Pixels:
    """The pixels that a view is cut from, at `view.cut`: the rescaled image u8 [h, w, 3].

    For GoogLeNet's resized square it is the square, cut from the rescaled image and resized from there.
    """
    rescaled = rescale(image, view.short_side_px, spec, cache)
    if view.resize_px is None:
        return rescaled
    top, left, height, width = view.box
    return resize(rescaled[top : top + height, left : left + width], view.size_px, spec.preprocessing.filter)


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
