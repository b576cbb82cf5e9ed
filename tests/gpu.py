"""What the tests of real GPUs need: a GPU, a library for it, plans for it.

VERYDEEP_DOUBLE=1 puts the doubles in their place (fake_tensorrt.py on the simulated driver), to try the tests
themselves where no GPU is. What they then say is nothing about a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from plans import RTX, TENSORRT, write_plan

from export.onnx_source import read_source
from export.profiles import parse_profile, shapes_from_options
from export.to_trt import main as to_trt
from infer.cuda import CudaError, Device
from infer.engine import Engine, open_engine

DOUBLE = os.environ.get("VERYDEEP_DOUBLE") == "1"
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LIBRARIES = tuple(MODULES)


def why_no_gpu() -> str | None:
    """None where there is one that can be used."""
    try:
        device = Device()
    except CudaError as error:
        return str(error)
    device.close()
    return None


def require(library: str) -> None:
    """Skips the test without a GPU, or a library that runs on it."""
    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(f"no GPU: {reason}")
    if DOUBLE:
        import fake_tensorrt

        fake_tensorrt.install("tensorrt", TENSORRT.split()[1])
        fake_tensorrt.install("tensorrt_rtx", RTX.split()[1])
    elif importlib.util.find_spec(MODULES[library]) is None:
        pytest.skip(f"{library} is not installed: pip install {library}")


def build(onnx: Path, folder: Path, library: str, *profiles: str) -> Path:
    """A plan for the GPU that is here, by the command, with a precision that the graph has."""
    source = read_source(onnx)
    if DOUBLE:
        options = {option.name: option for option in map(parse_profile, profiles)}
        shapes = shapes_from_options(source.spec, options)
        return write_plan(onnx, folder, shapes, TENSORRT if library == "tensorrt" else RTX)
    path = folder / f"{onnx.stem}.{library}.engine"
    options_ = [word for profile in profiles for word in ("--profile", profile)]
    target = [] if library == "tensorrt" else ["--target", target_here()]
    arguments = [str(onnx), "-o", str(path), "--builder", library, "--precision", source.spec.precision]
    assert to_trt([*arguments, *target, *options_]) == 0
    return path


def target_here() -> str:
    device = Device()
    target = device.target
    device.close()
    return target


def opened(onnx: Path, folder: Path, library: str, *profiles: str, cuda_graphs: bool = False) -> Engine:
    """The engine of a plan made of `onnx`, after its self-test."""
    return open_engine(build(onnx, folder, library, *profiles), self_test=True, cuda_graphs=cuda_graphs)
