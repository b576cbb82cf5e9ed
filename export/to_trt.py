"""ckpt.pt or model.onnx -> model.engine: a plan for TensorRT or TensorRT-RTX, and a sidecar that says what it is.

python -m export.to_trt ckpt.pt|model.onnx [-o model.engine] [--precision fp16|fp32] [--interface views|images|nchw]
    [--builder auto|tensorrt|tensorrt-rtx] [--target sm86 ...] [--profile ...] [--outputs ...]

From a checkpoint the ONNX model is written first, beside the engine, and kept. A failed build leaves no engine, and
the plan is written after its old sidecar is gone, so that no crash leaves a plan with the sidecar of another.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infer.command import Parser, run
from infer.spec import ModelSpec, ShapeRange, SpecError

from . import sidecar
from .onnx_source import ModelError, Request, Source, check_request, export_checkpoint, read_source
from .profiles import ProfileError, ProfileOption, parse_profile, shapes_from_options
from .trt_builder import LIBRARIES, BuildError, Library, TargetError, build, choose_library, choose_targets


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be built, as the command line asks for it."""

    model: Path
    engine: Path
    request: Request
    profiles: Mapping[str, ProfileOption]
    library: Library
    targets: tuple[str, ...]


def convert(job: Job) -> None:
    """Builds `job.engine` from a .pt or .onnx and says so on stdout. Every step may refuse; the last two write."""
    started = time.monotonic()
    source = open_source(job)
    shapes = shapes_from_options(source.spec, job.profiles)
    plan = build(job.library, source.path, source.spec, shapes, job.targets)
    sidecar.write_engine(job.engine, plan.data, sidecar.content(source, plan, shapes, job.targets))
    print(f"{sidecar.describe(job.engine, source.spec, plan, shapes, job.targets)}; {_seconds_since(started)}")
    print(f"run it there with real inputs: {write_example(job, source.spec, shapes[0])}")


def open_source(job: Job) -> Source:
    """The ONNX model that is asked for; a checkpoint's is written beside the engine."""
    started = time.monotonic()
    if job.model.suffix == ".onnx":
        source = read_source(job.model)
        check_request(source, job.request)
        return source
    onnx_path = job.engine.with_suffix(".onnx")
    source = export_checkpoint(job.model, onnx_path, job.request, lambda spec: shapes_from_options(spec, job.profiles))
    spec, size = source.spec, onnx_path.stat().st_size
    print(
        f"{onnx_path}: {spec.precision}, {spec.interface} interface, {size / 1e6:.1f} MB, {_seconds_since(started)}",
        flush=True,
    )
    check_request(source, job.request)
    return source


def write_example(job: Job, spec: ModelSpec, crops: ShapeRange) -> str:
    """Writes real inputs beside the engine; returns the command that runs it on them."""
    inputs, folder = sidecar.example_inputs(spec, crops), job.engine.with_suffix(".inputs")
    sidecar.write_inputs(folder, inputs)
    return sidecar.tool_line(job.library, job.engine, folder, inputs)


def _seconds_since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"


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
        convert(Job(args.model, engine, request, options, library, choose_targets(library, args.target)))
    except TargetError as error:
        parser.error(str(error))
    except (BuildError, ModelError, ProfileError, SpecError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(main)
