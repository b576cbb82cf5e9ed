"""The quantised graph: which layers, which numbers, and that putting layers back undoes it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from helpers import random_net, slim_spec
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graph.view_graph import write_graph
from export.int8 import graph
from export.int8.graph import QuantisingError
from export.model.file import copied, metadata, opened
from export.model.precision import half_tensors
from infer.model_file import INT8
from infer.spec import ModelSpec
from infer.views import View, ViewPlan


def single(net: str) -> onnx.ModelProto:
    spec = slim_spec(net)
    model = write_graph(random_net(spec), spec)
    helper.set_model_props(model, {"spec": spec.to_json()})
    graph.prepare(model)
    return model


def quantised(net: str, most: float = 3.0) -> tuple[onnx.ModelProto, onnx.ModelProto, list[str]]:
    model = single(net)
    layers = graph.layers_to_quantise(model)
    largest = dict.fromkeys(graph.activations_of(model, layers).values(), most)
    return graph.quantised(model, layers, largest), model, layers


def posterior(model: onnx.ModelProto, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    with opened(model) as engine:
        crop = engine.spec.crop_px
        plan = ViewPlan("test", (crop, crop), (View(crop, (0, 0, crop, crop)),))
        found: NDArray[np.float32] = engine.run(engine.load([photo[:crop, :crop]]), [plan])["posterior"]
        return found


@pytest.mark.parametrize(("net", "first", "last"), [("A-LRN", "conv1_1", "fc8"), ("googlenet", "conv1", "classifier")])
def test_all_layers_but_the_first_and_the_last(net: str, first: str, last: str) -> None:
    model = single(net)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert (convolutions[0].partition(".")[0], convolutions[-1]) == (first, last)
    assert graph.layers_to_quantise(model) == convolutions[1:-1]


def test_the_numbers_are_those_of_symmetric_int8() -> None:
    found, model, layers = quantised("A", most=2.54)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in found.graph.node}
    for layer in layers:
        (node,) = (node for node in found.graph.node if node.name == layer)
        exact = weights[f"{layer}.weight"]
        back = makers[node.input[1]]
        integers, scales = (values[name] for name in back.input[:2])
        assert integers.dtype == np.int8 and (back.op_type, back.attribute[0].i) == ("DequantizeLinear", 0)
        np.testing.assert_allclose(scales, np.abs(exact).max((1, 2, 3)) / 127, rtol=1e-6)
        np.testing.assert_array_equal(integers, np.rint(exact / scales[:, None, None, None]).clip(-127, 127))
        assert np.array_equal(values[node.input[2]], weights[f"{layer}.bias"])  # in FP32

        to_integer = makers[makers[node.input[0]].input[0]]
        assert to_integer.op_type == "QuantizeLinear" and values[to_integer.input[1]] == np.float32(0.02)
        assert values[to_integer.input[2]] == 0 and values[to_integer.input[2]].dtype == np.int8
    assert values["conv1_1.weight"].dtype == values["fc8.weight"].dtype == np.float32


def test_other_ends_of_the_scales() -> None:
    found, _, _ = quantised("A")
    changed = graph.with_largest(found, dict.fromkeys(graph.quantised_tensors(found.graph), 1.27))
    scales = {node.input[1] for node in changed.graph.node if node.op_type == "QuantizeLinear"}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    assert scales and all(values[name] == np.float32(0.01) for name in scales)
    assert graph.scale_of(0) == 1  # of a tensor that is always 0


def test_pools_of_googlenet_read_what_is_quantised_for_others() -> None:
    found, model, layers = quantised("googlenet")
    back = graph.quantised_tensors(found.graph)
    pools = [node for node in found.graph.node if node.op_type == "MaxPool" and node.input[0] in back.values()]
    assert len(pools) == 9  # the pools within the inceptions
    tensors = set(graph.activations_of(model, layers).values())
    roots = graph.tied(model, tensors)
    assert {roots[node.output[0]] for node in pools} <= tensors - {node.output[0] for node in pools}


@pytest.mark.parametrize("net", ["A", "googlenet"])
def test_layers_that_are_put_back_compute_as_before(net: str, photos: dict[str, NDArray[np.uint8]]) -> None:
    found, model, layers = quantised(net)
    cat = np.ascontiguousarray(photos["cat"])
    expected = posterior(model, cat)
    assert np.abs(posterior(found, cat) - expected).max() > 1e-4
    whole = graph.put_back(found, model, layers)
    assert not [node for node in whole.graph.node if "Quantize" in node.op_type]
    np.testing.assert_allclose(posterior(whole, cat), expected, rtol=1e-5)

    some = graph.put_back(found, model, layers[::2])
    left = {node.name for node in some.graph.node if node.input and node.input[0] in back_of(some)}
    assert left & set(layers) == set(layers[1::2])
    (weight,) = (one for one in some.graph.initializer if one.name == f"{layers[0]}.weight")
    assert weight.data_type == onnx.TensorProto.FLOAT


def back_of(model: onnx.ModelProto) -> set[str]:
    return {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}


def test_the_rest_is_half() -> None:
    found, _, layers = quantised("A-LRN")
    built = graph.rest_in_half(found, {"method": "the largest value"})
    said = metadata(built)
    assert ModelSpec.from_json(said["spec"]).precision == "int8" and said[INT8] == '{"method": "the largest value"}'
    assert "self_test" not in said  # that of FP32
    half = set(half_tensors(built))
    assert {"conv1_1.half", "fc8.half"} <= half
    assert not half & {f"{layer}.half" for layer in layers}


def test_what_cannot_be_quantised() -> None:
    model = single("A")
    half = copied(model)
    spec = dataclasses.replace(slim_spec("A"), precision="fp16")
    helper.set_model_props(half, {"spec": spec.to_json()})
    with pytest.raises(QuantisingError, match="slim-a: an FP16 model, expected FP32: INT8 is made of that"):
        graph.prepare(half)

    old = copied(model)
    old.opset_import[0].version = 12
    with pytest.raises(QuantisingError, match="opset 12, INT8 needs 13 or later"):
        graph.prepare(old)

    for node in model.graph.node:
        if node.op_type == "Conv" and node.name not in ("conv1_1", "fc8"):
            node.op_type = "Sum"
    with pytest.raises(QuantisingError, match="2 layers with weights, none between the first and the last"):
        graph.layers_to_quantise(model)
