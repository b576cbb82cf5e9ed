"""What lies beside a plan: `model.engine.json`, which says what it is, and real inputs to run it with by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infer import self_test
from infer.files import file_sha256, replacing
from infer.graph_inputs import Feed, feed_taps
from infer.pixels.render import normalise, render
from infer.shapes import ShapeRange
from infer.spec import ModelSpec
from infer.views import plan_views

from ..model.source import Source
from .build import Plan
from .library import Library
from .options import BuildOptions
from .profiles import profile_entries


def content(
    source: Source, plan: Plan, shapes: Sequence[ShapeRange], targets: Sequence[str], options: BuildOptions
) -> dict[str, Any]:
    """What the sidecar says, `source.notes` last. The fields are those of infer.engine.check_sidecar's readers."""
    profiles = [
        {**dataclasses.asdict(shape), "inputs": profile_entries(shape, source.spec.interface), "activation_bytes": used}
        for shape, used in zip(shapes, plan.activation_bytes, strict=True)
    ]
    return {
        "spec": json.loads(source.spec.to_json()),
        "sha256": hashlib.sha256(plan.data).hexdigest(),
        "builder": plan.builder,
        "targets": targets,
        "options": options.as_json(),
        "profiles": profiles,
        "half_tensors": plan.half_tensors,
        "float_tensors": plan.float_tensors,
        "onnx_sha256": file_sha256(source.path),
        "self_test": source.self_test,
        **source.notes,
    }


def write_engine(engine: Path, plan: bytes, sidecar: dict[str, Any]) -> None:
    """The plan, and beside it `model.engine.json`. The old sidecar goes before the new plan comes."""
    sidecar_path = engine.with_name(engine.name + ".json")
    with replacing(engine) as unfinished:
        unfinished.write_bytes(plan)
        sidecar_path.unlink(missing_ok=True)
    with replacing(sidecar_path) as unfinished:
        unfinished.write_text(json.dumps(sidecar) + "\n")


def describe(engine: Path, spec: ModelSpec, plan: Plan, shapes: Sequence[ShapeRange], targets: Sequence[str]) -> str:
    """One line: what was built and what it needs."""
    memory = ", ".join(
        f"{shape.name} {'unknown' if used is None else f'{used / 1e6:.0f} MB'}"
        for shape, used in zip(shapes, plan.activation_bytes, strict=True)
    )
    logged = (
        f"{plan.kernels} kernels of them in the builder's log" if plan.kernels else "none named in the builder's log"
    )
    return (
        f"{engine}: {spec.precision}, {spec.interface} interface, {len(plan.data) / 1e6:.1f} MB, {plan.builder} for "
        f"{' '.join(targets)}; {plan.half_tensors} half and {plan.float_tensors} float tensors, "
        f"{plan.convolutions} convolutions all {spec.precision} ({logged}); activations: {memory}"
    )


def example_inputs(spec: ModelSpec, crops: ShapeRange) -> Feed:
    """Real inputs for the profile `crops`: views of the ten-crop protocol of a synthetic image, as many as fit."""
    image = np.ascontiguousarray(self_test.make_image(0, spec)[: spec.crop_px, : spec.crop_px])
    scale = min(spec.test_short_px, crops.rescaled_px.max)
    views = plan_views(spec, "ten-crop", (spec.crop_px, spec.crop_px), [scale]).views[: crops.views.max]
    preprocessing = spec.preprocessing
    if spec.interface == "views":
        return feed_taps(image, (scale, scale), preprocessing.filter, [(view.cut, view.mirrored) for view in views])
    pixels = np.stack(render(image, views, spec))
    if spec.interface == "images":
        return {"images": pixels}
    return {"input": normalise(pixels, spec)}


def write_inputs(folder: Path, inputs: Feed) -> None:
    """Each input as NAME.bin: its raw values, as the command-line tools read them."""
    for name, values in inputs.items():
        with replacing(folder / f"{name}.bin") as unfinished:
            unfinished.write_bytes(np.ascontiguousarray(values).tobytes())


def tool_line(library: Library, engine: Path, folder: Path, inputs: dict[str, NDArray[Any]]) -> str:
    """The command that runs the plan on its GPU. TensorRT-RTX's tool has trtexec's options; not tried here."""
    files = ",".join(f"{name}:{folder / name}.bin" for name in inputs)
    shapes = ",".join(f"{name}:{'x'.join(map(str, values.shape))}" for name, values in inputs.items())
    return shlex.join([library.tool, f"--loadEngine={engine}", f"--loadInputs={files}", f"--shapes={shapes}"])
