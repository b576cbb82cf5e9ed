"""infer/pixels/render.py against Pillow itself, through a plain NumPy reading of its docstring."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Photos
from helpers import noise
from numpy.typing import NDArray
from PIL import Image

from infer.pixels.render import FILTERS, Taps, count_taps, identity_taps, make_taps, resize
from infer.spec import Filter, Size
from infer.views import rescaled_px

BOTH_FILTERS: tuple[Filter, ...] = ("bicubic", "bilinear")

SIZES = [  # (height, width) -> (height, width): odd, enlarging and shrinking, and each axis its own way
    ((53, 37), (37, 53)),
    ((37, 53), (111, 159)),
    ((101, 67), (101, 67)),
    ((101, 67), (33, 22)),
    ((211, 317), (224, 337)),
    ((211, 317), (7, 11)),
    ((8, 9), (231, 17)),
    ((9, 301), (64, 65)),
    ((301, 9), (13, 129)),
    ((1, 1), (5, 3)),
    ((5, 3), (1, 1)),
    ((129, 255), (128, 256)),
]


def apply_taps(image: NDArray[np.uint8], columns: Taps, rows: Taps) -> NDArray[np.uint8]:
    """As the docstring says, int32 throughout: columns first, then rows."""
    return _one_axis(_one_axis(image.swapaxes(0, 1), columns).swapaxes(0, 1), rows)


def _one_axis(source: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    total = np.zeros((taps.first.size, *source.shape[1:]), np.int32)
    for k, row in enumerate(taps.taps):
        index = np.minimum(taps.first + k, len(source) - 1)  # beyond the filter's end the tap is zero
        total += row[:, None, None] * source[index].astype(np.int32)
    assert total.dtype == np.int32
    return np.minimum(np.maximum(total + 2**21, 0) // 2**22, 255).astype(np.uint8)


def both_taps(image_px: Size, size_px: Size, filter: Filter) -> tuple[Taps, Taps]:
    return make_taps(image_px[1], size_px[1], filter), make_taps(image_px[0], size_px[0], filter)


@pytest.mark.parametrize("filter", BOTH_FILTERS)
@pytest.mark.parametrize(("image_px", "size_px"), SIZES)
def test_no_value_differs_from_pillow_on_noise(image_px: Size, size_px: Size, filter: Filter) -> None:
    image = noise(image_px)
    got = apply_taps(image, *both_taps(image_px, size_px, filter))
    assert got.shape == (*size_px, 3)
    assert np.count_nonzero(got != resize(image, size_px, filter)) == 0


@pytest.mark.parametrize("filter", BOTH_FILTERS)
@pytest.mark.parametrize("size_px", [(256, 384), (97, 151), (613, 911), (31, 700)])
def test_no_value_differs_from_pillow_on_a_photograph(photos: Photos, size_px: Size, filter: Filter) -> None:
    image = photos["cat"]
    got = apply_taps(image, *both_taps(image.shape[:2], size_px, filter))
    assert np.count_nonzero(got != resize(image, size_px, filter)) == 0


@pytest.mark.parametrize("filter", BOTH_FILTERS)
def test_black_and_white_edges_clip_as_pillow_clips(filter: Filter) -> None:
    """Bicubic overshoots on both sides of an edge; both clips must be where Pillow has them."""
    image = np.where(noise((41, 43)) < 128, 0, 255).astype(np.uint8)
    got = apply_taps(image, *both_taps((41, 43), (97, 101), filter))
    assert np.count_nonzero(got != resize(image, (97, 101), filter)) == 0


@pytest.mark.parametrize("filter", BOTH_FILTERS)
@pytest.mark.parametrize("short_side_px", [7, 33, 64, 97, 224, 301, 511])
@pytest.mark.parametrize("image_px", [(37, 53), (101, 67), (64, 65), (211, 317), (13, 9)])
def test_isotropic_rescale_is_one_plain_call_of_pillow(image_px: Size, short_side_px: int, filter: Filter) -> None:
    """Pillow 13 may resample rows first where the axes' scales differ; in an isotropic rescale it never does."""
    image = noise(image_px, seed=short_side_px)
    height, width = rescaled_px(image_px, short_side_px, "nearest")
    plain = np.asarray(Image.fromarray(image).resize((width, height), FILTERS[filter]))
    assert np.count_nonzero(apply_taps(image, *both_taps(image_px, (height, width), filter)) != plain) == 0
    assert np.count_nonzero(resize(image, (height, width), filter) != plain) == 0


@pytest.mark.parametrize("n", [1, 2, 63, 224])
def test_identity_taps_change_nothing(n: int) -> None:
    image = noise((n, n + 3))
    columns, rows = identity_taps(n + 3), identity_taps(n)
    assert columns.taps.shape == (1, n + 3)
    assert np.array_equal(apply_taps(image, columns, rows), image)


@pytest.mark.parametrize(
    ("n_in", "n_out", "filter", "count"),
    [
        (100, 200, "bicubic", 5),  # enlarging: the support is 2 on either side
        (100, 200, "bilinear", 3),
        (200, 100, "bicubic", 9),  # shrinking by 2: the support is 4
        (200, 100, "bilinear", 5),
        (250, 100, "bicubic", 11),
        (101, 100, "bilinear", 5),  # ceil(1.01) = 2
        (4000, 400, "bicubic", 41),
    ],
)
def test_count_taps(n_in: int, n_out: int, filter: Filter, count: int) -> None:
    assert count_taps(n_in, n_out, filter) == count
    taps = make_taps(n_in, n_out, filter)
    assert taps.taps.shape == (count, n_out)
    assert taps.first.shape == (n_out,)
    assert taps.first.dtype == taps.taps.dtype == np.int32


@pytest.mark.parametrize("filter", BOTH_FILTERS)
@pytest.mark.parametrize(("n_in", "n_out"), [(53, 37), (37, 53), (301, 64), (500, 333)])
def test_taps_reach_no_pixel_beyond_the_image_and_sum_to_one(n_in: int, n_out: int, filter: Filter) -> None:
    first, taps = make_taps(n_in, n_out, filter)
    index = first + np.arange(len(taps))[:, None]
    assert first.min() >= 0
    assert not taps[index >= n_in].any()
    assert np.abs(taps.sum(0) - 2**22).max() <= len(taps)  # each tap is rounded to an integer
