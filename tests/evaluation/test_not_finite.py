"""A model that answers by what is no number: its errors are not told without a word, and infer tells none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import Exported, encode, noise
from onnx import numpy_helper

from evaluation.ilsvrc import main as evaluate
from infer import Classifier
from infer.__main__ import main as infer
from infer.engine import EngineError

SAID = "are not finite (NaN or infinite), which counts as wrong: the model is damaged, or overflows in half precision"


@pytest.fixture
def broken_model(exported: Exported, tmp_path: Path) -> Path:
    """A model whose every answer is NaN: a weight is."""
    model = onnx.load(exported("A"))
    bias = next(one for one in model.graph.initializer if one.name == "fc8.bias")
    values = numpy_helper.to_array(bias).copy()
    values[3] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    return tmp_path / "nan.onnx"


def test_an_evaluation_says_so(
    broken_model: Path, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(miniature_dir), "--protocol", "center", "--limit", "7", "--out", str(tmp_path / "out")]
    assert evaluate(["--engine", str(broken_model), *words]) == 0
    remark = f"slim-a by center: its answers to 7 of 7 images {SAID}"
    assert remark in capsys.readouterr().err.splitlines()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert remark in report["remarks"] and report["results"][0]["top1_error_percent"] == 100


def test_infer_has_no_answer(broken_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise((80, 90)), "PNG"))
    assert infer([str(tmp_path / "a.png"), "--engine", str(broken_model), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["predictions"] == []
    assert err.strip() == f"{tmp_path / 'a.png'}: {json.loads(out)['status']}"
    assert "the model's answer is not finite (NaN or infinite)" in err
    with pytest.raises(EngineError, match="slim-a: the model's answer is not finite"):
        Classifier(broken_model)(tmp_path / "a.png")
