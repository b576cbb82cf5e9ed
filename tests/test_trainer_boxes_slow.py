"""Box nets from training to the boxes of exported engines: on the miniature nearly all are right (issue 10 asks 70 %).

With A in place of D, and fewer epochs: minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def python(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes")
    python("trainer.miniature", out / "data")
    options = ["--data", out / "data", "--out", out / "a", "--final-protocol", "none", "--set", "epochs=8"]
    python("trainer", "--recipe", "mini-a", *options)
    python("export.to_onnx", out / "a" / "ckpt.pt", "-o", out / "a.onnx", "--outputs", "posterior,score_map,pixel_sums")
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epochs", "precision"), [("scr", 3, "fp32"), ("pcr", 5, "fp16")])
def test_box_nets_find_the_digits(kind: str, epochs: int, precision: str, classifier: Path) -> None:
    out = classifier / kind
    options = ["--data", classifier / "data", "--init", classifier / "a" / "ckpt.pt", "--out", out]
    python(
        "trainer", "--recipe", f"mini-d-loc-{kind}", *options, "--set", "net=A", f"name=a-{kind}", f"epochs={epochs}"
    )
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["validation_iou50_error_percent"] < 30
    boxes = out / f"{precision}.onnx"
    python("export.to_onnx", out / "ckpt.pt", "-o", boxes, "--precision", precision)
    words = ["--boxes", boxes, "--engine", classifier / "a.onnx", "--data", classifier / "data", "--limit", "120"]
    python("evaluation.localization", *words, "--protocol", "dense", "--out", out / precision)
    results = json.loads((out / precision / "report.json").read_text())["results"]
    (given,) = (r["localization_error_percent"] for r in results if r["measure"] == "given class")
    assert given < 30, results
