"""infer/pixels/render.py against one Pillow call and slices per view, and pixel sums against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Photos
from helpers import noise, slim_spec
from numpy.typing import NDArray
from PIL import Image

from infer.pixels.render import FILTERS, pixel_sums, render, rescale
from infer.spec import Filter, ModelSpec, Preprocessing
from infer.views import PROTOCOLS, View, plan_views, rescaled_px


def plain_rescale(image: NDArray[np.uint8], view: View, filter: Filter) -> NDArray[np.uint8]:
    height, width = rescaled_px(image.shape[:2], view.short_side_px, "nearest")
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[filter]))


def plain_view(image: NDArray[np.uint8], view: View, filter: Filter) -> NDArray[np.uint8]:
    top, left, height, width = view.box
    cut = Image.fromarray(plain_rescale(image, view, filter)).crop((left, top, left + width, top + height))
    if view.resize_px:
        cut = cut.resize((view.resize_px, view.resize_px), FILTERS[filter])
    return np.fliplr(np.asarray(cut)) if view.mirrored else np.asarray(cut)


def spec_with(filter: Filter) -> ModelSpec:
    return slim_spec("D", preprocessing=Preprocessing((0, 0, 0), filter=filter))


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("photo", ["cat", "portrait"])
def test_every_view_is_what_pillow_and_slices_give(photos: Photos, photo: str, protocol: str, filter: Filter) -> None:
    views = plan_views(spec_with(filter), protocol, photos[photo].shape[:2]).views
    rendered = render(photos[photo], views, spec_with(filter))
    assert len(rendered) == len(views)
    for view, pixels in zip(views, rendered, strict=True):
        expected = plain_view(photos[photo], view, filter)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*view.size_px, 3)
        assert np.array_equal(pixels, expected), view


def test_googlenets_square_is_resized_from_the_rescaled_image() -> None:
    """Two roundings to u8, not one: cut from the original and resized once, the pixels would differ."""
    image = noise((150, 150))
    square = View(109, (0, 0, 109, 109), resize_px=64)
    (got,) = render(image, [square], spec_with("bicubic"))
    in_one = np.asarray(Image.fromarray(image).resize((64, 64), FILTERS["bicubic"]))
    assert np.array_equal(got, plain_view(image, square, "bicubic"))
    assert not np.array_equal(got, in_one)


def test_torchvisions_long_side_is_rounded_down() -> None:
    spec = slim_spec("D", preprocessing=Preprocessing((0, 0, 0), long_side_rounding="floor"))
    assert rescale(noise((42, 65)), 64, spec).shape == (64, 99, 3)  # 99.05
    assert rescale(noise((43, 64)), 64, spec).shape == (64, 95, 3)  # 95.26
    assert rescale(noise((43, 64)), 65, spec).shape == (65, 96, 3)  # 96.74
    assert rescale(noise((43, 64)), 65, slim_spec("D")).shape == (65, 97, 3)


def test_a_single_pixel_fills_a_view() -> None:
    image = np.full((1, 1, 3), (10, 20, 30), np.uint8)
    (pixels,) = render(image, [View(64, (0, 0, 64, 64))], spec_with("bicubic"))
    assert (pixels == (10, 20, 30)).all()


@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 8, 6), (1, 1, 1), (1, 224, 224)])
def test_pixel_sums_are_those_of_a_loop(shape: tuple[int, int, int]) -> None:
    count, height, width = shape
    pixels = np.stack([noise((height, width), seed) for seed in range(count)])
    expected = []
    for view in pixels:
        sums = [0] * 6
        for flat, (red, green, blue) in enumerate(view.reshape(-1, 3).tolist()):
            weight = 1 + flat % 2
            sums = [
                s + v
                for s, v in zip(sums, (red, green, blue, weight * red, weight * green, weight * blue), strict=True)
            ]
        expected.append(sums)
    got = pixel_sums(pixels)
    assert got.dtype == np.int32
    assert got.tolist() == expected


def test_pixel_sums_tell_a_view_from_its_mirror_at_even_widths() -> None:
    view = noise((4, 6))
    plain, mirrored = pixel_sums(np.stack([view, view[:, ::-1]]))
    assert plain[:3].tolist() == mirrored[:3].tolist()
    assert plain[3:].tolist() != mirrored[3:].tolist()
