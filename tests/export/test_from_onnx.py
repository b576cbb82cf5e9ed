"""Foreign classifiers as engines of ours: the same posteriors as torch computes, what is found out, what is refused."""

from __future__ import annotations

import json
import re
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
    chosen = {"crop_px": 0 if sides.dim_value else 64, "interface": "nchw", **request}
    spec = import_model(path, out, ImportRequest(PREPROCESSING, **chosen)).spec
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


@pytest.mark.parametrize("interface", ["nchw", "views"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_posteriors_are_torchs(form: dict[str, Any], interface: str, tmp_path: Path) -> None:
    engine = imported(foreign_net(WEIGHTS, **form), tmp_path, interface=interface)
    spec = engine.spec
    assert (spec.net, spec.interface, spec.max_views) == ("foreign", interface, 0)
    assert spec.fixed_size == (form.get("head") == "valid")
    if interface == "nchw":
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
    engine = imported(foreign_net(WEIGHTS, side=64, head="valid"), tmp_path)
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
    onnx.save(foreign_net(WEIGHTS, side=64, batch=1, head="valid"), path)
    names.write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    assert main([str(path), *ARGUMENTS, "--classes", str(names), "-o", str(out)]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert re.fullmatch(
        rf"{out}: 10 classes, views interface, fp32, 64x64 px only, any number of views a call, \d+\.\d s\n"
        r"recognised: 2 Conv and 1 Gemm with \d+ parameters, opset 17; takes f32 \[1, 3, 64, 64\], returns logits, a "
        r"vector\nsides: crops alone, since it cannot be run on 96x160 px \(.*\)\n"
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
