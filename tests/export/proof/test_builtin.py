"""The look at half's range on built-in images: the first layer that leaves it is torch's, and what a user reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import network_input, random_net, slim_spec
from loud import LOUD, graphs, loud_net
from onnx import TensorProto, helper, numpy_helper

from export.model.precision import HALF_MAX, check_graph
from export.proof.builtin import builtin_images, measure_builtin
from export.to_trt import main
from trainer.checkpoint import Checkpoint, save

OneLine = Callable[[], str]


def build(*arguments: object) -> int:
    return main([*map(str, arguments), "--builder", "tensorrt-rtx", "--target", "sm86"])


def save_loud(path: Path, gain: float, *, takes_back: str = "conv3_2") -> Path:
    """Slim VGG-A whose conv3_1 is `gain` times as loud, which a later layer takes back: the same function in FP32."""
    spec = slim_spec("A")
    net = random_net(spec)
    layers: Any = dict(net.named_modules())
    for parameter in layers["conv3_1"].parameters():
        parameter.data *= gain
    layers[takes_back].weight.data /= gain
    save(Checkpoint(spec, net.state_dict()), path)
    return path


@pytest.mark.parametrize("net", LOUD)
def test_the_first_layer_beyond_the_range_is_named(net: str) -> None:
    _, half = graphs(*loud_net(net))
    found = measure_builtin(half)
    assert found.overflow is not None and found.overflow.startswith(f"layer {LOUD[net][0]} ")
    assert all(found.answers_nothing)


def test_the_largest_magnitudes_are_torchs() -> None:
    spec = slim_spec("A", interface="images")
    net = random_net(spec)
    found = measure_builtin(graphs(net, spec)[1])
    seen: dict[str, list[float]] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            record: Any = lambda _, __, out, name=name: seen.setdefault(name, []).append(float(out.abs().max()))  # noqa: E731
            layer.register_forward_hook(record)
    with torch.inference_mode():
        for image in builtin_images(spec):
            net(network_input(image, spec))
    assert len(seen) == 11
    for name, values in seen.items():
        assert found.largest[:, found.names.index(name)] == pytest.approx(values, rel=0.02), name
    assert found.overflow is None and not any(found.answers_nothing)


def test_the_images_are_always_the_same_and_unlike_each_other() -> None:
    spec = slim_spec("A")
    images = builtin_images(spec)
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in images)
    assert all(np.array_equal(one, other) for one, other in zip(images, builtin_images(spec), strict=True))
    assert len({image.tobytes() for image in images}) == len(images)


def test_to_trt_refuses_a_net_without_an_answer(tmp_path: Path, one_line: OneLine) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = save_loud(tmp_path / "loud.pt", 2.0**14)
    assert build(model) == 1
    said = one_line()
    assert "loud.onnx: in half precision 5 of 5 built-in images have no answer that is a number" in said
    assert (
        "(layer conv3_1 reaches " in said
        and f"ends at {HALF_MAX:.0f}), so there is no engine: build with --cal" in said
    )
    assert not (tmp_path / "loud.engine").exists()
    assert build(model, "--precision", "fp32") == 0


def test_to_trt_says_what_was_not_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quiet net; one of ours in FP16 already; an infinity that still becomes a number."""
    pytest.importorskip("tensorrt_rtx")
    quiet = save_loud(tmp_path / "quiet.pt", 1.0)
    said = "the range of half precision was not checked on real images"
    for model in (quiet, tmp_path / "quiet.onnx"):
        assert build(model) == 0
        assert f"{said}: on 5 built-in ones the net uses 0.0" in capsys.readouterr().out
    assert build(quiet, "--precision", "fp32") == 0
    assert "range" not in capsys.readouterr().out


def test_an_overflow_that_still_gives_numbers_is_a_warning() -> None:
    _, half = graphs(*loud_net("A"))
    found = measure_builtin(half)
    line = dataclasses.replace(found, answers_nothing=(False,) * 5).line()
    assert "not checked on real images; warning: on 5 built-in ones layer conv3_1 reaches" in line
    assert "build with --calibrate DIR" in line


def test_half_constants_in_nodes_are_rounded_too() -> None:
    value = numpy_helper.from_array(np.array(1.5, np.float16), "value")
    nodes = [
        helper.make_node("Cast", ["x"], ["x.half"], to=TensorProto.FLOAT16),
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Mul", ["x.half", "c"], ["y.half"]),
        helper.make_node("Cast", ["y.half"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]))
    import onnxruntime

    session = onnxruntime.InferenceSession(check_graph(model).SerializeToString())
    assert session.run(None, {"x": np.array([50_000], np.float32)})[0] == np.inf
