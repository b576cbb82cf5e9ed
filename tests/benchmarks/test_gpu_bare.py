"""benchmarks/gpu_bare.py where no GPU is: it ends, says what it skipped, and a wrong answer fails its stage."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from paths import ROOT
from torch_session import TorchSession

sys.path.insert(0, str(ROOT))
from benchmarks import gpu_bare, gpu_pack
from benchmarks.bare import engine as engine_stage
from benchmarks.bare import training as training_stage

Exported = Callable[..., Path]
PROGRAM = ROOT / "benchmarks" / "gpu_bare.py"


def ran(*arguments: object) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    out = Path(str(arguments[0]))
    done = subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], capture_output=True, text=True)
    return done, json.loads((out / "gpu-bare.json").read_text())


@pytest.mark.processes
def test_without_a_gpu_it_says_what_it_skipped(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: python benchmarks/gpu_bare.py OUT runs on it")
    done, report = ran(tmp_path, "--stages", "facts,engine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        report["facts"]["outcome"] == "passed" and report["facts"]["result"]["packages"]["torch"] == torch.__version__
    )
    assert report["engine"]["outcome"] == "skipped" and "torch sees no GPU here" in done.stdout
    assert not report["rehearsal"]


@pytest.mark.processes
def test_the_driver_is_rehearsed_on_the_simulated_one(tmp_path: Path) -> None:
    done, report = ran(tmp_path, "--stages", "driver", "--rehearse")
    assert (done.returncode, report["driver"]["outcome"]) == (0, "passed"), done.stdout
    assert report["rehearsal"] and "NOT A GPU" in report["driver"]["result"]["name"]
    assert "out of memory" in report["driver"]["result"]["a petabyte"]


@pytest.mark.slow
@pytest.mark.full
def test_every_stage_is_rehearsed(tmp_path: Path) -> None:
    done, report = ran(tmp_path, "--rehearse")
    assert done.returncode == 0, done.stdout
    assert {report[stage]["outcome"] for stage in gpu_bare.STAGES} == {"passed"}
    assert report["engine"]["result"]["arithmetic"] == "torch's, not TensorRT's"


@pytest.mark.processes
def test_a_stage_that_does_not_end_costs_one_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_bare.STAGES, "facts", 0)
    found = gpu_bare.run_stage("facts", tmp_path, rehearse=False)
    assert found["outcome"] == "failed" and found["reason"].startswith("no end within 0 s")


def test_all_stages_end_within_nine_minutes() -> None:
    assert sum(gpu_bare.STAGES.values()) <= 540


def test_a_missing_package_and_a_failure_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(PROGRAM.parent), *sys.path])
    monkeypatch.setattr(training_stage, "NEEDS", ("numpy", "no_such_package.part"))
    assert gpu_bare.run_inside("training", tmp_path, True) == {
        "outcome": "skipped",
        "reason": "not installed here: no_such_package.part",
    }

    def broken(*_: Any) -> Any:
        raise ValueError("what went wrong")

    monkeypatch.setattr(sys, "path", [str(PROGRAM.parent), *sys.path])
    monkeypatch.setattr(training_stage, "NEEDS", ())
    monkeypatch.setattr(training_stage, "run", broken)
    found = gpu_bare.run_inside("training", tmp_path, True)
    assert found["outcome"] == "failed" and "what went wrong" in found["reason"]


def test_a_test_that_failed_or_none_that_ran_is_wrong() -> None:
    suite = ElementTree.fromstring(
        '<s><testcase name="one"/><testcase name="two"><failure message="pixels"/></testcase>'
        '<testcase name="three"><skipped message="no"/></testcase></s>'
    )
    cases = list(suite.iter("testcase"))
    found, wrong = engine_stage.judge(cases, [1])
    assert (found["tests"], wrong) == ({"passed": 1, "failure": 1, "skipped": 1}, ["two: pixels"])
    assert engine_stage.judge(cases[:1], [0])[1] == []
    assert engine_stage.judge(cases[2:], [0])[1] == ["0 tests passed, pytest's statuses are [0]"]
    assert engine_stage.judge(cases[:1], [0, 4])[1] == ["1 tests passed, pytest's statuses are [0, 4]"]


def test_a_net_that_learned_nothing_is_wrong(tmp_path: Path) -> None:
    def judged(percent: float) -> list[str]:
        row = {"protocol": "dense", "top1_error_percent": percent}
        (tmp_path / "report.json").write_text(json.dumps({"results": [row]}))
        return training_stage.judge(tmp_path, 1.0, False)[1]

    assert judged(3.5) == [] and judged(90.0) == ["top-1 error 90.0 %, expected at most 6.0"]


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
@pytest.mark.parametrize("net", ["A-LRN", "C", "googlenet"])
def test_torch_computes_our_graphs_as_onnx_runtime_does(net: str, interface: str, exported: Exported) -> None:
    path = str(exported(net, interface=interface))
    reference = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session, rng = TorchSession(path, "cpu"), np.random.default_rng(0)
    sizes = {"source_height": 130, "source_width": 170, "views": 2, "col_taps": 5, "row_taps": 5}
    feed = {}
    for value in reference.get_inputs():
        shape = [sizes.get(size, 112) if isinstance(size, str) else size for size in value.shape]
        kind = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}[value.type]
        feed[value.name] = made(value.name, shape, kind, rng)
    names = [value.name for value in reference.get_outputs()]
    for name, one, other in zip(names, session.run(names, feed), reference.run(names, feed), strict=True):
        assert one.shape == other.shape and np.abs(one.numpy().astype(float) - other).max() < 1e-4, name


def made(name: str, shape: list[int], kind: Any, rng: np.random.Generator) -> Any:
    """An input of the graph: pixels, or places and weights of a rescaling that stays within the image."""
    if name in ("col_first", "row_first"):
        return np.sort(rng.integers(0, 120, shape)).astype(kind)
    if name in ("col_taps", "row_taps"):
        return np.full(shape, (1 << 22) // shape[0], kind)
    if name in ("rows", "cols"):
        return rng.integers(0, 112, shape).astype(kind)
    return (rng.integers(0, 256, shape) / (1 if kind == np.uint8 else 64)).astype(kind)  # the net's own are shifted


def test_only_the_machine_code_of_one_capability_is_kept() -> None:
    def entry(kind: int, capability: int, content: bytes) -> bytes:
        header = struct.pack("<HHIQ", kind, 0, 64, len(content)) + bytes(12) + struct.pack("<I", capability)
        return header.ljust(64, b"\0") + content

    entries = [entry(2, 80, b"A" * 40), entry(2, 90, b"B" * 24), entry(1, 90, b"C" * 16)]
    whole = b"".join(entries)
    block = struct.pack("<IHHQ", gpu_pack.FATBIN, 1, 16, len(whole)) + whole
    library = bytearray(b"before" + block + b"after" + struct.pack("<I", gpu_pack.FATBIN) + b"no block")
    assert gpu_pack.keep_one(library, 90) == 24
    assert library.count(b"A") + library.count(b"C") == 0 and library.count(b"B" * 24) == 1
    assert library.startswith(b"before") and library.endswith(b"no block") and b"after" in library
