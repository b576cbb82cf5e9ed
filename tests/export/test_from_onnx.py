"""Foreign classifiers as engines of ours: the same posteriors as torch computes, what is found out, what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_nets import CLASSES, foreign_net, reference, weights
from helpers import noise
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.special import log_softmax, softmax

from evaluation.ilsvrc import main as evaluate
from export.foreign.surgery import ForeignError
from export.from_onnx import ImportRequest, import_model, main
from export.model import file as model_file
from export.model.file import ModelFileError
from infer.engine import EngineError
from infer.files import file_sha256
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.pixels.render import normalise, render
from infer.spec import ModelSpec, Preprocessing
from infer.views import out_of_range, plan_views
from trainer.miniature import WNIDS

OneLine = Callable[[], str]
PREPROCESSING = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
ARGUMENTS = ["--mean", "123,116,103", "--std", "58,57,56"]
WEIGHTS = weights()


def imported(model: onnx.ModelProto, folder: Path, **request: Any) -> OnnxEngine:
    """The engine of a foreign model, its self-test passed."""
    path, out = folder / "foreign.onnx", folder / "ours.onnx"
    onnx.save(model, path)
    sides = model.graph.input[0].type.tensor_type.shape.dim[2]
    spec = import_model(path, out, ImportRequest(PREPROCESSING, **{"crop_px": 0 if sides.dim_value else 64, **request}))
    engine = open_engine(out, self_test=True)
    assert isinstance(engine, OnnxEngine) and engine.spec == spec
    onnx.checker.check_model(onnx.load(out), full_check=True)
    return engine


def posteriors(engine: OnnxEngine, image: NDArray[np.uint8], protocol: str) -> Any:
    """What the engine returns for the views of one image, and what it should by torch."""
    plan = plan_views(engine.spec, protocol, (image.shape[0], image.shape[1]))
    found = engine.run(engine.load([image]), [plan], ["posterior", "posterior_positions"])
    inputs = [normalise(pixels[None], engine.spec) for pixels in render(image, plan.views, engine.spec)]
    return found["posterior"], found["posterior_positions"], inputs


def declared_sizes(path: Path) -> list[int]:
    """Of the model's one input; 0: any."""
    return [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]


FORMS = [
    *(
        {"head": head, **size}
        for head in ("flatten", "reshape")
        for size in ({}, {"batch": 1}, {"batch": 1, "side": 64})
    ),
    {"batch": 5, "side": 64},
    {"channels_last": True},
    {"channels_last": True, "batch": 1, "side": 64},
    {"kind": TensorProto.FLOAT16},
    {"kind": TensorProto.FLOAT16, "channels_last": True},
    {"opset": 9},
    *({"end": end} for end in ("Softmax", "LogSoftmax")),
    {"end": "Softmax", "opset": 11},
    {"head": "valid"},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_posteriors_are_torchs(form: dict[str, Any], tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, **form), tmp_path)
    spec = engine.spec
    assert (spec.net, spec.interface, spec.max_views) == ("foreign", "nchw", 0)
    assert spec.fixed_size == ("side" in form or form.get("head") == "valid")
    assert declared_sizes(tmp_path / "ours.onnx") == ([0, 3, 64, 64] if spec.fixed_size else [0, 3, 0, 0])
    half = form.get("kind") == TensorProto.FLOAT16
    assert spec.precision == ("fp16" if half else "fp32")
    found, positions, inputs = posteriors(engine, noise((80, 100)), "ten-crop")
    expected = np.concatenate([softmax(reference(x, WEIGHTS), 1) for x in inputs])
    assert np.abs(found - expected).max() < (2e-3 if half else 1e-6)
    assert (positions == found).all()
    assert expected.std(0).max() > 0.01  # the views differ


@pytest.mark.parametrize(
    "form",
    [{}, {"end": "Softmax"}, {"end": "LogSoftmax"}, {"opset": 11}, {"channels_last": True, "end": "Softmax"}],
    ids=str,
)
def test_maps_are_averaged_before_the_softmax_and_after_it(form: dict[str, Any], tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, head="map", **form), tmp_path)
    assert not engine.spec.fixed_size
    found, positions, inputs = posteriors(engine, noise((80, 100)), "dense")
    maps = [reference(x, WEIGHTS, is_map=True) for x in inputs]
    assert np.abs(found - np.concatenate([softmax(m.mean((2, 3)), 1) for m in maps])).max() < 1e-6
    assert np.abs(positions - np.concatenate([softmax(m, 1).mean((2, 3)) for m in maps])).max() < 1e-6
    assert np.abs(found - positions).max() > 0.01


def test_a_certain_probability_in_a_map_has_a_finite_logarithm(tmp_path: Path) -> None:
    sure = {**WEIGHTS, "fc.w": WEIGHTS["fc.w"] * 300}
    engine = imported(foreign_net(sure, head="map", end="Softmax"), tmp_path)
    found, _, _ = posteriors(engine, noise((80, 100)), "dense")
    assert np.isfinite(found).all() and np.abs(found.sum(1) - 1).max() < 1e-5


def test_bgr(tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, channels_last=True), tmp_path, channels="bgr")
    found, _, inputs = posteriors(engine, noise((80, 100)), "center")
    assert np.abs(found - softmax(reference(inputs[0][:, ::-1].copy(), WEIGHTS), 1)).max() < 1e-6


def test_one_view_a_call_where_a_model_knows_no_other(tmp_path: Path) -> None:
    """A subtracted mean over the batch: several views would change each other."""
    model = foreign_net(WEIGHTS, batch=1)
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("ReduceMean", ["fc"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["fc", "mean"], ["scores"]))
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, None))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread"))
    engine = imported(model, tmp_path)
    assert engine.spec.max_views == 1
    assert [shape.views.max for shape in engine.shapes] == [1, 1, 1]
    assert declared_sizes(tmp_path / "ours.onnx") == [1, 3, 0, 0]
    assert "net/unread" not in {initializer.name for initializer in onnx.load(tmp_path / "ours.onnx").graph.initializer}
    found, _, inputs = posteriors(engine, noise((80, 100)), "ten-crop")
    expected = np.concatenate([softmax(2 * reference(x, WEIGHTS), 1) for x in inputs])
    assert np.abs(found - expected).max() < 1e-6
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, [4, 3, 64, 64]))
    with pytest.raises(
        ForeignError, match=r"takes 4 views in every call .*\(it mixes the views of a call\): export it"
    ):
        imported(model, tmp_path)


def test_fixed_sides_refuse_a_dense_view(tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, side=64), tmp_path)
    spec, image = engine.spec, noise((80, 100))
    assert [shape.name for shape in engine.shapes] == ["crops"]
    plan = plan_views(spec, "dense", (80, 100))
    assert "use --protocol multicrop" in str(out_of_range(plan, engine.shapes, spec))
    for protocol in ("center", "ten-crop", "multicrop", "googlenet-144"):
        assert out_of_range(plan_views(spec, protocol, (80, 100)), engine.shapes, spec) is None
    with pytest.raises(EngineError, match="view of 64x80 px: ours takes only 64x64 px".replace("ours", spec.name)):
        engine.run(engine.load([image]), [plan_views(spec, "dense", (80, 100), [64])])


@pytest.mark.parametrize("crop_px", [65, 99])
def test_crops_of_any_size(crop_px: int, tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS), tmp_path, crop_px=crop_px, test_short_px=120)
    assert (engine.spec.crop_px, engine.spec.stride_px, engine.spec.test_short_px) == (crop_px, 1, 120)
    for protocol in ("center", "dense", "multicrop"):
        found, _, inputs = posteriors(engine, noise((150, 140)), protocol)
        expected = np.concatenate([softmax(reference(x, WEIGHTS), 1) for x in inputs])
        assert np.abs(found - expected).max() < 1e-6


def test_names_of_ours_and_weights_that_are_inputs(tmp_path: Path) -> None:
    """As old files have it; and a second output, which nobody reads, with a weight of its own."""
    model = foreign_net(WEIGHTS, end="Softmax")
    model.ir_version = 3
    for initializer in model.graph.initializer:
        value = helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
        model.graph.input.append(value)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(CLASSES, np.float32), "spec"))
    model.graph.node.append(helper.make_node("Mul", ["fc", "spec"], ["input.layout"]))
    model.graph.output.append(helper.make_tensor_value_info("input.layout", TensorProto.FLOAT, None))
    with pytest.raises(ForeignError, match=r"2 outputs \(posterior, input.layout\): choose the class scores with"):
        imported(model, tmp_path)
    with pytest.raises(ForeignError, match=r"no output 'x', expected --output of posterior, input.layout"):
        imported(model, tmp_path, output="x")
    for output in ("posterior", "input.layout"):
        engine = imported(model, tmp_path, output=output)
        found, _, inputs = posteriors(engine, noise((80, 100)), "center")
        assert np.abs(found - softmax(reference(inputs[0], WEIGHTS), 1)).max() < 1e-6
    names = {initializer.name for initializer in onnx.load(tmp_path / "ours.onnx").graph.initializer}
    assert "net/spec" in names and "net/posterior" not in names


def test_local_functions(tmp_path: Path) -> None:
    model = foreign_net(WEIGHTS)
    twice = helper.make_function(
        "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Twice", ["fc"], ["scores"], domain="mine"))
    model.graph.output[0].name = "scores"
    found, _, inputs = posteriors(imported(model, tmp_path), noise((80, 100)), "center")
    assert np.abs(found - softmax(2 * reference(inputs[0], WEIGHTS), 1)).max() < 1e-6


# The command


def test_the_result_evaluates_with_no_further_flag(
    miniature_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, out, names = tmp_path / "a net.onnx", tmp_path / "out" / "m.onnx", tmp_path / "names.txt"
    onnx.save(foreign_net(WEIGHTS, side=64, batch=1, head="reshape"), path)
    names.write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    assert main([str(path), *ARGUMENTS, "--classes", str(names), "-o", str(out)]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert re.fullmatch(
        rf"{out}: 10 classes, nchw interface, fp32, 64x64 px only, any number of views a call, \d+\.\d s\n"
        r"preprocessing: R,G,B of grey levels 0-255, mean 123,116,103 \(--mean, read as of 0-255\) and std 58,57,56 "
        r"\(--std, .*\), channels rgb \(default\), crop 64 px of 73 \(.*\), filter bilinear \(default\), EXIF .*\n",
        captured.out,
    )
    assert [file.name for file in out.parent.iterdir()] == ["m.onnx"]
    spec = OnnxEngine(out).spec
    assert (spec.name, spec.classes, spec.test_short_px) == ("a-net", WNIDS, 73)
    assert spec.preprocessing == Preprocessing(
        (123, 116, 103), (58, 57, 56), "bilinear", "ignore", "floor", "torchvision"
    )
    assert spec.source == {"importer": "export.from_onnx", "onnx_sha256": file_sha256(path)}
    arguments = ["--engine", str(out), "--data", str(miniature_dir), "--limit", "3", "--protocol"]
    with pytest.raises(SystemExit) as ended:
        evaluate([*arguments, "center,dense"])
    said = capfd.readouterr().err  # fixed sides see no dense view, of any image
    assert ended.value.code == 2 and "a-net: dense at Q=64,73,82 can see no image of any size" in said
    assert evaluate([*arguments, "center,multicrop"]) == 0
    rows = json.loads((tmp_path / "results" / "report.json").read_text())["results"]
    assert [row["protocol"] for row in rows] == ["center", "multicrop"]


def test_a_model_of_ours_is_not_foreign(tmp_path: Path) -> None:
    imported(foreign_net(WEIGHTS), tmp_path)
    with pytest.raises(ForeignError, match="a model of ours already: use it as it is"):
        import_model(tmp_path / "ours.onnx", tmp_path / "again.onnx", ImportRequest(PREPROCESSING))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--mean", "1,2", "--std", "1,1,1"],
            "argument --mean: expected three numbers like 123.68,116.779,103.939, got",
        ),
        (["--mean", "1,2,nan", "--std", "1,1,1"], "argument --mean: expected three numbers"),
        (["--mean", "1,2,3"], "the following arguments are required: --std"),
        ([*ARGUMENTS, "--filter", "nearest"], "argument --filter: invalid choice: 'nearest'"),
        ([*ARGUMENTS, "--crop", "-1"], "--crop and --test-short: expected pixels"),
        ([*ARGUMENTS, "-o", "m.pt"], "-o m.pt: expected another file whose name ends in .onnx"),
        ([*ARGUMENTS, "-o", "./foreign.onnx"], "-o foreign.onnx: expected another file whose name ends in .onnx"),
    ],
)
def test_usage_errors(argv: list[str], message: str, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["foreign.onnx", "-o", "ours.onnx", *argv])
    assert message in one_line()


@pytest.mark.parametrize(
    ("form", "argv", "message"),
    [
        ({"side": 64}, ["--crop", "60"], "takes 64x64 px only, got --crop 60: leave it out"),
        ({}, ["--crop", "64", "--test-short", "60"], "train_short_px must be at least crop_px = 64"),
        ({}, ["--crop", "64", "--output-kind", "probabilities"], "expected positive ones that sum to 1"),
        ({"end": "Sigmoid"}, ["--crop", "64"], "ends in a sigmoid, so that several classes may be right at once"),
        ({}, ["--crop", "64", "--std", "0,1,1"], "std_rgb must be positive, got (0.0, 1.0, 1.0)"),
        ({}, ["--crop", "64", "--name", "a/b"], "a model's name must be a plain word, got 'a/b'"),
    ],
)
def test_requests_that_do_not_fit(
    form: dict[str, Any], argv: list[str], message: str, tmp_path: Path, one_line: OneLine
) -> None:
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign_net(WEIGHTS, **form), path)
    assert main([str(path), *ARGUMENTS, *argv, "-o", str(tmp_path / "ours.onnx")]) == 1
    line = one_line()
    assert line.startswith(f"{path}: ") and message in line
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.onnx"]


def test_classes_that_do_not_fit(tmp_path: Path, one_line: OneLine) -> None:
    path, names = tmp_path / "foreign.onnx", tmp_path / "names.txt"
    onnx.save(foreign_net(WEIGHTS, side=64), path)
    names.write_text("one\ntwo\n")
    assert main([str(path), *ARGUMENTS, "--classes", str(names), "-o", str(tmp_path / "ours.onnx")]) == 1
    assert one_line().startswith(f"{names}: 2 classes, expected 10")
    assert not (tmp_path / "ours.onnx").exists()


def test_sigmoids_may_be_called_logits(tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, end="Sigmoid"), tmp_path, output_kind="logits")
    found, _, _ = posteriors(engine, noise((80, 100)), "center")
    assert np.abs(found.sum(1) - 1).max() < 1e-6


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
            "takes 'ids' (int64 [N, 512]), expected float images [N, 3, height, width] or [N, height, width, 3]",
        ),
        (
            small([IMAGE, ("mask", TensorProto.FLOAT, [1, 64])], [FLATTEN]),
            "2 inputs ('image' (float [N, 3, 64, 64]), 'mask' (float [1, 64])), expected one, the image",
        ),
        (small([], [helper.make_node("Constant", [], ["y0"], value_float=1.0)]), "0 inputs (none), expected one"),
        (small([("image", TensorProto.FLOAT, [1, 1, 28, 28])], [FLATTEN]), "takes 'image' (float [1, 1, 28, 28]), exp"),
        (small([("image", TensorProto.UINT8, ["N", 3, 64, 64])], [FLATTEN]), "takes 'image' (uint8 [N, 3, 64, 64])"),
        (small([("image", TensorProto.FLOAT, None)], [FLATTEN]), "takes 'image' (float []), expected float images"),
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
    found, _, inputs = posteriors(engine, noise((80, 100)), "center")
    assert np.abs(found - softmax(reference(inputs[0], WEIGHTS), 1)).max() < 1e-6


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


def test_log_softmax_of_reference() -> None:
    """What the maps' averages rest on: a number for each position does not change the softmax of the mean."""
    scores = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
    mean = log_softmax(scores, 1).mean((2, 3))
    assert np.abs(softmax(mean, 1) - softmax(scores.mean((2, 3)), 1)).max() < 1e-12


def test_spec_of_a_foreign_net_survives_json(tmp_path: Path) -> None:
    spec = imported(foreign_net(WEIGHTS, side=64), tmp_path).spec
    assert ModelSpec.from_json(spec.to_json()) == spec
    old = {key: value for key, value in json.loads(spec.to_json()).items() if key not in ("fixed_size", "max_views")}
    assert ModelSpec.from_json(json.dumps(old)).fixed_size is False
