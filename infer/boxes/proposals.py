"""Regions that may hold an object, whatever it is: selective search on an image (Uijlings et al., IJCV 104, 2013).

GoogLeNet (section 8) proposes as R-CNN does, with superpixels of twice the size, which halves the proposals. R-CNN's
settings are those of its published code (rbgirshick/rcnn, selective_search/selective_search_boxes.m): images 500 px
wide; "fast" mode, which groups the segments of HSV and Lab at k = 50 and 100 by two similarities each, smoothed by 0.8,
where the smallest segment has k pixels; boxes below 20 px are left out. `superpixels` multiplies k and, with it, the
smallest segment. OpenCV's own fast mode is another: its k are 150, 250 and 350 and its smallest segment has 100 pixels,
which it cannot be told otherwise, so the search is put together here of OpenCV's parts.

The boxes are a function of the image alone. OpenCV finds the same ones each time, but in an order that it draws by the
C library's rand(), which whatever ran before has moved on. So they are put in order here, by the paper's rule: a box's
rank, 1 for the largest, times a number from 0 to 1 drawn by a hash of its coordinates (a merged region is never smaller
than its parts, so the order of sizes is one in which the hierarchy was merged, backwards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackage, UsageError
from ..pixels.decode import Pixels
from ..pixels.regions import PICTURE_PX, at_width
from ..pixels.render import resize
from ..spec import Filter
from .overlap import Boxes

Mode = Literal["fast", "quality"]
MODES: tuple[Mode, ...] = get_args(Mode)
SCALES = (50, 100, 150, 300)
"""k of the graph segmentations and the pixels of their smallest segments; "fast" takes the first two."""
SIGMA = 0.8
LEAST_SIDE_PX = 20
"""Of a box in the image that is searched."""
FILTER: Filter = "bicubic"
"""Of the rescaling to PICTURE_PX; MATLAB's imresize, which R-CNN calls, has the same kernel."""
LEAST_SEGMENTS = 0.5
"""Of `superpixels`: OpenCV keeps a byte for each pair of segments."""
WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
"""Wheels that all put their own cv2 in the same place."""


@dataclass(frozen=True, slots=True)
class SelectiveSearch:
    """How an image is searched. superpixels: times R-CNN's k and smallest segment."""

    mode: Mode = "fast"
    superpixels: float = 2.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"selective search has the modes {', '.join(MODES)}, got {self.mode!r}")
        if not LEAST_SEGMENTS <= self.superpixels <= 1000:
            raise UsageError(f"superpixels are multiplied by {LEAST_SEGMENTS:g} to 1000, got {self.superpixels:g}")

    def __str__(self) -> str:
        return f"{self.mode}, superpixels x{self.superpixels:g}, {PICTURE_PX} px wide, sides from {LEAST_SIDE_PX} px"


def check_opencv() -> None:
    """Raises MissingPackage where cv2 is of a wheel without selective search."""
    if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        raise MissingPackage(
            f"cv2 {cv2.__version__} has no selective search: another wheel of OpenCV lies where "
            f"{WHEELS[-1]} was: pip uninstall -y {' '.join(WHEELS)} && pip install {WHEELS[-1]}"
        )


def selective_search(image: Pixels, how: SelectiveSearch | None = None) -> Boxes:
    """Boxes f64 [N, 4] of an image u8 RGB [h, w, 3], in its own pixels (from 1, both ends included), the best first.

    All differ. Raises MissingPackage (check_opencv).
    """
    how = how or SelectiveSearch()
    check_opencv()
    size = (image.shape[0], image.shape[1])
    searched = at_width(size, PICTURE_PX)

    found = np.asarray(_search(resize(image, searched, FILTER), how), np.int64).reshape(-1, 4)
    found = found[(found[:, 2:] >= LEAST_SIDE_PX).all(1)]
    found = found[_order(found)]

    # edges of rectangles x, y, width, height, moved to the image
    scale = np.array([size[1] / searched[1], size[0] / searched[0]])
    low, high = found[:, :2] * scale, (found[:, :2] + found[:, 2:]) * scale
    boxes: Boxes = np.concatenate([low + 1, np.minimum(high, [size[1], size[0]])], 1)
    return boxes


def _search(rgb: Pixels, how: SelectiveSearch) -> Any:
    """Rectangles i32 [N, 4] of x, y, width, height that OpenCV finds, all different, in no order."""
    parts = cv2.ximgproc.segmentation
    # A search keeps what it computed for the first image and takes it for the next: each image has its own.
    search = parts.createSelectiveSearchSegmentation()

    few = 2 if how.mode == "fast" else None
    for convert in COLOURS[:few]:
        search.addImage(convert(rgb))
    for scale in SCALES[:few]:
        k = scale * how.superpixels
        search.addGraphSegmentation(parts.createGraphSegmentation(SIGMA, k, max(1, round(k))))

    colour, texture, fill, size, several = (
        getattr(parts, f"createSelectiveSearchSegmentationStrategy{name}")
        for name in ("Color", "Texture", "Fill", "Size", "Multiple")
    )
    search.addStrategy(several(colour(), texture(), size(), fill()))
    search.addStrategy(several(texture(), size(), fill()))
    if how.mode == "quality":
        search.addStrategy(fill())
        search.addStrategy(size())
    return search.process()


def _normalised(rgb: Pixels) -> Pixels:
    """u8 [h, w, 3]: red and green as shares of all three, and the intensity (the paper's rgI)."""
    total = np.maximum(rgb.sum(2, dtype=np.int32), 1)
    red, green = (rgb[..., channel].astype(np.int32) * 255 // total for channel in (0, 1))
    return np.stack([red, green, _grey(rgb)], 2).astype(np.uint8)


def _grey(rgb: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _hsv(rgb: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)


def _lab(rgb: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), np.uint8)


def _hue(rgb: Pixels) -> Pixels:
    return np.ascontiguousarray(_hsv(rgb)[..., 0])


COLOURS: tuple[Callable[[Pixels], Pixels], ...] = (_hsv, _lab, _normalised, _hue, _grey)
"""The images that are segmented, in the order of R-CNN's code; "fast" takes the first two."""


def _order(rectangles: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places of rectangles [N, 4], the best first: by rank of size times a draw, the same for the same rectangles."""
    x, y, width, height = rectangles.T
    by_size = np.lexsort((height, width, y, x, -width * height))
    rank = np.empty(len(rectangles))
    rank[by_size] = np.arange(1, len(rectangles) + 1)
    return np.lexsort((rank, rank * _draws(rectangles)))


def _draws(rectangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number from 0 to 1 for each rectangle [N, 4], of its coordinates by splitmix64's mixer (Steele et al. 2014)."""
    mixed = np.zeros(len(rectangles), np.uint64)
    for column in rectangles.T.astype(np.uint64):
        mixed = (mixed ^ column) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    found: NDArray[np.float64] = (mixed >> np.uint64(11)) / 2.0**53
    return found
