"""Any classifier behind the view graph: Pillow's pixels, the same scores as torch's, and what it cannot be given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_nets import LEVELS, foreign_net, reference, weights
from helpers import noise
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.special import softmax

from export.foreign import trial
from export.foreign.surgery import ForeignError
from export.from_onnx import Imported, ImportRequest, import_model, main
from infer.errors import UsageError
from infer.onnx_engine import OnnxEngine
from infer.pixels.render import pixel_sums, render
from infer.spec import Preprocessing
from infer.views import PROTOCOLS, PlanError, check_protocol, default_scales, plan_views

LEVELS_RGB = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
BYTES = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
WEIGHTS = weights()
U8 = TensorProto.UINT8


def imported(
    folder: Path, model: onnx.ModelProto, preprocessing: Preprocessing = LEVELS_RGB, **request: Any
) -> Imported:
    onnx.save(model, folder / "foreign.onnx")
    sides = model.graph.input[0].type.tensor_type.shape.dim[2]
    chosen = {"crop_px": 0 if sides.dim_value else 64, **request}
    return import_model(folder / "foreign.onnx", folder / "ours.onnx", ImportRequest(preprocessing, **chosen))


def normalised(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """f32 [1, 3, h, w], written out here."""
    levels = (pixels.astype(np.float64) - preprocessing.mean_rgb) / preprocessing.std_rgb
    return levels.transpose(2, 0, 1)[None].astype(np.float32)


FORMS: list[dict[str, Any]] = [
    {},
    {"batch": 1, "side": 64, "head": "reshape"},
    {"batch": 5, "side": 64, "channels_last": True},
    {"kind": TensorProto.FLOAT16},
    {"opset": 9, "end": "Softmax"},
    {"opset": 13, "head": "map", "end": "Softmax"},
    {"opset": 21, "head": "map", "channels_last": True},
    {"kind": U8},
    {"kind": U8, "channels_last": True, "side": 64, "batch": 1, "opset": 11},
]


@pytest.mark.parametrize("interface", ["views", "images"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_protocol_is_torchs(form: dict[str, Any], interface: Any, tmp_path: Path) -> None:
    """Both ways of the graph: the host's atlas, and taps by which the graph rescales."""
    preprocessing = BYTES if form.get("kind") == U8 else LEVELS_RGB
    spec = imported(tmp_path, foreign_net(WEIGHTS, **form), preprocessing, interface=interface).spec
    assert (spec.interface, spec.max_views, spec.fixed_size) == (interface, 0, False)
    model = onnx.load(tmp_path / "ours.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == max(form.get("opset", 17), 15)

    image = noise((80, 100))
    tolerance = 2e-3 if spec.precision == "fp16" else 1e-6
    for rescale in ("host", "graph"):
        engine = OnnxEngine(tmp_path / "ours.onnx", rescale=rescale)
        for protocol in PROTOCOLS:
            plan = plan_views(spec, protocol, (80, 100), default_scales(spec, protocol)[:1])
            found = engine.run(engine.load([image]), [plan], ["posterior", "pixel_sums"])
            cut = render(image, plan.views, spec)
            assert np.array_equal(found["pixel_sums"], np.concatenate([pixel_sums(view[None]) for view in cut]))
            inputs = [normalised(view, preprocessing) for view in cut]
            if form.get("kind") == U8:
                inputs = [(x - LEVELS["mean"]) / np.float32(LEVELS["std"]) for x in inputs]
            scores = [reference(x, WEIGHTS, is_map=form.get("head") == "map") for x in inputs]
            means = [one.mean((2, 3)) if one.ndim == 4 else one for one in scores]
            assert np.abs(found["posterior"] - softmax(np.concatenate(means), 1)).max() < tolerance


def test_channels_of_views(tmp_path: Path) -> None:
    spec = imported(tmp_path, foreign_net(WEIGHTS, channels_last=True), channels="bgr").spec
    engine, image = OnnxEngine(tmp_path / "ours.onnx"), noise((80, 100))
    plan = plan_views(spec, "center", (80, 100))
    (pixels,) = render(image, plan.views, spec)
    found = engine.run(engine.load([image]), [plan])["posterior"]
    swapped = normalised(pixels, LEVELS_RGB)[:, ::-1].copy()
    assert np.abs(found - softmax(reference(swapped, WEIGHTS), 1)).max() < 1e-6


def test_a_model_of_bytes_is_given_floats_where_that_is_the_same(tmp_path: Path) -> None:
    """TensorRT has no bytes but at its inputs. A quotient of bytes is another number, so these stay bytes."""
    model = foreign_net(WEIGHTS, kind=U8)
    imported(tmp_path, model, BYTES)
    (cast,) = (node for node in onnx.load(tmp_path / "ours.onnx").graph.node if node.name == "input.cast")
    assert cast.attribute[0].i == TensorProto.FLOAT

    halves = foreign_net(WEIGHTS, kind=U8)
    halves.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.uint8), "two"))
    halves.graph.node.insert(0, helper.make_node("Div", ["image", "two"], ["halved"]))
    halves.graph.node[1].input[0] = "halved"
    spec = imported(tmp_path, halves, BYTES).spec
    (cast,) = (node for node in onnx.load(tmp_path / "ours.onnx").graph.node if node.name == "input.cast")
    assert cast.attribute[0].i == U8 and spec.interface == "views"


def test_levels_of_bytes(tmp_path: Path) -> None:
    with pytest.raises(
        ForeignError, match="takes bytes, so its preprocessing is within it, got --mean or --std: leave"
    ):
        imported(tmp_path, foreign_net(WEIGHTS, kind=U8))
    with pytest.raises(UsageError, match="the following arguments are required: --mean, --std"):
        imported(tmp_path, foreign_net(WEIGHTS), BYTES, levels_said=False)
    assert imported(tmp_path, foreign_net(WEIGHTS, kind=U8), BYTES, levels_said=False).spec.interface == "views"


def mixing(**form: Any) -> onnx.ModelProto:
    """A mean over the batch: several views would change each other."""
    model = foreign_net(WEIGHTS, **form)
    model.graph.node.append(helper.make_node("ReduceMean", ["fc"], ["mean.fc"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["fc", "mean.fc"], ["scores"]))
    model.graph.output[0].name = "scores"
    return model


def test_one_view_a_call_is_nchw(tmp_path: Path) -> None:
    spec, lines = imported(tmp_path, mixing(batch=1))
    assert (spec.interface, spec.max_views) == ("nchw", 1)
    why = "takes one view a call (it mixes the views of a call): export it again with a dynamic batch"
    assert lines[-1] == f"nchw interface: {why}"
    for interface in ("views", "images"):
        with pytest.raises(ForeignError, match=re.escape(f"--interface {interface}: {why}, or leave it out, for nchw")):
            imported(tmp_path, mixing(batch=1), interface=interface)


def test_a_class_token_of_one_image_is_nchw(tmp_path: Path) -> None:
    """As torch.onnx writes `token.expand(1, -1, -1)` for a batch of one."""
    model = foreign_net(WEIGHTS, batch=1, head="reshape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "token"))
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.output[0] = "patches"
    model.graph.node.append(helper.make_node("Concat", ["patches", "token"], ["with_token"], axis=1))
    model.graph.output[0].name = "with_token"
    spec, lines = imported(tmp_path, model)
    assert (spec.interface, spec.max_views) == ("nchw", 1)
    assert lines[-1].startswith("nchw interface: takes one view a call (ONNX Runtime cannot run it (")


@pytest.mark.parametrize("fault", ["cannot", "another"])
def test_an_old_opset_that_cannot_be_upgraded_is_nchw(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgraded(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        if fault == "cannot":
            raise ForeignError("onnx.version_converter cannot upgrade it (No Adapter)")
        changed = onnx.version_converter.convert_version(model, opset)
        tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == "net/fc.b")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.1, tensor.name))
        return changed

    monkeypatch.setattr(trial, "upgraded", upgraded)
    spec, lines = imported(tmp_path, foreign_net(WEIGHTS, opset=11))
    assert spec.interface == "nchw"
    why = {"cannot": "cannot upgrade it (No Adapter)", "another": "makes another net of it"}[fault]
    said = f"opset 11, the view graph needs 15, and onnx.version_converter {why}: export it again with a later one"
    assert lines[-1] == f"nchw interface: {said}"
    with pytest.raises(ForeignError, match=re.escape(f"--interface views: {said}, or leave it out, for nchw")):
        imported(tmp_path, foreign_net(WEIGHTS, opset=11), interface="views")


# Sides


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("valid", r"it cannot be run on 96x160 px \(ONNX Runtime cannot run it \(.*"),
        ("strided", "AveragePool pool.node sees 16 of 24 rows of its input there"),
        ("squeezed", r"Resize squeeze.node makes \[1, 3, 64, 64\] of views of any size"),
        ("sliced", r"the \w+ \w+ ninth of 96x160 px has \d\.\d% of the influence of another upon its answer"),
    ],
)
@pytest.mark.parametrize("side", [64, "side"])
def test_a_part_of_a_larger_view_is_no_answer(head: str, reason: str, side: Any, tmp_path: Path) -> None:
    opset = 18 if head == "squeezed" else 17  # from which a resize names its axes
    spec, lines = imported(tmp_path, foreign_net(WEIGHTS, head=head, side=side, opset=opset), crop_px=64)
    assert spec.fixed_size
    assert re.fullmatch(f"sides: crops alone, since {reason}", lines[1]), lines[1]
    engine = OnnxEngine(tmp_path / "ours.onnx")
    with pytest.raises(PlanError, match=r"dense at Q=73 can see no image of any size \(a net of fixed size sees"):
        check_protocol(spec, engine.shapes, "dense", [73])
    for protocol in ("center", "ten-crop", "multicrop", "googlenet-144"):
        check_protocol(spec, engine.shapes, protocol, default_scales(spec, protocol))


def test_freed_sides_are_said(tmp_path: Path) -> None:
    _, lines = imported(tmp_path, foreign_net(WEIGHTS, side=64, batch=1))
    assert lines == (
        "recognised: 2 Conv and 1 Gemm with 954 parameters, opset 17; takes f32 [1, 3, 64, 64], returns logits, a "
        "vector",
        "sides: declared 64 px only, but larger views are seen whole (tried: 96x160, 149x97, 192x128 px)",
    )


def test_certain_probabilities_do_not_hide_what_is_seen(tmp_path: Path) -> None:
    sure = {**WEIGHTS, "fc.w": WEIGHTS["fc.w"] * 300}
    assert not imported(tmp_path, foreign_net(sure, end="Softmax", side=64)).spec.fixed_size
    assert imported(tmp_path, foreign_net(sure, end="Softmax", side=64, head="sliced")).spec.fixed_size


def test_the_command_takes_bytes_without_levels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "bytes.onnx", tmp_path / "ours.onnx"
    onnx.save(foreign_net(WEIGHTS, kind=U8, channels_last=True, side=64), path)
    assert main([str(path), "-o", str(out)]) == 0
    said = capfd.readouterr().out
    assert "takes u8 [N, 64, 64, 3], returns logits, a vector" in said
    assert "mean 0,0,0 (within the model) and std 1,1,1 (within the model)" in said
    onnx.save(foreign_net(WEIGHTS, side=64), path)
    with pytest.raises(SystemExit, match="2"):
        main([str(path), "-o", str(out)])
    assert capfd.readouterr().err.endswith("the following arguments are required: --mean, --std\n")


def test_a_branch_that_reads_the_nets_weights(tmp_path: Path) -> None:
    """The classifier lies in an If: its weights are the graph's."""
    model = foreign_net(WEIGHTS)
    *nodes, last = model.graph.node
    output = model.graph.output[0]
    inner = helper.make_graph([last], "inner", [], [output])
    condition = helper.make_node("Constant", [], ["always"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["always"], [f"{output.name}.chosen"], then_branch=inner, else_branch=inner)
    chosen = helper.make_tensor_value_info(choice.output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph([*nodes, condition, choice], "net", model.graph.input, [chosen], model.graph.initializer)
    assert (
        imported(tmp_path, helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)).spec.max_views == 0
    )

    photo = noise((64, 64))
    engine = OnnxEngine(tmp_path / "ours.onnx")
    found = engine.run(engine.load([photo]), [plan_views(engine.spec, "center", (64, 64), (64,))])["posterior"]
    x = ((photo - np.array(LEVELS_RGB.mean_rgb)) / LEVELS_RGB.std_rgb).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(found, softmax(reference(x.astype(np.float32), WEIGHTS), 1), atol=1e-5)
