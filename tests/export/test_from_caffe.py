"""Caffe's files to our checkpoints: the same weights come back, and what is not ours is refused by name."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caffe_files import Writer, messages, write_caffe
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from helpers import NETS, full_spec, random_net, slim_spec
from paths import ROOT

from evaluation.ilsvrc import main as evaluate
from export.caffe.net import WireError, check_wire
from export.caffe.steps import fitted_width
from export.from_caffe import main
from export.to_onnx import main as to_onnx
from infer.files import file_sha256
from trainer.checkpoint import load
from trainer.nets.zoo import build_net

OneLine = Callable[[], str]


def imported(files: tuple[Path, Path], out: Path, *arguments: object) -> int:
    return main([*map(str, files), "-o", str(out), *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """A slim VGG-A, by Caffe's conventions."""
    return write_caffe(random_net(slim_spec("A")), tmp_path / "caffe", "new", 64)


@pytest.mark.parametrize("generation", ["V1", "new"])
@pytest.mark.parametrize("net", NETS)
def test_every_net_comes_back(net: str, generation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = slim_spec(net)
    built = random_net(spec)
    files = write_caffe(built, tmp_path, generation, spec.crop_px)
    out = tmp_path / "ckpt.pt"
    assert imported(files, out) == 0
    said = capsys.readouterr().out
    parameters = sum(tensor.numel() for tensor in built.state_dict().values())
    sha256 = file_sha256(files[1])[:12]
    assert f"ckpt.pt: net {net} from {files[1]} (sha256 {sha256}), {parameters:,} parameters, 10 classes called" in said
    checkpoint = load(out)
    assert checkpoint.spec.net == net
    assert (checkpoint.spec.crop_px, checkpoint.spec.pool_rounding) == (spec.crop_px, "ceil")
    state = built.state_dict()
    assert checkpoint.weights.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(checkpoint.weights[name], tensor), name
    mean = (123.0, 117.0, 104.0) if net == "googlenet" else (123.68, 116.779, 103.939)
    assert checkpoint.spec.preprocessing.mean_rgb == mean
    assert set(checkpoint.spec.source) == {"importer", "prototxt_sha256", "caffemodel_sha256"}


def test_what_is_imported_exports_and_evaluates(
    model: tuple[Path, Path], miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no further flag; the answers are those of the net that was written."""
    out = tmp_path / "ckpt.pt"
    assert imported(model, out) == 0
    assert to_onnx([str(out)]) == 0
    for engine in (out, out.with_suffix(".onnx")):
        arguments = ["--engine", str(engine), "--data", str(miniature_dir), "--protocol", "dense"]
        assert evaluate([*arguments, "--out", str(tmp_path / engine.suffix)]) == 0
    capsys.readouterr()


def test_options(model: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"n{i:08d} digit {i}\n" for i in range(10)))
    out = tmp_path / "x.pt"
    options = ["--classes", names, "--mean", "1,2,3", "--filter", "bilinear", "--train-short", "80", "--name", "mine"]
    assert imported(model, out, *options) == 0
    spec = load(out).spec
    assert (spec.name, spec.train_short_px, spec.preprocessing.mean_rgb) == ("mine", 80, (1, 2, 3))
    assert (spec.classes[1], spec.class_names[1], spec.preprocessing.filter) == ("n00000001", "digit 1", "bilinear")


def test_a_description_of_training_is_read_without_what_only_trains(model: tuple[Path, Path], tmp_path: Path) -> None:
    """Data layers of both phases, a loss and an accuracy, and fields that we do not know."""
    text = model[0].read_text()
    data = (
        'layer { name: "d" type: "Data" top: "data" top: "label" include { phase: %s } data_param { source: "x" } }\n'
    )
    loss = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }\n'
    body = text[text.index("layer {") :]
    filler = 'param { lr_mult: 1 } convolution_param { weight_filler: { type: "xavier" std: 0.1 } '
    body = body.replace("convolution_param {", filler, 1).replace("layer {", "# a remark\nlayer: {", 1)
    model[0].write_text("name: 't'\n" + data % "TRAIN" + data % "TEST" + body + loss + "unheard_of { of: 1 }\n")
    assert imported(model, tmp_path / "a.pt") == 0


@pytest.mark.parametrize("generation", ["V1", "new"])
def test_auxiliary_heads_are_left_out(generation: Any, tmp_path: Path) -> None:
    """Described and with weights, as in training; or with weights alone, as BVLC's file beside its deploy.prototxt."""
    spec = slim_spec("googlenet")
    with_heads = build_net(spec, auxiliary_heads=True)
    net = random_net(spec)
    with_heads.load_state_dict(net.state_dict(), strict=False)
    training = write_caffe(with_heads, tmp_path / "training", generation, spec.crop_px)
    assert b"loss2/classifier" in training[1].read_bytes()
    deployed, _ = write_caffe(net, tmp_path / "deployed", generation, spec.crop_px)
    for description in (training[0], deployed):
        assert imported((description, training[1]), tmp_path / "a.pt") == 0
        found = load(tmp_path / "a.pt").weights
        assert found.keys() == net.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("width", [0.02, 0.06, 0.3, 0.7])
@pytest.mark.parametrize("net", ["A", "C", "E", "googlenet"])
def test_any_width(net: str, width: float, tmp_path: Path) -> None:
    """The first layer alone does not say by what all were scaled: 19 of 64 channels may be 152 to 158 of 512."""
    spec = slim_spec(net, width=width)
    built = random_net(spec)
    assert imported(write_caffe(built, tmp_path, "new", spec.crop_px), tmp_path / "a.pt") == 0
    found = load(tmp_path / "a.pt")
    assert abs(found.spec.width - width) < 0.01
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in built.state_dict().items())


@pytest.mark.parametrize("net", NETS)
def test_the_papers_width_is_exactly_one(net: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        built = build_net(full_spec(net))
    paper = [module.out_channels for module in built.modules() if isinstance(module, torch.nn.Conv2d)]
    assert fitted_width(paper[: -1 if net == "googlenet" else -3], paper) == 1


def test_fully_convolutional_descriptions_are_read(tmp_path: Path) -> None:
    """fc6 already a convolution over the map, as in Caffe's net surgery example."""
    net = random_net(slim_spec("A"))
    files = write_caffe(net, tmp_path, "new", 64)
    description, weights = messages.NetParameter(), messages.NetParameter()
    text_format.Parse(files[0].read_text(), description, allow_unknown_field=True)
    weights.ParseFromString(files[1].read_bytes())
    for message in (description, weights):
        for layer in message.layer:
            if layer.type == "InnerProduct":
                kernel = 2 if layer.name == "fc6" else 1
                layer.type = "Convolution"
                layer.convolution_param.num_output = layer.inner_product_param.num_output
                layer.convolution_param.kernel_size.append(kernel)
                if layer.blobs:
                    out, inputs = layer.blobs[0].shape.dim
                    layer.blobs[0].shape.dim[:] = [out, inputs // kernel**2, kernel, kernel]
    files[0].write_text(text_format.MessageToString(description))
    files[1].write_bytes(weights.SerializeToString())
    assert imported(files, tmp_path / "a.pt") == 0
    assert torch.equal(load(tmp_path / "a.pt").weights["fc6.weight"], net.state_dict()["fc6.weight"])


def changed(model: tuple[Path, Path], change: Callable[[Any], None], *, weights: bool = False) -> None:
    """Changes layers of the description, or of the weights."""
    net = messages.NetParameter()
    if weights:
        net.ParseFromString(model[1].read_bytes())
        change({layer.name: layer for layer in net.layer})
        model[1].write_bytes(net.SerializeToString())
    else:
        text_format.Parse(model[0].read_text(), net, allow_unknown_field=True)
        change({layer.name: layer for layer in net.layer})
        model[0].write_text(text_format.MessageToString(net))


def set_kernel(layers: Any) -> None:
    layers["conv3_2"].convolution_param.kernel_size[0] = 5


def pad_one_way(layers: Any) -> None:
    layers["conv4_1"].convolution_param.ClearField("pad")
    layers["conv4_1"].convolution_param.pad_h = 1


def set_floor(layers: Any) -> None:
    layers["pool2"].pooling_param.round_mode = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_kernel, "none of our nets: layer conv3_2 is a 5x5 convolution where net A, which fits longest, has a 3x3"),
        (
            lambda layers: layers["conv4_1"].convolution_param.pad.__setitem__(0, 0),
            "layer conv4_1 (Convolution): kernel",
        ),
        (lambda layers: setattr(layers["conv4_1"].convolution_param, "group", 2), "groups 2, expected 1"),
        (
            lambda layers: setattr(layers["conv4_1"].convolution_param, "bias_term", False),
            "bias_term False, expected True",
        ),
        (
            lambda layers: setattr(layers["pool3"].pooling_param, "stride", 3),
            "layer pool3 (Pooling): kernel, stride and",
        ),
        (
            lambda layers: setattr(layers["pool3"].pooling_param, "pool", 1),
            "layer pool3 (Pooling): method 1, expected 0",
        ),
        (set_floor, "some pools of the net round up and some down"),
        (lambda layers: setattr(layers["relu_conv2_1"], "type", "TanH"), "layer relu_conv2_1 is TanH where net A"),
        (lambda layers: setattr(layers["relu_conv2_1"].relu_param, "negative_slope", 0.1), "negative_slope 0.1"),
        (lambda layers: layers["conv4_1"].bottom.__setitem__(0, "nowhere"), "layer conv4_1 reads 'nowhere', which no"),
        (lambda layers: setattr(layers["fc8"].inner_product_param, "num_output", 0), "num_output 0, expected 1 to"),
        (lambda layers: setattr(layers["fc6"].inner_product_param, "num_output", 31), "layer fc6: its weights do not"),
        (
            lambda layers: layers["conv1_1"].convolution_param.kernel_size.append(5),
            "a kernel of 3x5, expected the same",
        ),
        (lambda layers: setattr(layers["conv4_1"].convolution_param, "num_output", 65), "num_output 65, expected 64"),
        (lambda layers: setattr(layers["fc7"].inner_product_param, "num_output", 33), "num_output 33, expected 32"),
        (pad_one_way, "layer conv4_1 has a pad of 1x0, expected the same both ways"),
        (lambda layers: setattr(layers["fc7"].inner_product_param, "transpose", True), "transpose True, expected"),
        (lambda layers: setattr(layers["prob"], "type", "Sigmoid"), "layer prob (Sigmoid) follows the classifier fc8"),
        (lambda layers: setattr(layers["conv4_1"], "name", "x\n\x1b[31m"), "layer x??[31m has no weights in"),
    ],
)
def test_descriptions_that_are_not_ours(
    change: Callable[[Any], None], said: str, model: tuple[Path, Path], tmp_path: Path, one_line: OneLine
) -> None:
    changed(model, change)
    assert imported(model, tmp_path / "a.pt") == 1
    line = one_line()
    assert said in line and "deploy.prototxt" in line
    assert not (tmp_path / "a.pt").exists()


def test_lrn_of_another_kind(tmp_path: Path, one_line: OneLine) -> None:
    files = write_caffe(random_net(slim_spec("A-LRN")), tmp_path, "new", 64)
    changed(files, lambda layers: setattr(layers["norm1"].lrn_param, "k", 1))
    assert imported(files, tmp_path / "a.pt") == 1
    assert (
        "layer norm1 (LRN): local_size, alpha, beta and k (5, 0.0005, 0.75, 1.0), expected (5, 0.0005, 0.75, 2.0)"
        in (one_line())
    )


def test_pools_that_round_down(model: tuple[Path, Path], tmp_path: Path) -> None:
    def floor(layers: Any) -> None:
        for name, layer in layers.items():
            if name.startswith("pool"):
                layer.pooling_param.round_mode = messages.PoolingParameter.FLOOR

    changed(model, floor)
    assert imported(model, tmp_path / "a.pt") == 0
    assert load(tmp_path / "a.pt").spec.pool_rounding == "floor"


def nothing(blob: Any, shape: list[int]) -> None:
    blob.data = b""
    blob.shape.dim[:] = shape


def poison(blob: Any, value: float) -> None:
    values = np.frombuffer(blob.data, "<f4").astype("<f8")
    values[0] = value
    blob.double_data = values.tobytes()
    blob.ClearField("data")


def huge(layers: Any) -> None:
    layers["fc7"].blobs[0].shape.dim[:] = [100_000, 100_000]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layers: layers["conv3_1"].blobs.pop(), "layer conv3_1 (Convolution): number of blobs 1, expected 2"),
        (lambda layers: setattr(layers["conv3_1"], "name", "other"), "layer conv3_1 has no weights in the caffemodel"),
        (huge, "layer fc7 says a shape of 100000x100000 and holds"),
        (lambda layers: layers["fc7"].blobs[0].ClearField("data"), "layer fc7 says a shape of 32x32 and holds 0 bytes"),
        (lambda layers: layers["conv2_1"].blobs[0].shape.dim.__setitem__(slice(None), [8, 16, 3, 3]), "shape of the"),
        (lambda layers: layers["fc7"].blobs[1].shape.dim.extend([1] * 40), "fc7 says a shape of 41 axes, expected 32"),
        (lambda layers: layers["fc7"].blobs[1].shape.dim.extend([1] * 200_000), "of the file: more than 100000 fields"),
        (lambda layers: nothing(layers["fc7"].blobs[0], [0, 2**62, 2**62]), "layer fc7 says a shape of 0x46116860184"),
        (lambda layers: poison(layers["fc7"].blobs[0], np.nan), "layer fc7 has weights that are no finite numbers"),
        (lambda layers: poison(layers["fc7"].blobs[0], 1e300), "layer fc7 has weights that are no finite numbers"),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[Any], None], said: str, model: tuple[Path, Path], tmp_path: Path, one_line: OneLine
) -> None:
    changed(model, change, weights=True)
    assert imported(model, tmp_path / "a.pt") == 1
    assert said in one_line()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no layers with weights in it"),
        (b"<!DOCTYPE html><html>not found</html>", "not a Caffe model's weights"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a Caffe model's weights"),
        (b"\x80\x02}q\x00X\x01", "not a Caffe model's weights"),
        (b"\x12\x00" * 1_000_000, "or only a part of the file: more than 100000 fields"),  # each an empty layer
        (b"\xa2\x06\x80\x80\x80\x01" + b"\x3a\x00" * 2**20, "more than 100000 fields"),  # a layer of empty blobs
        (b"\x12\x04\x0a\x02\x0a\x00", "messages of 2013 (V0LayerParameter)"),
    ],
)
def test_files_that_are_no_caffemodel(
    content: bytes, said: str, model: tuple[Path, Path], tmp_path: Path, one_line: OneLine
) -> None:
    model[1].write_bytes(content)
    assert imported(model, tmp_path / "a.pt") == 1
    assert said in one_line()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00\x01" * 40, "not a Caffe net's description"),
        (b"layer {" * 100_000, "not a Caffe net's description"),
        (b"name: 'empty'", "without convolutions or inner products"),
        (b" " * 1_000_001, "1000001 bytes, expected at most 1000000"),
        (b"layer {}" * 1001, "1001 layers, expected 1000 at most"),
        (b"layers { layer { name: 'conv1' type: 'conv' kernelsize: 11 } bottom: 'data' }", "messages of 2013 (V0Layer"),
    ],
)
def test_files_that_are_no_prototxt(
    content: bytes, said: str, model: tuple[Path, Path], tmp_path: Path, one_line: OneLine
) -> None:
    model[0].write_bytes(content)
    assert imported(model, tmp_path / "a.pt") == 1
    assert said in one_line()


def test_a_concatenation_without_pools(tmp_path: Path, one_line: OneLine) -> None:
    net = random_net(slim_spec("A"))
    writer = Writer("new", 64)
    both = [writer.conv(name, "data", net.get_submodule("conv1_1")) for name in "ab"]
    writer.inner_product("fc", writer.layer("Concat", "both", both, "both"), net.get_submodule("fc8"))
    assert imported(writer.save(tmp_path), tmp_path / "a.pt") == 1
    assert one_line().endswith("deploy.prototxt: none of our nets: it has no pools")


def test_the_file_at_fault_is_named_once(model: tuple[Path, Path], tmp_path: Path, one_line: OneLine) -> None:
    assert imported(model, tmp_path / "a.pt", "--classes", tmp_path / "none.txt") == 1
    assert one_line().startswith(f"{tmp_path}/none.txt: no such file")
    assert imported(model, tmp_path / "a.pt", "--train-short", 10) == 1
    assert one_line().startswith(f"{model[0]}: train_short_px must be at least")
    model[0].write_bytes(b"\xff")
    assert imported(model, tmp_path / "a.pt") == 1
    assert one_line().count("deploy.prototxt") == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x12\x05\x12", "ends within a field"),
        (b"\x12\x02\x32\x01", "ends within a field"),  # a blob longer than its layer
        (b"\x09\x00", "ends within a field"),
        (b"\x12", "not a number"),
        (b"\xff" * 11, "not a number"),
        (b"\x13", "wire type 3"),
        (b"\x12\x00" * 100_001, "more than 100000 fields"),
    ],
)
def test_what_is_no_message(data: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        check_wire(data)


def test_the_wire_is_read_as_protobuf_reads_it(model: tuple[Path, Path]) -> None:
    """Nothing is refused that protobuf takes, but groups, which Caffe has none of."""
    rng = random.Random(1)
    good = model[1].read_bytes()[:3000]
    outcomes = set()
    for _ in range(2000):
        data = bytearray(good[: rng.randrange(len(good))])
        for _ in range(rng.choice((0, 0, 1))):
            data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
        try:
            messages.NetParameter().ParseFromString(bytes(data))
            taken = True
        except DecodeError:
            taken = False
        try:
            check_wire(bytes(data))
            passed = True
        except WireError as error:
            passed = "wire type 3" in str(error) and taken
        outcomes.add((taken, passed))
    assert {(True, True), (False, False)} <= outcomes and (True, False) not in outcomes


def test_files_that_are_not_there(model: tuple[Path, Path], tmp_path: Path, one_line: OneLine) -> None:
    assert imported((model[0], tmp_path / "none"), tmp_path / "a.pt") == 1
    assert "none: cannot be read (No such file or directory)" in one_line()
    assert imported((tmp_path, model[1]), tmp_path / "a.pt") == 1
    assert "is no regular file, expected one of at most 1000000 bytes" in one_line()
    with pytest.raises(SystemExit, match="2"):
        imported(model, tmp_path / "a.onnx")
    assert "a checkpoint's name ends in .pt" in one_line()


def test_damaged_files_give_one_line_or_a_checkpoint(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truncated, and with bytes changed: never a traceback, never more than a line."""
    rng = random.Random(0)
    good = [path.read_bytes() for path in model]
    failed = 0
    for trial in range(300):
        place = trial % 2
        data = bytearray(good[place])
        if trial % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice((1, 4, 64))):
                data[rng.randrange(min(len(data), 4000))] = rng.randrange(256)
        model[place].write_bytes(bytes(data))
        status = imported(model, tmp_path / "a.pt")
        said = capsys.readouterr()
        assert status in (0, 1) and len(said.err.splitlines()) == status, said.err
        failed += status
        model[place].write_bytes(good[place])
    assert failed > 150


def test_the_messages_are_compiled_from_the_proto_beside_them(tmp_path: Path) -> None:
    command = ["-m", "grpc_tools.protoc", "-I", ".", "--python_out", str(tmp_path), "export/caffe/caffe.proto"]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
    messages = Path("export", "caffe", "caffe_pb2.py")
    assert (tmp_path / messages).read_text() == (ROOT / messages).read_text()


def test_double_weights_are_read(model: tuple[Path, Path], tmp_path: Path) -> None:
    def widen(layers: Any) -> None:
        blob = layers["conv1_1"].blobs[0]
        blob.double_data = np.frombuffer(blob.data, "<f4").astype("<f8").tobytes()
        blob.ClearField("data")

    assert imported(model, tmp_path / "a.pt") == 0
    changed(model, widen, weights=True)
    assert imported(model, tmp_path / "b.pt") == 0
    one, other = (load(tmp_path / f"{name}.pt").weights["conv1_1.weight"] for name in "ab")
    assert torch.equal(one, other)
