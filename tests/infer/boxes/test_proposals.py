"""Selective search: the same boxes for the same image, whatever ran before, and R-CNN's settings."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from infer.boxes import proposals
from infer.boxes.overlap import overlaps
from infer.boxes.proposals import SelectiveSearch, selective_search
from infer.errors import MissingPackage, UsageError
from infer.pixels.render import resize

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def flower() -> Image:
    """A photograph, of the size at which its segments are few."""
    return resize(np.asarray(load_sample_image("flower.jpg")), (160, 240), "bicubic")


def scene(height: int, width: int, box: tuple[int, int, int, int]) -> Image:
    """A bright rectangle xmin, ymin, xmax, ymax on a dark, slightly noisy ground."""
    image = np.random.default_rng(3).integers(30, 36, (height, width, 3), np.uint8)
    image[box[1] - 1 : box[3], box[0] - 1 : box[2]] += np.array([180, 120, 40], np.uint8)
    return image


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (90, 120), (900, 1200)])
def test_an_object_is_found_in_the_images_own_pixels(height: int, width: int) -> None:
    box = (width // 5, height // 4, width // 2, height // 2)
    boxes = selective_search(scene(height, width, box))
    assert overlaps(boxes, [box]).max() > 0.93
    assert (boxes[:, :2] >= 1).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert (overlaps(boxes, [[1, 1, width, height]]) == 1).any()  # the whole image is the top of each hierarchy


def test_the_same_image_has_the_same_boxes_whatever_ran_before(flower: Image) -> None:
    first = selective_search(flower)
    assert len(np.unique(first, axis=0)) == len(first) > 50

    libc = ctypes.CDLL(None)
    for seed in (1, 12345):
        libc.srand(seed)  # OpenCV orders by rand()
        cv2.setRNGSeed(seed)
        np.testing.assert_array_equal(selective_search(flower), first)
    selective_search(scene(100, 100, (20, 20, 70, 70)))
    np.testing.assert_array_equal(selective_search(flower), first)


def test_the_same_image_has_the_same_boxes_on_any_number_of_threads(flower: Image) -> None:
    first, threads = selective_search(flower), cv2.getNumThreads()
    try:
        for count in (1, 2, 5):
            cv2.setNumThreads(count)
            np.testing.assert_array_equal(selective_search(flower), first)
    finally:
        cv2.setNumThreads(threads)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(selective_search, [flower] * 3):
            np.testing.assert_array_equal(found, first)


def test_opencvs_own_search_is_not_in_the_same_order_each_time(flower: Image) -> None:
    """The reason for an order of ours; should OpenCV mend that, this says so."""
    found = [np.asarray(proposals._search(flower, SelectiveSearch())) for _ in range(2)]
    assert sorted(map(tuple, found[0])) == sorted(map(tuple, found[1]))
    assert not np.array_equal(*found)


def test_larger_superpixels_make_fewer_boxes_and_quality_more(flower: Image) -> None:
    counts = [len(selective_search(flower, SelectiveSearch(superpixels=times))) for times in (1, 2, 4)]
    assert counts[0] > 1.5 * counts[1] > 2 * counts[2]
    assert len(selective_search(flower, SelectiveSearch("quality"))) > 2 * counts[1]


def test_small_sides_are_left_out(flower: Image) -> None:
    boxes = selective_search(flower)
    sides = (boxes[:, 2:] - boxes[:, :2] + 1) * 500 / 240
    assert sides.min() >= 20 - 1e-9


def test_large_boxes_tend_to_come_first(flower: Image) -> None:
    boxes = selective_search(flower)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    assert areas[: len(areas) // 4].mean() > 2 * areas[-len(areas) // 4 :].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (9, 9), (3000, 20)])
def test_odd_images_have_boxes_or_none(shape: tuple[int, int]) -> None:
    boxes = selective_search(np.zeros((*shape, 3), np.uint8))
    assert boxes.shape[1] == 4 and len(boxes) <= 1


def test_what_cannot_be_searched_is_said(monkeypatch: pytest.MonkeyPatch, flower: Image) -> None:
    with pytest.raises(UsageError, match="selective search has the modes fast, quality, got 'slow'"):
        SelectiveSearch("slow")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"superpixels are multiplied by 0\.5 to 1000, got 0"):
        SelectiveSearch(superpixels=0)
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(MissingPackage, match=r"pip uninstall -y opencv-python .* && pip install"):
        selective_search(flower)
