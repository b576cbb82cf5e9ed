"""Triton's model repositories: Triton's own message reads the configuration, which says what the graph has."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from engines import Built
from foreign_nets import foreign_net, weights
from helpers import encode, slim_spec
from onnx import TensorProto, helper
from paths import ROOT

from export.from_onnx import ImportRequest, import_model
from export.model import file as model_file
from export.to_triton import Served, TritonError, main, open_onnx, write
from infer.graph_inputs import profile_entries
from infer.spec import ModelSpec, Preprocessing
from infer.views import default_shapes, with_regions

model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
Exported = Callable[..., Path]
OneLine = Callable[[], str]
TYPES = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_INT32": TensorProto.INT32, "TYPE_FP32": TensorProto.FLOAT}


def served(model: Path, repository: Path, *options: str) -> tuple[Path, Any]:
    """Runs the command, which must succeed: (the model's folder, ModelConfig)."""
    from google.protobuf import text_format

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(model), "-o", str(repository), *options]) == 0
    folder = Path(out.getvalue().split(": ")[0])
    assert out.getvalue().count("\n") == 1 and folder.parent == repository
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.name == folder.name
    return folder, config


def tensors(config: Any) -> dict[str, tuple[int, list[int]]]:
    """Type and full shape of each tensor, with the batch dimension that Triton adds."""
    batch = [-1] if config.max_batch_size else []
    kinds = model_config_pb2.DataType
    return {
        tensor.name: (TYPES[kinds.Name(tensor.data_type)], [*batch, *tensor.dims])
        for tensor in (*config.input, *config.output)
    }


def graph_tensors(path: Path) -> dict[str, tuple[int, list[int]]]:
    graph = onnx.load(path).graph
    return {
        value.name: (value.type.tensor_type.elem_type, [d.dim_value or -1 for d in value.type.tensor_type.shape.dim])
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize("net", ["A", "googlenet"])
@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_an_onnx_model(net: str, interface: str, exported: Exported, tmp_path: Path) -> None:
    """With every output that can be asked for."""
    path = exported(net, interface=interface)
    folder, config = served(path, tmp_path / "models")
    assert (config.name, config.platform) == (f"slim-{net.lower()}", "onnxruntime_onnx")
    assert config.max_batch_size == (0 if interface == "views" else 50)
    assert config.HasField("dynamic_batching") == (interface != "views")
    assert tensors(config) == graph_tensors(path)
    assert len(config.input) == (7 if interface == "views" else 1)
    assert {output.name: output.label_filename for output in config.output if output.label_filename} == {
        "posterior": "labels.txt"
    }
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == [
        *("1/model.onnx", "config.pbtxt", "labels.txt")
    ]
    assert (folder / "1" / "model.onnx").read_bytes() == path.read_bytes()
    assert (folder / "labels.txt").read_text().splitlines() == list(slim_spec(net).classes)
    assert [file.name for file in (tmp_path / "models").iterdir()] == [folder.name]


def write_plan(folder: Path, spec: ModelSpec, builder: str = "tensorrt 11.4.0.106", *, regions: bool = False) -> Path:
    """A plan by its sidecar; Triton's side of it needs no more. regions: its views are regions."""
    path = folder / "model.engine"
    path.write_bytes(b"plan")
    shapes = [with_regions(shape) if regions else shape for shape in default_shapes(spec)]
    profiles = [{"name": s.name, "inputs": profile_entries(s, spec.interface)} for s in shapes]
    content = {
        **{"spec": json.loads(spec.to_json()), "sha256": hashlib.sha256(b"plan").hexdigest()},
        **{"builder": builder, "profiles": profiles},
    }
    path.with_name("model.engine.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_a_plan(interface: Any, tmp_path: Path) -> None:
    spec = slim_spec("A", interface=interface, precision="fp16")
    folder, config = served(write_plan(tmp_path, spec), tmp_path / "models", "--name", "vgg_a.v1")
    assert (config.name, config.platform) == ("vgg_a.v1", "tensorrt_plan")
    assert (folder / "1" / "model.plan").read_bytes() == b"plan"
    shapes = {tensor.name: list(tensor.dims) for tensor in config.input}
    if interface == "views":
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
        assert shapes["image"] == [-1, -1, 3] and shapes["rows"] == [-1, -1] and len(shapes) == 7
        (group,) = config.instance_group
        assert list(group.profile) == ["0", "1", "2"]
        assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        assert list(config.output[0].dims) == [-1, 10]
    else:  # the first profile: crops
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (50, True)
        assert list(shapes.values()) == [[64, 64, 3] if interface == "images" else [3, 64, 64]]
        assert len(config.instance_group) == 0 and list(config.output[0].dims) == [10]
    names = [output.name for output in config.output]
    assert names == ["posterior", "posterior_positions", *(["pixel_sums"] if interface != "nchw" else [])]


def test_a_plan_whose_views_are_regions(tmp_path: Path) -> None:
    spec = slim_spec("A", precision="fp16")
    _, config = served(write_plan(tmp_path, spec, regions=True), tmp_path / "models")
    found = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    assert len(found) == 10 and found["rows"] == (model_config_pb2.TYPE_INT32, [-1, -1])
    assert found["region_col_taps"] == found["region_row_taps"] == (model_config_pb2.TYPE_INT32, [-1, -1, -1])
    assert found["region_row_first"] == (model_config_pb2.TYPE_INT32, [-1, -1])


def test_a_plan_with_its_own_runtime_needs_a_server_that_allows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_plan(tmp_path, slim_spec("A"))
    sidecar = path.with_name("model.engine.json")
    content = json.loads(sidecar.read_text())
    for options, allowed in (({}, False), ({"version_compatible": False}, False), ({"version_compatible": True}, True)):
        sidecar.write_text(json.dumps({**content, "options": options}))
        assert main([str(path), "-o", str(tmp_path / "models"), "--force"]) == 0
        assert capsys.readouterr().out.endswith(" --backend-config=tensorrt,version-compatible=true\n") == allowed


def test_the_batch_of_a_plan_is_its_profiles(tmp_path: Path) -> None:
    spec = slim_spec("A", interface="images")
    path = write_plan(tmp_path, spec)
    sidecar = path.with_name("model.engine.json")
    content = json.loads(sidecar.read_text())
    content["profiles"][0]["inputs"]["images"][2][0] = 7
    sidecar.write_text(json.dumps(content))
    assert served(path, tmp_path / "models")[1].max_batch_size == 7


def imported(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "foreign.onnx")
    request = ImportRequest(
        Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear"), crop_px=64, interface="nchw"
    )
    import_model(folder / "foreign.onnx", folder / "ours.onnx", request)
    return folder / "ours.onnx"


def test_foreign_models(tmp_path: Path) -> None:
    path = imported(tmp_path, foreign_net(weights(), side=64, head="valid"))
    _, config = served(path, tmp_path / "models")
    assert (config.max_batch_size, list(config.input[0].dims)) == (50, [3, 64, 64])
    assert tensors(config) == graph_tensors(path)
    model = foreign_net(weights(), batch=1)
    model.graph.node.append(helper.make_node("ReduceMean", ["fc"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["fc", "mean"], ["scores"]))
    model.graph.output[0].name = "scores"
    path = imported(tmp_path, model)
    _, config = served(path, tmp_path / "models", "--force")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert tensors(config) == graph_tensors(path)
    assert list(config.input[0].dims) == [1, 3, -1, -1] and list(config.output[0].dims) == [1, 10]


def test_weights_beside_the_model_come_along(
    tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "ONE_FILE_BYTES", 10_000)
    path = tmp_path / "large.onnx"
    model_file.save(onnx.load(exported("A", interface="images")), path)
    folder, _ = served(path, tmp_path / "models")
    assert sorted(file.name for file in (folder / "1").iterdir()) == ["large.onnx.data", "model.onnx"]
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    (posterior,) = session.run(["posterior"], {"images": np.zeros((1, 64, 64, 3), np.uint8)})
    assert abs(posterior.sum() - 1) < 1e-5


def test_labels_are_the_classes_in_words(tmp_path: Path) -> None:
    words = ("zéro", "one\nline", *"abcdefgh")
    spec = slim_spec("A", interface="images", class_names=words)
    folder, _ = served(write_plan(tmp_path, spec), tmp_path / "models")
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == ["zéro", "one line", *"abcdefgh"]


def test_a_model_that_is_there_stays_unless_forced(tmp_path: Path, exported: Exported, one_line: OneLine) -> None:
    models = tmp_path / "models"
    folder, _ = served(exported("A", interface="images"), models)
    before = (folder / "config.pbtxt").read_text()
    (folder / "2").mkdir()
    assert main([str(exported("A", interface="nchw")), "-o", str(models)]) == 1
    assert one_line() == f"{folder}: is there already: use --force to replace it, or another --name"
    assert (folder / "config.pbtxt").read_text() == before
    served(exported("A", interface="nchw"), models, "--force")
    assert (folder / "config.pbtxt").read_text() != before
    assert [file.name for file in models.iterdir()] == ["slim-a"] and not (folder / "2").exists()


@pytest.mark.parametrize("step", ["copyfile", "replace"])
def test_an_interrupted_run_leaves_the_old_model(
    step: str, tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    folder, _ = served(exported("A", interface="images"), models)
    before = (folder / "config.pbtxt").read_text()
    new = open_onnx(exported("A", interface="nchw"))
    from export import to_triton

    module = {"copyfile": to_triton.shutil, "replace": to_triton.os}[step]
    real = getattr(module, step)

    def interrupted(source: Any, target: Any) -> None:
        real(source, target)
        raise KeyboardInterrupt

    for name in ("slim-a", "other"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, step, once(interrupted, real))
            write(models, name, new, force=True)
        assert "other" not in [file.name for file in models.iterdir()] or (models / "other" / "labels.txt").is_file()
        assert [file.name for file in models.iterdir() if file.name.startswith(".")] == []
        assert (folder / "1" / "model.onnx").is_file()
    assert (folder / "config.pbtxt").read_text() == before
    write(models, "other", new, force=True)


def once(first: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def call(*args: Any) -> Any:
        calls.append(1)
        return (first if len(calls) == 1 else then)(*args)

    return call


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", 'a"b', "a\nb", "é"])
def test_names_that_are_no_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        TritonError, match=f"{re.escape(repr(name))} is no name for a model in a repository: use --name"
    ):
        write(tmp_path, name, Served(slim_spec("A"), {}, []))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_tensorrt_rtx_is_refused(built: Built, tmp_path: Path, one_line: OneLine) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert main([str(built.engine), "-o", str(tmp_path / "models")]) == 1
    assert one_line() == (
        f"{built.engine}: a plan of {built.sidecar['builder']}, but Triton runs plans of TensorRT only: give it the "
        f"ONNX model this was built from, {built.engine.with_suffix('.onnx')}, or build with --builder tensorrt"
    )
    assert not (tmp_path / "models").exists()
    served(built.engine.with_suffix(".onnx"), tmp_path / "models")


def test_what_is_refused(tmp_path: Path, one_line: OneLine) -> None:
    def refused(path: Path) -> str:
        assert main([str(path), "-o", str(tmp_path / "models")]) == 1
        assert not (tmp_path / "models").exists()
        return one_line()

    plan = write_plan(tmp_path, slim_spec("A"))
    plan.write_bytes(b"another")
    assert "but its sidecar says" in refused(plan)
    write_plan(tmp_path, slim_spec("A"))
    sidecar = plan.with_name("model.engine.json")
    good = json.loads(sidecar.read_text())
    for damage in ({"builder": None, "profiles": 7}, {"spec": {}}, {"profiles": [{}]}, {"profiles": []}):
        sidecar.write_text(json.dumps({**good, **damage}))
        assert refused(plan).startswith(f"{sidecar}: damaged (")
    assert refused(tmp_path / "none.onnx").endswith(
        "no such file, expected an engine (.engine) or an ONNX model (.onnx)"
    )
    onnx.save(foreign_net(weights()), tmp_path / "foreign.onnx")
    assert "without our spec: import it with python -m export.from_onnx" in refused(tmp_path / "foreign.onnx")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "m.pt"), "-o", str(tmp_path)])
    assert "m.pt: expected a TensorRT engine (.engine) or an ONNX model of ours (.onnx)" in one_line()


def test_the_client_of_the_docs(
    exported: Exported, photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its requests fit the configuration and the model; ONNX Runtime stands in for the server."""
    import tritonclient.grpc as triton

    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encode(photos["cat"], "JPEG"))
    Path("vgg-d.onnx").write_bytes(exported("A", interface="images").read_bytes())
    folder, config = served(Path("vgg-d.onnx"), Path("models"), "--name", "vgg-d")

    class Client:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8001"

        def infer(self, name: str, inputs: list[Any], outputs: list[Any]) -> Client:
            (images,), (output,) = inputs, outputs
            (expected,) = config.input
            assert (name, images.name(), f"TYPE_{images.datatype()}") == (
                *(config.name, expected.name),
                model_config_pb2.DataType.Name(expected.data_type),
            )
            pixels = np.frombuffer(images._get_content(), np.uint8).reshape(images.shape())
            session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
            (self.posterior,) = session.run([output.name()], {images.name(): pixels})
            return self

        def as_numpy(self, name: str) -> Any:
            words = (folder / "labels.txt").read_text().splitlines()
            best = np.argsort(-self.posterior[0])[:5]
            return np.array([[f"{self.posterior[0, i]:f}:{i}:{words[i]}".encode() for i in best]])

    monkeypatch.setattr(triton, "InferenceServerClient", Client)
    document = ROOT / "docs" / "serving.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.S)
    exec(compile(code, str(document), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(re.fullmatch(r"[01]\.\d+:\d+:\w+", line) for line in lines)
