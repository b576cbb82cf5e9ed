"""Precisions that the builder counts, the log it reads, targets; TensorRT's branch with a double of its module."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from engines import (
    TENSORRT_LISTS,
    Built,
    Watched,
    build_engine,
    frozen_api,
    tensorrt_double,
    with_one_single_convolution,
)

from export.tensorrt import build as trt_build
from export.tensorrt import build as trt_builder
from export.tensorrt.build import BuildError, activation_bytes, choose_targets, convolution_kernels
from export.tensorrt.sidecar import write_engine
from export.to_trt import main
from infer.tensorrt import log as trt_log
from infer.tensorrt.library import LIBRARIES
from infer.tensorrt.sidecar import check_sidecar

RTX = LIBRARIES["tensorrt-rtx"]
rtx = pytest.importorskip("tensorrt_rtx")
Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]


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
    count = trt_builder._tensor_types

    def all_half(trt: Any, network: Any) -> tuple[list[str], dict[str, str]]:
        outputs, convolutions = count(trt, network)
        return ["Half", *outputs], dict.fromkeys(convolutions, "Half")

    monkeypatch.setattr(trt_builder, "_tensor_types", all_half)
    assert main([str(path), "--target", "sm86"]) == 1
    assert "44 of 44 kernels of convolutions in the builder's log are not fp16, first conv1_1 (Float)" in one_line()
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


def test_default_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_build, "gpu_present", lambda: None)
    assert choose_targets(RTX, []) == ("sm75", "sm80", "sm86", "sm89", "sm120")
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm86")
    assert choose_targets(RTX, []) == ("sm86",)
    assert choose_targets(RTX, ["sm121", "sm75", "sm75"]) == ("sm75", "sm121")
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm90")
    with pytest.raises(
        BuildError, match=r"does not run on the sm90 GPU here, only on sm75, .*: use --builder tensorrt"
    ):
        choose_targets(RTX, [])
    assert choose_targets(RTX, ["sm86"]) == ("sm86",)


def test_tensorrt_builds_for_the_gpu_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm90")
    assert choose_targets(LIBRARIES["tensorrt"], []) == ("sm90",)
    monkeypatch.setattr(trt_build, "gpu_present", lambda: None)
    with pytest.raises(BuildError, match="there is none here: run it there, or use --builder tensorrt-rtx --target"):
        choose_targets(LIBRARIES["tensorrt"], [])


@pytest.fixture(params=TENSORRT_LISTS)
def tensorrt(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Watched:
    """A double of TensorRT: RTX's module without any name that TensorRT lacks, building for "the GPU present"."""
    double = tensorrt_double(rtx, set(), frozen_api(request.param))
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    monkeypatch.setitem(trt_log._MESSAGES, "tensorrt", trt_log.messages(rtx))
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm89")
    return double


def test_tensorrt_is_preferred(tensorrt: Watched, built: Built, tmp_path: Path) -> None:
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine")
    assert (made.sidecar["builder"], made.sidecar["targets"]) == ("tensorrt 11.4.0.106", ["sm89"])
    assert made.sidecar["half_tensors"] == built.sidecar["half_tensors"]
    assert ": trtexec --loadEngine=" in made.printed[-1]


def test_a_log_of_tensorrt_that_says_something_else_is_a_remark(
    tensorrt: Watched, built: Built, tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody here has seen such a log, so what is read in it refuses nothing; the network was counted before."""
    read = trt_builder.convolution_kernels

    def misread(lines: list[str], convolutions: set[str]) -> list[trt_builder.Kernel]:
        return [trt_builder.Kernel(kernel.layers, frozenset({"Float"})) for kernel in read(lines, convolutions)]

    monkeypatch.setattr(trt_builder, "convolution_kernels", misread)
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine")
    assert made.sidecar["half_tensors"] == built.sidecar["half_tensors"]
    line = one_line()
    assert "44 of 44 kernels of convolutions in the builder's log are not fp16, first conv1_1 (Float)" in line
    assert line.endswith(" (the log of tensorrt may be read wrongly here: the network is the proof)")


def test_tensorrt_takes_no_target(tensorrt: Watched, built: Built, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine"), "--target", "sm86"])
    assert one_line().endswith(
        "--target: tensorrt tunes kernels on the GPU it builds for and cannot build for another: leave it out, or use "
        "--builder tensorrt-rtx"
    )


def test_a_log_that_says_nothing(
    tensorrt: Watched, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another logger was there first: what is not known is said to be unknown."""

    class Deaf(list[Any]):
        def __iadd__(self, lines: Any) -> Any:
            return self

    monkeypatch.setattr(trt_log.messages(rtx), "lines", Deaf())
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine")
    assert [profile["activation_bytes"] for profile in made.sidecar["profiles"]] == [None] * 4
    assert "(none named in the builder's log); activations: crops unknown, dense" in made.printed[-2]


def test_an_old_tensorrt(
    tensorrt: Watched, built: Built, tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt.__version__ = "10.2.0.post1"
    assert main([str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine")]) == 1
    assert one_line() == "tensorrt 10.2.0.post1 is too old, expected 10.3 or newer: pip install tensorrt -U"


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


@pytest.mark.processes
def test_import_needs_no_builder_and_no_torch() -> None:
    code = "import sys, export.to_trt; print([m for m in ('torch', 'onnx', 'tensorrt_rtx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
