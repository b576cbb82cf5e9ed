"""export.from_torch: the user's callables and programs of torch.export, as the command is used; what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_families as families
from conftest import Photos
from helpers import noise
from PIL import Image

from export.foreign.named import Call, parse_call
from export.from_torch import main
from infer.files import file_sha256
from infer.open import open_engine
from infer.views import plan_views

OneLine = Callable[[], str]
ARGUMENTS = ["--mean", "imagenet", "--crop", "64"]

NETS = """
import torch
import torch_families


def resnet(seed, photo, *, named=True):
    from PIL import Image
    import numpy
    print("made by its own code")
    return torch_families.make("resnet", [numpy.asarray(Image.open(photo))], seed).train()


def nothing():
    return None


def fails():
    raise ValueError("no weights here\\nand more")


class Deep:
    def branches(self):
        pass


def leaves():
    raise SystemExit("enough")


def empty():
    return torch.nn.Conv2d(3, 10, 3, device="meta")
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user's, as `python -m` finds it; a photograph beside it."""
    (tmp_path / "my_nets.py").write_text(NETS)
    (tmp_path / "broken_nets.py").write_text("f = (")
    Image.fromarray(noise((90, 110))).save(tmp_path / "photo.png")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.processes
def test_a_callable(nets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In training mode as it is returned, and imported in evaluation mode."""
    text = "my_nets:resnet(3, 'photo.png', named=False)"
    assert main([text, *ARGUMENTS, "-o", "ours.onnx"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    first, second, *rest = captured.out.splitlines()
    assert first == f"calling {text}: your code, run because you named it"
    assert second == "made by its own code"
    assert rest[0].startswith(
        "ours.onnx: 10 classes called class_0000 ... (--classes FILE names them), views interface, "
    )
    assert "takes f32 [N, 3, height, width], returns logits, a vector" in rest[1]
    engine = open_engine(Path("ours.onnx"), self_test=True)
    assert engine.spec.source == {"importer": "export.from_torch", "callable": text}
    assert (engine.spec.name, engine.spec.fixed_size) == ("resnet", False)
    photo = noise((90, 110))
    net = families.make("resnet", [photo], 3)
    plan = plan_views(engine.spec, "dense", photo.shape[:2])
    found = engine.run(engine.load([photo]), [plan])["posterior"]
    cut = [families.network_input(families.cut_by_pillow(photo, view, engine.spec)) for view in plan.views]
    expected, deviation = families.log_posteriors(net, cut)
    assert np.abs(np.log(found) - expected).max() < 1e-4 * deviation


@pytest.mark.processes
def test_a_program(tmp_path: Path, photos: Photos, capfd: pytest.CaptureFixture[str]) -> None:
    """Of one size, as torch.export makes it of an example; with attention."""
    net = families.make("vit", list(photos.values()))
    path, out = tmp_path / "a net.pt2", tmp_path / "ours.onnx"
    batch = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=batch), path)
    assert main([str(path), "--mean", "imagenet", "-o", str(out)]) == 0
    said = capfd.readouterr().out
    assert "takes f32 [N, 3, 64, 64], returns logits" in said and "sides: crops alone, since" in said
    engine, photo = open_engine(out, self_test=True), photos["cat"]
    assert engine.spec.source == {"importer": "export.from_torch", "pt2_sha256": file_sha256(path)}
    assert engine.spec.name == "a-net"
    plan = plan_views(engine.spec, "ten-crop", photo.shape[:2])
    found = engine.run(engine.load([photo]), [plan])["posterior"]
    cut = [families.network_input(families.cut_by_pillow(photo, view, engine.spec)) for view in plan.views]
    expected, deviation = families.log_posteriors(net, cut)
    assert np.abs(np.log(found) - expected).max() < 1e-4 * deviation


@pytest.mark.processes
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_nets:nothing", "nothing returned a NoneType, expected a torch.nn.Module"),
        ("my_nets:fails()", "fails failed (ValueError: no weights here)"),
        ("my_nets:missing", "my_nets has no such callable (module 'my_nets' has no attribute 'missing')"),
        ("no_such_module:f", "no_such_module cannot be imported (No module named 'no_such_module'): install it"),
        ("my_nets:leaves", "leaves failed (SystemExit: enough)"),
        ("my_nets:empty", "empty returned a net that cannot be put on the CPU (Cannot copy out of meta tensor"),
        ("broken_nets:f", "broken_nets cannot be imported (SyntaxError: "),
        ("missing.pt2", "No such file or directory"),
    ],
)
def test_what_is_no_net(text: str, message: str, nets: Path, one_line: OneLine) -> None:
    assert main([text, *ARGUMENTS, "-o", "ours.onnx"]) == 1
    assert message in one_line()
    assert not Path("ours.onnx").exists()


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("torchvision.models:resnet50", Call("torchvision.models", "resnet50", (), {})),
        ("a:b.c(1, 'x:y(z)', k=None)", Call("a", "b.c", (1, "x:y(z)"), {"k": None})),
        ("a:b([1, -2.5], {'c': True})", Call("a", "b", ([1, -2.5], {"c": True}), {})),
        *((text, None) for text in ("a", "a:", ":b", "a b:c", "a:b(", "a:b(x)", "a:b(f())", "a:b(*[1])", "a:b(**{})")),
        *((text, None) for text in ("a:b() + 1", "a:b(1)(2)", "a:b(c=print)", "weights.pth", "a:b(__import__('os'))")),
    ],
)
def test_names_of_callables(text: str, call: Call | None, one_line: OneLine) -> None:
    """Arguments are literals; nothing is imported to find that out."""
    assert parse_call(text) == call
    if call is None:
        with pytest.raises(SystemExit, match="2"):
            main([text, *ARGUMENTS, "-o", "ours.onnx"])
        assert "expected a program of torch.export (.pt2), or MODULE:CALLABLE(ARGUMENTS)" in one_line()
    assert "torchvision.models" not in sys.modules
