"""The table of what INT8 costs, on a small net, and the CPU's instructions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
from onnx import helper
from paths import ROOT

from export.model.check import write_check
from export.model.file import metadata
from infer.model_file import INT8


def test_a_row(exported: Any, miniature_dir: Path, tmp_path: Path) -> None:
    """Of FP16 weights in place of INT8: what is evaluated and compared is the same."""
    model = onnx.load(exported(precision="fp16"))
    said = metadata(model)
    spec = json.dumps(json.loads(said["spec"]) | {"precision": "int8"})
    helper.set_model_props(model, {**said, "spec": spec, INT8: "{}"})
    onnx.save(model, tmp_path / "m.onnx")
    write_check(tmp_path / "m.onnx")
    command = ["benchmarks/int8.py", "--net", exported(), tmp_path / "m.onnx", "--data", miniature_dir, "--limit", "8"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heading, row = (done.stdout.splitlines()[place] for place in (2, 4))
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (heading, row)), strict=True))
    assert (cells["net"], cells["images"]) == ("slim-a", "8")
    assert cells["computed in"] == "int8 + fp16, rounded by m.check.onnx"
    assert re.fullmatch(r"[+-]\d+\.\d\d \[-\d+\.\d\d, \+\d+\.\d\d\]", cells["drop, points"])
    assert float(cells["MB, FP32"]) > float(cells["MB, INT8"]) > 0

    first = done.stdout.splitlines()[0]
    flags = set(Path("/proc/cpuinfo").read_text().split())
    has, lacks = first.partition("; has ")[2].partition(";")[0].split(), first.partition("has no ")[2].partition(";")[0]
    assert set(has) <= flags and flags.isdisjoint(lacks.split())
