"""benchmarks/host.py, on few images: it runs, and what the engine was fed is what the CPU engine sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cudasim
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.processes]


def test_a_row_for_each_protocol() -> None:
    cudasim.require("cuda-python")
    command = [sys.executable, str(ROOT / "benchmarks" / "host.py"), "--images", "12", "--cores", "2", "--shares"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    found = {row[0].strip(): row for row in rows if len(row) == 7}
    for protocol in ("center", "dense", "multicrop", "googlenet-144"):
        assert int(found[protocol][4]) > 0 and float(found[protocol][5]) <= 1e-6  # views proven, and how well
    assert done.stdout.count("CPU ms an image") == 4
