"""ckpt.pt or model.onnx -> model.engine: a plan for TensorRT or TensorRT-RTX, and a sidecar that says what it is.

python -m export.to_trt ckpt.pt|model.onnx [-o model.engine] [--precision fp16|fp32] [--interface views|images|nchw]
    [--builder auto|tensorrt|tensorrt-rtx] [--target sm86 ...] [--profile ...] [--outputs ...]

From a checkpoint the ONNX model is written first, beside the engine, and kept. A failed build leaves no engine, and
the plan is written after its old sidecar is gone, so that no crash leaves a plan with the sidecar of another.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer import self_test
from infer.command import Parser, run
from infer.feed import Feed, feed_taps
from infer.files import file_sha256, replacing
from infer.render import normalise, render
from infer.spec import Interface, ModelSpec, Precision, ShapeRange, SpecError
from infer.views import plan_views

from .profiles import ProfileError, ProfileOption, parse_profile, profile_entries, shapes_from_options
from .trt_builder import (
    LIBRARIES,
    BuildError,
    Library,
    Plan,
    TargetError,
    build,
    choose_library,
    choose_targets,
)


class ModelError(ValueError):
    """An input that no engine can be built from as asked; one line."""


class Request(NamedTuple):
    """What the command line asks of the graph; interface None: the ONNX model's own, `views` from a checkpoint."""

    precision: Precision = "fp16"
    interface: Interface | None = None
    outputs: tuple[str, ...] = ()


def export_checkpoint(path: Path, onnx_path: Path, request: Request, options: Mapping[str, ProfileOption]) -> ModelSpec:
    """Writes the ONNX model of a checkpoint and returns its spec. Refuses bad profiles first: exporting takes longest.

    Raises ModelError for a file that is no checkpoint, ProfileError and SpecError.
    """
    from trainer.checkpoint import CheckpointError

    from .graph import ON_REQUEST
    from .to_onnx import export_onnx, load_with_source

    try:
        checkpoint = load_with_source(path)
    except CheckpointError as error:
        raise ModelError(str(error)) from None
    interface = request.interface or "views"
    shapes_from_options(dataclasses.replace(checkpoint.spec, interface=interface), options)
    outputs = [name for name in request.outputs if name in ON_REQUEST]
    return export_onnx(checkpoint, onnx_path, interface=interface, precision=request.precision, outputs=outputs)


def read_model(path: Path) -> tuple[ModelSpec, Any]:
    """(spec, self-test or None) in the metadata of an ONNX model. Raises ModelError for a file that has no spec."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, a class without types
        raise ModelError(f"{path}: not an ONNX model ({error})") from None
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    if "spec" not in metadata:
        raise ModelError(f"{path}: an ONNX model without our spec: import it with python -m export.from_onnx")
    try:
        return ModelSpec.from_json(metadata["spec"]), json.loads(metadata.get("self_test", "null"))
    except ValueError as error:
        raise ModelError(f"{path}: damaged metadata: {error}") from None


def check_request(path: Path, spec: ModelSpec, request: Request) -> None:
    """Raises ModelError where an ONNX model is another than what was asked for: its graph is what will be built."""
    if request.precision != spec.precision:
        raise ModelError(
            f"{path}: an {spec.precision.upper()} graph, got --precision {request.precision}: precision is a property "
            f"of the graph, so export it with python -m export.to_onnx --precision {request.precision}, or build with "
            f"--precision {spec.precision}"
        )
    if request.interface not in (None, spec.interface):
        raise ModelError(
            f"{path}: a graph with the {spec.interface} interface, got --interface {request.interface}: export it with "
            f"python -m export.to_onnx --interface {request.interface}"
        )
    missing = [name for name in request.outputs if name not in spec.outputs]
    if missing:
        raise ModelError(
            f"{path}: no output {missing[0]!r}, only {', '.join(spec.outputs)}: export it with "
            f"python -m export.to_onnx --outputs {','.join(missing)}"
        )


def example_inputs(spec: ModelSpec, crops: ShapeRange) -> Feed:
    """Real inputs for the profile `crops`: views of the ten-crop protocol of a synthetic image, as many as fit."""
    image = np.ascontiguousarray(self_test.image(0, spec)[: spec.crop_px, : spec.crop_px])
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


def convert(
    path: Path,
    engine: Path,
    request: Request,
    options: Mapping[str, ProfileOption],
    library: Library,
    targets: tuple[str, ...],
) -> None:
    """Builds `engine` from a .pt or .onnx and says so on stdout."""
    started = time.monotonic()
    onnx_path = path
    if path.suffix == ".pt":
        onnx_path = engine.with_suffix(".onnx")
        spec = export_checkpoint(path, onnx_path, request, options)
        seconds, size = time.monotonic() - started, onnx_path.stat().st_size
        print(
            f"{onnx_path}: {spec.precision}, {spec.interface} interface, {size / 1e6:.1f} MB, {seconds:.1f} s",
            flush=True,
        )
    spec, expected = read_model(onnx_path)
    check_request(onnx_path, spec, request)
    shapes = shapes_from_options(spec, options)
    plan = build(library, onnx_path, spec, shapes, targets)
    profiles = [
        {**dataclasses.asdict(shape), "inputs": profile_entries(shape, spec.interface), "activation_bytes": used}
        for shape, used in zip(shapes, plan.activation_bytes, strict=True)
    ]
    sidecar = {
        "spec": json.loads(spec.to_json()),
        "sha256": hashlib.sha256(plan.data).hexdigest(),
        "builder": plan.builder,
        "targets": targets,
        "profiles": profiles,
        "half_tensors": plan.half_tensors,
        "float_tensors": plan.float_tensors,
        "onnx_sha256": file_sha256(onnx_path),
        "self_test": expected,
    }
    write_engine(engine, plan.data, sidecar)
    inputs = example_inputs(spec, shapes[0])
    write_inputs(engine.with_suffix(".inputs"), inputs)
    print(f"{describe(engine, spec, plan, shapes, targets)}; {time.monotonic() - started:.1f} s")
    print(f"run it there with real inputs: {tool_line(library, engine, engine.with_suffix('.inputs'), inputs)}")


def _profile_argument(text: str) -> ProfileOption:
    try:
        return parse_profile(text)
    except ProfileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check_outputs(parser: Parser, outputs: Sequence[str]) -> None:
    from .graph import ALWAYS, ON_REQUEST

    for name in outputs:
        if name not in (*ALWAYS, *ON_REQUEST):
            parser.error(f"--outputs: unknown output {name!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_trt", description="Build a TensorRT or TensorRT-RTX engine.")
    parser.add_argument("model", type=Path, help="a checkpoint (.pt) or an ONNX model of ours (.onnx)")
    parser.add_argument("-o", "--out", type=Path, help="default: the model's name with .engine")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="(default: %(default)s)")
    parser.add_argument("--interface", choices=("views", "images", "nchw"), help="default: views; an ONNX model's own")
    parser.add_argument("--builder", choices=("auto", *LIBRARIES), default="auto")
    parser.add_argument(
        "--target", nargs="+", default=[], metavar="sm86", help="default: the GPU present, else sm75 to sm120"
    )
    parser.add_argument(
        "--profile",
        type=_profile_argument,
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="crops:views=50 or dense:min=224x224,opt=256x341,max=512x1365 (short x long side); either takes "
        "image=4096, the longest side of an image",
    )
    parser.add_argument("--outputs", default="", help="more outputs, comma-separated: score_map, features")
    args = parser.parse_args(argv)
    engine = args.out or args.model.with_suffix(".engine")
    if args.model.suffix not in (".pt", ".onnx"):
        parser.error(f"{args.model}: expected a checkpoint (.pt) or an ONNX model (.onnx)")
    if engine.suffix != ".engine":
        parser.error(f"-o {engine}: an engine's name ends in .engine")
    request = Request(args.precision, args.interface, tuple(name for name in args.outputs.split(",") if name))
    options = {option.name: option for option in args.profile}
    if len(options) < len(args.profile):
        parser.error(f"--profile: each may be given once, got {', '.join(option.name for option in args.profile)}")
    try:
        if args.model.suffix == ".pt":
            _check_outputs(parser, request.outputs)
        if not args.model.is_file():
            raise ModelError(f"{args.model}: no such file, expected a checkpoint (.pt) or an ONNX model (.onnx)")
        library = choose_library(args.builder)
        convert(args.model, engine, request, options, library, choose_targets(library, args.target))
    except TargetError as error:
        parser.error(str(error))
    except (BuildError, ModelError, ProfileError, SpecError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
