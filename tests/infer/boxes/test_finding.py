"""infer/boxes/finding.py: where a box map's windows lie, which box is chosen, nets that do not belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_engines import make_box_engine
from helpers import noise, slim_spec

from infer.boxes.finding import (
    BoxNet,
    Merging,
    Windows,
    box_net,
    center_boxes,
    check_together,
    find_windows,
    guess,
    inside,
    refused,
    window_boxes,
)
from infer.data.annotations import Box
from infer.engine import EngineError
from infer.onnx_engine import OnnxEngine
from infer.views import plan_views

Exported = Callable[..., Path]
SPEC = slim_spec("A")  # crops of 64 px, stride 32
WINDOW = (0.0, 0.0, 1.0, 1.0)
"""A box that is its window."""


def dense_view(size: tuple[int, int], scale: int) -> Any:
    return plan_views(SPEC, "dense", size, [scale]).views[0]


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (70, 105)])
def test_a_box_that_is_its_window(size: tuple[int, int]) -> None:
    """Position (i, j) of a 64 px high view has its window at 32 i, 32 j, in the image that much larger or smaller."""
    view = dense_view(size, 64)  # 64 x 96: one row, two columns
    box_map = np.tile(np.array(WINDOW, np.float32)[:, None, None], (1, 1, 2))
    found = window_boxes(box_map, view, size, SPEC)
    scale = size[0] / 64
    assert found.shape == (1, 2, 4)
    assert np.allclose(found[0], np.array([[0, 0, 64, 64], [32, 0, 96, 64]]) * scale)


def test_every_position_class_and_number_by_itself() -> None:
    """Against a loop over all of them, at a view that is cut out of the image."""
    size, rng = (200, 150), np.random.default_rng(0)
    box_map = rng.normal(0, 0.5, (40, 3, 2)).astype(np.float32)
    view = dense_view(size, 100)  # 133 x 100
    found = window_boxes(box_map, view, size, SPEC)
    assert found.shape == (10, 6, 4)
    for label in range(10):
        for i in range(3):
            for j in range(2):
                x, y, w, h = box_map[4 * label : 4 * label + 4, i, j].astype(float) * 64
                x, y = 32 * j + 32 + x, 32 * i + 32 + y
                w, h = max(w, 100 / 150), max(h, 133 / 200)  # a pixel of the image
                across, down = 150 / 100, 200 / 133
                expected = [(x - w / 2) * across, (y - h / 2) * down, (x + w / 2) * across, (y + h / 2) * down]
                assert np.allclose(found[label, 2 * i + j], expected), (label, i, j)


@pytest.mark.parametrize("kind", ["SCR", "PCR"])
def test_the_central_crop(kind: str, exported: Exported, tmp_path: Path) -> None:
    box = [0.1, -0.2, 0.5, 0.25]
    biases = box if kind == "SCR" else [*([0.0] * 12), *box, *([0.0] * 24)]
    net = box_net(OnnxEngine(make_box_engine(exported(), tmp_path / "box.onnx", biases)), [80])
    assert net.kind == kind
    found, sums = center_boxes(net, noise((160, 240)))  # rescaled to 80 x 120: the crop is at 8, 28
    x, y, w, h = 28 + 32 + 6.4, 8 + 32 - 12.8, 32, 16
    expected = 2 * np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    assert np.allclose(found[3 if kind == "PCR" else 0], expected, atol=1e-4)
    assert sums.shape == (1, 6)


def test_windows_of_two_nets_are_united_and_rated_where_they_are(exported: Exported, tmp_path: Path) -> None:
    classifier = OnnxEngine(exported())
    one = box_net(OnnxEngine(make_box_engine(exported(), tmp_path / "one.onnx", WINDOW)), [64, 96])
    two = box_net(OnnxEngine(make_box_engine(exported(), tmp_path / "two.onnx", [0.0, 0, 2, 2] * 10)), [96])
    image = noise((96, 128))
    windows = find_windows([one, two], classifier, image)
    counts = [own.shape for own in windows.boxes]
    small, large = 1 * 2, 2 * 3  # positions at 64 (x 85) and at 96 (x 128); pools round up
    assert counts == [(1, small, 4), (1, large, 4), (10, large, 4)]
    assert windows.of_class(3).shape == (*windows.posterior.shape[:1], 4) == (small + 2 * large, 4)
    assert np.allclose(windows.posterior.sum(1), 1)
    assert (windows.posterior[small : small + large] == windows.posterior[small + large :]).all()
    view = plan_views(classifier.spec, "dense", (96, 128), [96])
    seen = classifier.run(classifier.load([image]), [view], ["score_map"])["score_map"][0].astype(float)
    at = np.exp(seen[:, 1, 2]) / np.exp(seen[:, 1, 2]).sum()
    assert np.allclose(windows.posterior[small + 5], at)
    assert windows.of_class(0)[small + 5].tolist() == [64, 32, 128, 96]
    posterior = classifier.run(classifier.load([image]), [plan_views(classifier.spec, "dense", (96, 128), [64, 96])])
    assert windows.mean is not None
    assert np.allclose(windows.mean, posterior["posterior"].mean(0), atol=1e-6)
    fewer = find_windows([one, two], classifier, image, mean=False)
    assert fewer.mean is None and np.allclose(fewer.posterior, windows.posterior, atol=1e-6)
    assert len(windows.pixel_sums) == len(fewer.pixel_sums) + 2 == 7


def made(boxes: Any, posterior: Any, image_px: tuple[int, int] = (100, 100)) -> Windows:
    return Windows(image_px, (np.array(boxes, float),), np.array(posterior, float), None, np.zeros((0, 6), np.int32))


def test_the_box_with_most_of_a_class_is_its_guess() -> None:
    """Two windows on one object outweigh a surer one elsewhere; each class has its own."""
    boxes = [[[0, 0, 40, 40], [2, 0, 42, 40], [50, 50, 90, 90]]]
    windows = made(boxes, [[0.4, 0.1], [0.3, 0.1], [0.6, 0.9]])
    zero, one = guess(windows, [0, 1], Merging())
    assert zero is not None and one is not None
    assert (zero.label, zero.score, zero.box) == (0, pytest.approx(0.7), Box(2, 1, 41, 40))
    assert (one.label, one.score, one.box) == (1, pytest.approx(0.9), Box(51, 51, 90, 90))


def test_boxes_of_each_class_are_merged_by_themselves() -> None:
    boxes = [[[0, 0, 10, 10], [0, 0, 10, 10]], [[50, 50, 60, 70], [50, 50, 60, 70]]]
    found = guess(made(boxes, [[0.5, 0.5]] * 2), [1, 0], Merging())
    assert [one and one.box for one in found] == [Box(51, 51, 60, 70), Box(1, 1, 10, 10)]


def test_what_is_not_finite_is_no_box() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [[[nan, 0, 40, 40], [0, 0, inf, 40], [50, 50, 90, 90]], [[nan] * 4] * 3]
    first, second = guess(made(boxes, [[0.9, 0.1], [0.9, 0.1], [0.2, 0.1]]), [0, 1], Merging())
    assert first is not None and (first.score, first.box) == (pytest.approx(0.2), Box(51, 51, 90, 90))
    assert second is None


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([10, 20, 30, 60], Box(11, 21, 30, 60)),
        ([-10, -5, 230, 160], Box(1, 1, 200, 100)),
        ([300, 20, 400, 60], Box(200, 21, 200, 60)),  # wholly outside: the pixels at the edge
        ([-30, -30, -10, -10], Box(1, 1, 1, 1)),
    ],
)
def test_a_box_ends_with_the_image(edges: Any, expected: Box) -> None:
    assert inside(np.array(edges, float), (100, 200)) == expected


def test_nets_that_do_not_belong_together(exported: Exported, tmp_path: Path) -> None:
    classifier = OnnxEngine(exported())

    def made(name: str, biases: Any = WINDOW, **changes: Any) -> OnnxEngine:
        return OnnxEngine(make_box_engine(exported(), tmp_path / f"{name}.onnx", biases, **changes))

    with pytest.raises(EngineError, match=r"^wide: box_map has 8 channels, expected 4 or 4 x 10 classes$"):
        box_net(made("wide", [0.0] * 8), [64])
    with pytest.raises(EngineError, match=r"^slim-a is a classifier, which has no box_map: expected a box net"):
        box_net(classifier, [64])
    good = BoxNet(made("good"), (64,), False)
    check_together([good], classifier)
    other = BoxNet(made("other", classes=tuple("abcdefghij")), (64,), False)
    with pytest.raises(EngineError, match=r"^good and other have different classes: use nets of the same data$"):
        check_together([good, other], None)
    floor = BoxNet(made("floor", pool_rounding="floor"), (64,), False)
    with pytest.raises(EngineError, match=r"^floor and slim-a differ in pool_rounding \(floor and ceil\): their win"):
        check_together([floor], classifier)
    with pytest.raises(EngineError, match=r"^good has no output 'score_map', .* --outputs score_map$"):
        check_together([good], good.engine)


def test_an_image_beyond_the_range(exported: Exported, tmp_path: Path) -> None:
    classifier = OnnxEngine(exported())
    net = BoxNet(OnnxEngine(make_box_engine(exported(), tmp_path / "box.onnx", WINDOW)), (64,), False)
    assert refused([net], classifier, "dense", (100, 200)) is None
    assert "image 100x2000 px at Q=64 needs a view" in str(refused([net], classifier, "dense", (100, 2000)))
    assert refused([net], None, "center", (100, 2000)) is None


class Wider:
    """A classifier with twice the positions."""

    def __init__(self, engine: OnnxEngine) -> None:
        self.spec, self.device, self.load, self._engine = engine.spec, engine.device, engine.load, engine

    def run(self, image: Any, plans: Any, outputs: Any) -> dict[str, Any]:
        found = self._engine.run(image, plans, outputs)
        return {**found, "score_map": np.repeat(found["score_map"], 2, 3)}


def test_maps_of_other_positions_are_refused(exported: Exported, tmp_path: Path) -> None:
    net = BoxNet(OnnxEngine(make_box_engine(exported(), tmp_path / "box.onnx", WINDOW)), (64,), False)
    wider: Any = Wider(OnnxEngine(exported()))
    with pytest.raises(EngineError, match=r"^box has 1x2 positions at Q=64, slim-a 1x4: boxes cannot be rated$"):
        find_windows([net], wider, noise((64, 96)))
