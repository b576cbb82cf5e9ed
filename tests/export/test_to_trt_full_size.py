"""All seven nets at full size through the TensorRT-RTX builder."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import FULL_SIZE, full_spec, write_checkpoint

from infer.tensorrt.library import LIBRARIES
from infer.tensorrt.sidecar import check_sidecar

RTX = LIBRARIES["tensorrt-rtx"]
rtx = pytest.importorskip("tensorrt_rtx")
Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]

MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""
"""Runs a command and writes its peak memory in KiB. Started from a small process: Linux counts the memory of whoever
starts a process as that process's own, up to its exec."""


@pytest.mark.slow
@pytest.mark.parametrize("net", FULL_SIZE)
def test_full_size(net: str, tmp_path: Path) -> None:
    """All seven for two targets, each in a process of its own; VGG-D within 6 GB. Prints its seconds."""
    checkpoint = write_checkpoint(tmp_path / "model.pt", full_spec(net))
    started = time.monotonic()
    command = [sys.executable, "-m", "export.to_trt", str(checkpoint), "--target", "sm86", "sm89"]
    process = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path / "peak"), *command], stdout=subprocess.PIPE)
    seconds, peak_gb = time.monotonic() - started, int((tmp_path / "peak").read_text()) * 1024 / 1e9
    printed = process.stdout.decode().splitlines()
    print(f"\nfull {net}: {seconds:.0f} s, peak {peak_gb:.1f} GB\n" + "\n".join(printed[:-1]))
    assert process.returncode == 0
    sidecar = check_sidecar(tmp_path / "model.engine")
    convolutions = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19, "googlenet": 58}[net]
    assert f"{convolutions} convolutions all fp16 ({4 * convolutions} kernels" in printed[-2]
    assert sidecar["half_tensors"] > 2 * convolutions and sidecar["targets"] == ["sm86", "sm89"]
    if net == "D":
        assert peak_gb < 6
    for path in tmp_path.glob("model.*"):
        if path.is_file():
            path.unlink()  # gigabytes
