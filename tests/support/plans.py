"""Plans of the double of TensorRT (fake_tensorrt.py), with sidecars as export.to_trt writes them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_tensorrt
import msgspec
import pytest
from engines import build_engine

from export.model.source import read_source
from export.tensorrt import sidecar
from export.tensorrt.build import BuildOptions, BuiltPlan
from export.tensorrt.profiles import shapes_from_options
from infer.graph_inputs import profile_entries
from infer.views import ShapeRange

TENSORRT, RTX = "tensorrt 11.4.0.106", "tensorrt-rtx 1.7.1.116"
NO_OPTIONS = BuildOptions()


def write_plan(
    onnx: Path,
    folder: Path,
    shapes: Sequence[ShapeRange] = (),
    builder: str = TENSORRT,
    build_options: BuildOptions = NO_OPTIONS,
    **changes: Any,
) -> Path:
    """A plan of the double for an ONNX model, with a sidecar as export.to_trt writes it, for sm86.

    changes: of the sidecar, after the plan was made.
    """
    source = read_source(onnx)
    shapes = shapes or shapes_from_options(source.spec)
    entries = [profile_entries(shape, source.spec.interface) for shape in shapes]
    data = fake_tensorrt.plan(onnx, entries, host_code=build_options.version_compatible, just_in_time=builder == RTX)
    plan = BuiltPlan(data, builder, 0, 0, 0, 0, (None,) * len(shapes))
    content = msgspec.to_builtins(sidecar.sidecar_content(source, plan, shapes, ["sm86"], build_options))
    path = folder / f"{onnx.stem}.engine"
    sidecar.write_engine(path, data, {**content, **changes})
    return path


def build_whole(onnx: Path, folder: Path, **changes: Any) -> Path:
    """A plan by the real builder of TensorRT-RTX, with the bytes of the double's, which alone can be loaded here.

    All else is what the builder and the command wrote. changes: of the sidecar. Skips the test without TensorRT-RTX.
    """
    pytest.importorskip("tensorrt_rtx")
    path = folder / "whole.engine"
    shutil.copyfile(onnx, path.with_suffix(".onnx"))
    argv = ("--precision", "fp32", "--target", "sm86", "--builder", "tensorrt-rtx")
    content = build_engine(path.with_suffix(".onnx"), "-o", path, *argv).sidecar

    profiles = [profile["inputs"] for profile in content["profiles"]]
    used = [profile["activation_bytes"] for profile in content["profiles"]]
    data = fake_tensorrt.plan(path.with_suffix(".onnx"), profiles, just_in_time=True, activation_bytes=used)
    sidecar.write_engine(path, data, {**content, "sha256": hashlib.sha256(data).hexdigest(), **changes})
    return path
