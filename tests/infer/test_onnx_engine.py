"""ONNX Runtime as an engine: the same posteriors as torch through the evaluation, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engines import Built
from helpers import noise, slim_spec
from onnx import helper
from scoring import evaluate, resolve

from export.model.file import model_sha256
from infer import self_test
from infer.data.dataset import open_dataset
from infer.engine import EngineError, check_answers
from infer.model_file import FIELDS, external_files
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.spec import ModelSpec
from infer.views import PROTOCOLS, View, ViewPlan, plan_views
from trainer.torch_engine import TorchEngine

Exported = Callable[..., Path]


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
@pytest.mark.parametrize("pooling", ["scores", "posteriors"])
def test_every_protocol_scores_as_torch_does(
    interface: str, pooling: Any, exported: Exported, slim_checkpoint: Exported, miniature_dir: Path
) -> None:
    torch_engine, onnx_engine = TorchEngine.open(slim_checkpoint("A")), OnnxEngine(exported("A", interface=interface))
    dataset = open_dataset(miniature_dir, limit=6)
    tables = []
    for engine in (torch_engine, onnx_engine):
        protocols = resolve(list(PROTOCOLS), engine.spec, None)
        tables.append(evaluate([engine], [protocols], dataset, pooling=pooling).scores[0])
    for ours, theirs in zip(*tables, strict=True):
        assert ours.pixel_digests == theirs.pixel_digests and all(ours.pixel_digests)
        assert np.abs(ours.posterior - theirs.posterior).max() < 1e-5, ours.metadata["protocol"]


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_a_view_below_the_net_is_refused_before_the_runtime_dies_of_it(interface: str, exported: Exported) -> None:
    engine = OnnxEngine(exported("A", interface=interface))
    plan = ViewPlan("tiny", (1, 1), (View(1, (0, 0, 1, 1)),))
    with pytest.raises(EngineError, match="1x1 px is smaller than the 64 px"):
        engine.run(engine.load([noise((1, 1))]), [plan])


@pytest.fixture
def restricted(exported: Exported, tmp_path: Path) -> Callable[..., OnnxEngine]:
    """Slim VGG-A with more restrictions in its spec."""

    def opened(**changes: Any) -> OnnxEngine:
        path = tmp_path / "restricted.onnx"
        model = onnx.load(exported("A", interface="nchw"))
        spec = ModelSpec.from_json(next(prop.value for prop in model.metadata_props if prop.key == "spec"))
        onnx.helper.set_model_props(model, {"spec": dataclasses.replace(spec, **changes).to_json()})
        onnx.save(model, path)
        return OnnxEngine(path)

    return opened


@pytest.mark.parametrize(("max_views", "calls"), [(0, [10]), (1, [1] * 10), (4, [4, 4, 2])])
def test_calls_hold_no_more_views_than_the_net_takes(
    max_views: int, calls: list[int], restricted: Callable[..., OnnxEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, image = restricted(max_views=max_views), noise((90, 90))
    session, sizes = engine._session, []

    class Counting:
        def run(self, names: list[str], feed: dict[str, Any]) -> Any:
            sizes.append(len(feed["input"]))
            return session.run(names, feed)

    monkeypatch.setattr(engine, "_session", Counting())
    plan = plan_views(engine.spec, "ten-crop", (90, 90))
    found = engine.run(engine.load([image]), [plan])["posterior"]
    assert sizes == calls
    free = restricted()
    assert np.abs(found - free.run(free.load([image]), [plan])["posterior"]).max() < 1e-6


def test_a_view_of_another_size_than_the_nets(restricted: Callable[..., OnnxEngine]) -> None:
    engine = restricted(fixed_size=True)
    images = engine.load([noise((90, 100))])
    assert [shape.name for shape in engine.shapes] == ["crops"]
    assert engine.run(images, [plan_views(engine.spec, "center", (90, 100))])["posterior"].shape == (1, 10)
    with pytest.raises(
        EngineError, match="view of 96x107 px: slim-a takes only 64x64 px: use a protocol of crops, like"
    ):
        engine.run(images, [plan_views(engine.spec, "dense", (90, 100), [96])])
    assert len(self_test.record(engine)) > 100  # of crops alone


def test_unknown_output_is_refused(exported: Exported) -> None:
    engine = OnnxEngine(exported("A"))
    plan = plan_views(engine.spec, "center", (90, 90))
    with pytest.raises(EngineError, match="no output 'logits'"):
        engine.run(engine.load([noise((90, 90))]), [plan], ["logits"])


def test_an_image_without_views_gives_nothing(exported: Exported) -> None:
    engine = OnnxEngine(exported("A"))
    images = [noise((90, 90)), noise((80, 80))]
    plans = [ViewPlan("none", (90, 90), ()), plan_views(engine.spec, "center", (80, 80))]
    assert engine.run(engine.load(images), plans)["posterior"].shape == (1, 10)


def test_what_cannot_be_opened(exported: Exported, slim_checkpoint: Exported, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        open_engine(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(EngineError, match="not a model that can be opened"):
        open_engine(tmp_path / "text.onnx")
    with pytest.raises(EngineError, match=r"run python -m export\.to_onnx"):
        open_engine(slim_checkpoint("A"))
    with pytest.raises(EngineError, match="unknown kind of engine"):
        open_engine(Path(__file__))
    model = onnx.load(exported("A"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(EngineError, match=r"without our spec: import it with python -m export\.from_onnx"):
        open_engine(tmp_path / "foreign.onnx")


def test_a_provider_that_does_not_load_is_an_error(exported: Exported) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(EngineError, match=r"did not load its cuda provider.*--provider cpu"):
        OnnxEngine(exported("A"), provider="cuda")


def test_a_plan_is_refused_unless_it_is_the_sidecars(tmp_path: Path) -> None:
    import hashlib
    import json

    plan, sidecar = tmp_path / "m.engine", tmp_path / "m.engine.json"
    plan.write_bytes(b"plan")
    with pytest.raises(EngineError, match=r"m\.engine\.json: missing or damaged"):
        open_engine(plan)
    sidecar.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(EngineError, match=r"sha256 .* but its sidecar says 000000000000"):
        open_engine(plan)
    sidecar.write_text(json.dumps({"sha256": hashlib.sha256(b"plan").hexdigest()}))
    with pytest.raises(EngineError, match=r"m\.engine\.json: "):
        open_engine(plan)  # its own, but says nothing else


def test_a_plan_without_a_gpu(built: Built) -> None:
    """One line that says what to use instead, whatever is missing: the driver, or a library to reach it by."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=r"without an NVIDIA GPU use the ONNX model it was built from, .*\.onnx$"):
        open_engine(built.engine)


def test_bound_inputs_are_uploaded_once_and_change_nothing(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """IOBinding on the CPU, where both paths run: what a GPU would do but for the place of the copies."""
    uploaded: list[int] = []
    original = onnxruntime.OrtValue.ortvalue_from_numpy

    def counted(array: Any, *device: Any) -> Any:
        uploaded.append(id(array))
        return original(array, *device)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", counted)
    image = noise((90, 130))
    engines = [OnnxEngine(exported(net), rescale="graph") for net in ("A", "B")]
    plans = [plan_views(engines[0].spec, name, (90, 130), [72, 96]) for name in ("multicrop+dense", "ten-crop")]
    expected = [engine.run(engine.load([image]), [plan]) for engine in engines for plan in plans]
    assert not uploaded
    loaded = engines[0].load([image])
    for engine in engines:
        engine._bound_to = ("cpu", 0)
    found = [engine.run(loaded, [plan]) for engine in engines for plan in plans]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one["posterior"], other["posterior"])
    assert uploaded.count(id(image)) == 1


def in_two_files(path: Path, folder: Path) -> Path:
    folder.mkdir()
    model = onnx.load(path)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=100)
    return folder / "m.onnx"


def test_the_identity_covers_every_file(exported: Exported, tmp_path: Path) -> None:
    one_file = exported("A")
    assert OnnxEngine(one_file).sha256 == hashlib.sha256(one_file.read_bytes()).hexdigest()
    assert external_files(one_file) == []
    path = in_two_files(one_file, tmp_path / "one")
    same, data = in_two_files(one_file, tmp_path / "two"), path.with_name("m.bin")
    before = OnnxEngine(path).sha256
    assert external_files(path) == [data] and before == OnnxEngine(same).sha256 == model_sha256(path)

    changed = bytearray(data.read_bytes())
    changed[-1] ^= 1
    data.write_bytes(changed)
    after = OnnxEngine(path).sha256
    assert after != before and after == model_sha256(path)


def test_external_data_is_found_wherever_it_is(tmp_path: Path) -> None:
    """In initialisers and attributes, of subgraphs and functions too, whatever else a message holds."""

    def tensor(name: str) -> onnx.TensorProto:
        found = onnx.TensorProto(name=name, dims=[3, 1000], data_type=1, data_location=1, raw_data=b"")
        found.external_data.add(key="offset", value="7")
        found.external_data.add(key="location", value=f"{name}.bin")
        return found

    inner = onnx.GraphProto(name="inner", initializer=[tensor("b")])
    attributes = [onnx.AttributeProto(name="f", f=1.5), onnx.AttributeProto(name="t", t=tensor("c"))]
    attributes.append(onnx.AttributeProto(name="g", graphs=[inner], tensors=[tensor("d")]))
    node = onnx.NodeProto(name="n", attribute=attributes)
    small = onnx.TensorProto(name="x", dims=[2], data_type=1, raw_data=b"12345678")
    model = onnx.ModelProto(ir_version=2**40, graph=onnx.GraphProto(node=[node], initializer=[small, tensor("a")]))
    model.functions.add(name="h", node=[onnx.NodeProto(attribute=[onnx.AttributeProto(t=tensor("e"))])])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for name in "abcd":
        (tmp_path / f"{name}.bin").touch()
    with pytest.raises(EngineError, match=r"its weights are in 'e\.bin', which is not there"):
        external_files(tmp_path / "m.onnx")
    (tmp_path / "e.bin").touch()
    assert external_files(tmp_path / "m.onnx") == [tmp_path / f"{name}.bin" for name in "abcde"]


@pytest.mark.parametrize("location", ["../m.bin", "/etc/passwd", "a/../../m.bin"])
def test_external_data_elsewhere_is_not_even_looked_at(location: str, tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="a", dims=[3], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    (tmp_path / "deep").mkdir()
    (tmp_path / "m.bin").write_bytes(bytes(12))
    (tmp_path / "deep" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"its weights are in .*, expected a file beside the model"):
        external_files(tmp_path / "deep" / "m.onnx")


def test_the_numbers_of_fields_are_those_of_onnx() -> None:
    for message, fields in FIELDS.items():
        known = getattr(onnx, message).DESCRIPTOR.fields_by_number
        assert {number: known[number].message_type.name for number in fields} == fields
        of_type = {number for number, one in known.items() if one.message_type and one.message_type.name in reached()}
        assert of_type == {number for number, name in fields.items() if name in reached()}, message


def reached() -> set[str]:
    """The messages by which external data is reached; its entries are of a type that other things have too."""
    return {name for fields in FIELDS.values() for name in fields.values()} - {"StringStringEntryProto"}


def spec_of(model: onnx.ModelProto) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(next(one.value for one in model.metadata_props if one.key == "spec"))
    return values


@pytest.mark.parametrize("count", [3, 9, 11])
def test_other_classes_than_the_graph_has(count: int, exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("A"))
    spec = {**spec_of(model), "classes": [f"c{i}" for i in range(count)]}
    helper.set_model_props(model, {"spec": json.dumps(spec)})
    onnx.save(model, tmp_path / "m.onnx")
    expected = f"has 10 values, expected {count} for the {count} classes that its spec names: the spec is of another"
    with pytest.raises(EngineError, match=expected):
        OnnxEngine(tmp_path / "m.onnx")


def test_an_output_that_the_graph_lacks(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("A"))
    spec = {**spec_of(model), "outputs": ["posterior", "boxes"]}
    helper.set_model_props(model, {"spec": json.dumps(spec)})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"has outputs .* but its spec says boxes, posterior: the spec is of"):
        OnnxEngine(tmp_path / "m.onnx")


def test_answers_to_other_views() -> None:
    spec = slim_spec("A")
    check_answers(spec, {"posterior": np.zeros((3, 10), np.float32)}, 3)
    with pytest.raises(EngineError, match="slim-a: its posterior has 9 values, expected 10"):
        check_answers(spec, {"posterior": np.zeros((3, 9), np.float32)}, 3)
    with pytest.raises(EngineError, match="slim-a: answered 2 times to 3 views in its posterior"):
        check_answers(spec, {"posterior": np.zeros((2, 10), np.float32)}, 3)
