"""Engines built by the real TensorRT-RTX builder, which needs no GPU; TensorRT's branch with a double of its module."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import NETS, full_spec, slim_spec, write_checkpoint
from onnx import TensorProto, helper, numpy_helper

from export import trt_builder
from export.to_trt import main, read_model, write_engine
from export.trt_builder import LIBRARIES, BuildError, activation_bytes, build, choose_targets, convolution_kernels
from infer.engine import check_sidecar
from infer.files import file_sha256
from infer.render import pixel_sums, render
from infer.self_test import image
from infer.spec import ModelSpec, crops_shape, default_shapes
from infer.views import plan_views

RTX = LIBRARIES["tensorrt-rtx"]
rtx = pytest.importorskip("tensorrt_rtx")
Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]


class Built(NamedTuple):
    engine: Path
    sidecar: dict[str, Any]
    printed: list[str]


def build_engine(*argv: object) -> Built:
    """Runs the command, which must succeed."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        assert main([str(value) for value in argv]) == 0
    lines = stdout.getvalue().splitlines()
    engine = Path(lines[-2].split(": ")[0])
    return Built(engine, json.loads(engine.with_name(engine.name + ".json").read_text()), lines)


@pytest.fixture(scope="module")
def built(slim_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Slim VGG-A from a checkpoint, FP16, for two targets. Not to be changed."""
    path = tmp_path_factory.mktemp("built") / "model.engine"
    return build_engine(slim_checkpoint("A"), "-o", path, "--target", "sm89", "sm86")


@pytest.fixture(scope="module")
def single(built: Built) -> Path:
    """The same net as an FP32 ONNX model."""
    from helpers import random_net

    from export.to_onnx import export_onnx
    from trainer.checkpoint import Checkpoint

    spec = slim_spec("A")
    path = built.engine.with_name("single.onnx")
    export_onnx(Checkpoint(spec, random_net(spec).state_dict()), path)
    return path


# What is written


def test_files(built: Built) -> None:
    names = {path.name for path in built.engine.parent.iterdir()} - {"single.onnx"}
    assert names == {"model.engine", "model.engine.json", "model.inputs", "model.onnx"}


def test_sidecar(built: Built) -> None:
    content = built.sidecar
    assert list(content) == [
        *("spec", "sha256", "builder", "targets", "profiles", "half_tensors", "float_tensors"),
        *("onnx_sha256", "self_test"),
    ]
    assert check_sidecar(built.engine) == content
    assert content["sha256"] == hashlib.sha256(built.engine.read_bytes()).hexdigest()
    onnx_path = built.engine.with_suffix(".onnx")
    assert content["onnx_sha256"] == file_sha256(onnx_path)
    assert content["builder"] == f"tensorrt-rtx {rtx.__version__}"
    assert content["targets"] == ["sm86", "sm89"]
    spec, expected = read_model(onnx_path)
    assert ModelSpec.from_json(json.dumps(content["spec"])) == spec
    assert (spec.precision, spec.interface, len(spec.source["checkpoint_sha256"])) == ("fp16", "views", 64)
    assert content["self_test"] == expected
    assert content["half_tensors"] > 25 and content["float_tensors"] > 0


def test_profiles_of_the_sidecar(built: Built) -> None:
    spec = ModelSpec.from_json(json.dumps(built.sidecar["spec"]))
    profiles = built.sidecar["profiles"]
    assert [profile["name"] for profile in profiles] == ["crops", "dense landscape", "dense portrait"]
    for profile, shape in zip(profiles, default_shapes(spec), strict=True):
        for name in ("views", "height_px", "width_px", "rescaled_px", "source_px", "taps"):
            assert profile[name] == dataclasses.asdict(getattr(shape, name))
        assert profile["inputs"]["rows"][2] == [shape.views.max, shape.height_px.max]
        # the rescaled image, i32 [3, 4096, 4096], is most of it
        assert 200e6 < profile["activation_bytes"] < 1e9


def test_what_is_printed(built: Built) -> None:
    exported, summary, command = built.printed
    assert exported.startswith(f"{built.engine.with_suffix('.onnx')}: fp16, views interface, ")
    size = built.engine.stat().st_size / 1e6
    for part in (
        f"{built.engine}: fp16, views interface, {size:.1f} MB, tensorrt-rtx {rtx.__version__} for sm86 sm89; ",
        f"{built.sidecar['half_tensors']} half and {built.sidecar['float_tensors']} float tensors, ",
        "11 convolutions all fp16 (33 kernels of them in the builder's log); ",
        "activations: crops ",
        f"dense portrait {built.sidecar['profiles'][2]['activation_bytes'] / 1e6:.0f} MB",
    ):
        assert part in summary
    assert "tensorrt_rtx --loadEngine=" in command


def test_the_printed_command_has_real_inputs(built: Built) -> None:
    """ONNX Runtime on the files that the tool would read sees ten crops of the synthetic image."""
    tool, *arguments = shlex.split(built.printed[-1].split(": ", 1)[1])
    values = dict(argument.split("=", 1) for argument in arguments)
    assert (tool, values["--loadEngine"]) == ("tensorrt_rtx", str(built.engine))
    shapes = dict(item.split(":") for item in values["--shapes"].split(","))
    files = dict(item.split(":") for item in values["--loadInputs"].split(","))
    feed = {
        name: np.fromfile(file, np.uint8 if name == "image" else np.int32).reshape(
            [int(size) for size in shapes[name].split("x")]
        )
        for name, file in files.items()
    }
    session = onnxruntime.InferenceSession(built.engine.with_suffix(".onnx"))
    posterior, sums = session.run(["posterior", "pixel_sums"], feed)
    assert posterior.shape == (10, 10) and np.isfinite(posterior).all()
    spec = slim_spec("A")
    views = plan_views(spec, "ten-crop", (64, 64), [96]).views
    assert (sums == pixel_sums(np.stack(render(image(0, spec)[:64, :64], views, spec)))).all()


@pytest.mark.parametrize("interface", ["images", "nchw"])
def test_plain_interfaces(interface: str, slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    out = tmp_path / "a model.engine"
    made = build_engine(slim_checkpoint("A"), "-o", out, "--interface", interface, "--target", "sm120")
    assert made.sidecar["spec"]["interface"] == interface
    shape = "10x64x64x3" if interface == "images" else "10x3x64x64"
    tool = shlex.split(made.printed[-1].split(": ", 1)[1])
    name = next(iter(made.sidecar["profiles"][0]["inputs"]))
    file = tmp_path / "a model.inputs" / f"{name}.bin"
    assert tool[2:] == [f"--loadInputs={name}:{file}", f"--shapes={name}:{shape}"]
    assert file.stat().st_size == 10 * 64 * 64 * 3 * (1 if interface == "images" else 4)
    assert made.sidecar["profiles"][0]["activation_bytes"] < 100e6  # nothing is rescaled


@pytest.mark.parametrize(("net", "convolutions"), [("A-LRN", 11), ("googlenet", 58)])
def test_nets_with_lrn(net: str, convolutions: int, slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    made = build_engine(slim_checkpoint(net), "-o", tmp_path / "m.engine", "--target", "sm86")
    summary = made.printed[-2]
    assert f"{convolutions} convolutions all fp16 ({3 * convolutions} kernels" in summary


def test_single_precision_has_no_half_tensor(single: Path, tmp_path: Path) -> None:
    """An ONNX model's own precision is the default."""
    made = build_engine(single, "-o", tmp_path / "m.engine", "--target", "sm86")
    assert (made.sidecar["half_tensors"], made.sidecar["spec"]["precision"]) == (0, "fp32")
    assert made.sidecar["float_tensors"] > 25
    assert made.sidecar["onnx_sha256"] == file_sha256(single)
    assert "11 convolutions all fp32 (33 kernels" in made.printed[-2]


def test_outputs_and_profiles_on_request(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    made = build_engine(
        *(slim_checkpoint("A"), "-o", tmp_path / "m.engine", "--target", "sm86", "--outputs", "features,posterior"),
        *("--profile", "crops:views=4,image=400", "--profile", "dense:max=80x100,image=400"),
    )
    assert made.sidecar["spec"]["outputs"][-1] == "features"
    crops, landscape, portrait = made.sidecar["profiles"]
    assert crops["inputs"]["rows"][2] == [4, 64] and crops["inputs"]["image"][2] == [400, 400, 3]
    assert (landscape["inputs"]["rows"][2], portrait["inputs"]["rows"][2]) == ([2, 80], [2, 100])
    assert max(profile["activation_bytes"] for profile in (crops, landscape, portrait)) < 20e6
    assert "rows:4x64" in made.printed[-1]


def test_metadata_without_a_self_test(single: Path, tmp_path: Path) -> None:
    model = onnx.load(single)
    spec = next(prop.value for prop in model.metadata_props if prop.key == "spec")
    helper.set_model_props(model, {"spec": spec})
    onnx.save(model, tmp_path / "m.onnx")
    assert build_engine(tmp_path / "m.onnx", "--target", "sm86").sidecar["self_test"] is None


# Built twice


def test_we_add_nothing_that_varies(single: Path) -> None:
    """With every side fixed the library builds the same bytes twice.

    With dynamic sides TensorRT-RTX 1.7.1 does not: it numbers its internal tensors, and orders some of them, by chance.
    """
    from helpers import random_net

    from export.to_onnx import export_onnx
    from trainer.checkpoint import Checkpoint

    spec = slim_spec("A")
    path = single.with_name("nchw.onnx")
    spec = export_onnx(Checkpoint(spec, random_net(spec).state_dict()), path, interface="nchw", precision="fp16")
    plans = [build(RTX, path, spec, [crops_shape(spec)], ["sm86", "sm89"]) for _ in range(2)]
    assert plans[0] == plans[1]
    path.unlink()


def test_all_but_the_digest_is_the_same_twice(built: Built, tmp_path: Path) -> None:
    again = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "model.engine", "--target", "sm86", "sm89")
    assert abs(again.engine.stat().st_size - built.engine.stat().st_size) < 100  # names of internal tensors
    assert {**again.sidecar, "sha256": ""} == {**built.sidecar, "sha256": ""}


# Precision


def with_one_single_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """conv3_2 computed in FP32 between casts, with weights that are no halves."""
    graph = model.graph
    place, node = next((i, node) for i, node in enumerate(graph.node) if node.name == "conv3_2")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for i, name in enumerate(node.input[1:], 1):
        values = numpy_helper.to_array(weights[name]).astype(np.float32) * np.float32(1.0001)
        node.input[i] = f"{name}.single"
        graph.initializer.append(numpy_helper.from_array(values, node.input[i]))
    before = helper.make_node("Cast", [node.input[0]], ["before"], "before", to=TensorProto.FLOAT)
    after = helper.make_node("Cast", ["after"], [node.output[0]], "after", to=TensorProto.FLOAT16)
    node.input[0], node.output[0] = "before", "after"
    graph.node.insert(place, before)
    graph.node.insert(place + 2, after)
    return model


def test_one_single_precision_convolution_is_refused(built: Built, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(with_one_single_convolution(onnx.load(built.engine.with_suffix(".onnx"))), path)
    assert main([str(path), "--precision", "fp16", "--target", "sm86"]) == 1
    assert one_line() == (
        f"{path}: 1 of 11 convolutions are not fp16, first conv3_2 (Float): precision is a property of the graph, so "
        "export it again with --precision fp16"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_single_precision_graph_that_calls_itself_half(single: Path, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(calling_itself_half(onnx.load(single)), path)
    assert main([str(path), "--precision", "fp16", "--target", "sm86"]) == 1
    assert "11 of 11 convolutions are not fp16, first conv1_1 (Float)" in one_line()
    assert list(tmp_path.iterdir()) == [path]


def calling_itself_half(model: onnx.ModelProto) -> onnx.ModelProto:
    for prop in model.metadata_props:
        if prop.key == "spec":
            prop.value = prop.value.replace('"fp32"', '"fp16"')
    return model


def test_the_log_finds_what_the_network_hid(
    single: Path, tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels are FP32, whatever was counted before."""
    path = tmp_path / "m.onnx"
    onnx.save(calling_itself_half(onnx.load(single)), path)
    count = trt_builder._types

    def all_half(trt: Any, network: Any) -> tuple[list[str], dict[str, str]]:
        outputs, convolutions = count(trt, network)
        return outputs, dict.fromkeys(convolutions, "Half")

    monkeypatch.setattr(trt_builder, "_types", all_half)
    assert main([str(path), "--target", "sm86"]) == 1
    assert "33 of 33 kernels of convolutions in the builder's log are not fp16, first conv1_1 (Float)" in one_line()
    assert list(tmp_path.iterdir()) == [path]


KERNEL = (
    "Name: {name}_myl1_5, LayerType: correlation, Inputs: [ {{ Name: x, Dimensions: [-1,8,96,96], Datatype: Float, "
    "Format: (NHWC) Channel major format }}], Constants: [ {{ Name: w, Dimensions: {size}, Strides: [1], "
    "StrideOrder: [3,0,2,1], Datatype: {kind}, Format: (NHWC) Channel major format }}, {{ Name: a, Dimensions: [1], "
    "Strides: [1], Datatype: Float, Format: (Linear) }}, {{ Name: b, Dimensions: [1,8,1,1], Datatype: Float }}], "
    "Outputs: [ {{ Name: y, Dimensions: [-1,8,48,48], Datatype: Half }}], TacticName: , StreamId: 0, "
    "Metadata: [ONNX Layer: {name}][ONNX Layer: relu]"
)


def test_kernels_in_the_log() -> None:
    lines = [
        KERNEL.format(name="conv1", size="[8,8,7,7]", kind="Half"),
        KERNEL.format(name="conv1", size="[1,8,1,1]", kind="Float"),  # pads the input: a vector, no weights
        KERNEL.format(name="fc7", size="[1,256,256]", kind="Float"),
        KERNEL.format(name="other", size="[8,8]", kind="Float"),
        "Name: conv2, LayerType: CaskConvolution, Inputs: [], Outputs: [], ParameterType: Convolution, "
        'Weights: {"Type": "Half", "Count": 9408}, Bias: {"Type": "Float", "Count": 64}, Metadata: [ONNX Layer: conv2]',
        "conv1 is named here too",
    ]
    assert convolution_kernels(lines, {"conv1", "fc7", "conv2"}) == [
        (("conv1",), {"Half"}),
        (("fc7",), {"Float"}),
        (("conv2",), {"Half"}),
    ]


def test_activation_bytes_in_the_log() -> None:
    lines = [
        "Constructing optimization profile number 0 [1/3].",
        "Total Activation Memory: 404702720 bytes",
        "Constructing optimization profile number 2 [3/3].",
        "Total Activation Memory: 12",
    ]
    assert activation_bytes(lines, 3) == (404702720, None, 12)


# Targets and builders


def test_default_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: None)
    assert choose_targets(RTX, []) == ("sm75", "sm80", "sm86", "sm89", "sm120")
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: "sm86")
    assert choose_targets(RTX, []) == ("sm86",)
    assert choose_targets(RTX, ["sm121", "sm75", "sm75"]) == ("sm75", "sm121")
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: "sm90")
    with pytest.raises(
        BuildError, match=r"does not run on the sm90 GPU here, only on sm75, .*: use --builder tensorrt"
    ):
        choose_targets(RTX, [])
    assert choose_targets(RTX, ["sm86"]) == ("sm86",)


def test_tensorrt_builds_for_the_gpu_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: "sm90")
    assert choose_targets(LIBRARIES["tensorrt"], []) == ("sm90",)
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: None)
    with pytest.raises(BuildError, match="there is none here: run it there, or use --builder tensorrt-rtx --target"):
        choose_targets(LIBRARIES["tensorrt"], [])


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A double of TensorRT 11: RTX's module without what TensorRT lacks, building for "the GPU present"."""
    module = types.ModuleType("tensorrt")
    module.__dict__.update({name: value for name, value in vars(rtx).items() if not name.startswith("__")})
    del module.__dict__["ComputeCapability"]

    class Config:
        """Refuses the calls that TensorRT does not have."""

        def __init__(self, real: Any) -> None:
            self.__dict__["real"] = real

        def __getattr__(self, name: str) -> Any:
            assert "compute_capabilit" not in name
            return getattr(self.real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            assert "compute_capabilit" not in name
            setattr(self.real, name, value)

    class Builder:
        def __init__(self, log: Any) -> None:
            self.real = rtx.Builder(log)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def create_builder_config(self) -> Any:
            config = self.real.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
            return Config(config)

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            return self.real.build_serialized_network(network, config.real)

    module.__dict__.update(__version__="11.4.0.106", Builder=Builder)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(trt_builder._LOGGERS, "tensorrt", trt_builder._logger(rtx))
    monkeypatch.setattr(trt_builder, "gpu_present", lambda: "sm89")
    return module


def test_tensorrt_is_preferred(tensorrt: types.ModuleType, built: Built, tmp_path: Path) -> None:
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine")
    assert (made.sidecar["builder"], made.sidecar["targets"]) == ("tensorrt 11.4.0.106", ["sm89"])
    assert made.sidecar["half_tensors"] == built.sidecar["half_tensors"]
    assert ": trtexec --loadEngine=" in made.printed[-1]


def test_tensorrt_takes_no_target(tensorrt: types.ModuleType, built: Built, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine"), "--target", "sm86"])
    assert one_line().endswith(
        "--target: tensorrt tunes kernels on the GPU it builds for and cannot build for another: leave it out, or use "
        "--builder tensorrt-rtx"
    )


def test_a_log_that_says_nothing(
    tensorrt: types.ModuleType, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another logger was there first: what is not known is said to be unknown."""

    class Deaf(list[Any]):
        def append(self, item: Any) -> None:
            pass

    monkeypatch.setattr(trt_builder._logger(rtx), "messages", Deaf())
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine")
    assert [profile["activation_bytes"] for profile in made.sidecar["profiles"]] == [None] * 3
    assert "(none named in the builder's log); activations: crops unknown, dense" in made.printed[-2]


def test_an_old_tensorrt(
    tensorrt: types.ModuleType, built: Built, tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "__version__", "10.8.0.43")
    assert main([str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine")]) == 1
    assert one_line() == "tensorrt 10.8.0.43 is too old, expected 10.9 or newer: pip install tensorrt -U"


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("auto", "tensorrt and tensorrt-rtx cannot be imported: pip install tensorrt  or  pip install tensorrt-rtx"),
        ("tensorrt", "tensorrt cannot be imported: pip install tensorrt"),
    ],
)
def test_no_builder(
    builder: str, message: str, single: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in LIBRARIES.values():
        monkeypatch.setitem(sys.modules, library.module, None)
    assert main([str(single), "--builder", builder]) == 1
    assert one_line() == message


def test_import_needs_no_builder_and_no_torch() -> None:
    code = "import sys, export.to_trt; print([m for m in ('torch', 'onnx', 'tensorrt_rtx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Refusals


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--target", "sm86", "sm87"],
            "--target: tensorrt-rtx does not know 'sm87', only sm75, sm80, sm86, sm89, sm120",
        ),
        (["--target", "native"], "--target: tensorrt-rtx does not know 'native', only sm75"),
        (["--profile", "wide:max=3x4"], "unknown profile 'wide', expected one of crops, dense"),
        (["--profile", "crops:max=3"], "profile crops has no key 'max', only views, image"),
        (["--profile", "crops", "--profile", "crops:views=2"], "--profile: each may be given once, got crops, crops"),
        (["-o", "m.plan"], "-o m.plan: an engine's name ends in .engine"),
        (["--precision", "int8"], "argument --precision: invalid choice: 'int8'"),
    ],
)
def test_usage_errors(argv: list[str], message: str, single: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(single), "--builder", "tensorrt-rtx", *argv])
    assert message in one_line()


def test_unknown_output_of_a_checkpoint(slim_checkpoint: Checkpoints, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(slim_checkpoint("A")), "--outputs", "heat_map"])
    assert "--outputs: unknown output 'heat_map', expected posterior, " in one_line()


def test_unknown_suffix(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "m.caffemodel")])
    assert one_line().endswith("m.caffemodel: expected a checkpoint (.pt) or an ONNX model (.onnx)")


@pytest.mark.parametrize(
    ("source", "argv", "message"),
    [
        (
            "half",
            ["--precision", "fp32"],
            "an FP16 graph, got --precision fp32: precision is a property of the graph, so ",
        ),
        (
            "single",
            ["--precision", "fp16"],
            "an FP32 graph, got --precision fp16: precision is a property of the graph, so ",
        ),
        ("single", ["--interface", "nchw"], "a graph with the views interface, got --interface nchw: export it with "),
        (
            "single",
            ["--outputs", "score_map"],
            "no output 'score_map', only posterior, posterior_positions, pixel_sums: ",
        ),
        ("single", ["--profile", "dense:min=32x32"], "a view of 32x32 px is below the 64 px that slim-a needs"),
        ("single", ["--profile", "dense:min=100x100,max=90x90"], "out of order: expected min <= opt <= max"),
        (
            "single",
            ["--profile", "dense:image=100"],
            "cannot be cut from images of up to 100 px: use image=389 or more",
        ),
    ],
)
def test_refusals(
    source: str, argv: list[str], message: str, built: Built, single: Path, tmp_path: Path, one_line: OneLine
) -> None:
    path = {"half": built.engine.with_suffix(".onnx"), "single": single}[source]
    assert main([str(path), "-o", str(tmp_path / "m.engine"), "--target", "sm86", *argv]) == 1
    assert message in one_line()
    assert list(tmp_path.iterdir()) == []


def test_bad_profile_of_a_checkpoint_is_refused_before_the_export(
    slim_checkpoint: Checkpoints, tmp_path: Path, one_line: OneLine
) -> None:
    path = slim_checkpoint("A")
    assert main([str(path), "-o", str(tmp_path / "m.engine"), "--profile", "dense:max=60x70"]) == 1
    assert "short side of 64 (min), 60 (opt), 60 (max) px is out of order" in one_line()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_models(tmp_path: Path, one_line: OneLine) -> None:
    def refused(name: str, content: bytes | None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert main([str(path), "--target", "sm86"]) == 1
        return one_line().removeprefix(f"{path}: ")

    assert refused("a.onnx", None) == "no such file, expected a checkpoint (.pt) or an ONNX model (.onnx)"
    assert refused("b.onnx", b"no protobuf at all").startswith("not an ONNX model (")
    assert refused("c.pt", b"no zip").startswith("refused, it holds pickled code or is no checkpoint")
    foreign = helper.make_model(helper.make_graph([], "empty", [], []))
    assert refused("d.onnx", foreign.SerializeToString()).startswith("an ONNX model without our spec: import it with")
    helper.set_model_props(foreign, {"spec": "{}"})
    assert "damaged metadata: " in refused("e.onnx", foreign.SerializeToString())
    helper.set_model_props(foreign, {"spec": slim_spec("A").to_json()})
    assert refused("f.onnx", foreign.SerializeToString()).startswith("tensorrt-rtx could")


def test_the_builders_own_words(single: Path, tmp_path: Path, one_line: OneLine) -> None:
    model = onnx.load(single)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Rleu"
    onnx.save(model, tmp_path / "m.onnx")
    assert main([str(tmp_path / "m.onnx"), "--target", "sm86"]) == 1
    assert one_line().startswith(f"{tmp_path / 'm.onnx'}: tensorrt-rtx cannot read it: Rleu relu1_1: creator && ")


# Crashes


def test_no_plan_is_left_with_the_sidecar_of_another(tmp_path: Path) -> None:
    engine = tmp_path / "m.engine"
    write_engine(engine, b"old", {"sha256": "old"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_engine(engine, b"new", {"sha256": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["m.engine"]


def test_a_failed_build_leaves_the_old_engine(built: Built, tmp_path: Path, one_line: OneLine) -> None:
    path, engine = tmp_path / "m.onnx", tmp_path / "m.engine"
    write_engine(engine, b"old", {"sha256": hashlib.sha256(b"old").hexdigest()})
    onnx.save(with_one_single_convolution(onnx.load(built.engine.with_suffix(".onnx"))), path)
    assert main([str(path), "--target", "sm86"]) == 1
    assert "1 of 11 convolutions" in one_line()
    assert check_sidecar(engine)


# Full size


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_full_size(net: str, tmp_path: Path) -> None:
    """All seven for two targets, each in a process of its own; VGG-D within 90 s and 6 GB."""
    checkpoint = write_checkpoint(tmp_path / "model.pt", full_spec(net))
    started = time.monotonic()
    command = [sys.executable, "-m", "export.to_trt", str(checkpoint), "--target", "sm86", "sm89"]
    with (tmp_path / "printed").open("w") as stdout:
        process = subprocess.Popen(command, stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak_gb = time.monotonic() - started, usage.ru_maxrss * 1024 / 1e9
    printed = (tmp_path / "printed").read_text().splitlines()
    print(f"\nfull {net}: {seconds:.0f} s, peak {peak_gb:.1f} GB\n" + "\n".join(printed[:-1]))
    assert process.returncode == 0
    sidecar = check_sidecar(tmp_path / "model.engine")
    convolutions = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19, "googlenet": 58}[net]
    assert f"{convolutions} convolutions all fp16 ({3 * convolutions} kernels" in printed[-2]
    assert sidecar["half_tensors"] > 2 * convolutions and sidecar["targets"] == ["sm86", "sm89"]
    if net == "D":
        assert seconds < 90 and peak_gb < 6
    for path in tmp_path.glob("model.*"):
        if path.is_file():
            path.unlink()  # gigabytes
