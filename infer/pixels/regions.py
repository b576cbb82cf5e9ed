"""Regions of an image as views: each is warped to the net's crop, with context around it, as R-CNN does.

The image is made a picture first: rescaled to R-CNN's width, with a frame of one pixel of the mean on its right and
below, which is what a region shows where its context lies outside the image. All sizes are for a crop of 224 px; for
another crop they are scaled. Sources: Girshick et al. 2014 (arXiv 1311.2524v5), section 2.3 and appendix A, and their
rcnn_im_crop.m; docs/detection.md says what differs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..spec import ModelSpec, Size
from ..views import AS_LOADED, Rect, View, ViewPlan
from .decode import Pixels
from .render import resize

PROTOCOL = "regions"
PICTURE_PX, CONTEXT_PX, OF_CROP_PX = 500, 16, 224
"""Width of the picture, and context on each side of a region in the crop, for a crop of OF_CROP_PX."""
LONGEST = 4
"""A picture is at most so many times as high as it is wide; a higher image is made less wide."""

Boxes = NDArray[np.float64]
"""f64 [n, 4]: xmin, ymin, xmax, ymax in pixels from 1, both ends included, as infer.data.annotations.Box."""


def picture_px(image_px: Size, spec: ModelSpec) -> Size:
    """(height, width) of an image's picture, without the frame."""
    return at_width(image_px, max(1, round(PICTURE_PX * spec.crop_px / OF_CROP_PX)))


def at_width(image_px: Size, width_px: int) -> Size:
    """(height, width) of an image of (height, width) rescaled to `width_px`, or less where it would be too high."""
    height, width = image_px
    high = (height * width_px * 2 + width) // (2 * width)
    if high <= LONGEST * width_px:
        return max(1, high), width_px
    return LONGEST * width_px, max(1, (width * LONGEST * width_px * 2 + height) // (2 * height))


def make_picture(image: Pixels, spec: ModelSpec) -> Pixels:
    """The picture u8 [height + 1, width + 1, 3] of an image u8 [h, w, 3], whose last row and column are the frame."""
    height, width = picture_px((image.shape[0], image.shape[1]), spec)
    picture = np.empty((height + 1, width + 1, 3), np.uint8)
    picture[:] = np.clip(np.rint(spec.preprocessing.mean_rgb), 0, 255).astype(np.uint8)
    picture[:height, :width] = resize(image, (height, width), spec.preprocessing.filter)
    return picture


def plan_regions(boxes: Boxes, image_px: Size, spec: ModelSpec, *, mirrored: bool = False) -> ViewPlan:
    """The views of `boxes` of an image of (height, width), in its picture; mirrored: each is followed by its mirror.

    Each weighs 1, being a view of its own. Raises ValueError for a box of which nothing lies in the image.
    """
    height, width = picture_px(image_px, spec)
    context = round(CONTEXT_PX * spec.crop_px / OF_CROP_PX)
    views = []
    for box in boxes.tolist():
        across = _warp(box[0], box[2], image_px[1], width, spec.crop_px, context)
        down = _warp(box[1], box[3], image_px[0], height, spec.crop_px, context)
        rect: Rect = (down[0], across[0], down[1], across[1])
        inner: Rect | None = (down[2], across[2], down[3], across[3])
        if inner == (0, 0, spec.crop_px, spec.crop_px):
            inner = None
        view = View(AS_LOADED, rect, resize_px=spec.crop_px, inner=inner)
        views += [view, View(AS_LOADED, rect, spec.crop_px, True, inner=inner)] if mirrored else [view]
    return ViewPlan(PROTOCOL, (height + 1, width + 1), tuple(views))


def inside(boxes: Boxes, image_px: Size) -> NDArray[np.bool_]:
    """bool [n]: which boxes have a pixel in the image, or a part of one, and are boxes at all."""
    height, width = image_px
    left, top, right, bottom = boxes[:, 0] - 1, boxes[:, 1] - 1, boxes[:, 2], boxes[:, 3]
    finite = np.isfinite(boxes).all(1)
    there = (left < right) & (top < bottom)
    return np.asarray(finite & there & (left < width) & (top < height) & (right > 0) & (bottom > 0))


def _warp(first: float, last: float, image: int, picture: int, crop: int, context: int) -> tuple[int, int, int, int]:
    """(start and length in the picture, start and length in the crop) along one axis, for a box from `first` to `last`.

    What shows more than the box by `context` pixels of the crop on either side is cut off at the picture's ends.
    """
    scale = picture / image
    begin, end = max(0.0, first - 1) * scale, min(float(image), last) * scale
    if not begin < end:
        raise ValueError(f"a box from {first:g} to {last:g} of an image with {image} px")
    center, half = (begin + end) / 2, (end - begin) / 2 * crop / (crop - 2 * context)
    begin_px, end_px = math.floor(center - half + 0.5), math.floor(center + half + 0.5)
    begin_px = min(begin_px, picture - 1)
    end_px = max(end_px, begin_px + 1, 1)

    # its part in the picture, and where that lies in the crop
    length = end_px - begin_px
    start, stop = max(begin_px, 0), min(end_px, picture)
    place = min(((start - begin_px) * crop * 2 + length) // (2 * length), crop - 1)
    behind = max(((stop - begin_px) * crop * 2 + length) // (2 * length), place + 1)
    return start, stop - start, place, behind - place
