"""Regions of an image as views, against a reading of R-CNN's rcnn_im_crop.m with Pillow."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import noise, slim_spec
from PIL import Image

from infer.pixels.regions import inside, make_picture, picture_px, plan_regions
from infer.pixels.render import render
from infer.spec import ModelSpec


def as_rcnn(image: Any, box: list[float], spec: ModelSpec, context: int) -> Any:
    """The warped region: the box grows until `context` pixels of the crop are around it, what is outside is the mean.

    image: u8 [h, w, 3], the picture without a frame; box: 0-based edges in it.
    """
    crop = spec.crop_px
    left, top, right, bottom = box
    growth = crop / (crop - 2 * context)
    x, y, half_w, half_h = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    x1, x2 = (int(np.floor(x + sign * half_w * growth + 0.5)) for sign in (-1, 1))
    y1, y2 = (int(np.floor(y + sign * half_h * growth + 0.5)) for sign in (-1, 1))
    unclipped = x2 - x1, y2 - y1
    cut = max(x1, 0), max(y1, 0), min(x2, image.shape[1]), min(y2, image.shape[0])
    place = [int(np.floor((c - o) * crop / n + 0.5)) for c, o, n in zip(cut[:2], (x1, y1), unclipped, strict=True)]
    ends = [int(np.floor((c - o) * crop / n + 0.5)) for c, o, n in zip(cut[2:], (x1, y1), unclipped, strict=True)]
    part = Image.fromarray(image[cut[1] : cut[3], cut[0] : cut[2]])
    part = part.resize((ends[0] - place[0], part.height), Image.Resampling.BICUBIC)
    part = part.resize((part.width, ends[1] - place[1]), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (crop, crop), tuple(round(level) for level in spec.preprocessing.mean_rgb))
    square.paste(part, (place[0], place[1]))
    return np.asarray(square)


def test_they_are_r_cnns() -> None:
    spec, image = slim_spec("A"), noise((300, 400))  # a crop of 64 px: pictures are 143 px wide, the context is 5 px
    height, width = picture_px((300, 400), spec)
    assert (height, width) == (107, 143)
    picture = make_picture(image, spec)
    assert picture.shape == (108, 144, 3)
    mean = [round(level) for level in spec.preprocessing.mean_rgb]
    assert (picture[-1] == mean).all() and (picture[:, -1] == mean).all()

    boxes = np.array([[101, 51, 300, 200], [1, 1, 60, 300], [350, 250, 400, 300], [1, 1, 400, 300.0]])
    plan = plan_regions(boxes, (300, 400), spec, mirrored=True)
    pixels = render(picture, plan.views, spec)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        x, y = width / 400, height / 300
        right_one = as_rcnn(picture[:-1, :-1], [(left - 1) * x, (top - 1) * y, right * x, bottom * y], spec, 5)
        assert np.array_equal(pixels[2 * number], right_one), number
        assert np.array_equal(pixels[2 * number + 1], right_one[:, ::-1]), number


def test_a_full_size_net_has_pictures_of_500_px_and_16_px_of_context() -> None:
    spec = dataclasses.replace(slim_spec("A"), crop_px=224, train_short_px=256, test_short_px=256)
    assert picture_px((375, 500), spec) == (375, 500) and picture_px((300, 400), spec) == (375, 500)
    # 192 px of the crop are the box: 96 px become 192, and 8 px around them 16
    (view,) = plan_regions(np.array([[201, 101, 296, 196.0]]), (375, 500), spec).views
    assert (view.box, view.inner, view.resize_px) == ((92, 192, 112, 112), None, 224)
    (view,) = plan_regions(np.array([[1, 1, 96, 96.0]]), (375, 500), spec).views
    assert (view.box, view.inner) == ((0, 0, 104, 104), (16, 16, 208, 208))


@pytest.mark.parametrize(
    ("image_px", "expected"),
    [((375, 500), (107, 143)), ((8, 2000), (1, 143)), ((4000, 8), (572, 1)), ((8, 8), (143, 143))],
)
def test_pictures_of_odd_images(image_px: tuple[int, int], expected: tuple[int, int]) -> None:
    spec = slim_spec("A")
    assert picture_px(image_px, spec) == expected
    assert make_picture(noise(image_px), spec).shape == (expected[0] + 1, expected[1] + 1, 3)
    boxes = np.array([[1, 1, image_px[1], image_px[0]], [1, 1, 1, 1.0]])
    for pixels in render(make_picture(noise(image_px), spec), plan_regions(boxes, image_px, spec).views, spec):
        assert pixels.shape == (64, 64, 3)


def test_boxes_outside_the_image() -> None:
    boxes = np.array([[1, 1, 5, 5], [0, 0, 0, 0], [11, 1, 12, 5], [-3, -3, 1, 1], [5, 5, 4, 9], [np.nan, 1, 2, 2]])
    assert inside(boxes, (20, 10)).tolist() == [True, False, False, True, False, False]
    with pytest.raises(ValueError, match="a box from 11 to 12 of an image with 10 px"):
        plan_regions(boxes[2:3], (20, 10), slim_spec("A"))
