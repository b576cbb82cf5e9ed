"""Layers of an FP16 graph in FP32: what becomes of a net that overflows, of casts, weights and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_nets import foreign_net, weights
from helpers import random_net, slim_spec
from loud import graphs
from onnx import TensorProto, helper, numpy_helper

from export.from_onnx import ImportRequest, import_model
from export.model.mixed import MixedError, exact_weights, half_layers, keep_single, kept_layers
from export.model.precision import check_graph, half_model, tensor_types, write_out_norms
from export.to_trt import main
from infer.spec import Preprocessing
from trainer.checkpoint import Checkpoint, save

LAYERS = ("conv3_1", "relu3_1", "conv3_2")


def loud_net(gain: float) -> Any:
    """Slim VGG-A whose conv3_1 is `gain` times as loud, and whose conv3_2 takes that back."""
    net = random_net(slim_spec("A"))
    layers: Any = dict(net.named_modules())
    for parameter in layers["conv3_1"].parameters():
        parameter.data *= gain
    layers["conv3_2"].weight.data /= gain
    return net


def posteriors(model: onnx.ModelProto) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(["posterior"], {"images": images})[0]


def test_a_net_that_overflows_is_mended() -> None:
    single, half = graphs(loud_net(2.0**14), slim_spec("A", interface="images"))
    before = half.SerializeToString()
    mixed = keep_single(half, LAYERS, exact_weights(single))
    onnx.checker.check_model(mixed, full_check=True)
    truth = posteriors(single)
    assert not np.isfinite(posteriors(check_graph(half))).any()
    assert 1e-6 < np.abs(posteriors(check_graph(mixed)) - truth).max() < 0.002
    assert half.SerializeToString() == before and kept_layers(mixed) == LAYERS
    types = tensor_types(mixed)
    around = {node.name: (node.input[0], node.output[0]) for node in mixed.graph.node}
    assert around["relu3_1"] == ("conv3_1.kept", "relu3_1.kept")  # no cast between two kept layers
    assert [types[name] for name in around["conv3_2"]] == [TensorProto.FLOAT] * 2
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in single.graph.initializer}
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in mixed.graph.initializer}
    assert np.array_equal(kept["conv3_2.weight.kept"], exact["conv3_2.weight"])
    assert "conv3_2.weight" not in kept


@pytest.mark.parametrize("net", ["A-LRN", "googlenet"])
def test_all_layers_kept_is_the_fp32_net(net: str) -> None:
    """Normalisations, branches and concatenations: to the bit."""
    spec = slim_spec(net, interface="images", crop_px=64, train_short_px=96)
    single, half = graphs(random_net(spec), spec)
    write_out_norms(single)  # as they are in half graphs
    names = [one.name for one in half_layers(half) if not one.name.endswith(".lrn") and one.operator != "Div"]
    mixed = keep_single(half, names, exact_weights(single))
    onnx.checker.check_model(mixed, full_check=True)
    assert np.array_equal(posteriors(check_graph(mixed)), posteriors(single))


def test_more_layers_of_a_model_that_has_some() -> None:
    """In two steps as in one, of branches that read one tensor; without the exact weights too."""
    spec = slim_spec("googlenet", interface="images", crop_px=64, train_short_px=96)
    single, half = graphs(random_net(spec), spec)
    first, second = ["inception.3a.conv1x1"], ["inception.3a.conv3x3_reduce", "pool2"]
    for exact in (exact_weights(single), {}):
        mixed = keep_single(keep_single(half, first, exact), second, exact)
        onnx.checker.check_model(mixed, full_check=True)
        assert kept_layers(mixed) == (*first, *second)
        assert np.array_equal(
            posteriors(check_graph(mixed)), posteriors(check_graph(keep_single(half, [*first, *second], exact)))
        )


def test_a_weight_that_several_layers_share_and_names_that_are_taken() -> None:
    shared = numpy_helper.from_array(np.full((2, 2), 1 / 3, np.float16), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["w.kept"], "w.rounded", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["w.kept", "w"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "two"),
        helper.make_node("Cast", ["b"], ["y"], "last", to=TensorProto.FLOAT),
    ]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [next(ends)], [next(ends)], [shared])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    exact = {"w": np.full((2, 2), 1 / 3, np.float32)}
    for order in (["one", "two"], ["two", "one"]):
        mixed = model
        for name in order:
            mixed = keep_single(mixed, [name], exact)
            onnx.checker.check_model(mixed, full_check=True)
        session = onnxruntime.InferenceSession(check_graph(mixed).SerializeToString())
        found = session.run(None, {"x": np.eye(2, dtype=np.float32)})[0]
        assert np.array_equal(found, exact["w"] @ exact["w"])


def test_a_foreign_net(tmp_path: Path) -> None:
    onnx.save(foreign_net(weights()), tmp_path / "foreign.onnx")
    preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
    import_model(
        tmp_path / "foreign.onnx", tmp_path / "ours.onnx", ImportRequest(preprocessing, crop_px=64, interface="nchw")
    )
    single = onnx.load(tmp_path / "ours.onnx")
    half = half_model(single)
    mixed = keep_single(half, ["net/conv1.node", "net/fc.node"], exact_weights(single))
    onnx.checker.check_model(mixed, full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    truth, before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(["posterior"], {"input": x})[0]
        for model in (single, check_graph(half), check_graph(mixed))
    )
    assert 0 < np.abs(after - truth).max() < np.abs(before - truth).max()


def test_names_that_cannot_be_kept() -> None:
    single, half = graphs(loud_net(1.0), slim_spec("A", interface="images"))
    with pytest.raises(MixedError, match=r"--keep-single conv3: no such layer in half precision, expected .*conv3_1"):
        keep_single(half, ["conv3"], exact_weights(single))
    with pytest.raises(MixedError, match="--keep-single spatial_mean: does not compute in half precision, so leave"):
        keep_single(half, ["spatial_mean"], {})


def build(*arguments: object) -> int:
    return main([*map(str, arguments), "--builder", "tensorrt-rtx", "--target", "sm86"])


def test_the_real_builder_keeps_them(tmp_path: Path, miniature_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkpoint through the gate, and again from the model that was built."""
    pytest.importorskip("tensorrt_rtx")
    model, engine = tmp_path / "loud.pt", tmp_path / "loud.engine"
    save(Checkpoint(slim_spec("A"), loud_net(2.0**14).state_dict()), model)
    keep = ["--keep-single", ",".join(LAYERS)]
    assert build(model, *keep, "--verify", miniature_dir, "--limit", 8) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'loud.onnx'}: conv3_1, relu3_1, conv3_2 in FP32" in said
    assert "11 convolutions fp16 but 2 in fp32 (44 kernels" in said
    sidecar = json.loads(Path(f"{engine}.json").read_text())
    assert sidecar["keep_single"] == list(LAYERS) and sidecar["spec"]["precision"] == "fp16"
    assert sidecar["verify"]["largest_posterior_difference"] < 0.02
    assert build(tmp_path / "loud.onnx", "-o", tmp_path / "again.engine") == 0  # as the sidecar's own command does
    assert json.loads((tmp_path / "again.engine.json").read_text())["keep_single"] == list(LAYERS)
    assert not (tmp_path / "again.mixed.onnx").exists()


def test_what_is_asked_wrongly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    save(Checkpoint(slim_spec("A"), loud_net(1.0).state_dict()), tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="2"):
        build(tmp_path / "a.pt", "--precision", "fp32", "--keep-single", "conv1_1")
    assert "--keep-single is of half precision" in capsys.readouterr().err
    for names in ("", ",", "conv1_1,,conv2_1", " "):
        with pytest.raises(SystemExit, match="2"):
            build(tmp_path / "a.pt", "--keep-single", names)
        assert "expected names of layers like conv3_1,relu3_1, got" in capsys.readouterr().err
    assert build(tmp_path / "a.pt", "--keep-single", "conv9") == 1
    assert "--keep-single conv9: no such layer" in capsys.readouterr().err
    assert not (tmp_path / "a.engine").exists()
