"""The exported file itself: names, types, metadata; and the command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import encode

from export.to_onnx import main
from infer.spec import ModelSpec

Exported = Callable[..., Path]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def test_a_net_reads_as_its_table(exported: Exported) -> None:
    model = onnx.load(exported("D"))
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert names[:3] == ["conv1_1", "conv1_2", "conv2_1"]
    assert names[-3:] == ["fc6", "fc7", "fc8"]
    assert len(names) == 16
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["Relu"], operators["MaxPool"]) == (15, 5)
    initializers = {initializer.name for initializer in model.graph.initializer}
    assert {"conv5_3.weight", "fc6.bias", "mean_rgb"} <= initializers
    assert [value.name for value in model.graph.input] == [
        *("image", "col_first", "col_taps", "row_first", "row_taps", "rows", "cols")
    ]
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert any(node.name.startswith("rescale.") for node in model.graph.node)


def test_no_trace_of_the_machine_is_left(exported: Exported) -> None:
    raw = exported("A").read_bytes()
    assert b"/work" not in raw and b"site-packages" not in raw and b"stack_trace" not in raw


def test_spec_travels(exported: Exported) -> None:
    spec = ModelSpec.from_json(metadata(onnx.load(exported("A", precision="fp16")))["spec"])
    assert (spec.precision, spec.interface, spec.net) == ("fp16", "views", "A")
    assert {"posterior", "pixel_sums", "score_map"} <= set(spec.outputs)


@pytest.mark.parametrize(("net", "norms"), [("A-LRN", 1), ("googlenet", 2)])
def test_lrn_is_one_node_and_written_out_where_a_gpu_computes_in_half(net: str, norms: int, exported: Exported) -> None:
    single = onnx.load(exported(net))
    assert sum(node.op_type == "LRN" for node in single.graph.node) == norms

    model = onnx.shape_inference.infer_shapes(onnx.load(exported(net, precision="fp16")))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    found = [node for node in model.graph.node if ".lrn" in node.name]
    assert len({node.name.split(".lrn")[0] for node in found}) == norms
    assert "LRN" not in {node.op_type for node in model.graph.node}
    assert {types[node.output[0]] for node in found} == {onnx.TensorProto.FLOAT}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions} == {onnx.TensorProto.FLOAT16}


def test_softmax_and_spatial_mean_are_in_single_precision(exported: Exported) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(exported("A", precision="fp16")))
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "ReduceMean"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.name


def test_command_prints_only_its_own_line(
    slim_checkpoint: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "m.onnx"
    assert main([str(slim_checkpoint("A")), "-o", str(path), "--outputs", "posterior,features"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"{path}: views interface, fp32") and captured.out.count("\n") == 1
    properties = metadata(onnx.load(path))
    assert "features" in ModelSpec.from_json(properties["spec"]).outputs
    assert len(json.loads(properties["self_test"])["pixel_sums"]) == 16
    assert len(ModelSpec.from_json(properties["spec"]).source["checkpoint_sha256"]) == 64
    assert [p.name for p in path.parent.iterdir()] == ["m.onnx"]


def names_of(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


@pytest.mark.parametrize("of", ["checkpoint", "model", "model in half"])
def test_the_answers_alone(
    of: str, slim_checkpoint: Exported, exported: Exported, photos: Any, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    """A model for apps: nothing else is computed, the answers are the same bits, and no evaluation takes it."""
    from evaluation.ilsvrc import main as evaluate
    from infer.classify import Classifier
    from infer.open import open_engine

    path = tmp_path / "app.onnx"
    precision = "fp16" if of == "model in half" else "fp32"
    whole = exported("A", precision=precision)
    given = slim_checkpoint("A") if of == "checkpoint" else whole
    assert main([str(given), "-o", str(path), "--outputs", "posterior", "--precision", precision]) == 0
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert names_of(model.graph.output) == ["posterior"]
    assert ModelSpec.from_json(metadata(model)["spec"]).outputs == ("posterior",)
    assert not [node.name for node in model.graph.node if "pixel_sums" in node.name or "positions" in node.name]
    assert len(names_of(model.graph.input)) == 7

    open_engine(path, self_test=True).close()
    one, other = (Classifier(model, protocol="multicrop")(photos["cat"], top=10) for model in (path, whole))
    assert one == other
    data = ["--data", str(tmp_path), "--protocol", "center", "--out", str(tmp_path / "out")]
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(encode(photos["cat"], "PNG"))
    assert evaluate(["--engine", str(path), *data]) == 1
    assert "app.onnx: a model for apps, without the pixel_sums by which tables say" in one_line()

    # of a model that has no other
    assert (
        main([str(path), "-o", str(tmp_path / "again.onnx"), "--outputs", "posterior", "--precision", precision]) == 1
    )
    assert "already: use it as it is" in one_line()
    assert main([str(path), "-o", str(tmp_path / "x.onnx"), "--outputs", "pixel_sums", "--precision", precision]) == 1
    assert "no output 'pixel_sums', only posterior: export it with" in one_line()


def test_a_list_of_outputs_is_beside_the_usual_ones(slim_checkpoint: Exported, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert main([str(slim_checkpoint("A")), "-o", str(path), "--outputs", "posterior,score_map"]) == 0
    assert set(names_of(onnx.load(path).graph.output)) == {
        "posterior",
        "posterior_positions",
        "pixel_sums",
        "score_map",
    }


def test_command_refuses(
    tmp_path: Path, slim_checkpoint: Exported, one_line: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.pt")]) == 1
    assert "no such file" in one_line()
    with pytest.raises(SystemExit, match="2"):
        main([str(slim_checkpoint("A")), "--outputs", "logits"])
    assert "unknown output 'logits'" in one_line()


def test_a_large_model_has_its_weights_beside_it(
    slim_checkpoint: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.model import file as model_file
    from infer.open import open_engine

    monkeypatch.setattr(model_file, "ONE_FILE_BYTES", 10_000)
    path = tmp_path / "m.onnx"
    for _ in range(2):  # again over itself: the weights must not grow
        assert main([str(slim_checkpoint("A")), "-o", str(path)]) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").stat().st_size < 2 * slim_checkpoint("A").stat().st_size
    open_engine(path, self_test=True).close()
