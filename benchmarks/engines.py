"""The cost of the engines of all seven nets: sizes, seconds to build, memory. Prints a markdown table.

    python benchmarks/engines.py [--net D ...] [--target sm86 ...] [--profile crops ...]

Full size (224 px, 1000 classes), FP16, `views` interface, default profiles unless --profile says others, random weights
(no number depends on them), by TensorRT-RTX, which needs no GPU; each net in a process of its own. Seconds to ONNX and
to build are of the whole command, from the checkpoint on; the peak is the largest memory that its process held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from infer.spec import ModelSpec, Preprocessing
from trainer.checkpoint import Checkpoint, save
from trainer.loop.start import start_weights
from trainer.nets.zoo import build_net

NETS = ("A", "A-LRN", "B", "C", "D", "E", "googlenet")

MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""
"""Runs a command and writes its peak memory in KiB. Started from a small process: Linux counts the memory of whoever
starts a process as that process's own, up to its exec."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--target", nargs="+", default=["sm86", "sm89"])
    parser.add_argument("--profile", nargs="+", default=[], help="as export.to_trt takes them")
    args = parser.parse_args()

    rows, builder = [], ""
    for net in args.net:
        with tempfile.TemporaryDirectory() as folder:
            row, builder = measure(net, args.target, args.profile, Path(folder))
        rows.append(row)
        print(net, *row[1:], file=sys.stderr)

    headers = (
        *("net", "params, M", "ONNX, MB", "engine, MB", "to ONNX, s", "to build, s", "peak, GB"),
        *("crops, MB", "landscape, MB", "portrait, MB", "few crops, MB")[: len(rows[0]) - 7],
    )
    print(f"{builder} for {' '.join(args.target)}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(
        tabulate(
            rows, headers, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
        )
    )


def measure(net: str, targets: list[str], profiles: list[str], folder: Path) -> tuple[tuple[str, ...], str]:
    """(the row of a net, the builder and its version)."""
    checkpoint, engine = folder / "model.pt", folder / "model.engine"
    parameters = write_checkpoint(net, checkpoint)
    options = ["--builder", "tensorrt-rtx", "--target", *targets]
    options += [part for profile in profiles for part in ("--profile", profile)]
    command = [sys.executable, "-m", "export.to_trt", str(checkpoint), *options]

    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", MEASURED, str(folder / "peak"), *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the ONNX model is written
        exported = time.monotonic()
        process.stdout.read()
    if process.returncode:
        sys.exit(process.returncode)
    built = time.monotonic()

    sidecar = json.loads(engine.with_name(engine.name + ".json").read_text())
    peak_bytes = int((folder / "peak").read_text()) * 1024
    row = (
        net,
        f"{parameters / 1e6:.1f}",
        f"{engine.with_suffix('.onnx').stat().st_size / 1e6:.1f}",
        f"{engine.stat().st_size / 1e6:.1f}",
        f"{exported - started:.1f}",
        f"{built - exported:.1f}",
        f"{peak_bytes / 1e9:.1f}",
        *(f"{profile['activation_bytes'] / 1e6:.0f}" for profile in sidecar["profiles"]),
    )
    return row, sidecar["builder"]


def write_checkpoint(net: str, path: Path) -> int:
    """A net of the paper's size with random weights; returns the number of its parameters."""
    classes = tuple(f"n{i:08d}" for i in range(1000))
    preprocessing = Preprocessing((123.68, 116.779, 103.939))
    fc_width = 1024 if net == "googlenet" else 4096
    spec = ModelSpec(f"full-{net.lower()}", net, classes, preprocessing, train_short_px=256, fc_width=fc_width)

    built = build_net(spec)
    start_weights(built, "he")
    weights = built.state_dict()
    save(Checkpoint(spec, weights), path)
    return sum(tensor.numel() for tensor in weights.values())


if __name__ == "__main__":
    main()
