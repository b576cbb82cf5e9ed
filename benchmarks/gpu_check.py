"""The check for the first person with a GPU: tests and benchmark of engines on it, in one file to send back.

    python benchmarks/gpu_check.py [gpu-report.json] [--no-benchmark] [--minutes 20]           (make gpu-check)

Tests (tests/infer/tensorrt/test_on_gpu.py): self-tests and parity of engines with ONNX Runtime for every net, protocol
and profile, FP16 accumulation in fc6, leaks, threads, CUDA graphs on and off. Benchmark: VGG-D and GoogLeNet of the
papers' size, random weights, FP16, and the times and kernels of their layers. Tests get two thirds of the minutes; what
then does not fit is left out and said. Without a GPU it runs what needs none and says what it skipped.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import gpu
from helpers import full_spec, slim_spec, write_checkpoint

from export.to_onnx import export_onnx
from infer.benchmark.__main__ import table
from infer.files import replacing
from infer.spec import ModelSpec, Precision
from trainer.checkpoint import load

PACKAGES = (
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "onnxruntime", "onnxruntime-gpu", "onnx", "torch"),
    *("numpy", "pillow", "opencv-contrib-python-headless"),
)
RUNS = (("center", "1,8,32"), ("ten-crop,dense,multicrop+dense", "1"))
"""Protocols and batches of the benchmark."""
NEEDED_SECONDS = 120
"""For a build and its benchmark, at least."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", nargs="?", type=Path, default=Path("gpu-report.json"))
    parser.add_argument("--no-benchmark", action="store_true", help="tests alone")
    parser.add_argument("--minutes", type=float, default=20, help="for all of it (default: %(default)s)")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only these tests, as pytest's -k")
    args = parser.parse_args()

    end = time.monotonic() + 60 * args.minutes
    reason = gpu.why_no_gpu()
    skipped = [] if reason is None else [f"all that needs a GPU: {reason}"]
    content: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gpu": reason is None,
        "double": gpu.DOUBLE,
        "environment": environment(),
        "tests": tests(args.k, 60 * args.minutes * 2 / 3, skipped),
        "benchmark": [],
        "layers": {},
        "skipped": skipped,
    }
    write(args.report, content)  # what is known already, should the benchmark not end
    if not args.no_benchmark:
        for row in benchmark(reason is None, content, end):
            content["benchmark"].append(row)
            write(args.report, content)
        write(args.report, content)

    outcomes = Counter(test["outcome"] for test in content["tests"])
    reasons = Counter((test["outcome"], test["reason"]) for test in content["tests"] if test["outcome"] != "passed")
    for (outcome, reason), number in reasons.items():
        print(f"{number} {outcome}: {reason}")
    if content["benchmark"]:
        print(table(content["benchmark"]))
    for line in content["skipped"]:
        print(f"skipped: {line}")
    print(f"{args.report}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(outcomes.items()))}")
    return 1 if outcomes["failed"] or outcomes["error"] or not content["tests"] else 0


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def environment() -> dict[str, Any]:
    query = "name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm"
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue

    return {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "nvidia-smi": command("nvidia-smi", f"--query-gpu={query}", "--format=csv"),
        "packages": versions,
        "commit": (command("git", "-C", str(ROOT), "rev-parse", "HEAD") or [None])[0],
    }


def command(*words: str) -> list[str] | None:
    """The lines that a command prints; None where it cannot run."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()


def tests(expression: str, seconds: float, skipped: list[str]) -> list[dict[str, Any]]:
    """Each test of tests/infer/tensorrt/test_on_gpu.py with its outcome, seconds and what it measured.

    After `seconds` those that did not run are left out, which is added to `skipped`.
    """
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder, "tests.xml")
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/infer/tensorrt/test_on_gpu.py"]
        options = ["--junit-xml", str(xml), "-o", "junit_family=xunit1", "-k", expression]
        options += ["-o", "filterwarnings=default"]  # a library of another version may warn of what it likes
        process = subprocess.Popen([*pytest, *options], cwd=ROOT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it then writes what it has
            process.wait()
            skipped.append(f"the tests that had not run after {seconds / 60:.0f} minutes: --minutes")
        cases = list(ElementTree.parse(xml).iter("testcase")) if xml.exists() else []

    found = []
    for case in cases:
        bad = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        outcome = "passed" if bad is None else {"failure": "failed"}.get(bad.tag, bad.tag)
        measured = {each.get("name"): each.get("value") for each in case.iter("property")}
        reason = "" if bad is None else f"{bad.get('message')}" + (f"\n{bad.text}" if outcome != "skipped" else "")
        found.append(
            {
                "name": case.get("name"),
                "outcome": outcome,
                "seconds": float(case.get("time", 0)),
                "measured": measured,
                "reason": reason,
            }
        )
    return found


def benchmark(on_gpu: bool, content: dict[str, Any], end: float) -> Iterator[dict[str, Any]]:
    """Rows of infer.benchmark: of engines by each library that is here, with CUDA graphs and without, or, without a
    GPU, of a small net on the CPU, to show that the command runs.

    Adds the times of layers to the report's `layers` and what could not run to `skipped`.
    """
    skipped: list[str] = content["skipped"]
    if gpu.DOUBLE:
        skipped.append("the benchmark: a double has no speed")
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not on_gpu:
            small = export(slim_spec("A"), folder, "fp32")
            yield from rows(small, ["--protocol", "center", "--runs", "3"], skipped)
            return

        for net in ("D", "googlenet"):
            onnx = export(full_spec(net), folder, "fp16")
            for library in gpu.LIBRARIES:
                reason = gpu.why_not(library)
                if reason is None and time.monotonic() > end - NEEDED_SECONDS:
                    reason = "no time was left: --minutes"
                if reason is not None:
                    skipped.append(f"the benchmark of {net}: {reason}")
                    continue
                try:
                    plan = gpu.build(onnx, folder, library)
                except Exception as error:  # the others are still worth knowing
                    skipped.append(f"the benchmark of {net} by {library}: {error!r}")
                    continue
                for protocols, batches in RUNS:
                    options = ["--protocol", protocols, "--batch", batches]
                    yield from rows(plan, options, skipped)
                    yield from rows(plan, [*options, "--cuda-graphs"], skipped)
                content["layers"][plan.name] = layers(plan, skipped)


def export(spec: ModelSpec, folder: Path, precision: Precision) -> Path:
    onnx = folder / f"{spec.name}.onnx"
    export_onnx(load(write_checkpoint(folder / f"{spec.name}.pt", spec)), onnx, precision=precision)
    return onnx


def rows(engine: Path, options: list[str], skipped: list[str]) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "infer.benchmark", "--engine", str(engine), "--json", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        skipped.append(f"{' '.join(words[1:])}: {done.stderr.strip()}")
    return [{**json.loads(line), "engine": engine.name} for line in done.stdout.splitlines()]


def layers(engine: Path, skipped: list[str]) -> Any:
    """Times and kernels of the layers, by gpu_layers.py."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_layers.py"), str(engine)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        skipped.append(f"the layers of {engine.name}: {done.stderr.strip()[-500:]}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # what TensorRT timed is timed once
        os.environ.setdefault(gpu.TIMING_CACHE, str(Path(folder, "timing.cache")))
        status = main()
    sys.exit(status)
