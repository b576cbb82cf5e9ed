"""Plans of the double of TensorRT (fake_tensorrt.py), with sidecars as export.to_trt writes them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fake_tensorrt
import msgspec
import pytest
from engines import build_engine

from export.graph.frame import add_regions
from export.model import file as model_file
from export.model.source import read_source
from export.tensorrt import sidecar
from export.tensorrt.build import BuildOptions, BuiltPlan
from export.tensorrt.elements import fit_shapes
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
    shapes = shapes or fit_shapes(onnx, source.spec, shapes_from_options(source.spec))[0]
    entries = [profile_entries(shape, source.spec.interface) for shape in shapes]
    graph = built_graph(onnx, folder, entries[0])
    data = fake_tensorrt.plan(graph, entries, host_code=build_options.version_compatible, just_in_time=builder == RTX)
    plan = BuiltPlan(data, builder, 0, 0, 0, 0, (None,) * len(shapes))
    content = msgspec.to_builtins(sidecar.sidecar_content(source, plan, shapes, ["sm86"], build_options))
    path = folder / f"{onnx.stem}.engine"
    sidecar.write_engine(path, data, {**content, **changes})
    return path


def built_graph(onnx: Path, folder: Path, inputs: Mapping[str, Any]) -> Path:
    """The graph that the builder gets of a model, for an engine with these inputs."""
    if "region_col_taps" not in inputs:
        return onnx
    model = model_file.read(onnx)
    assert add_regions(model)
    path = folder / f"{onnx.stem}.regions.onnx"
    path.write_bytes(model.SerializeToString())
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
    graph = built_graph(path.with_suffix(".onnx"), folder, profiles[0])
    data = fake_tensorrt.plan(graph, profiles, just_in_time=True, activation_bytes=used)
    sidecar.write_engine(path, data, {**content, "sha256": hashlib.sha256(data).hexdigest(), **changes})
    return path
