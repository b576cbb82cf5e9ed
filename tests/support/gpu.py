"""What the tests of real GPUs need: a GPU, a library for it, plans for it.

VERYDEEP_DOUBLE=1 puts the doubles in their place (fake_tensorrt.py on the simulated driver), to try the tests
themselves where no GPU is. What they then say is nothing about a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plans import RTX, TENSORRT, write_plan

from export.model.source import read_source
from export.tensorrt.build import BuildError, choose_library, choose_targets
from export.to_trt import main as to_trt
from infer.cuda.device import Device
from infer.cuda.driver import CudaError
from infer.engine import Engine
from infer.open import open_engine
from infer.tensorrt.library import LibraryName

DOUBLE = os.environ.get("VERYDEEP_DOUBLE") == "1"
TIMING_CACHE = "VERYDEEP_TIMING_CACHE"
"""Names the file in which all builds keep what TensorRT timed (gpu_check.py)."""
LIBRARIES: tuple[LibraryName, ...] = ("tensorrt", "tensorrt-rtx")


def why_no_gpu() -> str | None:
    """None where there is one that can be used."""
    try:
        device = Device()
    except CudaError as error:
        return str(error)
    device.close()
    return None


def why_not(library: LibraryName) -> str | None:
    """Why this library cannot run on the GPU that is here; None where it can."""
    if DOUBLE:
        return None
    try:
        choose_targets(choose_library(library), [])
    except BuildError as error:
        return str(error)
    return None


def require(library: LibraryName) -> None:
    """Skips the test without a GPU, or a library that runs on it."""
    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(f"no GPU: {reason}")
    reason = why_not(library)
    if reason is not None:
        pytest.skip(reason)
    if DOUBLE:
        import fake_tensorrt

        fake_tensorrt.install("tensorrt", TENSORRT.split()[1])
        fake_tensorrt.install("tensorrt_rtx", RTX.split()[1])


def build(onnx: Path, folder: Path, library: LibraryName) -> Path:
    """A plan for the GPU that is here, by the command, in the graph's own precision."""
    if DOUBLE:
        return write_plan(onnx, folder, builder=TENSORRT if library == "tensorrt" else RTX)
    path = folder / f"{onnx.stem}.{library}.engine"
    precision = read_source(onnx).spec.precision
    cache = os.environ.get(TIMING_CACHE) if library == "tensorrt" else None  # the other one times nothing
    options = ["--timing-cache", cache] if cache else []
    assert to_trt([str(onnx), "-o", str(path), "--builder", library, "--precision", precision, *options]) == 0
    return path


def opened(onnx: Path, folder: Path, library: LibraryName) -> Engine:
    """The engine of a plan made of `onnx`, after its self-test."""
    return open_engine(build(onnx, folder, library), self_test=True)
