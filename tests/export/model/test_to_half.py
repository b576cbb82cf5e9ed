"""Foreign FP32 models in half precision: which tensors are half, what it costs, and that TensorRT-RTX builds it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_nets import foreign_net, reference, weights
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax

from export.from_onnx import ImportRequest, import_model
from export.model.file import sort_nodes
from export.model.precision import HalfError, check_graph, half_model, half_tensors, tensor_types
from export.tensorrt.build import build
from infer.open import open_engine
from infer.spec import Interface, ModelSpec, Preprocessing
from infer.tensorrt.library import LIBRARIES
from infer.views import crops_shape, default_shapes

WEIGHTS = weights()
FORMS: list[dict[str, Any]] = [
    {},
    {"end": "Softmax"},
    {"head": "map"},
    {"head": "map", "end": "Softmax", "channels_last": True},
    {"side": 64, "batch": 1, "head": "reshape"},
    {"channels_last": True, "opset": 11},
    {"head": "valid"},
]


def imported(
    folder: Path, net: onnx.ModelProto | None = None, interface: Interface | None = "nchw", **form: Any
) -> Path:
    path, out = folder / "foreign.onnx", folder / "ours.onnx"
    onnx.save(net or foreign_net(WEIGHTS, **form), path)
    preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
    import_model(path, out, ImportRequest(preprocessing, crop_px=64, interface=interface))
    return out


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["posterior"], {"input": x})[0]


def spec_of(model: onnx.ModelProto) -> ModelSpec:
    return ModelSpec.from_json(next(prop.value for prop in model.metadata_props if prop.key == "spec"))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_half_precision_costs(form: dict[str, Any], tmp_path: Path) -> None:
    """The check graph rounds every half tensor as a GPU would; torch computed the truth in FP32."""
    path = imported(tmp_path, **form)
    half = half_model(onnx.load(path))
    onnx.checker.check_model(half, full_check=True)
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [1, 1, 1]
    x = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    scores = reference(x, WEIGHTS, is_map=form.get("head") == "map")
    truth = softmax(scores.mean((2, 3)) if scores.ndim == 4 else scores, 1)
    error = np.abs(run(check_graph(half), x) - truth).max()
    assert 1e-7 < error < 2e-3  # zero would mean that nothing was rounded
    assert np.abs(run(half, x) - truth).max() < 2e-3
    single, spec = spec_of(onnx.load(path)), spec_of(half)
    assert (single.precision, spec.precision, spec.name) == ("fp32", "fp16", single.name)
    onnx.save(half, path)
    open_engine(path, self_test=True).close()


def test_which_tensors_are_half(tmp_path: Path) -> None:
    half = half_model(onnx.load(imported(tmp_path)))
    types = tensor_types(half)
    operators = Counter((node.op_type, types[node.output[0]]) for node in half.graph.node if node.op_type != "Cast")
    single, halves = TensorProto.FLOAT, TensorProto.FLOAT16
    assert operators == {
        **{("Conv", halves): 2, ("Relu", halves): 2, ("Add", halves): 1, ("Gemm", halves): 1},
        **{("Identity", single): 2, ("GlobalAveragePool", single): 1, ("Flatten", single): 1, ("Softmax", single): 1},
    }  # the batch norms are folded
    assert sorted(half_tensors(half)) == sorted(name for name in types if name.endswith(".half"))
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == 4  # into the first layer, out to the pool, into the last layer, out to the softmax
    kinds = {initializer.name: initializer.data_type for initializer in half.graph.initializer}
    assert set(kinds.values()) == {halves} and all(name.endswith(".half") for name in kinds)


def graph_of(nodes: list[onnx.NodeProto], **tensors: Any) -> onnx.ModelProto:
    """A model with our spec around some nodes, from "input" to "posterior"."""
    spec = ModelSpec(
        *("hand", "foreign", ("a", "b", "c", "d"), Preprocessing((0.0, 0.0, 0.0))),
        **{"train_short_px": 8, "crop_px": 8, "stride_px": 1, "interface": "nchw"},  # type: ignore[arg-type]
    )
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["views", 3, 8, 8])],
        [helper.make_tensor_value_info("posterior", TensorProto.FLOAT, ["views", 4])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"spec": spec.to_json()})
    return model


def op(kind: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    """A node from all names but the last to the last."""
    return helper.make_node(kind, names[:-1], [names[-1]], f"{names[-1]}.node", **attributes)


def f32(*shape: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


INPUT = f32(2, 3, 8, 8)


def kinds(model: onnx.ModelProto) -> dict[str, str]:
    """Type of what each node computes, by its name."""
    types, names = tensor_types(model), {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "half"}
    return {node.name.removesuffix(".node"): names.get(types[node.output[0]], "") for node in model.graph.node}


def half_by_library(model: onnx.ModelProto, *single: str) -> onnx.ModelProto:
    """ONNX Runtime's own converter, with more operators in FP32."""
    converter = pytest.importorskip("onnxruntime.transformers.float16")
    blocked = [*converter.DEFAULT_OP_BLOCK_LIST, *single]
    half: onnx.ModelProto = converter.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    del half.graph.value_info[:]
    sort_nodes(half.graph)  # its casts come last
    return half


def test_a_softmax_by_hand_does_not_overflow_between_its_steps() -> None:
    """exp(20) and its sum lie beyond half's range; the library that this is compared with rounds them to infinity."""
    model = graph_of(
        [
            op("Flatten", "input", "flat"),
            op("Gemm", "flat", "w", "b", "scores", transB=1),
            op("Exp", "scores", "exp"),
            op("ReduceSum", "exp", "axes", "sum", keepdims=1),
            op("Div", "exp", "sum", "posterior"),
        ],
        w=f32(4, 192, scale=0.1),
        b=np.array([20, 19, 18, 17], np.float32),
        axes=np.array([1]),
    )
    half = half_model(model)
    found = kinds(half)
    assert [found[name] for name in ("scores", "exp", "sum", "posterior")] == ["half", "float", "float", "float"]
    assert np.abs(run(check_graph(half), INPUT) - run(model, INPUT)).max() < 0.02
    assert not np.isfinite(run(check_graph(half_by_library(model, "Exp", "ReduceSum", "Div")), INPUT)).all()


@pytest.mark.parametrize("form", [{}, {"head": "map"}], ids=str)
def test_the_library_computes_the_same(form: dict[str, Any], tmp_path: Path) -> None:
    single = onnx.load(imported(tmp_path, **form))
    ours = half_model(single)
    theirs = half_by_library(single, "Softmax", "GlobalAveragePool", "BatchNormalization")
    x = np.random.default_rng(1).standard_normal((3, 3, 64, 64)).astype(np.float32)
    assert np.abs(run(check_graph(ours), x) - run(check_graph(theirs), x)).max() < 2e-3


def test_preprocessing_and_shapes_stay_single() -> None:
    """What comes before the first layer, and arithmetic on sizes, which half counts exactly only to 2048."""
    model = graph_of(
        [
            op("Sub", "input", "mean", "centred"),
            op("Conv", "centred", "w", "conv"),
            op("Shape", "conv", "size"),
            op("Cast", "size", "size.float", to=TensorProto.FLOAT),
            op("Mul", "size.float", "one", "size.scaled"),
            op("Cast", "size.scaled", "size.int", to=TensorProto.INT64),
            op("Reshape", "conv", "size.int", "same"),
            op("LRN", "same", "lrn", size=3),
            op("ReduceMean", "lrn", "posterior", axes=[2, 3], keepdims=0),
        ],
        mean=np.array(2000.3, np.float32),
        w=f32(4, 3, 3, 3),
        one=np.array(1, np.float32),
    )
    half = half_model(model)
    found = kinds(half)
    assert [found[name] for name in ("centred", "conv", "same", "lrn", "posterior")] == [
        *("float", "half", "half", "float", "float")
    ]
    assert (found["size.float"], found["size.scaled"]) == ("float", "float")
    assert np.abs(run(check_graph(half), INPUT) / run(model, INPUT) - 1).max() < 1e-2


def test_a_weight_read_in_both_precisions_keeps_both() -> None:
    model = graph_of(
        [
            op("Mul", "input", "shared", "before"),
            op("Conv", "before", "w", "conv"),
            op("Mul", "conv", "shared", "scaled"),
            op("Constant", "half", value_float=0.5),
            op("Add", "scaled", "half", "added"),
            op("Clip", "added", "", "huge", "clipped"),
            op("ReduceMean", "clipped", "posterior", axes=[2, 3], keepdims=0),
        ],
        shared=np.array(1.0002, np.float32),  # 1 as a half
        w=f32(4, 3, 3, 3, scale=0.1),
        huge=np.array(3e38, np.float32),
    )
    half = half_model(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert (values["shared"], values["shared"].dtype) == (np.float32(1.0002), np.float32)
    assert (values["shared.half"], values["half.half"]) == (1, 0.5)
    found = kinds(half)
    assert (found["scaled"], found["clipped"]) == ("half", "float")  # 3e38 is no half
    assert np.abs(run(check_graph(half), INPUT) - run(model, INPUT)).max() < 1e-3


def test_batch_norms_that_are_folded_and_that_are_not() -> None:
    """A variance of 1e6 is no half. The second has a convolution that another reads too."""
    statistics = {
        f"{name}.{part}": values
        for name in ("bn1", "bn2")
        for part, values in {
            "scale": f32(4, seed=1) * 1000,
            "bias": f32(4, seed=2),
            "mean": f32(4, seed=3),
            "var": np.full(4, 1e6, np.float32),
        }.items()
    }
    model = graph_of(
        [
            op("Conv", "input", "w", "conv1"),
            op(
                "BatchNormalization",
                "conv1",
                *(f"bn1.{p}" for p in ("scale", "bias", "mean", "var")),
                "bn1",
                epsilon=0.1,
            ),
            op("Conv", "bn1", "v", "b", "conv2"),
            op("BatchNormalization", "conv2", *(f"bn2.{p}" for p in ("scale", "bias", "mean", "var")), "bn2"),
            op("Add", "conv2", "bn2", "sum"),
            op("ReduceMean", "sum", "posterior", axes=[2, 3], keepdims=0),
        ],
        **{"w": f32(4, 3, 3, 3), "v": f32(4, 4, 1, 1), "b": f32(4), **statistics},
    )
    before = model.SerializeToString()
    half = half_model(model)
    assert model.SerializeToString() == before
    norms = [node for node in half.graph.node if node.op_type == "BatchNormalization"]
    assert [node.name for node in norms] == ["bn2.node"]
    found = kinds(half)
    assert (found["conv1"], found["bn2"], found["sum"]) == ("half", "float", "half")
    truth = run(model, INPUT)
    assert np.abs(run(check_graph(half), INPUT) - truth).max() < 5e-3 * np.abs(truth).max()


def test_subgraphs_read_single_tensors() -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([op(kind, "scores", name)], name, [], [out])

    model = graph_of(
        [
            op("Flatten", "input", "flat"),
            op("Gemm", "flat", "w", "scores", transB=1),
            op("If", "yes", "posterior", then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs")),
        ],
        w=f32(4, 192, scale=0.1),
        yes=np.array(True),
    )
    half = half_model(model)
    assert np.abs(run(half, INPUT) - run(model, INPUT)).max() < 1e-2


def test_what_has_no_half_version(tmp_path: Path) -> None:
    loud = {**WEIGHTS, "conv2.w": WEIGHTS["conv2.w"] * 1e6}
    with pytest.raises(HalfError, match=r"Conv net/conv2\.node: net/conv2\.folded\.weight goes up to .*, the largest"):
        half_model(onnx.load(imported(tmp_path, foreign_net(loud))))
    half = half_model(onnx.load(imported(tmp_path)))
    with pytest.raises(HalfError, match="foreign is fp16 already, expected an FP32 model"):
        half_model(half)
    model = graph_of([op("Bar", "input", "x"), op("Conv", "x", "w", "posterior")], w=f32(4, 3, 3, 3))
    model.graph.node[0].domain = "foo"
    model.opset_import.append(helper.make_opsetid("foo", 1))
    with pytest.raises(HalfError, match=r"Conv posterior.node: x has no known type: build with --precision fp32"):
        half_model(model)


@pytest.mark.parametrize("interface", ["views", "nchw"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tensorrt_builds_it(form: dict[str, Any], interface: Interface, tmp_path: Path) -> None:
    """The real builder counts half convolutions, in the network and among its kernels; nothing has run."""
    pytest.importorskip("tensorrt_rtx")
    path = imported(tmp_path, interface=interface, **form)
    half = half_model(onnx.load(path))
    onnx.save(half, path)
    spec = spec_of(half)
    shapes = default_shapes(spec)
    assert len(shapes) == (1 if form.get("head") == "valid" else 3)
    plan = build(LIBRARIES["tensorrt-rtx"], path, spec, shapes, ["sm86"])
    assert plan.convolutions == (3 if form.get("head") == "map" else 2)
    assert plan.half_tensors > 5 and plan.kernels >= 2 * len(shapes)


def test_tensorrt_builds_one_view_a_call(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = foreign_net(WEIGHTS, batch=1, side=64)
    model.graph.node.append(helper.make_node("ReduceMean", ["fc"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["fc", "mean"], ["scores"]))
    model.graph.output[0].name = "scores"
    path = imported(tmp_path, model)
    half = half_model(onnx.load(path))
    onnx.save(half, path)
    spec = spec_of(half)
    assert (spec.max_views, spec.fixed_size) == (1, False)
    assert build(LIBRARIES["tensorrt-rtx"], path, spec, [crops_shape(spec)], ["sm86"]).convolutions == 2


@pytest.mark.processes
def test_importing_the_library_is_left_to_the_tests() -> None:
    code = "import sys, export.model.precision; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
