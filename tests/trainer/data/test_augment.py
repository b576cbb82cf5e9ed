"""trainer/data/augment.py: what the draws are, and that a crop is a crop of the rescaled image."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Photos
from helpers import noise
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

import trainer.data.augment
from infer.pixels.render import resize
from infer.spec import Size
from infer.views import rescaled_px
from trainer.data.augment import IMAGENET_COLORS, Augmentation, ColorAxes, Placement, augmentation_from_recipe
from trainer.recipe import override
from trainer.recipes import RECIPES

DRAWS = 400
AXES = np.array(IMAGENET_COLORS.eigenvectors)


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

    monkeypatch.setattr(trainer.data.augment, "rescaled_px", observe)
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
    assert pytest.approx(np.eye(3), abs=1e-3) == AXES.T @ AXES
    image = noise((80, 80))
    shifts = np.array([augmentation(color_sigma=0.1)(image, default_rng(seed))[1] for seed in range(DRAWS)])
    along = shifts @ AXES
    expected = 0.1 * np.array([0.2175, 0.0188, 0.0045]) * 255
    assert along.std(0) == pytest.approx(expected, rel=5 / math.sqrt(2 * DRAWS))  # 5 sigma of a standard deviation
    assert np.abs(along.mean(0)).max() < 5 * expected[0] / math.sqrt(DRAWS)
    assert not augmentation()(image, default_rng(0))[1].any()


def area_augmentation(**more: Any) -> Augmentation:
    return Augmentation(64, (80, 80), False, 0.0, "bicubic", crop="area", **more)


def test_areas_are_uniform_and_shapes_log_uniform_between_their_bounds() -> None:
    """GoogLeNet section 6: 8 to 100 % of the area, 3/4 to 4/3. In a square the larger areas fit where they are square,
    so the distributions are looked at where every shape fits."""
    augment = area_augmentation(area=(0.08, 0.5))
    places = [augment.place((1000, 1000), default_rng(seed)) for seed in range(4 * DRAWS)]
    areas = np.sort([(at.right - at.left) * (at.bottom - at.top) / 1e6 for at in places])
    ratios = np.sort([math.log((at.right - at.left) / (at.bottom - at.top)) for at in places])
    for values, low, high in ((areas, 0.08, 0.5), (ratios, math.log(3 / 4), math.log(4 / 3))):
        expected = low + (high - low) * (np.arange(len(values)) + 0.5) / len(values)
        assert np.abs(values - expected).max() < 1.95 * (high - low) / math.sqrt(len(values))  # Kolmogorov, 0.1 %
    for shares in (
        [at.left / (1000 - (at.right - at.left)) for at in places],
        [at.top / (1000 - (at.bottom - at.top)) for at in places],
    ):
        assert np.histogram(shares, 4, (0, 1))[0].min() > 4 * DRAWS / 4 - 5 * math.sqrt(4 * DRAWS * 3 / 16)


def test_a_region_of_the_whole_range_lies_in_the_image() -> None:
    for seed in range(DRAWS):
        at = area_augmentation().place((90, 120), default_rng(seed))
        assert 0 <= at.left < at.right <= 120 and 0 <= at.top < at.bottom <= 90
        assert 0.07 <= (at.right - at.left) * (at.bottom - at.top) / (90 * 120) <= 1


@pytest.mark.parametrize(
    ("image_px", "region"),
    [((100, 1000), (433.5, 0, 566.5, 100)), ((1000, 90), (0, 440, 90, 560)), ((1, 9), (4, 0, 5, 1))],
)
def test_where_no_shape_fits_the_largest_in_the_middle_is_taken(image_px: Size, region: tuple[float, ...]) -> None:
    at = area_augmentation(area=(0.9, 1.0)).place(image_px, default_rng(0))
    assert (at.left, at.top, at.right, at.bottom) == region


@pytest.mark.parametrize(("image_px", "region"), [((1000, 90), (0, 410, 90, 590)), ((100, 1000), (425, 0, 575, 100))])
def test_the_largest_is_of_the_nearest_shape_allowed(image_px: Size, region: tuple[float, ...]) -> None:
    at = area_augmentation(area=(0.9, 1.0), aspect=(0.5, 1.5)).place(image_px, default_rng(0))
    assert (at.left, at.top, at.right, at.bottom) == region


def test_interpolations_are_equally_likely() -> None:
    augment = area_augmentation(interpolation="random")
    found = Counter(augment.place((90, 120), default_rng(seed)).filter for seed in range(DRAWS))
    assert set(found) == set(trainer.data.augment.RANDOM_FILTERS) and len(found) == 4
    assert min(found.values()) > DRAWS / 4 - 5 * math.sqrt(DRAWS * 3 / 16)
    assert {area_augmentation().place((90, 120), default_rng(s)).filter for s in range(9)} == {Image.Resampling.BICUBIC}


def test_photometric_distortions_change_brightness_contrast_and_colour_by_up_to_a_half() -> None:
    """Of a half red, half grey image: brightness is the grey's, saturation the red's distance from its own grey."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:, :32] = (120, 80, 80)
    whole = Placement((64, 64), 0, 0, 64, 64, Image.Resampling.NEAREST, mirrored=False)
    augment = Augmentation(64, (64, 64), False, 0.0, "bicubic", photometric=True)
    crops = [augment.cut(image, whole, default_rng(seed))[0].astype(float) for seed in range(DRAWS)]
    means, reds = np.array([c.mean() for c in crops]), np.array([c[0, 0, 0] - c[0, 0, 1] for c in crops])
    assert 45 < means.min() < 60 and 135 < means.max() < 150  # 0.5 to 1.5 of some 96
    assert reds.min() < 40 * 0.5 and 40 * 1.5 < reds.max() <= 40 * 1.5**3
    plain = Augmentation(64, (64, 64), False, 0.0, "bicubic").cut(image, whole, default_rng(0))[0]
    assert np.array_equal(plain, image)


def test_each_distortion_is_done_once_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, float]] = []

    def observed(number: int) -> Any:
        def of(image: Image.Image) -> Any:
            def enhance(factor: float) -> Image.Image:
                done.append((number, factor))
                return image

            return SimpleNamespace(enhance=enhance)

        return of

    monkeypatch.setattr(trainer.data.augment, "DISTORTIONS", tuple(map(observed, range(3))))
    augment = Augmentation(64, (64, 64), False, 0.0, "bicubic", photometric=True)
    for seed in range(DRAWS):
        augment(noise((64, 64)), default_rng(seed))
    orders = Counter(tuple(number for number, _ in done[at : at + 3]) for at in range(0, len(done), 3))
    assert set(orders) == set(itertools.permutations(range(3))) and orders.total() == DRAWS
    assert min(orders.values()) > DRAWS / 6 - 5 * math.sqrt(DRAWS * 5 / 36)
    factors = np.sort([factor for _, factor in done])
    assert np.abs(factors - np.linspace(0.5, 1.5, len(factors))).max() < 1.95 / math.sqrt(len(factors))


def test_settings_come_from_the_recipe_and_colours_from_the_spec() -> None:
    settings = ["area=0.2,0.9", "aspect=0.5,1.5", "color_sigma=0.2", "mirror=false", "crop_px=192", "phases=1:200-300"]
    recipe = override(RECIPES["googlenet"], settings)
    spec = recipe.spec(("a", "b"), (), (1.0, 2.0, 3.0))
    spec = dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, filter="bilinear"))
    augment = augmentation_from_recipe(recipe, recipe.phases[0], spec)
    assert augment.colors == IMAGENET_COLORS
    names = ("crop_px", "mirror", "color_sigma", "crop", "area", "aspect", "interpolation", "photometric")
    assert all(getattr(augment, name) == getattr(recipe, name) for name in names)
    assert augment.crop == "area" and augment.photometric and augment.filter == "bilinear"
    assert augment.short_px == recipe.phases[0].short_px
    measured = {"eigenvalues": [3, 2, 1], "eigenvectors": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
    spec = dataclasses.replace(spec, source={"colors": json.dumps(measured)})
    colors = augmentation_from_recipe(recipe, recipe.phases[0], spec).colors
    assert colors == ColorAxes((3, 2, 1), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
