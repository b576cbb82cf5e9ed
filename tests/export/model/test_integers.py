"""The integer form of QDQ graphs written by hand: exactly what they say, with numbers for which FP32 is exact too.

Steps are powers of two and sums stay below 2^24. So the QDQ graph, computed node by node in FP32, must be met to the
bit, by activations and weights as large as they get: those are where 16 bits would saturate.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from export.graph.writer import F32, GraphWriter
from export.model import file as model_file
from export.model.check import write_check
from export.model.integers import BIAS_STEPS, integer_graph
from export.model.precision import check_graph
from export.to_check import main as to_check
from infer import self_test
from infer.__main__ import main as infer
from infer.engine import EngineError, is_stand_in
from infer.model_file import CHECK_OF, INT8, metadata
from infer.onnx_engine import AS_WRITTEN, OnnxEngine
from infer.views import plan_views

X_STEP, W_STEP = 2.0**-3, 2.0**-6

Integers = NDArray[np.int8]


class Quantised(GraphWriter):
    """A QDQ graph in the making, from `x` f32 [n, channels, h, w] on, which is never negative behind its Relu."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = self.op("Relu", ["x"], "first")

    def step(self, value: float) -> str:
        return self.constant(f"step.{value}", np.array(value, np.float32))

    def restored(self, x: str, step: float = X_STEP) -> str:
        """x, quantised and restored."""
        zero = self.constant("zero", np.array(0, np.int8))
        quantized = self.op("QuantizeLinear", [x, self.step(step), zero], f"{x}.q")
        return self.op("DequantizeLinear", [quantized, self.step(step), zero], f"{x}.dq")

    def conv(self, x: str, name: str, weights: Integers, bias: Any = None, steps: Any = None, **attributes: Any) -> str:
        """A convolution of `x` with weights in INT8, a step for each channel."""
        steps = np.full(len(weights), W_STEP, np.float32) if steps is None else np.asarray(steps, np.float32)
        zeros = self.constant(f"{name}.zeros", np.zeros(steps.shape, np.int8))
        of_weights = [self.constant(f"{name}.int8", weights), self.constant(f"{name}.steps", steps), zeros]
        kernel = self.op("DequantizeLinear", of_weights, f"{name}.weights", **({"axis": 0} if steps.ndim else {}))
        added = [] if bias is None else [self.constant(f"{name}.bias", np.asarray(bias, np.float32))]
        return self.op("Conv", [x, kernel, *added], name, **attributes)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", F32, ["n", None, "h", "w"])],
            [helper.make_tensor_value_info(name, F32, ["n", None, None, None]) for name in outputs],
            list(self.initializers.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def answers(model: onnx.ModelProto, x: NDArray[np.float32], *, as_written: bool = False) -> list[NDArray[np.float32]]:
    """What ONNX Runtime answers, by its own kernels or node by node."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"x": x})
    return found


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def met(graph: Quantised, x: NDArray[np.float32], *outputs: str) -> Counter[str]:
    """Compares the integer form with the QDQ graph, with ONNX Runtime's optimisations and without; its operators."""
    model = graph.model(*outputs)
    before = model.SerializeToString()
    integers = integer_graph(model)
    onnx.checker.check_model(integers, full_check=True)
    assert model.SerializeToString() == before
    right = answers(model, x, as_written=True)
    assert all(values.any() and len(np.unique(values)) > 1 for values in right)  # not a test of nothing
    for as_written in (False, True):
        for found, expected in zip(answers(integers, x, as_written=as_written), right, strict=True):
            np.testing.assert_array_equal(found, expected)
    return kinds(integers)


def weights(*shape: int, seed: int = 0) -> Integers:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def activations(*shape: int) -> NDArray[np.float32]:
    """Below zero, between two steps and beyond the largest too."""
    return np.random.default_rng(1).uniform(-4, 1.2 * 127 * X_STEP, shape).astype(np.float32)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((24, 16, 3, 3), {"pads": [1] * 4}),
    "1x1": ((24, 16, 1, 1), {}),
    "strided": ((24, 16, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}),
    "dilated": ((24, 16, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}),
    "uneven": ((9, 16, 5, 3), {"pads": [2, 0, 1, 1], "strides": [1, 2]}),
    "grouped": ((24, 4, 3, 3), {"pads": [1] * 4, "group": 4}),
    "depthwise": ((16, 1, 3, 3), {"pads": [1] * 4, "group": 16}),
    "one channel": ((1, 16, 3, 3), {}),
}


@pytest.mark.parametrize("how", ["random", "largest", "smallest", "alternating"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_as_torch_counts_it(name: str, has_bias: bool, how: str) -> None:
    shape, attributes = CONVOLUTIONS[name]
    kernel, x = weights(*shape), activations(2, 16, 11, 13)
    if how != "random":
        x[:, :, 2:] = 1000  # all 127
        kernel[:-1] = {"largest": 127, "smallest": -127, "alternating": 127}[how]
        if how == "alternating":
            kernel[..., ::2, :] *= -1
    unit = X_STEP * W_STEP
    bias = np.random.default_rng(2).integers(-9000, 9000, len(kernel)) * unit if has_bias else np.zeros(len(kernel))
    step = unit * 2 ** np.ceil(np.log2(np.prod(shape[1:]) * 127))

    graph = Quantised()
    conv = graph.conv(graph.restored(graph.relu), "conv", kernel, bias if has_bias else None, **attributes)
    found = met(graph, x, graph.restored(graph.op("Relu", [conv], "relu"), step))
    assert found["QLinearConv"] == 1 and "Conv" not in found

    # the same by integers alone
    integers = np.clip(np.rint(np.maximum(x, 0) / X_STEP), 0, 127)
    padding = attributes.get("pads", [0] * 4)
    padded = torch.nn.functional.pad(
        torch.tensor(integers, dtype=torch.float64), (padding[1], padding[3], padding[0], padding[2])
    )
    moves = {
        "stride": attributes.get("strides", 1),
        "dilation": attributes.get("dilations", 1),
        "groups": attributes.get("group", 1),
    }
    sums = torch.nn.functional.conv2d(
        padded, torch.tensor(kernel, dtype=torch.float64), torch.tensor(bias / unit, dtype=torch.float64), **moves
    ).numpy()
    right = np.clip(np.rint(sums * unit / step), 0, 127) * step
    (answer,) = answers(integer_graph(graph.model("relu.dq")), x)
    np.testing.assert_array_equal(answer, right.astype(np.float32))


def test_a_chain_with_pools() -> None:
    """conv, relu, conv, relu, pool, conv: each but the last, which nobody quantises, is an integer one."""
    graph = Quantised()
    x = graph.restored(graph.relu)
    for number, pool in enumerate((False, True, True, False)):
        relu = graph.op(
            "Relu", [graph.conv(x, f"conv{number}", weights(8, 8, 3, 3, seed=number), pads=[1] * 4)], f"r{number}"
        )
        if pool:
            sizes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1}
            relu = graph.op("MaxPool", [relu], f"pool{number}", **sizes)
        x = graph.restored(relu, X_STEP * 2.0 ** (2 * number + 2))
    last = graph.conv(x, "last", weights(5, 8, 1, 1), np.arange(5))
    found = met(graph, activations(2, 8, 17, 18), last)
    assert found["QLinearConv"] == 4 and found["Conv"] == 1 and found["Relu"] == 1 and found["QuantizeLinear"] == 1


def test_an_inception_module() -> None:
    """One pair of Q and DQ at the concat, read by every branch of the next module, its pool included."""
    graph = Quantised()
    steps = [X_STEP, X_STEP * 2**5, X_STEP * 2**10]
    x = graph.restored(graph.relu, steps[0])
    for module, step in enumerate(steps[1:]):
        names = []
        pool = graph.op("MaxPool", [x], f"{module}.largest", kernel_shape=[3, 3], pads=[1] * 4)
        sources = {"1x1": x, "3x3": x, "pool": graph.restored(pool, steps[module])}
        for place, (branch, source) in enumerate(sources.items()):
            size = 3 if branch == "3x3" else 1
            kernel = weights(4, 12 if module else 8, size, size, seed=place + 3 * module)
            conv = graph.conv(source, f"{module}.{branch}", kernel, pads=[size // 2] * 4)
            names.append(graph.op("Relu", [conv], f"{module}.{branch}.relu"))
        x = graph.restored(graph.op("Concat", names, f"{module}.concat", axis=1), step)
    found = met(graph, activations(1, 8, 9, 9), x)
    assert found["QLinearConv"] == 6 and "Conv" not in found
    assert found["Relu"] == found["QuantizeLinear"] == 1  # those of the input


def test_a_residual_block_keeps_its_sum_in_fp32() -> None:
    graph = Quantised()
    x = graph.restored(graph.relu)
    inner = graph.restored(graph.op("Relu", [graph.conv(x, "a", weights(8, 8, 3, 3), pads=[1] * 4)], "ra"), 8.0)
    total = graph.op("Add", [graph.conv(inner, "b", weights(8, 8, 3, 3, seed=1), pads=[1] * 4), graph.relu], "sum")
    end = graph.op("Relu", [total], "end")
    found = met(graph, activations(1, 8, 6, 6), graph.restored(end, 4096.0), end)
    assert found["QLinearConv"] == 1 and found["Conv"] == 1


@pytest.mark.parametrize("bias", [None, np.arange(8) - 3.0])
def test_activations_that_may_be_negative_stay_signed(bias: Any) -> None:
    """Where ONNX Runtime would take zero point 128 for them, and 16 bits would saturate."""
    graph = Quantised()
    kernel = np.full((8, 8, 3, 3), 127, np.int8)
    kernel[4:] = -127
    conv = graph.conv(graph.restored("x"), "conv", kernel, bias, pads=[1] * 4)
    x = np.random.default_rng(1).choice([-1000, 1000, 3], (1, 8, 6, 6), p=[0.2, 0.6, 0.2]).astype(np.float32)
    found = met(graph, x, graph.restored(conv, 2.0**13 * X_STEP * W_STEP * 2))
    assert found["Conv"] == 1 and "QLinearConv" not in found


def test_a_product_of_signed_activations_is_not_taken_into_integers() -> None:
    """ONNX Runtime has a MatMul of integers that saturates."""
    graph = Quantised()
    x = graph.restored("x")
    kernel = np.full((16, 8), 127, np.int8)
    steps, zeros = (
        graph.constant("steps", np.full(8, W_STEP, np.float32)),
        graph.constant("zeros", np.zeros(8, np.int8)),
    )
    matrix = graph.op("DequantizeLinear", [graph.constant("m", kernel), steps, zeros], "matrix", axis=1)
    values = np.random.default_rng(1).choice([-1000, 1000, 3], (1, 2, 6, 16), p=[0.1, 0.7, 0.2]).astype(np.float32)
    assert met(graph, values, graph.op("MatMul", [x, matrix], "product"))["MatMul"] == 1


@pytest.mark.parametrize(
    ("what", "integer"),
    [("read twice", 0), ("output", 0), ("clip", 1), ("clip at 40 steps", 1), ("clip from 1", 0), ("per tensor", 1)],
)
def test_what_reads_a_convolution(what: str, integer: int) -> None:
    graph = Quantised()
    kernel = weights(8, 8, 3, 3)
    conv = graph.conv(graph.restored(graph.relu), "conv", kernel, steps=W_STEP if what == "per tensor" else None)
    if what.startswith("clip"):
        low, high = ("1" in what) * 1.0, 40 * 64.0 if "40" in what else 1e6
        bounds = [graph.constant(f"bound.{one}", np.array(one, np.float32)) for one in (low, high)]
        relu = graph.op("Clip", [conv, *bounds], "relu")
    else:
        relu = graph.op("Relu", [conv], "relu")
    outputs = [graph.restored(relu, 64.0)]
    if what == "read twice":
        outputs.append(graph.op("Neg", [relu], "neg"))
    if what == "output":
        outputs.append(conv)
    assert met(graph, activations(1, 8, 7, 7), *outputs)["QLinearConv"] == integer


def test_never_negative_for_certain() -> None:
    """What moves, adds up or multiplies what is never negative is not negative either; a difference may be."""
    for kind, integer in {"Add": 1, "Mul": 1, "Sub": 0, "LRN": 1, "HardSigmoid": 1, "Transpose": 1, "Neg": 0}.items():
        graph = Quantised()
        inputs = [graph.relu, graph.relu] if kind in ("Add", "Mul", "Sub") else [graph.relu]
        attributes = {"LRN": {"size": 3}, "Transpose": {"perm": [0, 1, 3, 2]}}.get(kind, {})
        x = graph.restored(graph.op(kind, inputs, "between", **attributes), 2.0**-6)
        conv = graph.conv(x, "conv", weights(4, 8, 1, 1), np.arange(4))
        model = graph.model(graph.restored(graph.op("Relu", [conv], "relu")))
        assert kinds(integer_graph(model))["QLinearConv"] == integer, kind


@pytest.mark.parametrize("case", ["beyond 32 bits", "coarse", "auto_pad", "elsewhere"])
def test_what_is_not_certain_stays_in_fp32(case: str) -> None:
    """A bias that no int32 holds or that would be rounded much, padding by name, weights in another file."""
    graph = Quantised()
    bias = np.full(4, 3.0)
    step = 64.0
    if case == "beyond 32 bits":
        bias = bias * 2**30 * X_STEP * W_STEP
        step = 2.0**22
    if case == "coarse":
        step = X_STEP * W_STEP * BIAS_STEPS / 2
    named = {"auto_pad": "SAME_UPPER"} if case == "auto_pad" else {}
    conv = graph.conv(graph.restored(graph.relu), "conv", weights(4, 8, 3, 3), bias, **named)
    model = graph.model(graph.restored(graph.op("Relu", [conv], "relu"), step))
    if case == "elsewhere":
        kernel = next(one for one in model.graph.initializer if one.name == "conv.int8")
        kernel.data_location = TensorProto.EXTERNAL
        kernel.ClearField("raw_data")
        assert kinds(integer_graph(model))["Conv"] == 1
        return
    assert met(graph, activations(1, 8, 7, 7), "relu.dq") == kinds(integer_graph(model))
    assert kinds(integer_graph(model))["Conv"] == 1


def test_a_relu_in_half_is_rounded_once(exported: Any, photos: Any, tmp_path: Path) -> None:
    """Behind its convolution, to the same bits."""
    checked = check_graph(onnx.load(exported(precision="fp16")))
    integers = integer_graph(checked)
    relus = [node.output[0].removesuffix(".exact") for node in checked.graph.node if node.op_type == "Relu"]
    removed = {node.name for node in checked.graph.node} - {node.name for node in integers.graph.node}
    assert len(relus) > 5 and len(removed) == 2 * len(relus)
    assert all(name.endswith((".round", ".back")) for name in removed)

    found = []
    for place, model in enumerate((checked, integers)):
        onnx.save(model, tmp_path / f"{place}.onnx")
        engine = OnnxEngine(tmp_path / f"{place}.onnx")
        plan = plan_views(engine.spec, "ten-crop", photos["china"].shape[:2])
        found.append(engine.run(engine.load([photos["china"]]), [plan])["posterior"])
    np.testing.assert_array_equal(*found)


def test_nothing_else_changes() -> None:
    """Q and DQ that are not symmetric, and those of what others read as integers, stay as they are."""
    graph = Quantised()
    step, zero = graph.step(X_STEP), graph.constant("three", np.array(3, np.int8))
    quantized = graph.op("QuantizeLinear", [graph.relu, step, zero], "q")
    restored = graph.op("DequantizeLinear", [quantized, step, zero], "dq")
    symmetric = graph.op("QuantizeLinear", [graph.relu, step, graph.constant("zero", np.array(0, np.int8))], "q2")
    read = graph.op("Cast", [symmetric], "read", to=F32)
    again = graph.op("DequantizeLinear", [symmetric, step, "zero"], "dq2")
    found = met(graph, activations(1, 4, 5, 5), restored, read, again)
    assert found["QuantizeLinear"] == 2 and found["DequantizeLinear"] == 1 and "Clip" not in found


def test_the_qdq_graph_itself_is_computed_as_it_is_written() -> None:
    """Where its check graph is missing: ONNX Runtime would quantise the weights of `half` once more."""
    graph = Quantised()
    kernel = np.random.default_rng(3).normal(0, 1, (8, 8, 3, 3)).astype(np.float32)
    half = graph.op("Conv", [graph.restored("x"), graph.constant("half.weights", kernel)], "half", pads=[1] * 4)
    whole = np.full((8, 8, 3, 3), 127, np.int8)
    conv = graph.conv(graph.restored(half, 0.5), "conv", whole, pads=[1] * 4)
    model = graph.model(graph.restored(conv, 64.0), "half.dq")

    x = np.random.default_rng(1).choice([-1000, 1000, 3], (1, 8, 6, 6), p=[0.2, 0.6, 0.2]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*AS_WRITTEN)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for found, right in zip(session.run(None, {"x": x}), answers(model, x, as_written=True), strict=True):
        np.testing.assert_array_equal(found, right)


def test_the_file(
    exported: Any, photos: Any, tmp_path: Path, one_line: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An INT8 model of ours has a check graph of both kinds; one that others quantised is run as it is."""
    model = onnx.load(exported(precision="fp16"))
    said = model_file.metadata(model)
    spec = json.dumps(json.loads(said["spec"]) | {"precision": "int8"})
    helper.set_model_props(model, {**said, "spec": spec, INT8: "{}"})
    path, check, photo = tmp_path / "m.onnx", tmp_path / "m.check.onnx", tmp_path / "photo.png"
    onnx.save(model, path)
    assert write_check(path) == check and CHECK_OF in metadata(check) and metadata(check)[INT8] == "{}"
    assert any(node.name.endswith(".round") for node in onnx.load(check).graph.node)
    for file in (path, check):
        engine = OnnxEngine(file)
        assert (engine.runtime, engine.arithmetic) == ("onnxruntime-int8", "int8 + fp16, rounded by m.check.onnx")
        assert not is_stand_in(engine.arithmetic)

    check.unlink()
    engine = OnnxEngine(path)
    assert (engine.runtime, engine.arithmetic) == ("onnxruntime-int8", "int8 + fp32")
    assert is_stand_in(engine.arithmetic)
    Image.fromarray(photos["china"]).save(photo)
    assert infer([str(photo), "--engine", str(path)]) == 0
    assert "slim-a: int8 + fp32: ONNX Runtime does not round on a CPU" in capsys.readouterr().err

    helper.set_model_props(model, {**said, "spec": spec})
    onnx.save(model, path)
    assert to_check([str(path)]) == 1
    assert "m.onnx: int8, expected an FP16 model of ours, or an INT8 one that export.to_onnx quantised" in one_line()
    assert not check.exists() and OnnxEngine(path).arithmetic == "int8"


def test_the_self_test_says_whose_answers_it_compares(exported: Any, tmp_path: Path) -> None:
    model = onnx.load(exported())
    said = model_file.metadata(model)
    spec = json.dumps(json.loads(said["spec"]) | {"precision": "int8"})
    right = json.loads(said["self_test"])
    right["log_posterior"][0] = right["log_posterior"][0][::-1]
    helper.set_model_props(model, {**said, "spec": spec, "self_test": json.dumps(right)})
    onnx.save(model, tmp_path / "m.onnx")
    engine = OnnxEngine(tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"differs by .* from what this INT8 net answered when it was exported, exp"):
        self_test.check(engine, engine.self_test)
