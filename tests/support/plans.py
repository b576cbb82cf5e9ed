"""Plans of the double of TensorRT (fake_tensorrt.py), with sidecars as export.to_trt writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_tensorrt
import msgspec

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
