"""infer/drawing/maps.py: lines where the boxes are, names beside them, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from box_engines import make_box_engine
from helpers import noise
from PIL import Image, ImageColor

from infer.boxes.finding import box_net
from infer.data.annotations import Box
from infer.drawing.maps import COLOURS, draw_boxes, write_boxes
from infer.onnx_engine import OnnxEngine


def colour(number: int) -> list[int]:
    return list(ImageColor.getrgb(COLOURS[number]))


def test_a_line_runs_along_each_edge_and_the_rest_stays() -> None:
    image = np.full((200, 300, 3), 100, np.uint8)
    found = draw_boxes(image, [Box(51, 41, 250, 180)], ["a dog"])
    assert (image == 100).all() and found.shape == image.shape and found.dtype == np.uint8
    for place in ((40, 200), (179, 200), (100, 50), (100, 249)):  # top, bottom, left, right; from 0
        assert found[place].tolist() == colour(0)
    for place in ((39, 200), (180, 200), (100, 49), (100, 250), (100, 150)):
        assert found[place].tolist() == [100, 100, 100]
    label = found[41:55, 51:110].reshape(-1, 3)
    assert (label.max(1) < 60).any()  # the name, in black


def test_the_first_box_is_above_the_others() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = [Box(1, 1, 100, 100)] * 2
    assert draw_boxes(image, boxes, ["", ""])[99, 50].tolist() == colour(0)
    assert draw_boxes(image, [Box(1, 1, 50, 50), boxes[0]], ["", ""])[99, 50].tolist() == colour(1)


def test_boxes_beyond_the_image_and_many_of_them() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    boxes = [Box(-50, -50, 500, 500), Box(30, 20, 30, 20), Box(60, 60, 70, 70), *[Box(2, 2, 9, 9)] * 9]
    assert draw_boxes(image, boxes, ["two\nlines"] * len(boxes)).shape == (20, 30, 3)
    assert (draw_boxes(image, [], []) == image).all()


def test_a_picture_with_the_boxes_of_some_classes(exported: Callable[..., Path], tmp_path: Path) -> None:
    """Class 3 has none."""
    biases = np.tile([0.0, 0, 0.5, 0.5], (10, 1))
    biases[3] = np.nan
    classifier, image = OnnxEngine(exported()), noise((96, 96))
    net = box_net(OnnxEngine(make_box_engine(exported(), tmp_path / "box.onnx", biases.ravel())), [64])
    guesses = write_boxes([net], classifier, image, [(3, "three"), (4, "four")], tmp_path / "out.png")
    assert guesses[0] is None and guesses[1] is not None
    assert guesses[1].box == pytest.approx(Box(25, 25, 72, 72))  # one window, all of the image
    expected = draw_boxes(image, [guesses[1].box], ["four"])
    assert (np.asarray(Image.open(tmp_path / "out.png")) == expected).all()
    with pytest.raises(OSError, match="File exists"):
        write_boxes([net], classifier, image, [(4, "four")], tmp_path / "out.png" / "x.png")
    assert list(tmp_path.glob("*.unfinished")) == []
