"""Box nets on their way to engines: the same boxes from torch and ONNX Runtime, self-tests, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from engines import build_engine
from helpers import network_input, noise, random_net, slim_spec, write_checkpoint

from export.model.source import Proof
from export.proof.verdict import refusal
from export.proof.verify import VerifyError, verify_engine
from export.to_onnx import export_onnx
from export.to_onnx import main as to_onnx
from export.to_trt import main as to_trt
from infer.engine import EngineError
from infer.open import open_engine
from infer.pixels.render import render
from infer.spec import SpecError
from infer.views import plan_views
from trainer.checkpoint import load
from trainer.nets.zoo import build_net
from trainer.torch_engine import TorchEngine

TASKS = {"box-scr": 4, "box-pcr": 40}


def exported(task: Any, folder: Path, **options: Any) -> Path:
    checkpoint = load(write_checkpoint(folder / "boxes.pt", slim_spec("D", task=task)))
    export_onnx(checkpoint, folder / "boxes.onnx", **options)
    return folder / "boxes.onnx"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_boxes_of_every_position_are_those_of_the_net(task: str, precision: str, tmp_path: Path) -> None:
    engine = open_engine(exported(task, tmp_path, precision=precision), self_test=True)
    spec, image = engine.spec, noise((90, 130))
    assert spec.outputs == ("box_map", "pixel_sums") and spec.channels == TASKS[task]
    net = random_net(spec)
    reference = TorchEngine(load(tmp_path / "boxes.pt"))
    for protocol, scale in (("center", 64), ("dense", 77), ("dense", 128)):
        plan = plan_views(spec, protocol, (90, 130), [scale])
        found = engine.run(engine.load([image]), [plan], ("box_map", "pixel_sums"))
        with torch.inference_mode():
            expected = [net(network_input(pixels, spec))[0].numpy() for pixels in render(image, plan.views, spec)]
        assert found["box_map"].shape == np.shape(expected) and found["box_map"].shape[1] == TASKS[task]
        error = np.abs(found["box_map"] - expected).max() / np.std(expected)
        assert error < (1e-4 if precision == "fp32" else 0.02)
        again = reference.run(reference.load([image]), [plan], ("box_map", "pixel_sums"))
        assert np.abs(again["box_map"] - expected).max() < 1e-5 * max(1, np.abs(expected).max())
        assert np.array_equal(again["pixel_sums"], found["pixel_sums"])


def test_the_self_test_finds_other_boxes(tmp_path: Path) -> None:
    path = exported("box-scr", tmp_path)
    model = onnx.load(path)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    expected = json.loads(metadata["self_test"])
    expected["mean_box"][3][2] += 0.001
    onnx.helper.set_model_props(model, {**metadata, "self_test": json.dumps(expected)})
    onnx.save(model, path)
    with pytest.raises(EngineError, match=r"self-test of slim-d on onnxruntime-fp32: a box differs by 0\.001 from"):
        open_engine(path, self_test=True)


def test_a_box_net_is_no_classifier(tmp_path: Path) -> None:
    engine = open_engine(exported("box-pcr", tmp_path))
    plan = plan_views(engine.spec, "center", (90, 130))
    with pytest.raises(EngineError, match=r"slim-d is a box net, which has no posterior, only box_map, pixel_sums: it"):
        engine.run(engine.load([noise((90, 130))]), [plan])


def test_boxes_are_of_vgg_alone() -> None:
    with pytest.raises(SpecError, match="box-scr: boxes are of VGG's nets"):
        build_net(slim_spec("googlenet", task="box-scr"))
    with pytest.raises(SpecError, match="task must be one of classify, box-scr, box-pcr, multibox"):
        slim_spec("D", task="boxes")


def test_an_engine_of_a_box_net_is_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    checkpoint = write_checkpoint(tmp_path / "boxes.pt", slim_spec("D", task="box-pcr"))
    built = build_engine(checkpoint, "-o", tmp_path / "boxes.engine", "--target", "sm86")
    assert built.sidecar["spec"]["task"] == "box-pcr" and built.sidecar["spec"]["outputs"] == ["box_map", "pixel_sums"]
    assert len(built.sidecar["self_test"]["mean_box"][0]) == 40


def test_the_gate_of_box_nets(miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Passes, says how far boxes move, and refuses by a tolerance that half cannot keep."""
    pytest.importorskip("tensorrt_rtx")
    checkpoint = write_checkpoint(tmp_path / "boxes.pt", slim_spec("D", task="box-scr"))
    options = ["--target", "sm86", "--verify", miniature_dir, "--protocol", "dense", "--limit", "5"]
    built = build_engine(checkpoint, "-o", tmp_path / "boxes.engine", *options)
    verdict = built.sidecar["verify"]
    assert verdict["images"] == 5 and verdict["what"] == "FP16" and verdict["boxes"] > 100
    assert 0 < verdict["mean_box_difference"] < verdict["largest_box_difference"] < 0.02 == verdict["tolerance"]
    assert any(line.startswith("FP16 against FP32 on 5 images, dense at ") for line in built.printed)
    strict = [str(word) for word in (checkpoint, "-o", tmp_path / "no.engine", *options, "--tolerance", "1e-7")]
    assert to_trt(strict) == 1 and not (tmp_path / "no.engine").exists()
    assert "a box of FP16 differs from FP32's by" in capsys.readouterr().err


def test_the_gate_finds_another_box_net(miniature_dir: Path, tmp_path: Path) -> None:
    graphs = []
    for seed in (0, 1):
        checkpoint = load(write_checkpoint(tmp_path / f"{seed}.pt", slim_spec("D", task="box-pcr"), seed))
        export_onnx(checkpoint, tmp_path / f"{seed}.onnx")
        graphs.append(onnx.load(tmp_path / f"{seed}.onnx"))
    engine = open_engine(tmp_path / "1.onnx")
    assert refusal(verify_engine(graphs[0], engine, Proof(verify=miniature_dir, limit=3)), Proof(tolerance=0.02))
    assert verify_engine(graphs[1], engine, Proof(verify=miniature_dir, limit=3)).largest_box_difference == 0
    with pytest.raises(VerifyError, match=r"--verify: .*no such folder"):
        verify_engine(graphs[0], engine, Proof(verify=tmp_path / "none", limit=3))


@pytest.mark.parametrize("command", [to_onnx, to_trt])
@pytest.mark.parametrize("output", ["posterior", "score_map"])
def test_outputs_that_a_box_net_has_none_of(command: Any, output: str, tmp_path: Path, one_line: Any) -> None:
    path = write_checkpoint(tmp_path / "boxes.pt", slim_spec("D", task="box-scr"))
    assert command([str(path), "--outputs", f"features,{output}"]) == 1
    assert one_line() == f"{path}: a box net, which has no {output}: leave it out of --outputs"
    assert list(tmp_path.iterdir()) == [path]
