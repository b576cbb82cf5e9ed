"""export/from_torchvision.py, torchvision/nets.py: nets said again in torch.nn; hostile files."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_nets
from conftest import Photos
from helpers import network_input
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation import ilsvrc
from export import to_onnx
from export.from_torchvision import main
from export.torchvision.nets import weights_from_torchvision
from export.torchvision.reading import WeightsError, read_state_dict
from infer.spec import ModelSpec, placeholder_classes
from trainer.checkpoint import load
from trainer.miniature import WNIDS
from trainer.nets.zoo import build_net

TOLERANCE = 1e-4  # of the scores' standard deviation
OURS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
VGGS = [name + end for name in OURS for end in ("", "_bn")]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes tensors by name as `file`."""

    def write(state: Any, file: str = "weights.pth", **options: Any) -> Path:
        path = tmp_path / file
        if path.suffix == ".safetensors":
            save_file({name: tensor.clone() for name, tensor in state.items()}, path)
        else:
            torch.save(state, path, **options)
        return path

    return write


def imported(path: Path, *arguments: str) -> tuple[ModelSpec, nn.Module]:
    out = path.with_name("ckpt.pt")
    assert main([str(path), "-o", str(out), *arguments]) == 0
    checkpoint = load(out)
    return checkpoint.spec, checkpoint.build()


def theirs_of(pixels: Any) -> Tensor:
    """Pixels u8 [h, w, 3] as torchvision's presets normalise them: [1, 3, h, w]."""
    x = torch.tensor(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (x - mean) / std


def floats(name: str) -> dict[str, Tensor]:
    """The state dict as it is read: without counters."""
    state = torchvision_nets.make(name).state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert expected.std() > 1e-3
    error = float((got - expected).abs().max() / expected.std())
    assert error < TOLERANCE, f"differs by {error:.1e} of the standard deviation"


@torch.inference_mode()
@pytest.mark.parametrize("name", [*VGGS, "timm/vgg11", "timm/vgg16_bn", "googlenet"])
def test_scores_of_a_crop(name: str, write: Write, photos: Photos) -> None:
    theirs = torchvision_nets.make(name)
    spec, ours = imported(write(theirs.state_dict()))
    assert spec.net == OURS.get(name.removeprefix("timm/").removesuffix("_bn"), "googlenet-tv")
    assert (spec.width, spec.crop_px, len(spec.classes)) == (1 / 8, 224, 10)
    crop = photos["cat"][20:244, 100:324]
    assert_same(ours(network_input(crop, spec))[:, :, 0, 0], theirs(theirs_of(crop)))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["vgg13", "vgg16_bn"])
def test_dense_maps_of_vgg(name: str, write: Write, photos: Photos) -> None:
    """Their linear layers as convolutions, their pools rounding down: 299 -> 149 -> 74 -> 37 -> 18 -> 9."""
    theirs = torchvision_nets.make(name)
    spec, ours = imported(write(theirs.state_dict()))
    image = photos["cat"][:299, :341]
    fc6, fc7, fc8 = (layer for layer in theirs.classifier if isinstance(layer, nn.Linear))
    x = F.relu(F.conv2d(theirs.features(theirs_of(image)), fc6.weight.reshape(32, 64, 7, 7), fc6.bias))
    x = F.relu(F.conv2d(x, fc7.weight[:, :, None, None], fc7.bias))
    x = F.conv2d(x, fc8.weight[:, :, None, None], fc8.bias)
    assert x.shape == (1, 10, 3, 4)
    assert_same(ours(network_input(image, spec)), x)


@torch.inference_mode()
def test_dense_maps_of_googlenet(write: Write, photos: Photos) -> None:
    """Windows of 7x7 instead of one average, pools rounding up: 299 -> 150 -> 75 -> 37 -> 18 -> 9."""
    theirs = torchvision_nets.make("googlenet")
    spec, ours = imported(write(theirs.state_dict()))
    image = photos["cat"][:299, :341]
    windows = F.avg_pool2d(theirs.map(theirs_of(image)), 7, 1)
    expected = theirs.fc(windows.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert expected.shape == (1, 10, 3, 5)
    assert_same(ours(network_input(image, spec)), expected)


@torch.inference_mode()
def test_googlenet_without_its_input_transform(write: Write, photos: Photos) -> None:
    theirs = torchvision_nets.make("googlenet", transform_input=False)
    spec, ours = imported(write(theirs.state_dict()), "--no-transform-input")
    crop = photos["cat"][20:244, 100:324]
    assert_same(ours(network_input(crop, spec))[:, :, 0, 0], theirs(theirs_of(crop)))
    assert spec.preprocessing.mean_rgb == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.parametrize("name", ["vgg16", "googlenet"])
def test_the_spec(name: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(torchvision_nets.make(name).state_dict(), f"{name} 397923af.pth")
    spec, _ = imported(path)
    p = spec.preprocessing
    half = name == "googlenet"
    assert p.mean_rgb == pytest.approx((127.5,) * 3 if half else (123.675, 116.28, 103.53))
    assert p.std_rgb == pytest.approx((127.5,) * 3 if half else (58.395, 57.12, 57.375))
    assert (p.filter, p.exif, p.long_side_rounding, p.center_rounding) == ("bilinear", "ignore", "floor", "torchvision")
    assert (spec.pool_rounding, spec.test_short_px, spec.train_short_px) == ("ceil" if half else "floor", 256, 256)
    assert (spec.name, spec.fc_width) == (f"{name}-397923af", 1024 if half else 32)
    assert spec.classes == placeholder_classes(10)
    assert {key: value[:64] for key, value in spec.source.items()} == {
        "importer": "export.from_torchvision",
        "origin": name,
        "weights_sha256": spec.source["weights_sha256"],
    }
    assert re.fullmatch("[0-9a-f]{64}", spec.source["weights_sha256"])
    assert "10 classes called class_0000 ... (--classes FILE names them)" in capsys.readouterr().out


def test_options(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(torchvision_nets.make("googlenet", auxiliary_heads=True).state_dict())
    names = path.with_name("names.txt")
    names.write_text("\n".join(f"{wnid} a {n}" for n, wnid in enumerate(WNIDS)))
    spec, _ = imported(
        path, "--net", "googlenet-tv", "--name", "inception", "--filter", "bicubic", "--classes", str(names)
    )
    assert (spec.name, spec.classes, spec.class_names[3]) == ("inception", WNIDS, "a 3")
    assert spec.preprocessing.filter == "bicubic"
    expected = (
        rf"{path.with_name('ckpt.pt')}: net googlenet-tv from googlenet, 10 classes, 57 batch norms folded, "
        r"and kept for fine-tuning, without aux1 and aux2, \d+\.\d s\n"
        r"preprocessing: .*, mean 127.5,127.5,127.5 \(torchvision's transform_input\) .*, filter bicubic .*\n"
    )
    assert re.fullmatch(expected, capsys.readouterr().out)


@torch.inference_mode()
@pytest.mark.parametrize(("net", "width"), [("vgg11", 0.2), ("vgg16_bn", 0.07), ("googlenet", 0.3)])
def test_widths_that_are_no_fractions_of_two(net: str, width: float, write: Write) -> None:
    more = {"transform_input": False} if net == "googlenet" else {"fc_width": 24}
    theirs = torchvision_nets.make(net, width=width, classes=3, **more)
    spec, ours = imported(write(theirs.state_dict()))
    x = torch.randn(2, 3, 224, 224)
    assert_same(ours(x)[:, :, 0, 0], theirs(x))
    assert spec.width == pytest.approx(width, rel=0.01)


@torch.inference_mode()
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_googlenets_batch_norms_are_kept_beside_the_folded_weights(channels: str, write: Write) -> None:
    theirs = torchvision_nets.make("googlenet", transform_input=False)
    path = write(theirs.state_dict())
    imported(path, "--channels", channels)
    made = load(path.with_name("ckpt.pt"))
    net = build_net(made.spec, batch_norms=True).eval()
    net.load_state_dict(made.unfolded)
    x = torch.randn(2, 3, 224, 224)
    assert_same(net(x)[:, :, 0, 0], theirs(x if channels == "rgb" else x[:, [2, 1, 0]]))
    assert torch.equal(made.unfolded["conv1.norm.running_mean"], theirs.conv1.bn.running_mean)


def test_every_form_of_the_same_weights(write: Write) -> None:
    """Formats, wrappers and prefixes change nothing."""
    state = torchvision_nets.make("vgg11_bn").state_dict()
    expected = weights_from_torchvision(floats("vgg11_bn")).weights
    module = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    files = [
        write(state, "new.pth"),
        write(state, "old.pth", _use_new_zipfile_serialization=False),
        write(state, "a.safetensors"),
        write({"epoch": 3, "state_dict": module, "best": 71.5}, "wrapped.pth"),
        write({"model": state, "args": None}, "model.pth"),
        write({name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()}, "parameters.pth"),
    ]
    for path in files:
        got = weights_from_torchvision(read_state_dict(path).tensors).weights
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected), path.name


@pytest.mark.parametrize(("kind", "file"), [("float16", "a.pth"), ("bfloat16", "a.safetensors"), ("float64", "a.pth")])
def test_other_floats_become_single(kind: str, file: str, write: Write) -> None:
    state = {name: t.to(getattr(torch, kind)) for name, t in torchvision_nets.make("vgg11").state_dict().items()}
    got = weights_from_torchvision(read_state_dict(write(state, file)).tensors).weights
    assert {tensor.dtype for tensor in got.values()} == {torch.float32}
    assert torch.equal(got["conv3_2.weight"], state["features.8.weight"].float())
    assert torch.equal(got["fc6.weight"].flatten(1), state["classifier.0.weight"].float())


def test_folding_is_done_in_double_precision() -> None:
    """Rounded once: the folded weights are right to FP32's last digit."""
    state = floats("vgg11_bn")
    got = weights_from_torchvision(state).weights
    names = ("weight", "bias", "running_mean", "running_var")
    for ours, conv, norm in (("conv1_1", 0, 1), ("conv2_1", 4, 5), ("conv5_2", 25, 26)):
        gain, shift, mean, variance = (state[f"features.{norm}.{name}"].double() for name in names)
        scale = gain / torch.sqrt(variance + 1e-5)
        weight = torch.einsum("oikl,o->oikl", state[f"features.{conv}.weight"].double(), scale)
        assert torch.equal(got[f"{ours}.weight"], weight.float())
        bias = (state[f"features.{conv}.bias"].double() - mean) * scale + shift
        assert torch.equal(got[f"{ours}.bias"], bias.float())


def test_it_exports_and_evaluates_with_no_further_flag(
    write: Write, tmp_path: Path, miniature_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(WNIDS))
    path = write(torchvision_nets.make("vgg11_bn").state_dict(), "vgg11_bn.pth")
    imported(path, "--classes", str(names))
    assert to_onnx.main([str(tmp_path / "ckpt.pt")]) == 0
    arguments = ["--data", str(miniature_dir), "--protocol", "center", "--limit", "8", "--out", str(tmp_path / "out")]
    tables = []
    for engine in ("ckpt.pt", "ckpt.onnx"):
        assert ilsvrc.main(["--engine", str(tmp_path / engine), *arguments]) == 0
        tables.append(json.loads((tmp_path / "out" / "report.json").read_text())["results"][0])
    assert tables[0]["images"] == 8
    assert tables[0]["top5_error_percent"] == tables[1]["top5_error_percent"]
    assert "FILE names them" not in capsys.readouterr().out


# Weights that are not what they should be


def without(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


SLIM = torchvision_nets.make("vgg11").state_dict()
WITH_NORMS = floats("vgg11_bn")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**SLIM, "features.0.bias": torch.tensor([float("nan")] * 8)}, "features.0.bias holds values that are not"),
        ({**SLIM, "classifier.3.weight": torch.full((32, 32), torch.inf)}, "classifier.3.weight holds values"),
        ({**SLIM, "features.0.bias": torch.full((8,), 1e300, dtype=torch.float64)}, "features.0.bias holds values"),
        (
            {name: t * torch.nan if name.startswith("classifier") else t for name, t in SLIM.items()},
            "has no classifier, like torchvision's IMAGENET1K_FEATURES: use weights with one",
        ),
        (without(SLIM, "classifier"), "has no classifier, like torchvision's IMAGENET1K_FEATURES"),
        (without(SLIM, "features.3.bias"), "lacks features.3.bias: a truncated or changed state dict"),
        (
            without(SLIM, "features.3"),
            "expected a VGG net of torchvision or timm, or torchvision's GoogLeNet, got 'fea",
        ),
        (without(WITH_NORMS, "features.1.running_var"), "lacks features.1.running_var"),
        ({**SLIM, "features.1.running_var": torch.ones(8)}, "unknown tensor 'features.1.running_var', which vgg11"),
        ({"conv1.weight": torch.ones(64, 3, 7, 7), "layer1.0.conv1.weight": torch.ones(1)}, "got 'conv1.weight', 'la"),
        ({**SLIM, "features.3.weight": torch.ones(16, 8, 5, 5)}, "features.3.weight is [16, 8, 5, 5] as a convolution"),
        (
            {**SLIM, "features.3.weight": torch.ones(16, 8)},
            "features.3.weight is [16, 8, 1, 1] as a convolution, expect",
        ),
        ({**SLIM, "features.3.weight": torch.ones(16)}, "features.3.weight is [16], expected two sizes or four"),
        ({**SLIM, "features.3.bias": torch.tensor(1.0)}, "features.3.bias is [], expected [16], as many as the layer"),
        (
            {**WITH_NORMS, "features.1.bias": torch.ones(9)},
            "features.1.bias is [9], expected [8], as many as the layer",
        ),
        (
            {**WITH_NORMS, "features.1.running_var": -torch.ones(8)},
            "features.1 cannot be folded: it gives weights that",
        ),
        (
            {**SLIM, "classifier.0.weight": torch.ones(32, 64 * 4)},
            "classifier.0 reads 256 values, expected 3136: 64 channels of 7x7 positions; of crops of 64 px say --crop",
        ),
        (
            {**SLIM, "classifier.3.weight": torch.ones(16, 32), "classifier.3.bias": torch.ones(16)},
            "classifier.6 reads 32 values, and classifier.3 before it gives 16: a changed state dict",
        ),
        (
            {**SLIM, "classifier.6.weight": torch.ones(1, 32), "classifier.6.bias": torch.ones(1)},
            "a classifier needs two classes at least, got 1",
        ),
        (
            {**SLIM, "features.0.bias": torch.ones(8, dtype=torch.int32)},
            "tensor 'features.0.bias' is int32 strided, exp",
        ),
        (
            {**SLIM, "features.0.bias": torch.ones(8).to_sparse()},
            "tensor 'features.0.bias' is float32 sparse_coo, expec",
        ),
        ({**SLIM, "epoch": 7}, "entry 'epoch' is a int, expected tensors by name"),
        ({1: torch.ones(2)}, "holds a dict, expected a state dict: tensors by name"),
        ({}, "holds a dict, expected a state dict: tensors by name"),
        ([torch.ones(2)], "holds a list, expected a state dict: tensors by name"),
        (torch.ones(2), "holds a Tensor, expected a state dict: tensors by name"),
    ],
)
def test_weights_that_do_not_fit(state: Any, message: str, write: Write, one_line: Callable[[], str]) -> None:
    path = write(state)
    refused(path, message, one_line)


def refused(path: Path, message: str, one_line: Callable[[], str], *arguments: str) -> None:
    out = path.with_name("ckpt.pt")
    assert main([str(path), "-o", str(out), *arguments]) == 1
    line = one_line()
    assert line.startswith(f"{path}: ") and message in line, line
    assert len(line) < 500 and not out.exists()


def test_arguments_that_do_not_fit(write: Write, one_line: Callable[[], str]) -> None:
    path = write(SLIM)
    names = path.with_name("names.txt")
    names.write_text("a\nb\n")
    refused(path, "these are weights of vgg11, so --net A, got --net D", one_line, "--net", "D")
    message = "--no-transform-input is for googlenet-tv, these are weights of vgg11"
    refused(path, message, one_line, "--no-transform-input")
    assert main([str(path), "-o", str(path.with_name("c.pt")), "--classes", str(names)]) == 1
    assert one_line().startswith(f"{names}: 2 classes, expected 10")
    refused(path, "a model's name must be a plain word, got 'a/b'", one_line, "--name", "a/b")
    for out in (path.with_name("c.onnx"), path):
        with pytest.raises(SystemExit, match="2"):
            main([str(path), "-o", str(out)])
        assert "expected another file whose name ends in .pt" in one_line()
    with pytest.raises(SystemExit, match="2"):
        main([str(path), "-o", str(path.with_name("c.pt")), "--net", "C"])
    assert "argument --net: invalid choice: 'C'" in one_line()


# Hostile files


class Bomb:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def archive(data: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """What torch.save writes, with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **entries}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a file of torch.save (.pth) nor a safetensors file"),
        (b"<!DOCTYPE html><html>404</html>", "neither a file of torch.save (.pth) nor a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "not a readable file of torch.save (File is not a zip file)"),
        (b"\x80\x02}", "not a readable file of torch.save ("),
        (b"\x80" + bytes(100), "refused, it holds pickled code"),
        (archive(pickle.dumps({})[:-2]), "not a readable file of torch.save ("),
        (archive(b""), "not a readable file of torch.save ("),
        (struct.pack("<Q", 10**15) + b"{}" + bytes(99), "declares a safetensors header of 1000000000000000 bytes"),
        (struct.pack("<Q", 2_000_000) + b"{" + b" " * 1_999_999, "declares a safetensors header of 2000000 bytes"),
        (struct.pack("<Q", 5) + b"{abc}", "not a readable safetensors file ("),
    ],
)
def test_files_that_hold_no_weights(content: bytes, message: str, tmp_path: Path, one_line: Callable[[], str]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    refused(path, message, one_line)


def test_no_file_and_a_folder(tmp_path: Path, one_line: Callable[[], str]) -> None:
    refused(tmp_path / "none.pth", "no such file, expected weights (.pth, .safetensors)", one_line)
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "no such file, expected weights (.pth, .safetensors)", one_line)


def test_a_checkpoint_of_ours(write: Write, one_line: Callable[[], str]) -> None:
    path = write(SLIM)
    imported(path)
    path = path.with_name("ckpt.pt").rename(path.with_name("ours.pt"))
    refused(path, "entry 'format' is a int, expected tensors by name", one_line)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_pickle_does_not_run(old: bool, write: Write, tmp_path: Path, one_line: Callable[[], str]) -> None:
    ran = tmp_path / "ran"
    bomb = Bomb(exec, f"open({str(ran)!r}, 'w')")
    path = write({"features.0.weight": bomb}, _use_new_zipfile_serialization=not old)
    refused(path, "refused, it holds pickled code (expected a state dict: tensors by name)", one_line)
    assert not ran.exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("file", ["new.pth", "old.pth", "a.safetensors"])
def test_truncated_files(file: str, kept: float, write: Write, one_line: Callable[[], str]) -> None:
    path = write(SLIM, file, **({"_use_new_zipfile_serialization": False} if file == "old.pth" else {}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(path, "not a readable ", one_line)


def test_compressed_and_overlapping_archives(tmp_path: Path, one_line: Callable[[], str]) -> None:
    """A hundred megabytes of zeros in a hundred kilobytes; and a directory that says so."""
    path = tmp_path / "bomb.pth"
    path.write_bytes(archive(pickle.dumps({}), zipfile.ZIP_DEFLATED, **{"data/0": bytes(100_000_000)}))
    assert path.stat().st_size < 200_000
    refused(path, "a compressed archive, expected a file of torch.save (.pth), which is not", one_line)
    content = archive(pickle.dumps({}), **{"data/0": b"x" * 12_345})
    path.write_bytes(content.replace(struct.pack("<I", 12_345), struct.pack("<I", 4_000_000_000)))
    refused(path, "declares 4000000", one_line)


ODD = 1_234_567
"""Elements of a tensor, to be found in a file and made a thousand million."""


TOO_MUCH = "its contents take much more memory than the file is large: refused"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("new.pth", "record size (4938268 bytes) does not match expected size (4000000000 bytes"),
        ("old.pth", TOO_MUCH),
        ("a.safetensors", "not a readable safetensors file ("),
    ],
)
def test_sizes_that_are_not_there(file: str, message: str, write: Write, one_line: Callable[[], str]) -> None:
    tensor = {"features.0.weight": torch.zeros(ODD)}
    if file == "new.pth":
        path = write(tensor, file)
        with zipfile.ZipFile(path) as zipped:
            parts = {name.partition("/")[2]: zipped.read(name) for name in zipped.namelist()}
        data = parts.pop("data.pkl")
        path.write_bytes(archive(data.replace(struct.pack("<I", ODD), struct.pack("<I", 10**9)), **parts))
    elif file == "old.pth":
        path = write(tensor, file, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", ODD), struct.pack("<I", 10**9)))
    else:
        path = write(tensor, file)
        content = path.read_bytes().replace(b"[%d]" % ODD, b"[%d]" % 10**9)
        length = len(content) - 8 - 4 * ODD
        path.write_bytes(struct.pack("<Q", length) + content[8:])
    refused(path, message, one_line)


def test_memory_that_the_file_does_not_hold(write: Write, tmp_path: Path, one_line: Callable[[], str]) -> None:
    """One number seen a thousand million times, one storage seen by many tensors, and what a pickle may allocate."""
    path = write({"features.0.weight": torch.zeros(1).expand(10**9)})
    refused(path, "tensor 'features.0.weight' of [1000000000] and those before it claim 4000000000 bytes", one_line)
    shared = torch.zeros(1000, 1000)
    path = write({f"features.{n}.weight": shared for n in range(50)})
    refused(path, "tensor 'features.1.weight' of [1000, 1000] and those before it claim 8000000 bytes", one_line)
    path = write({"features.0.weight": torch.empty(10**9, device="meta")})
    refused(path, "tensor 'features.0.weight' of [1000000000] and those before it claim", one_line)
    path.write_bytes(archive(pickle.dumps({"a": Bomb(bytearray, 10**12)}, protocol=2)))
    refused(path, TOO_MUCH, one_line)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="bounded on Linux")
@pytest.mark.processes
def test_peak_memory_of_a_bomb(tmp_path: Path) -> None:
    """A pickle of 100 bytes that asks for 8 GB of zeros, which Linux would lend."""
    path = tmp_path / "bomb.pth"
    path.write_bytes(archive(pickle.dumps({"a": Bomb(bytearray, 8 * 10**9)}, protocol=2)))
    command = [sys.executable, "-m", "export.from_torchvision", str(path), "-o", str(tmp_path / "out.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr == f"{path}: {TOO_MUCH}\n"


def test_the_limit_of_memory_is_lifted_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    files = write(SLIM), write([1], "list.pth")
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    read_state_dict(files[0])
    with pytest.raises(WeightsError):
        read_state_dict(files[1])
    assert len(limits) == 4 and limits[1::2] == [before] * 2
    assert all(limit[1] == before[1] and 10**9 < limit[0] < 2**40 for limit in limits[::2])
