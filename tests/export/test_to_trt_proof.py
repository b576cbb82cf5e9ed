"""--calibrate and --verify, as a user runs them: what is built, what is refused, and what the sidecar says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cudasim
import numpy as np
import onnx
import pytest
from helpers import random_net, slim_spec
from loud import LOUD, loud_net
from plans import write_plan

from export.model import file as model_file
from export.model.precision import HALF_MAX, check_graph
from export.to_onnx import main as to_onnx
from export.to_trt import main
from infer.data.dataset import list_images, open_dataset
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import read
from infer.views import plan_views
from trainer.checkpoint import Checkpoint, save

pytest.importorskip("tensorrt_rtx")
Exported = Callable[..., Path]
OneLine = Callable[[], str]


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A net whose activations leave half's range."""
    net, spec = loud_net("A")
    save(Checkpoint(dataclasses.replace(spec, interface="views"), net.state_dict()), tmp_path / "loud.pt")
    return tmp_path / "loud.pt"


def build(*arguments: object) -> int:
    return main([*map(str, arguments), "--builder", "tensorrt-rtx", "--target", "sm86"])


def posteriors(path: Path, data: Path) -> Any:
    engine = OnnxEngine(path)
    found = []
    for item in open_dataset(data).items:
        image = read(item.path)
        plan = plan_views(engine.spec, "center", (image.shape[0], image.shape[1]))
        found.append(engine.run(engine.load([image]), [plan])["posterior"][0])
    return np.array(found)


def test_a_net_that_overflows(
    loud: Path, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_line: OneLine
) -> None:
    """Refused by the gate without --calibrate; with it measured, rescaled, proven and built."""
    engine, single = loud.with_suffix(".engine"), tmp_path / "single.onnx"
    assert build(loud, "--verify", miniature_dir) == 1
    assert "a posterior of FP16 differs from FP32's by nan, --tolerance is 0.02, so there is no engine" in one_line()
    assert not engine.exists()
    assert build(loud, "--calibrate", miniature_dir, "--verify", miniature_dir, "--protocol", "ten-crop") == 0
    said = capsys.readouterr().out
    assert "| conv3_1" in said and f"largest on {len(list_images(miniature_dir).images)} images" in said
    assert "half tensors rescaled by powers of two" in said
    assert "FP16 against FP32 on 24 images" in said and "McNemar" in said
    assert "the engine itself was not run on the images of --verify: " in said
    sidecar = json.loads(Path(f"{engine}.json").read_text())
    assert sidecar["ranges"]["worst"][0]["largest"] > HALF_MAX
    assert len(sidecar["ranges"]["worst"]) == 10
    assert min(sidecar["ranges"]["rescaled"].values()) < 0
    assert sidecar["verify"]["largest_posterior_difference"] < sidecar["verify"]["tolerance"] == 0.02
    assert sidecar["verify"]["protocol"] == "ten-crop"
    # the model that was built is kept beside it, and is the mended one
    half = onnx.load(loud.with_suffix(".onnx"))
    model_file.save(check_graph(half), tmp_path / "check.onnx")
    assert to_onnx([str(loud), "-o", str(single)]) == 0
    truth, found = posteriors(single, miniature_dir), posteriors(tmp_path / "check.onnx", miniature_dir)
    assert np.abs(truth - found).max() < 0.02


def test_a_net_that_stays_within_the_range_is_left_alone(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "a.engine"
    source = slim_checkpoint("A")
    assert build(source, "-o", engine, "--calibrate", miniature_dir, "--limit", 5) == 0
    said = capsys.readouterr().out
    assert "largest on 5 images" in said and "rescaled" not in said and "as it is" in said
    assert json.loads(Path(f"{engine}.json").read_text())["ranges"]["rescaled"] == {}
    assert to_onnx([str(source), "-o", str(tmp_path / "b.onnx"), "--precision", "fp16"]) == 0
    assert onnx.load(tmp_path / "a.onnx").graph == onnx.load(tmp_path / "b.onnx").graph


def test_the_gate(slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    engine = tmp_path / "a.engine"
    arguments = [slim_checkpoint("A"), "-o", engine, "--verify", miniature_dir]
    assert build(*arguments, "--tolerance", "1e-9") == 1
    assert "--tolerance is 1e-09, so there is no engine: try --calibrate DIR" in one_line()
    assert not engine.exists() and not Path(f"{engine}.json").exists()
    assert build(*arguments) == 0
    assert engine.exists()


@pytest.mark.parametrize("net", LOUD)
def test_an_onnx_model_is_mended_beside_itself(
    net: str, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was given is not written to; weights that half could hold, activations that it could not."""
    built, spec = loud_net(net)
    for parameter in built.parameters():  # so that the weights fit, which in this file they must
        parameter.data.clamp_(-30_000, 30_000)
    save(Checkpoint(dataclasses.replace(spec, interface="views"), built.state_dict()), tmp_path / "loud.pt")
    model = tmp_path / "loud.onnx"
    assert to_onnx([str(tmp_path / "loud.pt"), "-o", str(model), "--precision", "fp16"]) == 0
    before = model.read_bytes()
    both = ["--calibrate", miniature_dir, "--verify", miniature_dir]
    assert build(model, *both) == 0
    assert model.read_bytes() == before
    assert f"{tmp_path / 'loud.rescaled.onnx'}: " in capsys.readouterr().out
    sidecar = json.loads((tmp_path / "loud.engine.json").read_text())
    assert sidecar["onnx_sha256"] != "" and sidecar["ranges"]["rescaled"]


def test_what_is_asked_wrongly(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    source, engine = slim_checkpoint("A"), tmp_path / "a.engine"
    for arguments, said in (
        (["--verify", miniature_dir, "--precision", "fp32"], "are about half precision"),
        (["--tolerance", "0.1"], "--tolerance is of --verify DIR"),
        (["--limit", "3"], "--protocol and --limit are of --calibrate DIR"),
        (["--verify", miniature_dir, "--tolerance", "nan"], "expected a number above 0, got 'nan'"),
        (["--verify", miniature_dir, "--limit", "-1"], "--limit: expected a number of images or 0 for all"),
    ):
        with pytest.raises(SystemExit, match="2"):
            build(source, "-o", engine, *arguments)
        assert said in one_line()
    for option in ("--verify", "--calibrate"):
        narrow = ["--profile", "dense:min=64x64,opt=64x64,max=66x70", option, miniature_dir, "--protocol", "dense"]
        with pytest.raises(SystemExit, match="2"):
            build(source, "-o", engine, *narrow)
        assert "slim-a: dense at Q=72,96,120 can see no image of any size (its range is too small: " in one_line()
        assert list(tmp_path.iterdir()) == []

    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        (["--calibrate", empty], "no images below it: --calibrate takes a folder"),
        (["--verify", empty], "--verify: "),
        (["--verify", tmp_path / "none"], "no such folder"),
    ):
        assert build(source, "-o", engine, *arguments) == 1
        assert said in one_line()
        assert not engine.exists()


def test_random_nets_of_every_kind_pass(miniature_dir: Path, tmp_path: Path) -> None:
    """nchw and images interfaces too."""
    for interface in ("images", "nchw"):
        spec = slim_spec("googlenet")
        path = tmp_path / f"{interface}.pt"
        save(Checkpoint(spec, random_net(spec).state_dict()), path)
        both = ["--calibrate", miniature_dir, "--verify", miniature_dir]
        assert build(path, "--interface", interface, *both, "--limit", 4) == 0


@pytest.mark.processes
def test_the_engine_itself_is_verified_where_its_gpu_is(
    exported: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    """On the simulated driver and the double of TensorRT, which computes the FP16 graph: the net, another, no GPU."""
    half, single, other = exported("A", precision="fp16"), exported("A"), exported("B")
    plan = write_plan(half, tmp_path)
    code = f"""
import json, fake_tensorrt, msgspec
from pathlib import Path
import onnx
from export.model.source import Proof
from export.proof.verdict import GateError
from export.proof.verify import prove_engine
import msgspec
from infer.tensorrt.sidecar import SidecarContent
fake_tensorrt.install("tensorrt", "11.4.0.106")
plan = Path({str(plan)!r})
sidecar = msgspec.convert(json.loads(Path(str(plan) + ".json").read_text()), SidecarContent)
proof = Proof(verify=Path({str(miniature_dir)!r}), protocol="ten-crop", limit=12)
half = Path({str(half)!r})
for model in ({str(single)!r}, {str(other)!r}):
    try:
        proven = prove_engine(onnx.load(model), half, plan.read_bytes(), sidecar, proof)
        print(json.dumps({{"verify_engine": proven.verify_engine}}))
    except GateError as error:
        print(error)
elsewhere = msgspec.structs.replace(sidecar, targets=("sm75",))
assert prove_engine(onnx.load(model), half, plan.read_bytes(), elsewhere, proof) == elsewhere
"""
    seen = cudasim.run(code, tmp_path)
    seen.check()
    said, _, passed, *_, refused, elsewhere = seen.stdout.splitlines()
    note = json.loads(passed)["verify_engine"]
    assert said.startswith("the engine against FP32 on 12 images of ") and "of a class score" not in said
    assert 0 < note["largest_posterior_difference"] < note["tolerance"] == 0.02 and note["what"] == "the engine"
    assert re.search(r"a posterior of the engine differs from FP32's by [\d.]+, .* so there is no engine", refused)
    assert elsewhere.endswith("it is for sm75, the GPU here is sm86")
