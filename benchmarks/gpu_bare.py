"""What a bare GPU machine can prove of this project: a data-centre GPU and torch, no TensorRT, no network.

    python benchmarks/gpu_bare.py OUT [--stages driver,engine] [--rehearse]

Written for an H100 or H200 with a driver for CUDA 13, Python 3.12, PyTorch and cuda-bindings (gpu_pack.py carries what
else is needed: its docstring has the commands). Each stage (benchmarks/bare/) is a process with a limit of its own, all
together under nine minutes, so that a failure or a missing package costs one stage. OUT/gpu-bare.json is written after
every stage; OUT/STAGE.log has what a stage printed.

--rehearse: every stage on the CPU and the simulated driver, small. It shows that the stages run; none of its numbers
counts. Status 1 where a stage failed, 0 where all passed or were skipped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKED = ROOT / ".gpu"
"""What gpu_pack.py carried along, in folders of KINDS by the version of Python."""
KINDS = ("site", "onnxruntime")
STAGES = {"facts": 30, "driver": 40, "engine": 160, "provider": 100, "evaluation": 90, "training": 70, "ceilings": 45}
"""Stages and their limits in seconds."""
RESULT = "RESULT "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated (default: all)")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, small")
    parser.add_argument("--inside", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.stages.split(",")) - STAGES.keys()
    if unknown:
        parser.error(f"--stages: no stage {', '.join(sorted(unknown))}, expected {', '.join(STAGES)}")

    args.out.mkdir(parents=True, exist_ok=True)
    if args.inside:
        print(RESULT + json.dumps(run_inside(args.inside, args.out, args.rehearse)), flush=True)
        return 0

    report: dict[str, Any] = {"rehearsal": args.rehearse, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    for stage in args.stages.split(","):
        report[stage] = run_stage(stage, args.out, args.rehearse)
        unfinished = args.out / "gpu-bare.json.unfinished"
        unfinished.write_text(json.dumps(report, indent=1) + "\n")
        unfinished.replace(args.out / "gpu-bare.json")
        print(f"{stage}: {report[stage]['outcome']}, {report[stage]['seconds']} s", flush=True)
        for line in lines_of(report[stage]):
            print(f"  {line}", flush=True)
    print(f"{args.out / 'gpu-bare.json'}{': a rehearsal, of which no number counts' if args.rehearse else ''}")
    return int(any(isinstance(one, dict) and one["outcome"] == "failed" for one in report.values()))


def run_stage(stage: str, out: Path, rehearse: bool) -> dict[str, Any]:
    """A stage in a process of its own: {outcome, seconds, result or reason}."""
    command = [sys.executable, __file__, str(out), "--inside", stage, *(["--rehearse"] if rehearse else [])]
    started, limit = time.monotonic(), STAGES[stage] * (6 if rehearse else 1)
    log = out / f"{stage}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(stage, rehearse), start_new_session=True
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, 9)
            process.wait()

    said = log.read_text(errors="replace")
    results = [line for line in said.splitlines() if line.startswith(RESULT)]
    found: dict[str, Any] = {"outcome": "failed", "seconds": round(time.monotonic() - started, 1)}
    if results and code == 0:
        return {**found, **json.loads(results[-1].removeprefix(RESULT))}
    why = f"no end within {limit} s" if code is None else f"exit status {code}"
    return {**found, "reason": f"{why}: {said[-1500:]}"}


def environment(stage: str, rehearse: bool) -> dict[str, str]:
    """Of a stage's process: what was carried is found before what is installed."""
    paths = [ROOT / "tests" / "support", ROOT / "tests", ROOT]
    site, onnxruntime = (PACKED / f"{name}-{sys.version_info.major}.{sys.version_info.minor}" for name in KINDS)
    paths += [site] * site.is_dir()
    found = {**os.environ, "PYTHONUNBUFFERED": "1", "NVIDIA_TF32_OVERRIDE": "0"}
    if stage == "provider" and onnxruntime.is_dir():
        paths.insert(0, onnxruntime)
    if rehearse and stage in ("driver", "engine"):
        sys.path[:0] = [str(ROOT / "tests")]
        import cudasim

        found |= {"LD_LIBRARY_PATH": str(cudasim.library()), "CUSIM_DEFER": "1"}
    return found | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


def run_inside(stage: str, out: Path, rehearse: bool) -> dict[str, Any]:
    """The stage itself: {outcome: passed, failed or skipped, result or reason}."""
    sys.path.remove(str(Path(__file__).parent))  # in which evaluation.py is a benchmark
    module = importlib.import_module(f"benchmarks.bare.{stage}")
    missing = [name for name in module.NEEDS if not is_installed(name)]
    if missing:
        return {"outcome": "skipped", "reason": f"not installed here: {', '.join(missing)}"}
    if not rehearse and stage != "facts":
        import torch

        if not torch.cuda.is_available():
            return {"outcome": "skipped", "reason": "torch sees no GPU here"}

    folder = out / stage
    shutil.rmtree(folder, ignore_errors=True)  # of a run before
    folder.mkdir()
    try:
        result, wrong = module.run(folder, rehearse)
    except Exception as error:
        return {"outcome": "failed", "reason": "".join(traceback.format_exception(error))[-1500:]}
    return {"outcome": "failed" if wrong else "passed", "result": result, **({"wrong": wrong} if wrong else {})}


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # the package around it is missing
        return False


def lines_of(found: dict[str, Any]) -> list[str]:
    """A stage's result to read."""
    lines = [f"wrong: {line}" for line in found.get("wrong", [])]
    lines += [f"{name}: {value}" for name, value in found.get("result", {}).items()]
    return lines + found.get("reason", "").splitlines()[-3:]


if __name__ == "__main__":
    sys.exit(main())
