"""The files beside a plan: `model.engine.json`, which says what it is, and real inputs to run it with by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from infer import self_test
from infer.files import replacing
from infer.graph_inputs import Feed, feed_taps, profile_entries
from infer.pixels.render import normalise, render
from infer.spec import ModelSpec
from infer.tensorrt.library import Library
from infer.tensorrt.sidecar import Profile, SidecarContent
from infer.views import ShapeRange, plan_views

from ..model.source import Source
from .build import BuildOptions, BuiltPlan


def sidecar_content(
    source: Source, plan: BuiltPlan, shapes: Sequence[ShapeRange], targets: Sequence[str], options: BuildOptions
) -> SidecarContent:
    """The content of a plan's sidecar, with `source.notes` last."""
    from ..model.file import model_sha256  # loads onnx

    profiles = []
    for shape, used in zip(shapes, plan.activation_bytes, strict=True):
        extents = {one.name: getattr(shape, one.name) for one in dataclasses.fields(ShapeRange)}
        profiles.append(Profile(**extents, inputs=profile_entries(shape, source.spec.interface), activation_bytes=used))
    return SidecarContent(
        spec=dataclasses.asdict(source.spec),
        sha256=hashlib.sha256(plan.data).hexdigest(),
        builder=plan.builder,
        targets=tuple(targets),
        options=options.as_json(),
        profiles=tuple(profiles),
        half_tensors=plan.half_tensors,
        float_tensors=plan.float_tensors,
        onnx_sha256=model_sha256(source.path),
        self_test=source.self_test,
        keep_single=source.kept or msgspec.UNSET,
        **source.notes,
    )


def write_engine(engine: Path, plan: bytes, sidecar: dict[str, Any]) -> None:
    """Writes the plan, and beside it `model.engine.json`. The old sidecar goes before the new plan comes."""
    sidecar_path = engine.with_name(engine.name + ".json")
    with replacing(engine) as unfinished:
        unfinished.write_bytes(plan)
        sidecar_path.unlink(missing_ok=True)
    with replacing(sidecar_path) as unfinished:
        unfinished.write_text(json.dumps(sidecar) + "\n")


def engine_summary(
    engine: Path, spec: ModelSpec, plan: BuiltPlan, shapes: Sequence[ShapeRange], targets: Sequence[str]
) -> str:
    """One line: what was built and what it needs."""
    needed = []
    for shape, used in zip(shapes, plan.activation_bytes, strict=True):
        needed.append(f"{shape.name} {'unknown' if used is None else f'{used / 1e6:.0f} MB'}")
    kernels = f"{plan.kernels} kernels of them" if plan.kernels else "none named"
    of_them = f"all {spec.precision}"
    if plan.others:
        of_them = f"{spec.precision} but {', '.join(plan.others)}"
    return (
        f"{engine}: {spec.precision}, {spec.interface} interface, {len(plan.data) / 1e6:.1f} MB, {plan.builder} for "
        f"{' '.join(targets)}; {plan.half_tensors} half and {plan.float_tensors} float tensors, "
        f"{plan.convolutions} convolutions {of_them} ({kernels} in the builder's log); "
        f"activations: {', '.join(needed)}"
    )


def write_example(library: Library, engine: Path, spec: ModelSpec, crops: ShapeRange, options: BuildOptions) -> str:
    """Writes real inputs for the profile `crops` beside the engine; returns the command that runs it on them.

    Each input is a file NAME.bin of its raw values, as the command-line tools read them. TensorRT-RTX's tool has
    trtexec's options; neither was tried here. trtexec lets a plan bring its own runtime where it is told that the plan
    is version-compatible (NVIDIA/TensorRT, samples/common/sampleEngines.cpp).
    """
    inputs, folder = example_inputs(spec, crops), engine.with_suffix(".inputs")
    for name, values in inputs.items():
        with replacing(folder / f"{name}.bin") as unfinished:
            unfinished.write_bytes(np.ascontiguousarray(values).tobytes())

    files = ",".join(f"{name}:{folder / name}.bin" for name in inputs)
    shapes = ",".join(f"{name}:{'x'.join(map(str, values.shape))}" for name, values in inputs.items())
    command = [library.tool, f"--loadEngine={engine}", f"--loadInputs={files}", f"--shapes={shapes}"]
    return shlex.join(command + ["--versionCompatible"] * options.version_compatible)


def example_inputs(spec: ModelSpec, crops: ShapeRange) -> Feed:
    """Real inputs for the profile `crops`: views of the ten-crop protocol of a synthetic image, as many as fit."""
    image = np.ascontiguousarray(self_test.make_image(0, spec)[: spec.crop_px, : spec.crop_px])
    scale = min(spec.test_short_px, crops.rescaled_px.max)
    views = plan_views(spec, "ten-crop", (spec.crop_px, spec.crop_px), [scale]).views[: crops.views.max]
    if spec.interface == "views":
        boxes = [(view.cut, view.mirrored) for view in views]
        return feed_taps(image, (scale, scale), spec.preprocessing.filter, boxes, regions=crops.lines is not None)

    pixels: NDArray[np.uint8] = np.stack(render(image, views, spec))  # [V, crop, crop, 3]
    return {"images": pixels} if spec.interface == "images" else {"input": normalise(pixels, spec)}
