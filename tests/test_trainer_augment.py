"""trainer/augment.py and trainer/schedule.py: what the draws are, and that a crop is a crop of the rescaled image."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from conftest import Photos
from helpers import noise
from numpy.random import default_rng
from numpy.typing import NDArray

import trainer.augment
from infer.render import resize
from infer.views import Size, rescaled_px
from trainer.augment import COLOR_EIGENVALUES, COLOR_EIGENVECTORS, Augmentation
from trainer.schedule import cosine

DRAWS = 400


def augmentation(
    short_px: tuple[int, int] = (80, 80), *, mirror: bool = False, color_sigma: float = 0.0
) -> Augmentation:
    return Augmentation(64, short_px, mirror, color_sigma, "bicubic")


def nearest_window(crop: NDArray[np.uint8], whole: NDArray[np.uint8]) -> int:
    """The largest difference in grey levels from the window of `whole` that is most like `crop`."""
    windows = np.lib.stride_tricks.sliding_window_view(whole.astype(np.int16), (*crop.shape[:2], 3))[:, :, 0]
    return int(min(np.abs(row - crop).max((1, 2, 3)).min() for row in windows))


def test_the_same_rng_gives_the_same_crop(photos: Photos) -> None:
    augment = augmentation((72, 120), mirror=True, color_sigma=0.1)
    one, again, other = (augment(photos["cat"], default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])


@pytest.mark.parametrize("short_side_px", [64, 67, 81, 120])
@pytest.mark.parametrize("photo", ["cat", "portrait"])
def test_a_crop_is_a_window_of_the_rescaled_image(photos: Photos, photo: str, short_side_px: int) -> None:
    """To one grey level: Pillow computes a box's sampling points otherwise, so a coefficient's last bit may differ."""
    image = photos[photo]
    whole = resize(image, rescaled_px(image.shape[:2], short_side_px, "nearest"), "bicubic")
    for seed in range(4):
        crop, _ = augmentation((short_side_px, short_side_px))(image, default_rng(seed))
        assert crop.dtype == np.uint8
        assert crop.shape == (64, 64, 3)
        assert nearest_window(crop, whole) <= 1
    assert nearest_window(noise((64, 64)), whole) > 50  # the search does not find what is not there


@pytest.mark.parametrize("size_px", [(64, 64), (64, 200), (200, 64), (65, 71), (9, 13)])
def test_small_and_narrow_images_have_crops(size_px: Size) -> None:
    augment = augmentation((64, 66))
    for seed in range(50):
        assert augment(noise(size_px), default_rng(seed))[0].shape == (64, 64, 3)


def test_half_the_crops_are_mirrored() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None], (120, 160, 3)).copy()

    def count(*, mirror: bool) -> int:
        crops = (augmentation(mirror=mirror)(ramp, default_rng(seed))[0] for seed in range(DRAWS))
        return sum(int(crop[:, 0].mean() > crop[:, -1].mean()) for crop in crops)

    assert abs(count(mirror=True) - DRAWS / 2) <= 5 * math.sqrt(DRAWS) / 2  # 5 sigma
    assert count(mirror=False) == 0


def test_scales_and_offsets_fill_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def observe(image_px: Size, short_side_px: int, rounding: str) -> Size:
        drawn.append(short_side_px)
        return rescaled_px(image_px, short_side_px, rounding)

    monkeypatch.setattr(trainer.augment, "rescaled_px", observe)
    ys, xs = np.mgrid[0:100, 0:150]
    place = np.dstack([ys, xs, 0 * xs]).astype(np.uint8)  # every pixel says where it is
    corners = [augmentation((72, 80))(place, default_rng(seed))[0][0, 0, :2].tolist() for seed in range(DRAWS)]
    assert set(drawn) == set(range(72, 81))
    tops, lefts = zip(*corners, strict=True)
    assert min(tops) <= 2
    assert max(tops) >= 16  # (80 - 64) / 80 * 100 = 20
    assert min(lefts) <= 3
    assert max(lefts) >= 65  # (120 - 64) / 120 * 150 = 70


def test_colour_shift_is_alexnets() -> None:
    """I + [p1 p2 p3] [a1 l1, a2 l2, a3 l3], a ~ N(0, 0.1): along the principal components, none at sigma 0."""
    assert pytest.approx(np.eye(3), abs=1e-3) == COLOR_EIGENVECTORS.T @ COLOR_EIGENVECTORS
    image = noise((80, 80))
    shifts = np.array([augmentation(color_sigma=0.1)(image, default_rng(seed))[1] for seed in range(DRAWS)])
    along = shifts @ COLOR_EIGENVECTORS
    expected = 0.1 * np.array([0.2175, 0.0188, 0.0045]) * 255
    assert along.std(0) == pytest.approx(expected, rel=5 / math.sqrt(2 * DRAWS))  # 5 sigma of a standard deviation
    assert np.abs(along.mean(0)).max() < 5 * expected[0] / math.sqrt(DRAWS)
    assert pytest.approx(expected) == 0.1 * COLOR_EIGENVALUES
    assert not augmentation()(image, default_rng(0))[1].any()


def test_schedule_warms_up_and_falls_to_zero() -> None:
    rate = [cosine(step / 1000, warmup=0.05) for step in range(1001)]
    assert rate[0] == 0
    assert rate[25] == pytest.approx(0.5)
    assert rate[50] == 1
    assert rate[525] == pytest.approx(0.5)
    assert rate[1000] == pytest.approx(0, abs=1e-15)
    assert all(0 <= value <= 1 for value in rate)
    assert all(before < after for before, after in pairwise(rate[:51]))
    assert all(before > after for before, after in pairwise(rate[50:]))
    assert cosine(0, warmup=0) == 1
