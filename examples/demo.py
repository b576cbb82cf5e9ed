"""The main job on a laptop: `make demo`. Runs the public commands one after the other and times each.

Digits -> nets A and D -> the papers' protocols at three scales, for both nets and fused, in torch -> ONNX in FP32, FP16
and INT8, FP16 engines for NVIDIA's RTX GPUs -> the same protocols on the FP32 ONNX engines, and one on the INT8 ones,
beside the torch rows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from evaluation.report.results import read_run
from evaluation.report.write import format_table

SCALES = ("--scales", "72,96,120")
PROTOCOLS = ("--protocol", "center,dense,multicrop,multicrop+dense", *SCALES)


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    data, a, d = out / "miniature", out / "a" / "ckpt.pt", out / "d" / "ckpt.pt"
    a32, d32 = a.with_name("fp32.onnx"), d.with_name("fp32.onnx")
    a8, d8 = a.with_name("int8.onnx"), d.with_name("int8.onnx")
    rtx, alone = ("--builder", "tensorrt-rtx"), ("--final-protocol", "none")  # evaluated in a stage of its own
    int8 = ("--precision", "int8", "--calibrate", data / "ILSVRC2012_img_train", "--limit", 400)
    engines8, dense = ("--engine", a8, "--engine", d8), ("--protocol", "dense", *SCALES)
    stages: dict[str, list[tuple[object, ...]]] = {
        "the digits, in ILSVRC-2012's shape": [("trainer.miniature", data)],
        "train mini-a": [("trainer", "--recipe", "mini-a", "--data", data, "--out", a.parent, *alone)],
        "train mini-d from A's layers": [
            ("trainer", "--recipe", "mini-d", "--data", data, "--out", d.parent, "--init", a, *alone),
        ],
        "evaluate in torch": [
            ("evaluation.ilsvrc", "--engine", a, "--engine", d, "--data", data, *PROTOCOLS, "--out", out / "torch")
        ],
        "export FP32 ONNX": [("export.to_onnx", a, "-o", a32), ("export.to_onnx", d, "-o", d32)],
        "export FP16 ONNX, compare with FP32, build FP16 engines": [
            ("export.to_trt", net, *rtx, "--verify", data, "--limit", 100) for net in (a, d)
        ],
        "export INT8 ONNX, compare with FP32": [
            ("export.to_onnx", net, "-o", net8, *int8, "--verify", data) for net, net8 in ((a, a8), (d, d8))
        ],
        "evaluate the FP32 ONNX engines": [
            ("evaluation.ilsvrc", "--engine", a32, "--engine", d32, "--data", data, *PROTOCOLS, "--out", out / "onnx")
        ],
        "evaluate the INT8 ONNX engines": [
            ("evaluation.ilsvrc", *engines8, "--data", data, *dense, "--out", out / "int8")
        ],
    }
    seconds = {stage: sum(run(command) for command in commands) for stage, commands in stages.items()}
    reports = [read_run(out / folder).report for folder in ("torch", "onnx", "int8")]
    rows = [result for report in reports for result in report.results]
    print(f"\n{format_table(rows)}\n")
    pairs = reports[0].pairs
    differing = sum(pair.differs for pair in pairs)
    print(f"{differing} of {len(pairs)} pairs of the torch rows differ (paired tests): see {out}/torch/report.html.")
    print(f"Built here, but not run: {a.with_suffix('.engine')} and {d.with_suffix('.engine')} need an NVIDIA GPU.\n")
    for stage, taken in seconds.items():
        print(f"{taken:6.0f} s  {stage}")
    print(f"{sum(seconds.values()):6.0f} s  in all; everything is in {out}/")


def run(command: tuple[object, ...]) -> float:
    """Runs `python -m command` and returns its seconds; a failure ends the demo."""
    words = [str(word) for word in command]
    print(f"== python -m {' '.join(words)}", flush=True)
    started = time.monotonic()
    if subprocess.run([sys.executable, "-m", *words]).returncode != 0:
        sys.exit(f"demo: python -m {words[0]} failed")
    return time.monotonic() - started


if __name__ == "__main__":
    main(Path(sys.argv[1]))
