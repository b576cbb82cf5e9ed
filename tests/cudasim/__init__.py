"""The simulated CUDA driver for tests: built once, put under a child process, and what it saw of that process.

The driver keeps the host's side of CUDA's contract over ordinary memory (sim.c says what it checks); no kernel runs on
it and no number may be claimed from it. Nothing of CUDA's runtime starts on it. Never put it on the path of a machine
that has a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
ROOT = TESTS.parent
BUILD = ROOT / "build"
TOOLKITS = tuple(Path(path) for path in (os.environ.get("CUDA_HOME", ""), "/usr/local/cuda", "/usr") if path)
PYCUDA = BUILD / f"pycuda-{sys.version_info.major}{sys.version_info.minor}"
"""PyCUDA is distributed as source; build_pycuda.py compiles it to here."""
BINDINGS = ("pycuda", "cuda-python")


WAITS = ("cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize", "cuMemFree", "cuMemFreeHost")
"""Calls in which the host waits for the device."""
ALLOCATIONS = ("cuMemAlloc", "cuMemHostAlloc", "cuMemFree", "cuMemFreeHost", "cuStreamCreate", "cuEventCreate")
MARK = 77
"""A limit of the context that nobody asks for."""


def mark() -> None:
    """Marks this place in the driver's log, for `Seen.between_marks`."""
    ctypes.CDLL("libcuda.so.1").cuCtxGetLimit(ctypes.byref(ctypes.c_size_t()), MARK)


def count(calls: Sequence[str], names: Sequence[str]) -> int:
    return sum(call.startswith((f"{name}(", f"{name}_v2(")) for call in calls for name in names)


def copied_bytes(calls: Sequence[str], name: str) -> int:
    """Of all copies by the call `name`, whose third argument they are."""
    return sum(int(call.split(",")[2]) for call in calls if call.startswith(name + "_v2("))


@dataclass(frozen=True, slots=True)
class Seen:
    """A child process that ended, and what the driver saw of it."""

    code: int
    stdout: str
    stderr: str
    report: str  # "" where the process died before it could be written
    calls: tuple[str, ...]  # in order: name and arguments

    def count(self, *names: str) -> int:
        return count(self.calls, names)

    def between_marks(self) -> list[tuple[str, ...]]:
        """The calls from one `mark` to the next."""
        marks = [number for number, call in enumerate(self.calls) if call == f"cuCtxGetLimit({MARK})"]
        return [self.calls[start:end] for start, end in itertools.pairwise(marks)]

    def left(self) -> dict[str, int]:
        """Faults and what was not given back, from the driver's report.

        The primary context is not asked for back: a process of ours holds it once, the runtime's double once.
        """
        found = {name: int(number) for name, number in re.findall(r"([a-z][a-z ]+?) (\d+)", self.report)}
        assert found.pop("retained contexts", 0) <= 2, self.report
        return found

    def check(self) -> None:
        """Fails unless the process ended well, without a fault, and gave everything back."""
        assert self.code == 0, self.stderr
        left = self.left()
        assert left.pop("peak") >= 0 and len(left) == 6 and not any(left.values()), f"{self.report}\n{self.stderr}"


@functools.cache
def toolkit() -> Path | None:
    """Folder of CUDA's headers."""
    return next((path / "include" for path in TOOLKITS if (path / "include" / "cuda.h").is_file()), None)


def library() -> Path:
    """Folder with libcuda.so.1, built from sim.c where it has not been. Skips the test without a compiler or headers,
    but not in CI."""
    include = toolkit()
    if include is None or shutil.which("gcc") is None:
        reason = "the simulated CUDA driver needs gcc and CUDA's headers (/usr/local/cuda or CUDA_HOME)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    source = b"".join((HERE / name).read_bytes() for name in ("sim.c", "gen.py"))
    folder = BUILD / f"cudasim-{hashlib.sha256(source + str(include).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        unfinished = BUILD / f"cudasim-{os.getpid()}.unfinished"
        unfinished.mkdir(parents=True)
        compiler = ["gcc", "-O2", "-g", "-fPIC", "-Wall", "-Wno-unused-parameter", f"-I{include}"]
        for command in (
            [*compiler, "-c", str(HERE / "sim.c"), "-o", "sim.o"],
            [sys.executable, str(HERE / "gen.py"), str(include), "sim.o", "stubs.c"],
            [*compiler, "-Wno-builtin-declaration-mismatch", "-c", "stubs.c", "-o", "stubs.o"],
            ["gcc", "-shared", "-Wl,-soname,libcuda.so.1,-z,defs", "-o", "libcuda.so.1", "sim.o", "stubs.o"],
        ):
            subprocess.run(command, cwd=unfinished, check=True)
        (unfinished / "libcuda.so").symlink_to("libcuda.so.1")
        try:
            unfinished.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return folder


def require(binding: str) -> None:
    """Skips the test where `binding` is not there; in CI it must be."""
    if binding == "pycuda":
        there, how = (PYCUDA / "pycuda").is_dir(), "run python tests/cudasim/build_pycuda.py, which takes a minute"
    else:
        there, how = importlib.util.find_spec("cuda") is not None, "pip install cuda-bindings"
    if not there:
        reason = f"{binding} is not installed: {how}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def run(
    code: str,
    folder: Path,
    *,
    binding: str = "cuda-python",
    fail: str = "",
    settings: Mapping[str, str] | None = None,
    seconds: int = 120,
) -> Seen:
    """Runs Python on the simulated driver, work of streams as late as the API allows, so that a missing wait shows.

    folder: for the driver's own files; fail: errors to return, as CUSIM_FAIL in sim.c says.
    """
    require(binding)
    log, report = folder / "cusim.log", folder / "cusim.report"
    for path in (log, report):
        path.unlink(missing_ok=True)
    paths = [str(TESTS / "support"), str(TESTS), str(ROOT)] + ([str(PYCUDA)] if binding == "pycuda" else [])
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(library()),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONFAULTHANDLER": "1",
        "CUSIM_LOG": str(log),
        "CUSIM_REPORT": str(report),
        "CUSIM_DEFER": "1",
        **({"CUSIM_FAIL": fail} if fail else {}),
        **(settings or {}),
    }
    if binding == "pycuda":  # cuda-python is preferred where it is installed
        code = f"import sys; sys.modules['cuda'] = None\n{code}"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds)
    lines = log.read_text().splitlines() if log.is_file() else []
    calls = tuple(line.partition("] ")[2] if line.startswith("[") else line.strip() for line in lines)
    return Seen(done.returncode, done.stdout, done.stderr, report.read_text() if report.is_file() else "", calls)
