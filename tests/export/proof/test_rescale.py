"""Rescaling by powers of two: nets that overflow in half are mended, exactly, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import random_net, slim_spec
from loud import LOUD, OUTPUTS, graphs, loud_net
from onnx import TensorProto, helper, numpy_helper

from export.model.precision import HALF_MAX, check_graph, half_tensors, single_graph, write_out_norms
from export.proof.calibrate import LIMIT, RescaleError, choose_exponents, rescale
from infer.onnx_engine import OnnxEngine
from infer.views import plan_views


def exact(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(model: onnx.ModelProto, image: Any, folder: Path) -> dict[str, Any]:
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    engine = OnnxEngine(folder / "model.onnx")
    plan = plan_views(engine.spec, "ten-crop", image.shape[:2])
    return engine.run(engine.load([image]), [plan], OUTPUTS)


def largest(model: onnx.ModelProto, names: list[str], image: Any, folder: Path) -> dict[str, float]:
    """Magnitudes of tensors, each fetched whole."""
    import onnxruntime

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = [name for name in names if any(name in node.output for node in model.graph.node)]
    exposed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in known)
    onnx.save(exposed, folder / "exposed.onnx")
    session = onnxruntime.InferenceSession(str(folder / "exposed.onnx"), providers=["CPUExecutionProvider"])
    values = session.run(known, {"images": image[None]})
    return {name: float(np.abs(value).max()) for name, value in zip(known, values, strict=True)}


@pytest.mark.parametrize("net", LOUD)
def test_a_net_that_overflows_is_mended(net: str, photos: Any, tmp_path: Path) -> None:
    """NaN before, FP32's answers after, and every tensor within a quarter of the range."""
    single, half = graphs(*loud_net(net))
    image = photos["china"]
    truth = run(single, image, tmp_path)
    write_out_norms(single)  # ONNX Runtime's own is 2 % wrong at values as loud as these: its sum slides on
    assert not np.isfinite(run(check_graph(half), image, tmp_path)["posterior"]).all()
    measured = largest(single, half_tensors(half), image, tmp_path)
    assert max(measured.values()) > HALF_MAX
    chosen = choose_exponents(half, measured)
    mended = rescale(half, chosen, exact(single))
    assert len(mended.graph.initializer) <= len(half.graph.initializer) + 3  # none is kept twice
    found = run(check_graph(mended), image, tmp_path)
    for name in OUTPUTS:
        assert np.abs(found[name] - truth[name]).max() < 0.02 * truth[name].std() + 2e-3 * np.abs(truth[name]).max(), (
            name
        )
    after = largest(single_graph(mended), half_tensors(half), image, tmp_path)
    assert max(after.values()) <= LIMIT * 1.01
    for name, value in measured.items():
        assert after[name] == pytest.approx(value * 2.0 ** chosen[name], rel=5e-3), name


@pytest.mark.parametrize("net", LOUD)
def test_powers_of_two_change_no_bit_in_single_precision(net: str, photos: Any, tmp_path: Path) -> None:
    """Weights with bits to spare are scaled without rounding, and so is all that is computed from them."""
    spec = slim_spec(net, interface="images", outputs=OUTPUTS)
    built = random_net(spec)
    for parameter in built.parameters():
        parameter.data = (parameter.data * 2**10).round() / 2**10
    _, half = graphs(built, spec)
    image = photos["china"]
    before = run(single_graph(half), image, tmp_path)
    names = half_tensors(half)
    chosen = choose_exponents(half, {name: 10.0 ** (4 + i % 3) for i, name in enumerate(names)})
    assert len(set(chosen.values())) > 2
    after = run(single_graph(rescale(half, chosen, {})), image, tmp_path)
    for name in OUTPUTS:
        np.testing.assert_array_equal(after[name], before[name])


def tiny(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """A half graph from `x` to `y`, f16 [1, 2, 1, 1], in casts to single at both ends."""
    half = [helper.make_node("Cast", ["in"], ["x"], to=TensorProto.FLOAT16), *nodes]
    half.append(helper.make_node("Cast", ["y"], ["out"], to=TensorProto.FLOAT))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2, 1, 1)) for name in ("in", "out")]
    constants = [numpy_helper.from_array(np.asarray(values, np.float16), name) for name, values in weights.items()]
    graph = helper.make_graph(half, "tiny", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def evaluate(model: onnx.ModelProto, value: float) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"in": np.full((1, 2, 1, 1), value, np.float32)})[0].ravel()


def test_offsets_and_shared_weights_are_scaled_with_what_they_meet() -> None:
    """y = w(w x + 1) + (x to the left of it): one weight used at two scales, an offset, a sum."""
    eye = np.eye(2)[:, :, None, None] * 256
    model = tiny(
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
        w=eye,
        one=np.ones((1, 2, 1, 1)),
    )
    chosen = choose_exponents(model, {"x": 2.0, "a": 512.0, "b": 513.0, "y": 131_328.0})
    assert chosen == {"x": 0, "a": 0, "b": 0, "y": -4}
    lower = {"x": 0, "a": -2, "b": -2, "y": -4}
    for scales in (chosen, lower):
        mended = check_graph(rescale(model, scales, {}))
        np.testing.assert_array_equal(evaluate(mended, 2.0), 256 * 513.0)
    assert not np.isfinite(evaluate(check_graph(model), 2.0)).all()


def test_an_operator_that_is_not_homogeneous_is_refused_where_it_overflows() -> None:
    model = tiny(helper.make_node("Sigmoid", ["x"], ["y"]))
    assert choose_exponents(model, {"x": 20_000.0, "y": 1.0}) == {"x": 0, "y": 0}  # near the end, but within
    with pytest.raises(RescaleError, match=r"tensor x reaches 7e\+04 .* because Sigmoid is not homogeneous: build"):
        choose_exponents(model, {"x": 70_000.0, "y": 1.0})


def test_weights_that_would_not_fit_are_refused() -> None:
    model = tiny(
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["y"]),
        w=np.ones((2, 2, 1, 1)),
        v=np.full((2, 2, 1, 1), 1024.0),
    )
    with pytest.raises(RescaleError, match=r"v would reach 1\.31e\+05 .* build with --precision fp32"):
        rescale(model, {"x": 0, "a": -7, "y": 0}, {})
