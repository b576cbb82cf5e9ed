"""ckpt.pt or model.onnx -> model.engine: a plan for TensorRT or TensorRT-RTX, and a sidecar that says what it is.

python -m export.to_trt ckpt.pt|model.onnx [-o model.engine] [--precision fp16|fp32] [--interface views|images|nchw]
    [--builder auto|tensorrt|tensorrt-rtx] [--target sm86 ...] [--profile ... [--data DIR]] [--outputs ...]
    [--calibrate DIR] [--verify DIR [--tolerance 0.02]] [--protocol center] [--limit 200]
    [--workspace MB] [--optimization-level 0-5] [--timing-cache FILE] [--version-compatible] [--hardware-compatible ...]

From a checkpoint the ONNX model is written first, beside the engine, and kept; so is the FP16 version of a foreign FP32
model, as NAME.fp16.onnx. A failed or interrupted build leaves no engine, and the plan is written after its old sidecar
is gone, so that no crash leaves a plan with the sidecar of another.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infer.command import Parser, exit_with, positive_argument
from infer.data.dataset import DatasetError
from infer.engine import EngineError
from infer.files import replacing
from infer.shapes import ShapeRange
from infer.spec import ModelSpec, SpecError
from infer.views import PROTOCOLS

from .errors import ModelError
from .model.request import Proof, Request
from .model.source import Source, check_request, export_checkpoint, half_source, is_to_be_halved, read_source
from .tensorrt import sidecar
from .tensorrt.build import build
from .tensorrt.data_profile import DataSizes, dense_range, read_sizes
from .tensorrt.library import LIBRARIES, BuildError, Library, OptionError, choose_library, choose_targets
from .tensorrt.options import HARDWARE, LEVELS, BuildOptions, check_options
from .tensorrt.profiles import EXCLUSIVE, ProfileError, ProfileOption, parse_profile, shapes_from_options


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be built, as the command line asks for it."""

    model: Path
    engine: Path
    request: Request
    profiles: Mapping[str, ProfileOption]
    sizes: DataSizes | None  # of the images of --data
    library: Library
    targets: tuple[str, ...]
    options: BuildOptions
    proof: Proof


def convert(job: Job) -> None:
    """Builds `job.engine` from a .pt or .onnx and says so on stdout. Every step may refuse; the last ones write."""
    started = time.monotonic()
    source = open_source(job)
    shapes, said = choose_shapes(job, source.spec)
    print(*said, sep="\n", end="\n" if said else "", flush=True)
    if job.proof.calibrate or job.proof.verify:
        from .proof.prove import prove

        own = source.path != job.model
        source = prove(job.model, source, source.path if own else job.engine.with_suffix(".rescaled.onnx"), job.proof)
    plan = build(job.library, source.path, source.spec, shapes, job.targets, job.options)
    content = sidecar.content(source, plan, shapes, job.targets, job.options)
    if job.proof.verify:
        from .proof.prove import prove_engine

        content |= prove_engine(job.model, source, plan.data, content, job.proof)
    sidecar.write_engine(job.engine, plan.data, content)
    if job.options.timing_cache is not None and plan.timing_cache is not None:
        with replacing(job.options.timing_cache) as unfinished:
            unfinished.write_bytes(plan.timing_cache)
    print(f"{sidecar.describe(job.engine, source.spec, plan, shapes, job.targets)}; {_seconds_since(started)}")
    print(f"run it there with real inputs: {write_example(job, source.spec, shapes[0])}")


def open_source(job: Job) -> Source:
    """The ONNX model that is asked for; what is made of the input is written beside the engine."""
    started = time.monotonic()
    if job.model.suffix == ".pt":
        onnx_path = job.engine.with_suffix(".onnx")
        infinite: Literal["refuse", "keep"] = "keep" if job.proof.calibrate else "refuse"
        source = export_checkpoint(job.model, onnx_path, job.request, lambda spec: choose_shapes(job, spec), infinite)
        check_request(source, job.request)
    else:
        source = read_source(job.model)
        check_request(source, job.request)
        if not is_to_be_halved(source, job.request):
            return source
        choose_shapes(job, source.spec)
        source = half_source(source, job.engine.with_suffix(".fp16.onnx"))
    spec, size = source.spec, source.path.stat().st_size
    print(
        f"{source.path}: {spec.precision}, {spec.interface} interface, {size / 1e6:.1f} MB, {_seconds_since(started)}",
        flush=True,
    )
    return source


def choose_shapes(job: Job, spec: ModelSpec) -> tuple[tuple[ShapeRange, ...], tuple[str, ...]]:
    """The profiles of the engine, those asked for or (`auto`) of the data set's own sizes, and what to say of them."""
    if job.sizes is None:
        return shapes_from_options(spec, job.profiles), ()
    dense = dense_range(spec, job.sizes, job.profiles["auto"].numbers.get("image", 0))
    return shapes_from_options(spec, {**job.profiles, "dense": dense.option}), dense.lines


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


def _megabytes_argument(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**43:
        raise argparse.ArgumentTypeError(f"expected a whole number of megabytes above 0, got {text!r}")
    return int(text)


def _proof(args: argparse.Namespace) -> Proof:
    given = {name: getattr(args, name) for name in ("calibrate", "verify", "protocol", "limit", "tolerance")}
    return Proof(**{name: value for name, value in given.items() if value is not None})


def _parser() -> Parser:
    parser = Parser(prog="python -m export.to_trt", description="Build a TensorRT or TensorRT-RTX engine.")
    parser.add_argument("model", type=Path, help="a checkpoint (.pt) or an ONNX model of ours (.onnx)")
    parser.add_argument("-o", "--out", type=Path, help="default: the model's name with .engine")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="(default: %(default)s)")
    parser.add_argument("--interface", choices=("views", "images", "nchw"), help="default: views; an ONNX model's own")
    parser.add_argument("--builder", choices=("auto", *LIBRARIES), default="auto")
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        default=[],
        metavar="sm86",
        help="default: the GPU present, else sm75 to sm120",
    )
    parser.add_argument(
        "--profile",
        type=_profile_argument,
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="crops:views=50, or batch: all grid crops of an image in one call; "
        "dense:min=224x224,opt=256x341,max=512x1365 (short x long side), or auto: as the images of --data need; each "
        "takes image=4096, the longest side of an image",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set for --profile auto")
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR", help="images to measure activations on, to keep them within half"
    )
    parser.add_argument("--verify", type=Path, metavar="DIR", help="data set on which FP16 must answer as FP32 does")
    parser.add_argument(
        "--tolerance", type=positive_argument, help=f"of --verify, for a posterior (default: {Proof().tolerance})"
    )
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help=f"of both (default: {Proof().protocol})")
    parser.add_argument("--limit", type=int, metavar="N", help=f"images of each, 0 for all (default: {Proof().limit})")
    parser.add_argument("--outputs", default="", help="more outputs, comma-separated: score_map, features")
    parser.add_argument(
        "--workspace", type=_megabytes_argument, metavar="MB", help="most memory that a kernel may need beside tensors"
    )
    parser.add_argument(
        "--optimization-level", type=int, choices=LEVELS, help="how long TensorRT looks for faster kernels"
    )
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="what TensorRT measured, for the next build")
    parser.add_argument("--version-compatible", action="store_true", help="for later versions of TensorRT, too")
    parser.add_argument("--hardware-compatible", choices=tuple(HARDWARE), help="for other GPUs, too")
    return parser


def _check_usage(parser: Parser, args: argparse.Namespace, engine: Path, outputs: Sequence[str]) -> None:
    from .graph.outputs import ALWAYS, ON_REQUEST

    if args.model.suffix not in (".pt", ".onnx"):
        parser.error(f"{args.model}: expected a checkpoint (.pt) or an ONNX model (.onnx)")
    if engine.suffix != ".engine":
        parser.error(f"-o {engine}: an engine's name ends in .engine")
    names = [option.name for option in args.profile]
    if any(names.count(name) > 1 for name in names):
        parser.error(f"--profile: each may be given once, got {', '.join(names)}")
    for pair in EXCLUSIVE:
        if set(pair) <= set(names):
            parser.error(f"--profile: {' and '.join(pair)} are two ways to say one thing, give one of them")
    if ("auto" in names) != (args.data is not None):
        parser.error("--profile auto and --data DIR: one needs the other")
    if (args.calibrate or args.verify) and args.precision != "fp16":
        parser.error("--calibrate and --verify are about half precision: use them with --precision fp16")
    if args.tolerance is not None and args.verify is None:
        parser.error("--tolerance is of --verify DIR: give both")
    if (args.protocol or args.limit is not None) and not (args.calibrate or args.verify):
        parser.error("--protocol and --limit are of --calibrate DIR and --verify DIR: give one of these")
    if args.limit is not None and args.limit < 0:
        parser.error(f"--limit: expected a number of images or 0 for all, got {args.limit}")
    unknown = [name for name in outputs if name not in (*ALWAYS, *ON_REQUEST)]
    if args.model.suffix == ".pt" and unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    engine = args.out or args.model.with_suffix(".engine")
    request = Request(args.precision, args.interface, tuple(name for name in args.outputs.split(",") if name))
    _check_usage(parser, args, engine, request.outputs)
    options = BuildOptions(
        args.workspace, args.optimization_level, args.timing_cache, args.version_compatible, args.hardware_compatible
    )
    try:
        if not args.model.is_file():
            raise ModelError(f"{args.model}: no such file, expected a checkpoint (.pt) or an ONNX model (.onnx)")
        library = choose_library(args.builder)
        options, ignored = check_options(library, options)
        targets = choose_targets(library, args.target)
        sizes = None if args.data is None else read_sizes(args.data)
        profiles = {option.name: option for option in args.profile}
        for line in ignored:
            print(line)
        convert(Job(args.model, engine, request, profiles, sizes, library, targets, options, _proof(args)))
    except OptionError as error:
        parser.error(str(error))
    except (BuildError, EngineError, ModelError, ProfileError, DatasetError, SpecError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    exit_with(main)
