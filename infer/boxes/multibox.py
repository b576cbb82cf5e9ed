"""Boxes that a MultiBox net proposes for an image (Erhan et al., "Scalable Object Detection", CVPR 2014).

The net sees the whole image warped to its crop and answers with `boxes` f32 [views, K, 5]: left, top, right and bottom
edge as fractions of the view, and a confidence from 0 to 1. Its view is cut from the same picture as regions are
(pixels/regions.py), without the frame, so that an engine of regions and this one share it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import NOT_FINITE, AnswerError, Engine, check_outputs
from ..pixels.decode import Pixels
from ..pixels.regions import make_picture, picture_px
from ..spec import ModelSpec, Size
from ..views import AS_LOADED, View, ViewPlan
from .overlap import Boxes, suppress

OUTPUT = "boxes"
PROTOCOL = "multibox"
MOST = 200
"""Boxes of an image, as GoogLeNet adds them (section 8)."""
OVERLAP = 0.7
"""Intersection over union above which the less sure of two boxes goes. Ours: the papers give none for proposals."""


class FoundBoxes(NamedTuple):
    """Boxes f64 [N, 4] in an image's pixels (overlap.py), and their confidences f64 [N], the best first."""

    boxes: Boxes
    scores: NDArray[np.float64]


def plan_whole(image_px: Size, spec: ModelSpec, *, mirrored: bool = False) -> ViewPlan:
    """The one view of an image of (height, width): its whole picture, warped to the crop."""
    height, width = picture_px(image_px, spec)
    view = View(AS_LOADED, (0, 0, height, width), resize_px=spec.crop_px, mirrored=mirrored)
    return ViewPlan(PROTOCOL, (height + 1, width + 1), (view,))


def propose(engine: Engine, image: Pixels, most: int = MOST) -> FoundBoxes:
    """At most so many boxes of an image u8 RGB [h, w, 3].

    Raises EngineError, also for another kind of net; AnswerError where nothing of the answer is finite.
    """
    check_outputs(engine.spec, (OUTPUT,))
    size = (image.shape[0], image.shape[1])
    loaded = engine.load([make_picture(image, engine.spec)])
    answer = engine.run(loaded, [plan_whole(size, engine.spec)], (OUTPUT,))[OUTPUT]
    return found_boxes(answer[0], size, most)


def found_boxes(answer: NDArray[np.float32], image_px: Size, most: int = MOST) -> FoundBoxes:
    """The boxes of a net's answer f32 [K, 5] to an image of (height, width).

    Cut off at the image's edges, those without an area or with numbers that are none left out, after non-maximum
    suppression; at most so many. Raises AnswerError where no box is of numbers.
    """
    height, width = image_px
    values = answer.astype(np.float64)
    finite = np.asarray(np.isfinite(values).all(1))
    if len(finite) and not finite.any():
        raise AnswerError(f"MultiBox: {NOT_FINITE}")
    edges = np.clip(values[:, :4], 0, 1) * np.array([width, height, width, height])
    usable = finite & (edges[:, :2] < edges[:, 2:]).all(1)

    boxes = edges[usable] + np.array([1, 1, 0, 0])
    scores = values[usable, 4]
    kept = suppress(boxes, scores, OVERLAP)[:most]
    return FoundBoxes(boxes[kept], scores[kept])
