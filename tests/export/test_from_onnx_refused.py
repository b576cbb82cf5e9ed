"""What export.from_onnx refuses: models that are no classifiers, files that are no models, weights elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_nets import foreign_net, reference, weights
from helpers import noise
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax

from export.foreign.surgery import ForeignError
from export.from_onnx import ImportRequest, import_model
from export.model import file as model_file
from export.model.file import ModelFileError
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.pixels.render import normalise, render
from infer.spec import Preprocessing
from infer.views import plan_views

OneLine = Callable[[], str]
PREPROCESSING = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
ARGUMENTS = ["--mean", "123,116,103", "--std", "58,57,56"]
WEIGHTS = weights()


# Models that are no image classifiers


def small(inputs: list[Any], nodes: list[Any], outputs: int = 1, initializers: Any = ()) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    graph = helper.make_graph(nodes, "small", values, results, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IMAGE = ("image", TensorProto.FLOAT, ["N", 3, 64, 64])
FLATTEN = helper.make_node("Flatten", ["image"], ["y0"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            small([("ids", TensorProto.INT64, ["N", 512])], [helper.make_node("Identity", ["ids"], ["y0"])]),
            "takes 'ids' (int64 [N, 512]), expected images [N, 3, height, width] or [N, height, width, 3] of f",
        ),
        (
            small([IMAGE, ("mask", TensorProto.FLOAT, [1, 64])], [FLATTEN]),
            "2 inputs ('image' (float [N, 3, 64, 64]), 'mask' (float [1, 64])), expected one, the image",
        ),
        (small([], [helper.make_node("Constant", [], ["y0"], value_float=1.0)]), "0 inputs (none), expected one"),
        (small([("image", TensorProto.FLOAT, [1, 1, 28, 28])], [FLATTEN]), "takes 'image' (float [1, 1, 28, 28]), exp"),
        (
            small([("image", TensorProto.UINT8, ["N", 3, 64, 64])], [FLATTEN]),
            "takes bytes, so its preprocessing is within",
        ),
        (small([("image", TensorProto.DOUBLE, ["N", 3, 64, 64])], [FLATTEN]), "takes 'image' (double [N, 3, 64, 64])"),
        (small([("image", TensorProto.FLOAT, None)], [FLATTEN]), "takes 'image' (float []), expected images [N, 3"),
        (small([("image", TensorProto.FLOAT, [1, 3, 64, 80])], [FLATTEN]), "only squares, or any size, fit"),
        (
            small([IMAGE], [helper.make_node("Bar", ["image"], ["y0"], domain="foo")]),
            "ONNX Runtime cannot run it (",
        ),
        (
            small([IMAGE], [helper.make_node("ArgMax", ["image"], ["y0"])]),
            "ONNX Runtime cannot run it (",
        ),
        (
            small([IMAGE], [helper.make_node("ReduceMax", ["image"], ["y0"], axes=[3], keepdims=0)]),
            "returns [3, 3, 64] for three views, expected [3, classes] or a map of scores",
        ),
        (
            small([IMAGE], [helper.make_node("Log", ["image"], ["x"]), helper.make_node("Flatten", ["x"], ["y0"])]),
            "returns values that are not finite for noise: are --mean and --std right?",
        ),
    ],
)
def test_models_that_are_no_image_classifiers(model: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    if any(node.domain == "foo" for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid("foo", 1))
    onnx.save(model, path)
    with pytest.raises(ForeignError, match=re.escape(message)) as caught:
        import_model(path, tmp_path / "ours.onnx", ImportRequest(PREPROCESSING))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not (tmp_path / "ours.onnx").exists()


# Hostile files


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        import_model(path, path.with_name("ours.onnx"), ImportRequest(PREPROCESSING))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not path.with_name("ours.onnx").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not an ONNX model \(no graph in it\)"),
        (b"<!DOCTYPE html><html>404</html>", "not an ONNX model, or a truncated one"),
        (b"PK\x03\x04" + bytes(1000), "not an ONNX model, or a truncated one"),
        (b"\x3a" * 5000, "not an ONNX model"),
        (b"\x08\x09", r"not an ONNX model \(no graph in it\)"),
        (foreign_net(WEIGHTS).SerializeToString()[:-2000], "not an ONNX model, or a truncated one"),
    ],
    ids=["empty", "html", "zip", "garbage", "version-only", "truncated"],
)
def test_files_that_are_no_models(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    refused(path, message)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file, expected an ONNX model")
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", "no such file, expected an ONNX model")


def with_tensor(**fields: Any) -> onnx.ModelProto:
    """The net with other contents of one weight, fc.b."""
    model = foreign_net(WEIGHTS)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.b")
    tensor.Clear()
    tensor.MergeFrom(TensorProto(name="fc.b", **fields))
    return model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_type": 1, "dims": [10**9]}, r"tensor 'fc.b': declares 1000000000 elements \[1000000000\] but holds 0"),
        ({"data_type": 1, "dims": [2**40, 2**40]}, "declares 1208925819614629174706176 elements"),
        ({"data_type": 1, "dims": [10], "raw_data": bytes(36)}, r"declares 10 elements \[10\] but holds 9"),
        ({"data_type": 1, "dims": [10], "float_data": [1.0]}, r"declares 10 elements \[10\] but holds 1"),
        ({"data_type": 1, "dims": [-1, -10], "raw_data": bytes(40)}, r"a negative size in \[-1, -10\]"),
        ({"data_type": 8, "dims": [10**9]}, "declares 1000000000 elements"),
        ({"data_type": 99, "dims": [10]}, "elements of type 99, which this version does not read"),
        ({"data_type": 17, "dims": [10]}, "elements of type FLOAT8E4M3FN, which this version does not read"),
    ],
)
def test_weights_that_are_not_there(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(with_tensor(**fields).SerializeToString())
    refused(path, message)


def test_weights_in_attributes_and_subgraphs_are_checked_too(tmp_path: Path) -> None:
    path, huge = tmp_path / "foreign.onnx", TensorProto(name="huge", data_type=1, dims=[10**9])
    constant = helper.make_node("Constant", [], ["c"], value=huge)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", 1, None)])
    branch = helper.make_node("If", ["yes"], ["y0"], then_branch=inner, else_branch=inner)
    yes = numpy_helper.from_array(np.array(True), "yes")
    for model in (small([IMAGE], [constant, FLATTEN]), small([IMAGE], [branch], initializers=[yes])):
        path.write_bytes(model.SerializeToString())
        refused(path, "tensor 'huge': declares 1000000000 elements")
    sparse = onnx.SparseTensorProto(dims=[10**9])
    model = small([IMAGE], [FLATTEN])
    model.graph.sparse_initializer.append(sparse)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="sparse initialisers are not read"):
        import_model(path, tmp_path / "ours.onnx", ImportRequest(PREPROCESSING))


def external(location: str, **more: str) -> onnx.ModelProto:
    entries = [
        onnx.StringStringEntryProto(key=key, value=value) for key, value in {"location": location, **more}.items()
    ]
    return with_tensor(data_type=1, dims=[10], external_data=entries, data_location=TensorProto.EXTERNAL)


def test_external_data_outside_the_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(bytes(40))
    (folder / "link").symlink_to(secret)
    (folder / "away").symlink_to(tmp_path)
    (folder / "inside").mkdir()
    path = folder / "foreign.onnx"
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), real(self, *a, **k))[1])
    for location in (str(secret), "../secret", "inside/../../secret", "link", "away/secret", "/proc/self/environ", ""):
        path.write_bytes(external(location).SerializeToString())
        refused(path, "outside the model's folder or through a link: expected a plain file beside the model")
    path.write_bytes(external("sec\0ret").SerializeToString())
    refused(path, "external data that cannot be found: embedded null byte")
    assert "secret" not in opened and "link" not in opened and "environ" not in opened


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "external data of 40 bytes from 0 on in 'w' of 39 bytes, expected 40: a damaged file"),
        ({"offset": "-4"}, "from -4 on"),
        ({"length": "20"}, "external data of 20 bytes"),
        ({"offset": "x"}, "external data that cannot be found: invalid literal"),
        ({"location": "v"}, "external data in 'v', which is not there: keep it beside the model"),
        ({"location": "."}, "external data in '.', which is not there"),
    ],
)
def test_external_data_that_does_not_fit(more: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(39))
    path = tmp_path / "foreign.onnx"
    path.write_bytes(external(**{"location": "w", **more}).SerializeToString())
    refused(path, re.escape(message))


def test_external_data_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from there, and large models are written so."""
    path, out = tmp_path / "foreign.onnx", tmp_path / "ours.onnx"
    onnx.save_model(foreign_net(WEIGHTS), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.setattr(model_file, "ONE_FILE_BYTES", 1000)
    import_model(path, out, ImportRequest(PREPROCESSING, crop_px=64))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["foreign.onnx", "ours.onnx", "ours.onnx.data", "weights.bin"]
    (tmp_path / "weights.bin").unlink()
    engine = open_engine(out, self_test=True)
    assert isinstance(engine, OnnxEngine)
    image = noise((80, 100))
    plan = plan_views(engine.spec, "center", (80, 100))
    found = engine.run(engine.load([image]), [plan], ["posterior"])["posterior"]
    expected = softmax(reference(normalise(render(image, plan.views, engine.spec), engine.spec), WEIGHTS), 1)
    assert np.abs(found - expected).max() < 1e-6


def run_alone(path: Path) -> str:
    """What the command says of a model that it must refuse, in a process of its own."""
    command = [sys.executable, "-m", "export.from_onnx", str(path), *ARGUMENTS, "-o", str(path.with_name("ours.onnx"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return done.stderr.removeprefix(f"{path}: ")


@pytest.mark.processes
def test_a_graph_that_asks_for_much_memory(tmp_path: Path) -> None:
    """400 bytes of file, 10 GB of tensor."""
    size = numpy_helper.from_array(np.array([2_500_000_000], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["image", "sum"], ["x"]),
        helper.make_node("Flatten", ["x"], ["y0"]),
    ]
    onnx.save(small([IMAGE], nodes, initializers=[size]), tmp_path / "foreign.onnx")
    said = run_alone(tmp_path / "foreign.onnx")
    assert said.startswith("ONNX Runtime cannot run it (")
    assert said.endswith("): it needs more memory than an import may take\n")


@pytest.mark.processes
def test_a_graph_that_kills_its_runtime(tmp_path: Path) -> None:
    """The lowest integer divided by -1, which ONNX Runtime 1.32 leaves to the processor."""
    numbers = {"lowest": -(2**63), "minus_one": -1}
    nodes = [
        helper.make_node("Shape", ["image"], ["size"]),
        helper.make_node("Sub", ["size", "size"], ["zeros"]),  # only known when it runs
        helper.make_node("Add", ["lowest", "zeros"], ["dividends"]),
        helper.make_node("Div", ["dividends", "minus_one"], ["quotients"]),
        helper.make_node("ReduceMax", ["quotients"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["image", "single"], ["x"]),
        helper.make_node("Flatten", ["x"], ["y0"]),
    ]
    weights = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    onnx.save(small([IMAGE], nodes, initializers=weights), tmp_path / "foreign.onnx")
    assert run_alone(tmp_path / "foreign.onnx") == (
        "ONNX Runtime dies of it (its process was ended by SIGFPE): it cannot be imported\n"
    )
