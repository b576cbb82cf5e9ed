"""The self-test that travels with a model passes on the model and fails on a changed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import slim_spec
from onnx import numpy_helper

from infer import self_test
from infer.engine import EngineError
from infer.open import open_engine

Exported = Callable[..., Path]


@pytest.mark.parametrize("net", ["A", "googlenet"])
@pytest.mark.parametrize(("interface", "precision"), [("views", "fp32"), ("views", "fp16"), ("nchw", "fp32")])
def test_a_model_proves_itself(net: str, interface: str, precision: str, exported: Exported) -> None:
    engine = open_engine(exported(net, interface=interface, precision=precision), self_test=True)
    difference = self_test.check(engine, engine.self_test)  # type: ignore[attr-defined]
    assert difference < self_test.TOLERANCE[precision] / 5


def test_images_are_known_to_the_byte() -> None:
    """Any language must make the same: corners of image 5, worked out by hand from the formula."""
    picture = self_test.make_image(5, slim_spec("A"))
    assert picture.shape == (64 + 185 % 64, 64 + 185 % 64 + 20 + 265 % 60, 3)

    def value(y: int, x: int, c: int) -> int:
        mixed = (y // 7 * 73_856_093) ^ (x // 7 * 19_349_663) ^ (c * 83_492_791) ^ (5 * 40_503 + 1)
        return (mixed * 2_654_435_761 % 2**64 >> 16) & 255

    for y, x, c in ((0, 0, 0), (0, 0, 2), (6, 7, 1), (63, 100, 2)):
        assert picture[y, x, c] == value(y, x, c)
    assert picture.std() > 50


def test_plans_cover_crops_and_both_ways_of_looking_at_the_whole() -> None:
    spec = slim_spec("A")
    plans = [self_test.make_plan(n, self_test.make_image(n, spec).shape[:2], spec) for n in range(self_test.IMAGES)]
    views = [plan.views[0] for plan in plans]
    assert all(len(plan) == 1 for plan in plans)
    assert {view.size_px == (64, 64) for view in views} == {True, False}
    assert {view.mirrored for view in views} == {True, False}
    assert {view.size_px[0] > view.size_px[1] for view in views} == {True, False}


def changed(exported: Exported, tmp_path: Path, initializer: str, by: float) -> Path:
    model = onnx.load(exported("A"))
    tensor = next(i for i in model.graph.initializer if i.name == initializer)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), tensor.name))
    onnx.save(model, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_a_changed_weight_fails(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"a posterior differs by .* do not use it on this device"):
        open_engine(changed(exported, tmp_path, "conv3_1.weight", 1.01), self_test=True)


def test_other_pixels_fail(exported: Exported) -> None:
    engine = open_engine(exported("A"))
    expected = engine.self_test  # type: ignore[attr-defined]
    expected["pixel_sums"][3][4] += 1
    with pytest.raises(EngineError, match=r"image 3 gave pixel sums .* sees other pixels"):
        self_test.check(engine, expected)


def test_a_model_without_one_says_so(exported: Exported) -> None:
    with pytest.raises(EngineError, match="carries no self-test"):
        self_test.check(open_engine(exported("A")), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_sums": None},
        {"pixel_sums": [[0] * 6] * 15},
        {"pixel_sums": [[2**70] * 6] * 16},
        {"log_posterior": [[0.0] * 9] * 16},
        {"log_posterior": [[0.0], [0.0, 0.0]]},
        {"log_posterior": [["x"]]},
        {"log_posterior": [[1e300] * 10] * 16},
        {"log_posterior": [], "mean_box": [[0.0] * 10] * 16},
    ],
)
def test_damaged_expectations(changes: dict[str, Any], exported: Exported) -> None:
    engine = open_engine(exported("A"))
    expected = {**engine.self_test, **changes}  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=r"self-test of .*: damaged \(.*\): export it again|sees other pixels"):
        self_test.check(engine, expected)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_expectations_that_are_no_json(text: str, exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("A"))
    next(one for one in model.metadata_props if one.key == "self_test").value = text
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"self-test of .*: damaged"):
        open_engine(tmp_path / "m.onnx", self_test=True)
