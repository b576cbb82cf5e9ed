"""The file of the check graph: what it answers on a CPU, of which model it is, and where it is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import loud_checkpoint, noise
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from evaluation.ilsvrc import main as evaluate
from evaluation.scores.table import read_head
from export.from_onnx import main as from_onnx
from export.model import file as model_file
from export.model.check import save_model, write_check
from export.model.precision import PrecisionError, check_graph, computes_in_half, single_graph
from export.to_check import main as to_check
from export.to_onnx import main as to_onnx
from export.to_trt import main as to_trt
from infer.model_file import metadata
from infer.onnx_engine import OnnxEngine
from infer.processes.owned import Owned, own_file
from infer.views import plan_views

Exported = Callable[..., Path]


def posterior(path: Path, image: Any) -> NDArray[np.float32]:
    engine = OnnxEngine(path)
    plan = plan_views(engine.spec, "ten-crop", image.shape[:2])
    found: NDArray[np.float32] = engine.run(engine.load([image]), [plan])["posterior"]
    return found


def test_every_exporter_writes_it(slim_checkpoint: Exported, photos: Any, tmp_path: Path) -> None:
    """And a CPU answers by it: as the graph that is rounded in memory, not as the one whose rounding is dropped."""
    model = tmp_path / "half.onnx"
    assert to_onnx([str(slim_checkpoint("A")), "-o", str(model), "--precision", "fp16"]) == 0
    assert OnnxEngine(model).arithmetic == "fp16, rounded by half.check.onnx"
    assert OnnxEngine(tmp_path / "half.check.onnx").arithmetic == "fp16, rounded by half.check.onnx"
    rounded = posterior(model, photos["china"])

    onnx.save(check_graph(onnx.load(model)), tmp_path / "in_memory.onnx")
    onnx.save(single_graph(onnx.load(model)), tmp_path / "single.onnx")
    assert np.array_equal(rounded, posterior(tmp_path / "in_memory.onnx", photos["china"]))
    assert not np.array_equal(rounded, posterior(tmp_path / "single.onnx", photos["china"]))

    # an FP32 model of that name has none any more
    assert to_onnx([str(slim_checkpoint("A")), "-o", str(model)]) == 0
    assert not (tmp_path / "half.check.onnx").exists()
    assert OnnxEngine(model).arithmetic == "fp32"


def test_what_half_precision_costs_is_seen_on_a_cpu(
    slim_checkpoint: Exported, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A net whose activations leave half's range is evaluated as what it is: without answers."""
    loud_checkpoint(slim_checkpoint("A"), tmp_path / "loud.pt")
    assert to_onnx([str(tmp_path / "loud.pt"), "-o", str(tmp_path / "loud.onnx"), "--precision", "fp16"]) == 0
    arguments = ["--engine", str(tmp_path / "loud.onnx"), "--data", str(miniature_dir), "--protocol", "center"]
    assert evaluate([*arguments, "--out", str(tmp_path / "out")]) == 0
    (result,) = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert result["top1_error_percent"] == 100
    assert "answers to 24 of 24 images are not finite" in capsys.readouterr().err
    (table,) = (tmp_path / "out" / "scores").iterdir()
    assert read_head(table).metadata["arithmetic"] == "fp16, rounded by loud.check.onnx"


def test_nothing_is_evaluated_without_it(
    exported: Exported, miniature_dir: Path, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    model = tmp_path / "half.onnx"
    shutil.copy(exported(precision="fp16"), model)
    arguments = ["--engine", str(model), "--data", str(miniature_dir), "--protocol", "center"]
    assert evaluate([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert (
        f"there is no half.check.onnx beside it, which does: make it by python -m export.to_check {model}" in one_line()
    )
    assert to_check([str(model)]) == 0
    assert evaluate([*arguments, "--out", str(tmp_path / "out")]) == 0


def test_that_of_another_model_is_refused(exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    model, check = tmp_path / "half.onnx", tmp_path / "half.check.onnx"
    shutil.copy(exported(precision="fp16"), model)
    before = OnnxEngine(model).sha256
    write_check(model)
    with_check = OnnxEngine(model).sha256
    assert before != with_check  # so that --resume never mixes the two

    shutil.copy(exported("B", precision="fp16"), model)
    with pytest.raises(
        Exception, match=r"half\.check\.onnx: was not made of half\.onnx as it is now: run python -m exp"
    ):
        OnnxEngine(model)
    assert to_check([str(model)]) == 0
    assert OnnxEngine(model).spec.name == "slim-b"

    # a file of that name that is none of ours stays
    shutil.copy(exported(), check)
    assert to_check([str(model)]) == 1
    assert "is no check graph of ours, and its place is needed for that of half.onnx" in one_line()
    assert check.read_bytes() == exported().read_bytes()


def test_its_place_is_taken(exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    """By a pipe, which is not read, and by a run that writes it, whichever command that is."""
    model, check = tmp_path / "half.onnx", tmp_path / "half.check.onnx"
    shutil.copy(exported(precision="fp16"), model)
    os.mkfifo(check)
    assert to_check([str(model)]) == 1
    assert "is no check graph of ours, and its place is needed" in one_line()
    check.unlink()
    with own_file(check), pytest.raises(Owned, match="writes there already"):
        save_model(onnx.load(model), model)
    assert to_check([str(model)]) == 0 and OnnxEngine(model).arithmetic == "fp16, rounded by half.check.onnx"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_has_no_check_graph(
    precision: str, exported: Exported, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(exported(precision=precision), model)
    if precision == "fp16":
        model = write_check(model)
    assert to_check([str(model)]) == 1
    found = "a check graph already" if precision == "fp16" else "fp32"
    assert f"{found}, expected an FP16 model of ours" in one_line()


def test_no_engine_is_built_of_it(exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    shutil.copy(exported(precision="fp16"), tmp_path / "half.onnx")
    assert to_trt([str(write_check(tmp_path / "half.onnx")), "-o", str(tmp_path / "m.engine")]) == 1
    assert "a check graph, which is for CPUs: use the FP16 model that it stands beside" in one_line()


def test_large_weights_are_shared(
    exported: Exported, photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(exported(precision="fp16"))
    expected = posterior(
        write_check(Path(shutil.copy(exported(precision="fp16"), tmp_path / "one.onnx"))), photos["cat"]
    )
    monkeypatch.setattr(model_file, "ONE_FILE_BYTES", 1000)
    save_model(model, tmp_path / "half.onnx")
    assert sorted(os.listdir(tmp_path)) == [
        *("half.check.onnx", "half.onnx", "half.onnx.data", "one.check.onnx", "one.onnx"),
    ]
    assert (tmp_path / "half.check.onnx").stat().st_size < 0.5 * (tmp_path / "half.onnx.data").stat().st_size
    assert np.array_equal(posterior(tmp_path / "half.onnx", photos["cat"]), expected)


def foreign_half(path: Path, *, shuffled: bool = False) -> None:
    """A net of another's in half, as converters leave it; `shuffled`: with its casts at the end of the list."""
    rng = np.random.default_rng(0)
    weights = {"kernel": (10, 3, 3, 3), "matrix": (10, 10)}
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], "first", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "kernel"], ["map"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"], "fc"),
        helper.make_node("Cast", ["scores"], ["out"], "last", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        [*nodes[1:], nodes[0]] if shuffled else nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float16), name) for name, s in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_imported_model_has_one(shuffled: bool, tmp_path: Path) -> None:
    foreign_half(tmp_path / "theirs.onnx", shuffled=shuffled)
    arguments = [tmp_path / "theirs.onnx", "--mean", "0,0,0", "--std", "1,1,1", "--scale", "1/255"]
    assert from_onnx([*map(str, arguments), "-o", str(tmp_path / "ours.onnx")]) == 0
    assert metadata(tmp_path / "ours.check.onnx")["check_of"]
    rounded = posterior(tmp_path / "ours.onnx", noise((48, 48)))
    (tmp_path / "ours.check.onnx").unlink()
    assert 0 < np.abs(rounded - posterior(tmp_path / "ours.onnx", noise((48, 48)))).max() < 0.01


def in_nodes(model: onnx.ModelProto) -> None:
    """The weights as constants."""
    for weight in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    del model.graph.initializer[:]


def autocast(model: onnx.ModelProto) -> None:
    """The weights stored in FP32 and rounded in the graph."""
    for weight in model.graph.initializer:
        name, single = weight.name, numpy_helper.to_array(weight).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(single, f"{name}.stored"))
        model.graph.node.insert(0, helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT16))


def last_layer_single(model: onnx.ModelProto) -> None:
    """The classifier in FP32, the rest in half."""
    by_name = {node.name: node for node in model.graph.node}
    by_name["last"].input[0], by_name["last"].output[0] = "flat", "wide"
    by_name["fc"].input[0], by_name["fc"].output[0] = "wide", "out"
    order = [*(node for node in model.graph.node if node.name not in ("fc", "last")), by_name["last"], by_name["fc"]]
    model_file.set_values(model.graph.node, order)
    matrix = next(weight for weight in model.graph.initializer if weight.name == "matrix")
    matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix).astype(np.float32), "matrix"))


@pytest.mark.parametrize("changed", [in_nodes, autocast, last_layer_single])
def test_half_is_known_by_what_is_computed(changed: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """Wherever the weights are and however they are stored: an FP32 model would be evaluated without its rounding."""
    theirs, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    foreign_half(theirs)
    model = onnx.load(theirs)
    changed(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, theirs)
    arguments = [str(theirs), "--mean", "0,0,0", "--std", "1,1,1", "--scale", "1/255", "-o", str(ours)]
    assert from_onnx(arguments) == 0
    engine = OnnxEngine(ours)
    assert engine.spec.precision == "fp16" and engine.arithmetic == "fp16, rounded by ours.check.onnx"
    assert json.loads(metadata(ours)["keep_single"]) == (["net/fc"] if changed is last_layer_single else [])


def test_weights_that_are_only_stored_as_half() -> None:
    up = helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT)
    model = model_of([up, helper.make_node("Mul", ["x", "wide"], ["y"])], [HALF])
    assert not computes_in_half(model)
    model.graph.node[1].input[1] = "w"  # by an operator of others, say
    assert computes_in_half(model)
    branches = {"then_branch": hidden("a"), "else_branch": hidden("b")}
    assert computes_in_half(model_of([helper.make_node("If", ["c"], ["y"], **branches)]))


def model_of(nodes: Sequence[onnx.NodeProto], weights: Sequence[TensorProto] = ()) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph(
        nodes, "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)])


HALF = numpy_helper.from_array(np.ones(2, np.float16), "w")
LAST = helper.make_node("Identity", ["z"], ["y"])
CAST = helper.make_node("Cast", ["x"], ["h"], "down", to=TensorProto.FLOAT16)


def hidden(name: str) -> onnx.GraphProto:
    """A branch that reads and gives FP32, and is half in between."""
    nodes = [
        helper.make_node("Cast", ["x"], [f"{name}.h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", [f"{name}.h", f"{name}.h"], [f"{name}.m"]),
        helper.make_node("Cast", [f"{name}.m"], [name], to=TensorProto.FLOAT),
    ]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])


def branch(name: str) -> onnx.GraphProto:
    node = helper.make_node("Cast", ["h"], [name], to=TensorProto.FLOAT)
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            [
                CAST,
                helper.make_node("Odd", ["h"], ["z"], "one", domain="odd"),
                helper.make_node("Identity", ["z"], ["y"]),
            ],
            "Odd one: the type of z cannot be told",
        ),
        (
            [CAST, helper.make_node("If", ["c"], ["y"], "if", then_branch=branch("a"), else_branch=branch("b"))],
            "If if: computes in half within a branch",
        ),
        (
            [helper.make_node("If", ["c"], ["y"], "deep", then_branch=hidden("a"), else_branch=hidden("b"))],
            "If deep: computes in half within a branch",
        ),
        (
            [CAST, helper.make_node("Neg", ["h"], ["h.half"], "n"), helper.make_node("Cast", ["h.half"], ["y"], to=1)],
            "h.half would be the name of two tensors",
        ),
        (
            [helper.make_node("RandomNormal", [], ["y"], "noise", shape=[2], dtype=TensorProto.FLOAT16)],
            "RandomNormal noise: makes halves of itself",
        ),
    ],
)
def test_graphs_of_which_it_is_not_known_what_they_round(nodes: Sequence[onnx.NodeProto], said: str) -> None:
    with pytest.raises(PrecisionError, match=said):
        check_graph(model_of(nodes, [numpy_helper.from_array(np.array(True), "c")]))


def test_an_operator_of_others_without_half_changes_nothing() -> None:
    odd = helper.make_node("Odd", ["x"], ["z"], "one", domain="odd")
    nodes = [odd, CAST, helper.make_node("Cast", ["h"], ["y"], "up", to=TensorProto.FLOAT)]
    assert [node.op_type for node in check_graph(model_of(nodes)).graph.node].count("Odd") == 1
    with pytest.raises(PrecisionError, match="y is half, expected inputs and outputs in FP32"):
        model = model_of([CAST])
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2]))
        check_graph(model)


def test_functions_and_types_that_are_only_said() -> None:
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = model_of([CAST, helper.make_node("Cast", ["h"], ["y"], "up", to=TensorProto.FLOAT)])
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [2]))  # which it is not
    assert [node.name for node in check_graph(model).graph.node] == ["h.round", "h.back", "up"]
    model.functions.append(function)
    with pytest.raises(PrecisionError, match="has functions of its own"):
        check_graph(model)
