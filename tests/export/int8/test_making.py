"""INT8 as a user makes it: judged by the evaluation's own figures, mended where a layer loses too much, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import slim_spec
from onnx import numpy_helper
from readout import readout_checkpoint

from evaluation.compare import main as compare
from evaluation.ilsvrc import main as ilsvrc
from evaluation.scores.paired import Paired
from export.int8.making import quantise
from export.model.file import metadata, read_graph
from export.model.source import Proof
from export.proof.images import CalibrationError
from export.proof.verdict import Verdict, refusal
from export.to_onnx import main as to_onnx
from infer.model_file import INT8, check_file
from infer.open import open_engine


def arguments(*words: object) -> list[str]:
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def images(miniature_dir: Path) -> list[str]:
    train = miniature_dir / "ILSVRC2012_img_train"
    return arguments("--precision", "int8", "--calibrate", train, "--verify", miniature_dir, "--limit", 0)


def test_the_gate_says_what_the_evaluation_says(
    miniature_dir: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = readout_checkpoint(tmp_path / "known.pt", slim_spec("A"), miniature_dir)
    assert to_onnx(arguments(checkpoint, "-o", tmp_path / "fp32.onnx")) == 0
    assert to_onnx([*arguments(checkpoint, "-o", tmp_path / "int8.onnx"), *images, "--max-drop", "100"]) == 0
    said = capsys.readouterr().out
    assert "INT8: 9 layers, calibrated on " in said and "int8.layers.svg" in said
    assert check_file(tmp_path / "int8.onnx") == tmp_path / "int8.check.onnx"
    engine = open_engine(tmp_path / "int8.onnx", self_test=True)
    assert (engine.runtime, engine.arithmetic) == (
        "onnxruntime-int8",
        "int8 + fp16, rounded by int8.check.onnx",
    )

    out = arguments("--data", miniature_dir, "--out", tmp_path / "out", "--protocol", "center")
    engines = arguments("--engine", tmp_path / "fp32.onnx", "--engine", tmp_path / "int8.onnx")
    assert ilsvrc([*engines, *out]) == 0
    capsys.readouterr()
    single, integer = sorted((tmp_path / "out" / "scores").glob("*.parquet"))
    assert ("fp32" in single.name, "int8" in integer.name) == (True, True)
    assert compare(arguments(single, integer, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    (drop,) = [line for line in said.splitlines() if line.startswith("top-1 error of INT8 less that of FP32")]
    low, high = found["top1_interval95_percent"]
    assert drop.endswith(f"{found['top1_difference_percent']:+.2f} points [{low:+.2f}, {high:+.2f}]")
    agreement = f"same top-1 for {found['top1_agreement_percent']:.2f} % of the images"
    assert agreement in said and f"p = {found['top1_mcnemar_p']:.2g})" in said
    assert f"largest difference of a posterior {found['largest_posterior_difference']:.2g}" in said


def test_a_net_that_int8_ruins_is_mended_by_the_layer_that_it_ruins(
    miniature_dir: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One channel is a thousand times the others: the layer that reads it needs half."""
    loud = readout_checkpoint(tmp_path / "loud.pt", slim_spec("A"), miniature_dir, gain=1000)
    assert to_onnx([*arguments(loud, "-o", tmp_path / "loud.onnx"), *images, "--max-drop", "20"]) == 0
    said = capsys.readouterr().out
    assert "--max-drop is 20: back to half go conv3_2" in said
    noted = json.loads(metadata(read_graph(tmp_path / "loud.onnx"))[INT8])
    assert noted["half"] == ["conv3_2"]
    chart = (tmp_path / "loud.layers.svg").read_text()
    assert "conv3_2" in chart and "red: back in half" in chart and "1 in half" in chart


def test_what_does_not_pass_is_not_written(
    miniature_dir: Path, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = readout_checkpoint(tmp_path / "known.pt", slim_spec("A"), miniature_dir)
    assert to_onnx([*arguments(known), *images, "--max-drop", "100", "--max-drop-bound", "0.5"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") <= 3 and "of which the upper limit counts, --max-drop-bound is 0.5" in captured.err
    assert "images are needed" in captured.err or "no number of such images" in captured.err
    assert "back to half go" not in captured.out  # 24 images are too few for any net
    assert not (tmp_path / "known.onnx").exists() and not (tmp_path / "known.check.onnx").exists()

    assert to_onnx([*arguments(known), *images[:4], "--keep-half", "conv9"]) == 1
    assert "--keep-half conv9: no such layer to be quantised, expected names like conv2_1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        to_onnx(arguments(known, "--precision", "int8"))
    assert "--precision int8 needs images of the kind that the net is for: --calibrate DIR" in capsys.readouterr().err


def test_how_many_images_a_bound_needs() -> None:
    """0 of 400 images differ, of which one in twenty is wrong: the upper limit is 1 point or so."""
    verdict = verdict_of(Paired(20, 0, 0, 380))
    assert refusal(verdict, Proof()) is None
    said = refusal(verdict, Proof(max_drop_bound=0.5))
    assert said is not None
    needed = int(said.split("about ")[1].split()[0])
    assert 400 < needed < 10_000
    assert Paired(20 * needed // 400, 0, 0, 380 * needed // 400).interval95_percent[1] <= 0.5
    fewer = needed * 8 // 10
    assert Paired(20 * fewer // 400, 0, 0, 380 * fewer // 400).interval95_percent[1] > 0.5

    worse = refusal(verdict_of(Paired(10, 2, 4, 384)), Proof(max_drop=1.0, max_drop_bound=0.5))
    assert worse is not None and "no number of such images brings it down" in worse
    much = refusal(verdict_of(Paired(10, 0, 4, 386)), Proof())
    assert much is not None and "+1.00 points" in much and much.endswith("--max-drop is 0.5")
    lost = refusal(verdict_of(Paired(10, 0, 0, 390), largest=float("nan")), Proof())
    assert lost == "INT8 has answers that are no numbers"


def verdict_of(pairs: Paired, largest: float = 0.1) -> Verdict:
    errors = pairs.error_percents
    return Verdict("INT8", "int8", pairs.images, "center", (64,), "id", largest, 0.1, 99, 99, errors, errors, 1, pairs)


def test_scores_that_are_no_numbers(slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path) -> None:
    """No method of calibration is the best of four that are not to be told apart."""
    model = read_graph(make_onnx(slim_checkpoint("A"), tmp_path))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), np.nan, np.float32), bias.name))
    with pytest.raises(CalibrationError, match="class scores of FP32 or INT8 are no numbers on these images"):
        quantise(model, Proof(calibrate=miniature_dir / "ILSVRC2012_img_train", limit=32), ())


def make_onnx(checkpoint: Path, folder: Path) -> Path:
    assert to_onnx(arguments(checkpoint, "-o", folder / "fp32.onnx")) == 0
    return folder / "fp32.onnx"
