"""export/foreign/fixed.py: graphs whose answer for an image depends on chance, or on the other images of its batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_nets import foreign_net, weights
from helpers import noise
from onnx import TensorProto, helper, numpy_helper

from export.errors import ModelError
from export.foreign.surgery import ForeignError
from export.from_onnx import ImportRequest, import_model
from export.model.source import GraphRequest, check_request, read_source
from infer.open import open_engine
from infer.spec import Preprocessing
from infer.views import plan_views

WEIGHTS = weights()
REQUEST = ImportRequest(Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear"), crop_px=64)
EVAL = r"call model\.eval\(\) before the export"


def posterior(model: onnx.ModelProto, folder: Path) -> Any:
    onnx.save(model, folder / "foreign.onnx")
    import_model(folder / "foreign.onnx", folder / "ours.onnx", REQUEST)
    engine = open_engine(folder / "ours.onnx", self_test=True)
    image = noise((80, 100))
    return engine.run(engine.load([image]), [plan_views(engine.spec, "ten-crop", (80, 100))])["posterior"]


def before(model: onnx.ModelProto, operator: str, *nodes: onnx.NodeProto) -> None:
    """Puts nodes, which make "changed" of "x", before the first input of the first `operator`."""
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == operator)
    x = model.graph.node[place].input[0]
    model.graph.node[place].input[0] = "changed"
    for node in nodes[::-1]:
        node.input[:] = [x if name == "x" else name for name in node.input]
        model.graph.node.insert(place, node)


def constants(model: onnx.ModelProto, **values: Any) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in values.items())


def bn_in_training_mode(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"{node.output[0]}.mean", f"{node.output[0]}.var"])


def dropout(model: onnx.ModelProto, *, training: bool = True, ratio: float = 0.5) -> None:
    constants(model, ratio=np.float32(ratio), training=training)
    before(model, "Gemm", helper.make_node("Dropout", ["x", "ratio", "training"], ["changed"], "drop"))


def computed_dropout(model: onnx.ModelProto) -> None:
    """Its switch is not written down, but computed."""
    constants(model, ratio=np.float32(0.5), on=True)
    before(
        model,
        "Gemm",
        helper.make_node("Not", ["on"], ["off"]),
        helper.make_node("Not", ["off"], ["training"]),
        helper.make_node("Dropout", ["x", "ratio", "training"], ["changed"], "drop"),
    )


def dropout_by_a_node(model: onnx.ModelProto) -> None:
    constants(model, ratio=np.float32(0.5))
    on = numpy_helper.from_array(np.array(True))
    before(
        model,
        "Gemm",
        helper.make_node("Constant", [], ["training"], value=on),
        helper.make_node("Dropout", ["x", "ratio", "training"], ["changed"]),
    )


def noise_in_the_graph(model: onnx.ModelProto) -> None:
    before(
        model,
        "Gemm",
        helper.make_node("RandomNormalLike", ["x"], ["random"], "draw"),
        helper.make_node("Add", ["x", "random"], ["changed"]),
    )


def decomposed(model: onnx.ModelProto) -> None:
    """A batch norm in training mode as newer exporters write it: mean and variance of the batch and its positions."""
    before(
        model,
        "GlobalAveragePool",
        helper.make_node("ReduceMean", ["x"], ["mean"], "batch_mean", axes=[0, 2, 3], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["changed"]),
    )


@pytest.mark.parametrize(
    ("change", "size", "message"),
    [
        (bn_in_training_mode, {}, "BatchNormalization bn1.node is in training mode: .*"),
        (bn_in_training_mode, {"batch": 1, "side": 64}, "BatchNormalization bn1.node is in training mode: .*"),
        (dropout, {}, "Dropout drop is on: .*"),
        (dropout_by_a_node, {}, "Dropout changed is on: .*"),
        (computed_dropout, {}, "Dropout drop is on: .*"),
        (noise_in_the_graph, {}, "RandomNormalLike draw draws random numbers: .*"),
        (decomposed, {}, r"depends on the other images of its batch \(ReduceMean batch_mean\): "),
        (decomposed, {"batch": 1}, r"depends on the other images of its batch \(ReduceMean batch_mean\): "),
    ],
)
def test_graphs_of_training(change: Callable[[onnx.ModelProto], None], size: Any, message: str, tmp_path: Path) -> None:
    model = foreign_net(WEIGHTS, **size)
    change(model)
    with pytest.raises(ForeignError, match=message + EVAL):
        posterior(model, tmp_path)
    assert not (tmp_path / "ours.onnx").exists()


def test_any_other_mixing_of_a_batch(tmp_path: Path) -> None:
    """By a softmax over the batch, say; a graph that knows one image a call has no other images to mix it with."""
    model = foreign_net(WEIGHTS)
    before(model, "Gemm", helper.make_node("Softmax", ["x"], ["changed"], axis=0))
    with pytest.raises(ForeignError, match=r"depends on the other images of its batch: " + EVAL):
        posterior(model, tmp_path)


@pytest.mark.parametrize("options", [{"training": False}, {"ratio": 0.0}])
def test_dropout_that_is_off(options: Any, tmp_path: Path) -> None:
    model = foreign_net(WEIGHTS)
    expected = posterior(model, tmp_path)
    dropout(model, **options)
    assert np.abs(posterior(model, tmp_path) - expected).max() < 1e-6


def test_old_opsets_are_upgraded(tmp_path: Path) -> None:
    """Opset 6, where a batch norm and a dropout say is_test, and an addition says how it broadcasts."""
    expected = posterior(foreign_net(WEIGHTS), tmp_path)
    model = foreign_net(WEIGHTS, opset=6)
    model.ir_version = 3
    for initializer in model.graph.initializer:  # in this version weights are inputs
        value = helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
        model.graph.input.append(value)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("is_test", 1))
    before(model, "Gemm", helper.make_node("Dropout", ["x"], ["changed"], is_test=1))
    assert np.abs(posterior(model, tmp_path) - expected).max() < 1e-6

    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "is_test":
                attribute.i = 0
                with pytest.raises(ForeignError, match=f"{node.op_type} .*{EVAL}"):
                    posterior(model, tmp_path)
                attribute.i = 1


def test_an_old_opset_that_cannot_be_upgraded(tmp_path: Path) -> None:
    model = foreign_net(WEIGHTS, opset=5)
    before(model, "Gemm", helper.make_node("Foo", ["x"], ["changed"]))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("is_test", 1))
    with pytest.raises(ForeignError, match=r"opset 5, ONNX Runtime runs 7 and later, and onnx.version_conv"):
        posterior(model, tmp_path)


def quantised(model: onnx.ModelProto) -> None:
    constants(model, step=np.float32(0.01), zero=np.int8(0))
    before(
        model,
        "Gemm",
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["changed"]),
    )


def test_a_quantised_graph_is_called_int8(tmp_path: Path) -> None:
    model = foreign_net(WEIGHTS, kind=TensorProto.FLOAT)
    quantised(model)
    posterior(model, tmp_path)
    engine = open_engine(tmp_path / "ours.onnx")
    assert (engine.spec.precision, engine.runtime) == ("int8", "onnxruntime-int8")
    for precision in ("fp16", "fp32", "int8"):
        with pytest.raises(ModelError, match="an INT8 graph of another's making, of which no engine is built: run it"):
            check_request(read_source(tmp_path / "ours.onnx"), GraphRequest(precision))


def test_a_dynamic_batch_that_is_none(tmp_path: Path) -> None:
    """A reshape to one row: several images would become one, so they come one by one."""
    model = foreign_net(WEIGHTS)
    expected = posterior(model, tmp_path)
    constants(model, row=np.array([1, -1]), one=np.array([-1]))
    model.graph.node.append(helper.make_node("Reshape", ["fc", "one"], ["scores.flat"]))
    model.graph.node.append(helper.make_node("Reshape", ["scores.flat", "row"], ["scores"]))
    model.graph.output[0].name = "scores"
    assert np.abs(posterior(model, tmp_path) - expected).max() < 1e-6
    assert open_engine(tmp_path / "ours.onnx").spec.max_views == 1
