"""Engines built by the real TensorRT-RTX builder, which needs no GPU: the command, its files, what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from engines import Built, build_engine
from foreign_nets import foreign_net
from foreign_nets import weights as foreign_weights
from helpers import random_net, slim_spec
from onnx import TensorProto, helper
from plans import built_graph

from export.from_onnx import ImportRequest, import_model
from export.model.source import read_source
from export.tensorrt.build import build
from export.tensorrt.elements import fit_shapes
from export.tensorrt.profiles import shapes_from_options
from export.to_onnx import export_onnx
from export.to_trt import main
from infer.files import file_sha256
from infer.pixels.render import pixel_sums, render
from infer.self_test import make_image
from infer.spec import ModelSpec, Preprocessing
from infer.tensorrt.library import LIBRARIES
from infer.tensorrt.log import messages
from infer.tensorrt.sidecar import check_sidecar
from infer.views import crops_shape, plan_views
from trainer.checkpoint import Checkpoint

RTX = LIBRARIES["tensorrt-rtx"]
rtx = pytest.importorskip("tensorrt_rtx")
Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]


def test_files(built: Built) -> None:
    names = {path.name for path in built.engine.parent.iterdir()} - {"single.onnx"}
    assert names == {"model.engine", "model.engine.json", "model.inputs", "model.onnx", "model.check.onnx"}


def test_sidecar(built: Built) -> None:
    content = built.sidecar
    assert list(content) == [
        *("spec", "sha256", "builder", "targets", "options", "profiles", "half_tensors", "float_tensors"),
        *("onnx_sha256", "self_test"),
    ]
    assert check_sidecar(built.engine) == content
    assert content["sha256"] == hashlib.sha256(built.engine.read_bytes()).hexdigest()
    onnx_path = built.engine.with_suffix(".onnx")
    assert content["onnx_sha256"] == file_sha256(onnx_path)
    assert content["builder"] == f"tensorrt-rtx {rtx.__version__}"
    assert content["targets"] == ["sm86", "sm89"]
    source = read_source(onnx_path)
    spec = source.spec
    assert ModelSpec.from_json(json.dumps(content["spec"])) == spec
    assert (spec.precision, spec.interface, len(spec.source["checkpoint_sha256"])) == ("fp16", "views", 64)
    assert content["self_test"] == source.self_test
    assert content["half_tensors"] > 25 and content["float_tensors"] > 0


def test_profiles_of_the_sidecar(built: Built) -> None:
    spec = ModelSpec.from_json(json.dumps(built.sidecar["spec"]))
    profiles = built.sidecar["profiles"]
    assert [profile["name"] for profile in profiles] == ["crops", "dense landscape", "dense portrait", "few crops"]
    shapes, _ = fit_shapes(built.engine.with_suffix(".onnx"), spec, shapes_from_options(spec))
    for profile, shape in zip(profiles, shapes, strict=True):
        for name in ("views", "height_px", "width_px", "rescaled_px", "source_px", "taps", "lines", "region_taps"):
            assert profile[name] == dataclasses.asdict(getattr(shape, name))
        assert shape.lines is not None
        assert profile["inputs"]["rows"][2] == [shape.views.max, shape.lines.max]
        assert profile["inputs"]["cols"][2] == [shape.views.max, shape.width_px.max]
        # the rescaled image, i32 [3, 2048, 2048], is most of it
        assert 3 * 2048**2 * 4 < profile["activation_bytes"] < 1e9


def test_what_is_printed(built: Built) -> None:
    exported, unchecked, summary, command = built.printed
    assert unchecked.startswith("the range of half precision was not checked on real images: on 5 built-in ones")
    assert exported.startswith(f"{built.engine.with_suffix('.onnx')}: fp16, views interface, ")
    size = built.engine.stat().st_size / 1e6
    for part in (
        f"{built.engine}: fp16, views interface, {size:.1f} MB, tensorrt-rtx {rtx.__version__} for sm86 sm89; ",
        f"{built.sidecar['half_tensors']} half and {built.sidecar['float_tensors']} float tensors, ",
        "11 convolutions all fp16 (44 kernels of them in the builder's log); ",
        "activations: crops ",
        f"dense portrait {built.sidecar['profiles'][2]['activation_bytes'] / 1e6:.0f} MB",
    ):
        assert part in summary
    assert "tensorrt_rtx --loadEngine=" in command


def test_the_printed_command_has_real_inputs(built: Built, tmp_path: Path) -> None:
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
    graph = built_graph(built.engine.with_suffix(".onnx"), tmp_path, built.sidecar["profiles"][0]["inputs"])
    session = onnxruntime.InferenceSession(graph)
    posterior, sums = session.run(["posterior", "pixel_sums"], feed)
    assert posterior.shape == (10, 10) and np.isfinite(posterior).all()
    spec = slim_spec("A")
    views = plan_views(spec, "ten-crop", (64, 64), [96]).views
    assert (sums == pixel_sums(np.stack(render(make_image(0, spec)[:64, :64], views, spec)))).all()


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
    assert f"{convolutions} convolutions all fp16 ({4 * convolutions} kernels" in summary


def test_single_precision_has_no_half_tensor(single: Path, tmp_path: Path) -> None:
    made = build_engine(single, "--precision", "fp32", "-o", tmp_path / "m.engine", "--target", "sm86")
    assert (made.sidecar["half_tensors"], made.sidecar["spec"]["precision"]) == (0, "fp32")
    assert made.sidecar["float_tensors"] > 25
    assert made.sidecar["onnx_sha256"] == file_sha256(single)
    assert "11 convolutions all fp32 (44 kernels" in made.printed[-2]


def test_outputs_and_profiles_on_request(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    made = build_engine(
        *(slim_checkpoint("A"), "-o", tmp_path / "m.engine", "--target", "sm86", "--outputs", "features,posterior"),
        *("--profile", "crops:views=4,image=400", "--profile", "dense:max=80x100,image=400"),
    )
    assert made.sidecar["spec"]["outputs"][-1] == "features"
    crops, landscape, portrait = made.sidecar["profiles"]
    assert crops["inputs"]["cols"][2] == [4, 64] and crops["inputs"]["image"][2] == [400, 400, 3]
    assert (landscape["inputs"]["rows"][2], portrait["inputs"]["rows"][2]) == ([16, 80], [16, 100])
    assert max(profile["activation_bytes"] for profile in (crops, landscape, portrait)) < 20e6
    assert "rows:4x64" in made.printed[-1]


@pytest.mark.parametrize("of", ["checkpoint", "model", "foreign"])
def test_the_answers_alone(of: str, slim_checkpoint: Checkpoints, single: Path, tmp_path: Path) -> None:
    """An engine for apps; of a model it is made of a smaller one beside it."""
    given = slim_checkpoint("A") if of == "checkpoint" else single
    if of == "foreign":
        onnx.save(foreign_net(foreign_weights(), batch=1, side=64), tmp_path / "foreign.onnx")
        given = tmp_path / "ours.onnx"
        preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
        import_model(tmp_path / "foreign.onnx", given, ImportRequest(preprocessing))
    precision = "fp32" if of == "model" else "fp16"
    argv = ("--target", "sm86", "--outputs", "posterior", "--precision", precision)
    made = build_engine(given, "-o", tmp_path / "m.engine", *argv)
    built = tmp_path / {"checkpoint": "m.onnx", "model": "m.posterior.onnx", "foreign": "m.fp16.onnx"}[of]
    assert made.printed[0].startswith(f"{built}: {precision}, views interface")
    assert made.sidecar["onnx_sha256"] == file_sha256(built)
    assert made.sidecar["spec"]["outputs"] == ["posterior"]
    assert [value.name for value in onnx.load(built).graph.output] == ["posterior"]
    assert made.sidecar["self_test"] and made.sidecar["self_test"] == read_source(built).self_test
    assert not any("pixel_sums" in line for line in messages(rtx).lines if line.startswith("Name: "))


def test_a_foreign_model_is_built_in_half_precision(tmp_path: Path, one_line: OneLine) -> None:
    """Its FP16 version is made beside the engine; FP32 stays as it is, and what has no half version is refused."""
    onnx.save(foreign_net(foreign_weights(), batch=1, side=64), tmp_path / "foreign.onnx")
    preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
    path = tmp_path / "ours.onnx"
    import_model(tmp_path / "foreign.onnx", path, ImportRequest(preprocessing))
    made = build_engine(path, "-o", tmp_path / "m.engine", "--target", "sm86")
    half = tmp_path / "m.fp16.onnx"
    assert made.printed[0].startswith(f"{half}: fp16, views interface, ")
    assert made.sidecar["onnx_sha256"] == file_sha256(half)
    assert made.sidecar["self_test"] == read_source(path).self_test
    spec = ModelSpec.from_json(json.dumps(made.sidecar["spec"]))
    assert spec == read_source(half).spec == dataclasses.replace(read_source(path).spec, precision="fp16")
    assert made.sidecar["half_tensors"] > 5 and len(made.sidecar["profiles"]) == (2 if spec.fixed_size else 4)
    single = build_engine(path, "-o", tmp_path / "s.engine", "--target", "sm86", "--precision", "fp32")
    assert (single.sidecar["half_tensors"], len(single.printed)) == (0, 2)
    assert main([str(path), "-o", str(tmp_path / "x.engine"), "--target", "sm86", "--outputs", "score_map"]) == 1
    assert "no output 'score_map', only posterior, posterior_positions" in one_line()
    assert not (tmp_path / "x.fp16.onnx").exists()
    model = onnx.load(path)
    del model.graph.initializer[:]
    onnx.save(model, path)
    assert main([str(path), "-o", str(tmp_path / "x.engine"), "--target", "sm86"]) == 1
    assert one_line().startswith(f"{path}: ")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("x.")]


def test_batch(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """150 views in one call on request; what that costs is printed and stored."""
    argv = ("--interface", "images", "--target", "sm86")
    usual = build_engine(slim_checkpoint("A"), "-o", tmp_path / "m.engine", *argv)
    batch = build_engine(slim_checkpoint("A"), "-o", tmp_path / "b.engine", *argv, "--profile", "batch")
    assert batch.sidecar["profiles"][0]["inputs"]["images"][2] == [150, 64, 64, 3]
    used, more = (made.sidecar["profiles"][0]["activation_bytes"] for made in (usual, batch))
    assert 1.5 * used < more < 3.5 * used
    assert f"activations: crops {more / 1e6:.0f} MB, dense landscape " in batch.printed[-2]


def test_metadata_without_a_self_test(single: Path, tmp_path: Path) -> None:
    model = onnx.load(single)
    spec = next(prop.value for prop in model.metadata_props if prop.key == "spec")
    helper.set_model_props(model, {"spec": spec})
    onnx.save(model, tmp_path / "m.onnx")
    assert build_engine(tmp_path / "m.onnx", "--precision", "fp32", "--target", "sm86").sidecar["self_test"] is None


# Built twice


# TensorRT-RTX 1.7.1 does not build the same bytes twice: threads of its own number its internal tensors, and order some
# of them, by chance (docs/engines.md has the numbers). What does not vary is tested; we add nothing that varies.

NUMBERED = re.compile(rb"__mye\d+")


def test_fixed_sides_built_twice(single: Path) -> None:
    """With every side fixed the plans of a net without branches are the same but for numbers in internal names."""
    path = single.with_name("nchw.onnx")
    spec = slim_spec("A")
    spec = export_onnx(Checkpoint(spec, random_net(spec).state_dict()), path, interface="nchw", precision="fp16").spec
    first, second = (build(RTX, path, spec, [crops_shape(spec)], ["sm86", "sm89"]) for _ in range(2))
    path.unlink()
    assert NUMBERED.search(first.data)
    assert NUMBERED.sub(b"", first.data) == NUMBERED.sub(b"", second.data)
    assert dataclasses.replace(first, data=b"") == dataclasses.replace(second, data=b"")


def test_dynamic_sides_built_twice(built: Built, tmp_path: Path) -> None:
    """Of about the same size, with the same weights, kernels and sidecar."""
    argv = (built.engine.with_suffix(".onnx"), "-o", tmp_path / "model.engine", "--target", "sm86", "--target", "sm89")
    first = build_engine(*argv)
    kernels, plan = logged_kernels(), first.engine.read_bytes()
    second = build_engine(*argv)
    again = second.engine.read_bytes()
    assert abs(len(plan) - len(again)) < 100
    assert weights(plan) == weights(again) and len(weights(plan)) > 250_000
    assert kernels == logged_kernels() and kernels.total() > 33
    for made in (first, second):
        assert {**made.sidecar, "sha256": ""} == {**built.sidecar, "sha256": ""}


def weights(plan: bytes) -> bytes:
    """The last section of a plan: its table names each section, the offset and the size."""
    (size,) = struct.unpack("<Q", plan[plan.index(b"THGW") + 16 :][:8])
    return plan[-size:]


def logged_kernels() -> Counter[str]:
    """The kernels of the last build in the log, with their layers, types and formats, but without numbers."""
    lines = (line for line in messages(rtx).lines if line.startswith("Name: "))
    return Counter(re.sub(r"\d+", "", line) for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--target", "sm86", "sm87"],
            "--target: tensorrt-rtx does not know 'sm87', only sm75, sm80, sm86, sm89, sm120",
        ),
        (["--target", "native"], "--target: tensorrt-rtx does not know 'native', only sm75"),
        (["--profile", "wide:max=3x4"], "unknown profile 'wide', expected one of crops, batch, few, dense, auto"),
        (["--profile", "crops:max=3"], "profile crops has no key 'max', only views, image"),
        (["--profile", "crops", "--profile", "crops:views=2"], "--profile: each may be given once, got crops, crops"),
        (["-o", "m.plan"], "-o m.plan: an engine's name ends in .engine"),
        (["--precision", "int4"], "argument --precision: invalid choice: 'int4'"),
        (["--precision", "int8", "--verify", "d"], "--precision int8 needs images of the kind that the net is for: "),
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
        ("half", ["--interface", "nchw"], "a graph with the views interface, got --interface nchw: export it with "),
        (
            "half",
            ["--outputs", "score_map"],
            "no output 'score_map', only posterior, posterior_positions, pixel_sums: ",
        ),
        ("half", ["--profile", "dense:min=32x32"], "a view of 32x32 px is below the 64 px that slim-a needs"),
        ("half", ["--profile", "dense:min=100x100,max=90x90"], "out of order: expected min <= opt <= max"),
        (
            "half",
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
    assert refused("b.onnx", b"no protobuf at all").startswith("not an ONNX model, or a truncated one")
    assert refused("c.pt", b"no zip").startswith("refused, it holds pickled code or is no checkpoint")
    foreign = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "strange", [], []))
    assert refused("d.onnx", foreign.SerializeToString()).startswith("an ONNX model without our spec: import it with")
    helper.set_model_props(foreign, {"spec": "{}"})
    assert "damaged metadata: " in refused("e.onnx", foreign.SerializeToString())
    helper.set_model_props(foreign, {"spec": slim_spec("A", precision="fp16").to_json()})
    assert refused("f.onnx", foreign.SerializeToString()).startswith("has outputs , but its spec says pixel_sums, pos")
    for output, channels in (("posterior", 10), ("posterior_positions", 10), ("pixel_sums", 6)):
        foreign.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ("views", channels)))
    assert refused("f.onnx", foreign.SerializeToString()).startswith("tensorrt-rtx cannot read it: Relu ")


def test_the_builders_own_words(single: Path, tmp_path: Path, one_line: OneLine) -> None:
    model = onnx.load(single)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Rleu"
    onnx.save(model, tmp_path / "m.onnx")
    assert main([str(tmp_path / "m.onnx"), "--precision", "fp32", "--target", "sm86"]) == 1
    assert one_line().startswith(f"{tmp_path / 'm.onnx'}: tensorrt-rtx cannot read it: Rleu relu1_1: creator && ")
