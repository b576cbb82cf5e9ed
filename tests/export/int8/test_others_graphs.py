"""Graphs as other tools write them: shared weights and activations, scaled biases, names that quantising takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import slim_spec
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.writer import GraphWriter
from export.int8 import graph

CHANNELS = 8


class Net(GraphWriter):
    """A net of `x` f32 [1, 8, 12, 12] with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)

    def weights(self, name: str, *shape: int) -> str:
        values = self.random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        return self.constant(name, values.astype(np.float32))

    def conv(self, x: str, name: str, weights: str = "", bias: str = "") -> str:
        weights = weights or self.weights(f"{name}.weight", CHANNELS, CHANNELS, 3, 3)
        return self.op("Conv", [x, weights, bias or self.weights(f"{name}.bias", CHANNELS)], name, pads=[1] * 4)

    def relu(self, x: str, name: str) -> str:
        return self.op("Relu", [x], name)

    def start(self) -> str:
        return self.relu(self.conv("x", "first"), "relu1")

    def flat(self, x: str) -> str:
        return self.op("Flatten", [self.op("GlobalAveragePool", [x], "pool")], "flat")

    def end(self, x: str) -> str:
        return self.op("Gemm", [self.flat(x), self.weights("last.weight", 10, CHANNELS)], "scores", transB=1)


def residual(net: Net) -> None:
    x = net.start()
    y = net.op("Add", [net.conv(x, "inner"), x], "sum")
    net.end(net.conv(net.relu(y, "relu2"), "inner2"))


def scaled_bias(net: Net) -> None:
    x = net.flat(net.relu(net.conv(net.start(), "inner"), "relu2"))
    for name in ("fc1", "fc2"):
        inputs = [x, net.weights(f"{name}.weight", CHANNELS, CHANNELS), net.weights(f"{name}.bias", CHANNELS)]
        x = net.relu(net.op("Gemm", inputs, name, alpha=0.5, beta=7.0), f"{name}.relu")
    net.op("MatMul", [x, net.weights("last.weight", CHANNELS, 10)], "scores")


def weights_of_the_first(net: Net) -> None:
    x = net.start()
    net.end(net.relu(net.conv(x, "inner", "first.weight", "first.bias"), "relu2"))


def a_large_bias(net: Net) -> None:
    """So large that its integers would not fit into 32 bits: it is in FP32, and no weight depends on it."""
    large = net.constant("large", np.full(CHANNELS, 1e6, np.float32))
    x = net.op("Sub", [net.conv(net.start(), "inner", bias="large"), net.op("Reshape", [large, "planes"], "l")], "sub")
    net.constant("planes", np.array([1, CHANNELS, 1, 1], np.int64))
    net.end(net.relu(net.conv(net.relu(x, "relu2"), "inner2"), "relu3"))


def taken_names(net: Net) -> None:
    scale = net.constant("relu1_scale", np.full((CHANNELS, 1, 1), 0.5, np.float32))
    x = net.op("Mul", [net.conv(net.start(), "inner"), scale], "relu1_QuantizeLinear_Output")
    net.end(net.conv(net.relu(x, "relu1_DequantizeLinear"), "inner2"))


def nameless_nodes(net: Net) -> None:
    """One is called as the output of another, which has no name."""
    net.conv(net.start(), "a")
    net.nodes[-1].name = "b"
    net.conv(net.relu("a", "relu2"), "b")
    net.nodes[-1].name = ""
    net.end(net.conv(net.relu("b", "relu3"), "inner2"))


def prepared(make: Callable[[Net], None], *outputs: str) -> onnx.ModelProto:
    net = Net()
    make(net)
    described = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 12, 12])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("scores", *outputs)],
        list(net.initializers.values()),
    )
    model = helper.make_model(described, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"spec": slim_spec("A").to_json()})
    graph.prepare(model)
    return model


def answers(model: onnx.ModelProto, *names: str) -> list[NDArray[np.float32]]:
    """Node by node, in FP32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, 12, 12)).astype(np.float32)
    found: list[NDArray[np.float32]] = session.run(list(names or ["scores"]), {"x": x})
    return found


def quantised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    layers = graph.layers_to_quantise(model)
    names = sorted(set(graph.activations_of(model, layers).values()))
    observed = onnx.ModelProto.FromString(model.SerializeToString())
    outputs = {value.name for value in observed.graph.output}
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in outputs
    )
    largest = {name: float(np.abs(values).max()) for name, values in zip(names, answers(observed, *names), strict=True)}
    return graph.quantised(model, layers, largest), layers


NETS = [residual, scaled_bias, weights_of_the_first, a_large_bias, taken_names, nameless_nodes]


@pytest.mark.parametrize("make", NETS)
def test_the_net_stays_the_net(make: Callable[[Net], None]) -> None:
    """INT8's rounding alone is lost, and nothing where every layer is put back."""
    model = prepared(make)
    found, layers = quantised(model)
    (expected,), (scores,) = answers(model), answers(found)
    error = np.abs(scores - expected).max() / expected.std()
    assert 0 < error < 0.1
    np.testing.assert_array_equal(answers(graph.put_back(found, model, layers))[0], expected)
    assert {node.name for node in found.graph.node} >= {node.name for node in model.graph.node}


@pytest.mark.parametrize("make", NETS)
def test_what_is_not_quantised_reads_what_it_read(make: Callable[[Net], None]) -> None:
    """The numbers behind a residual's other way, the first layer's weights and whatever is an output are exact."""
    model = prepared(make, "relu1")
    found, layers = quantised(model)
    restored = {node.output[0] for node in found.graph.node if node.op_type == "DequantizeLinear"}
    reading = {node.name for node in found.graph.node if not restored.isdisjoint(node.input)}
    assert reading == set(layers) and "relu1" not in restored
    np.testing.assert_array_equal(answers(found, "relu1")[0], answers(model, "relu1")[0])
