"""`make gpu-check` where no GPU is: it runs, says what it skipped, and its tests pass and fail on the doubles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cudasim
import pytest
from helpers import Exported
from paths import ROOT

pytestmark = pytest.mark.processes

PROGRAM = ROOT / "benchmarks" / "gpu_check.py"


def on_doubles(folder: Path, expression: str, **settings: str) -> tuple[cudasim.Seen, dict[str, Any]]:
    """What gpu_check.py says of the tests that `expression` chooses."""
    report = folder / "gpu-report.json"
    code = f"""
import runpy, sys
sys.argv = ["gpu_check.py", {str(report)!r}, "-k", {expression!r}]
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""
    seen = cudasim.run(code, folder, settings={"VERYDEEP_DOUBLE": "1", **settings}, seconds=1800)
    return seen, json.loads(report.read_text())


def test_it_says_what_it_skipped_without_a_gpu(tmp_path: Path) -> None:
    report = tmp_path / "gpu-report.json"
    done = subprocess.run([sys.executable, str(PROGRAM), str(report)], capture_output=True, text=True, cwd=tmp_path)
    content = json.loads(report.read_text())
    if content["gpu"]:
        pytest.skip("a GPU is here: make gpu-check runs it")
    assert done.returncode == 0, done.stderr
    assert {test["outcome"] for test in content["tests"]} == {"skipped"} and len(content["tests"]) > 40
    assert all(test["reason"].startswith("no GPU: ") for test in content["tests"])
    assert content["skipped"][0].startswith("all that needs a GPU: ")
    (row,) = content["benchmark"]
    assert row["runtime"] == "onnxruntime-fp32" and row["runs"] == 3 and "CPUs" in row["device"]
    assert done.stdout.splitlines()[-1] == f"{report}: {len(content['tests'])} skipped"
    assert content["environment"]["packages"]["numpy"] and not content["double"]


def test_its_tests_pass_on_the_doubles(tmp_path: Path) -> None:
    seen, content = on_doubles(tmp_path, "(A-fp16 or left) and not rtx")
    assert seen.code == 0, seen.stdout + seen.stderr
    assert content["double"] and {test["outcome"] for test in content["tests"]} == {"passed"}
    assert content["skipped"] == ["the benchmark: a double has no speed"] and content["benchmark"] == []
    measured = {test["name"]: test["measured"] for test in content["tests"]}
    parity = measured["test_every_protocol_and_profile[tensorrt-A-fp16]"]
    assert 0 < float(parity["largest difference of a class score, in standard deviations"]) < 0.05
    assert measured["test_nothing_is_left_on_the_gpu[tensorrt]"] == {"bytes lost by eight engines": "0"}
    assert "faults 0," in seen.report


def test_its_tests_fail_where_an_engine_answers_wrongly(tmp_path: Path) -> None:
    """The double computes nothing: what its outputs hold is whatever lay there."""
    seen, content = on_doubles(tmp_path, "plain and images and not rtx", FAKE_TENSORRT="idle")
    assert seen.code == 1
    (test,) = content["tests"]
    assert test["outcome"] == "failed" and "self-test of slim-a on tensorrt-fp32" in test["reason"]


def test_what_does_not_fit_into_its_minutes_is_left_out_and_said(tmp_path: Path) -> None:
    report = tmp_path / "gpu-report.json"
    command = [sys.executable, str(PROGRAM), str(report), "--minutes", "0.01", "--no-benchmark"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    content = json.loads(report.read_text())
    assert done.returncode == 1 and content["tests"] == []  # nothing was tested, so nothing passed
    assert content["skipped"][-1] == "the tests that had not run after 0 minutes: --minutes"


def test_times_and_kernels_of_layers(exported: Exported, tmp_path: Path) -> None:
    """By the names of the real library; the double has outputs in place of layers, each of 0.5 ms."""
    code = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import fake_tensorrt, gpu_layers
from pathlib import Path
from plans import TENSORRT, write_plan
fake_tensorrt.install("tensorrt", TENSORRT.split()[1])
engine = gpu_layers.TensorRTEngine(write_plan(Path({str(exported("A", precision="fp16"))!r}), Path({str(tmp_path)!r})))
print(json.dumps(gpu_layers.measure(engine, "multicrop+dense", 3)))
engine.close()
"""
    seen = cudasim.run(code, tmp_path)
    seen.check()
    found = json.loads(seen.stdout.splitlines()[-1])
    assert set(found) == {"crops", "dense landscape"}
    for profile in found.values():
        assert {layer["name"] for layer in profile["layers"]} == {
            layer["Name"] for layer in profile["inspector"]["Layers"]
        }
        assert all(layer["ms"] >= 0.5 for layer in profile["layers"])


@pytest.mark.slow
@pytest.mark.full
def test_all_its_tests_pass_on_the_doubles(tmp_path: Path) -> None:
    seen, content = on_doubles(tmp_path, "not rtx")
    assert seen.code == 0, seen.stdout + seen.stderr
    skipped = [test["name"] for test in content["tests"] if test["outcome"] == "skipped"]
    assert all("providers_of_onnx_runtime" in name for name in skipped) and len(content["tests"]) - len(skipped) > 20
