"""ckpt.pt or model.onnx -> model.engine: a plan for TensorRT or TensorRT-RTX, and a sidecar that says what it is.

python -m export.to_trt ckpt.pt|model.onnx [-o model.engine] [--precision fp16|fp32|int8]
    [--interface views|images|nchw] [--builder auto|tensorrt|tensorrt-rtx] [--target sm86 ...]
    [--profile ... [--data DIR]] [--outputs ...] [--keep-single LAYER,...] [--keep-half LAYER,...]
    [--calibrate DIR] [--verify DIR [--tolerance 0.02] [--max-drop 0.5] [--max-drop-bound POINTS]] [--protocol center]
    [--limit 200] [--workspace MB] [--optimization-level 0-5] [--timing-cache FILE] [--version-compatible]
    [--hardware-compatible ...]

From a checkpoint the ONNX model is written first, beside the engine, and kept; so is the FP16 version of a foreign FP32
model, as NAME.fp16.onnx, and the INT8 version of any, as NAME.int8.onnx. A failed or interrupted build leaves no
engine, and the plan is written after its old sidecar is gone, so that no crash leaves a plan with the sidecar of
another.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from infer.command import Parser, exit_with, print_notes, run
from infer.errors import one_line
from infer.files import replacing
from infer.processes.owned import own_file
from infer.spec import ModelSpec
from infer.tensorrt.library import LIBRARIES, Library
from infer.views import ShapeRange, check_protocol, default_scales

from .errors import ModelError
from .graph.interface import ALWAYS, ANSWERS, ON_REQUEST, OUTPUTS_HELP
from .model.source import (
    GraphRequest,
    Proof,
    Source,
    answers_alone,
    check_request,
    half_source,
    is_to_be_made,
    kept_source,
    leaves_out,
    read_source,
)
from .proof.options import add_proof_options, check_proof_options, layers_argument, proof_of
from .tensorrt import build as trt_build
from .tensorrt import profiles as trt_profiles
from .tensorrt import sidecar

if TYPE_CHECKING:  # onnx is imported by those who read or write a model
    import onnx


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be built, as the command line asks for it."""

    model: Path
    engine: Path
    request: GraphRequest
    profiles: Mapping[str, trt_profiles.ProfileOption]
    sizes: trt_profiles.DataSizes | None  # of the images of --data
    library: Library
    targets: tuple[str, ...]
    options: trt_build.BuildOptions
    proof: Proof


Profiles = tuple[tuple[ShapeRange, ...], tuple[str, ...]]
"""The profiles of an engine, and lines that say where they come from."""


def build_engine(job: Job) -> None:
    """Builds `job.engine` from a .pt or .onnx and says so on stdout. Every step may refuse; the last ones write."""
    started = time.monotonic()
    source, (shapes, lines) = open_source(job)
    from .tensorrt.elements import fit_shapes  # imports onnx

    shapes, changes = fit_shapes(source.path, source.spec, shapes)
    for line in (*lines, *changes):
        print(one_line(line), flush=True)

    proof = job.proof
    if source.spec.precision != "int8":
        source = prove_half(source, job)
    single = source.graphs.single if source.graphs and proof.verify else None
    source = dataclasses.replace(source, graphs=None)  # a build needs the memory

    plan = trt_build.interruptible(
        lambda stop: trt_build.build(
            job.library, source.path, source.spec, shapes, job.targets, job.options, stop, source.others
        )
    )
    print_notes(plan.remarks)
    content = sidecar.sidecar_content(source, plan, shapes, job.targets, job.options)
    if single is not None:
        from .proof.verify import prove_engine

        content = prove_engine(single, source.path, plan.data, content, proof)
    sidecar.write_engine(job.engine, plan.data, msgspec.to_builtins(content))
    if job.options.timing_cache is not None and plan.timing_cache is not None:
        with replacing(job.options.timing_cache) as unfinished:
            unfinished.write_bytes(plan.timing_cache)

    summary = sidecar.engine_summary(job.engine, source.spec, plan, shapes, job.targets)
    print(one_line(f"{summary}; {_seconds_since(started)}"))
    command = sidecar.write_example(job.library, job.engine, source.spec, shapes[0], job.options)
    print(one_line(f"run it there with real inputs: {command}"))


def open_source(job: Job) -> tuple[Source, Profiles]:
    """The ONNX model that is asked for, and the engine's profiles, which are refused before anything is written.

    A model that is made of the input is written beside the engine.
    """
    started, request = time.monotonic(), job.request
    with_graphs = bool(job.proof.calibrate or job.proof.verify or request.keep_single)

    # a checkpoint's model is written, an ONNX model read, and perhaps written in another precision
    if job.model.suffix == ".pt":
        from .to_onnx import export_onnx, load_with_source, single_model

        checkpoint = load_with_source(job.model, request.outputs)
        interface = request.interface or "views"
        profiles = choose_profiles(job, dataclasses.replace(checkpoint.spec, interface=interface))
        if request.precision == "int8":
            source = _int8(single_model(checkpoint, interface, request.outputs), job.engine.with_suffix(".onnx"), job)
        else:
            source = export_onnx(
                checkpoint,
                job.engine.with_suffix(".onnx"),
                interface=interface,
                precision=request.precision,
                outputs=request.outputs,
                infinite_weights="keep" if job.proof.calibrate or request.keep_single else "refuse",
                with_graphs=with_graphs,
            )
    else:
        source = read_source(job.model, with_graphs=with_graphs or request.outputs == ANSWERS)
        check_request(source, request)
        profiles = choose_profiles(job, source.spec)
        fewer = leaves_out(source, request)
        if fewer:
            source = answers_alone(source)
        if not is_to_be_made(source, request):
            if source.spec.precision == "int8" and with_graphs:
                raise ModelError(f"{job.model}: INT8 already; --calibrate and --verify are for the FP32 model it is of")
            if not fewer:
                return source, profiles
            from .model.check import save_model

            assert source.graphs is not None
            path = job.engine.with_suffix(".posterior.onnx")
            save_model(source.graphs.built, path)
            source = dataclasses.replace(source, path=path)
        elif request.precision == "int8":
            if source.graphs is None or not with_graphs:
                raise ModelError(f"{job.model}: INT8 is made of it with images: --calibrate DIR")
            source = _int8(source.graphs.single, job.engine.with_suffix(".int8.onnx"), job)
        else:
            source = half_source(source, job.engine.with_suffix(".fp16.onnx"))

    spec, size = source.spec, source.path.stat().st_size
    megabytes = f"{size / 1e6:.1f} MB"
    written = f"{source.path}: {spec.precision}, {spec.interface} interface, {megabytes}, {_seconds_since(started)}"
    print(one_line(written), flush=True)
    return source, profiles


def _int8(single: onnx.ModelProto, path: Path, job: Job) -> Source:
    from .int8.making import int8_source

    return int8_source(single, path, job.proof, job.request.keep_half, job.engine.with_suffix(".layers.svg"))


def prove_half(source: Source, job: Job) -> Source:
    """The source of an FP16 engine, rescaled, mixed and proven as asked; of an FP32 one as it is."""
    proof = job.proof
    if job.request.keep_single:
        source = keep_layers(source, job)
    if proof.calibrate:
        from .proof.calibrate import calibrate

        rescaled = job.engine.with_suffix(".rescaled.onnx") if source.path == job.model else source.path
        source = calibrate(source, proof.calibrate, proof.protocol, proof.limit, rescaled)
    if proof.verify:
        from .proof.verify import prove_graph

        source = prove_graph(source, proof, job.engine.with_suffix(".layers.svg"))
    elif not proof.calibrate and source.spec.precision == "fp16":
        from .proof.builtin import check_builtin

        check_builtin(source)
    return source


def keep_layers(source: Source, job: Job) -> Source:
    """The source with the layers of --keep-single in FP32; says so on stdout. A model that was given stays as it is.

    Raises MixedError, and PrecisionError for a weight beyond half's range in a layer that is not kept.
    """
    from .model.precision import check_weights

    path = job.engine.with_suffix(".mixed.onnx") if source.path == job.model else source.path
    source = kept_source(source, job.request.keep_single, path)
    if source.graphs is not None and not job.proof.calibrate:
        check_weights(source.graphs.built)
    print(one_line(f"{path}: {', '.join(source.kept)} in FP32"), flush=True)
    return source


def choose_profiles(job: Job, spec: ModelSpec) -> Profiles:
    """The profiles asked for, or (`auto`) those of the data set's own sizes.

    Raises ProfileError, and PlanError where they admit no image by the protocol of --verify or --calibrate.
    """
    options, lines = job.profiles, tuple[str, ...]()
    if job.sizes is not None:
        dense, lines = trt_profiles.dense_range(spec, job.sizes, job.profiles["auto"].numbers.get("image", 0))
        options = {**options, "dense": dense}
    shapes = trt_profiles.shapes_from_options(spec, options)

    protocol = job.proof.protocol
    if job.proof.verify or job.proof.calibrate:
        check_protocol(spec, shapes, protocol, default_scales(spec, protocol))
    return shapes, lines


def _seconds_since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"


def _profile_argument(text: str) -> trt_profiles.ProfileOption:
    try:
        return trt_profiles.parse_profile(text)
    except trt_profiles.ProfileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _megabytes_argument(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 13 or not 0 < int(text) < 2**43:
        raise argparse.ArgumentTypeError(f"expected a whole number of megabytes above 0, got {text!r}")
    return int(text)


def _parser() -> Parser:
    parser = Parser(prog="python -m export.to_trt", description="Build a TensorRT or TensorRT-RTX engine.")
    parser.add_argument("model", type=Path, help="a checkpoint (.pt) or an ONNX model of ours (.onnx)")
    parser.add_argument("-o", "--out", type=Path, help="default: the model's name with .engine")
    parser.add_argument("--precision", choices=("fp16", "fp32", "int8"), default="fp16", help="(default: %(default)s)")
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
        help="crops:views=50, or batch: all grid crops of an image in one call; few:views=8, for calls of few crops, "
        "which is there unless crops or batch is given; "
        "dense:min=224x224,opt=256x341,max=512x1365 (short x long side), or auto: as the images of --data need; each "
        "takes image=4096, the longest side of an image",
    )

    parser.add_argument("--data", type=Path, metavar="DIR", help="data set for --profile auto")
    add_proof_options(parser)
    parser.add_argument(
        "--keep-single",
        type=layers_argument,
        default=(),
        metavar="LAYER,...",
        help="layers of an FP16 engine that compute in FP32",
    )
    parser.add_argument("--outputs", default="", help=OUTPUTS_HELP)
    parser.add_argument(
        "--workspace", type=_megabytes_argument, metavar="MB", help="most memory that a kernel may need beside tensors"
    )
    parser.add_argument(
        "--optimization-level", type=int, choices=trt_build.LEVELS, help="how long TensorRT looks for faster kernels"
    )
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="what TensorRT measured, for the next build")
    parser.add_argument("--version-compatible", action="store_true", help="for later versions of TensorRT, too")
    parser.add_argument("--hardware-compatible", choices=tuple(trt_build.HARDWARE), help="for other GPUs, too")
    return parser


def _check_usage(parser: Parser, args: argparse.Namespace, engine: Path, outputs: Sequence[str]) -> None:
    """Refuses options that contradict each other, before anything is read."""
    # files
    if args.model.suffix not in (".pt", ".onnx"):
        parser.error(f"{args.model}: expected a checkpoint (.pt) or an ONNX model (.onnx)")
    if engine.suffix != ".engine":
        parser.error(f"-o {engine}: an engine's name ends in .engine")

    # profiles
    names = [option.name for option in args.profile]
    if any(names.count(name) > 1 for name in names):
        parser.error(f"--profile: each may be given once, got {', '.join(names)}")
    for pair in trt_profiles.EXCLUSIVE:
        if set(pair) <= set(names):
            parser.error(f"--profile: {' and '.join(pair)} are two ways to say one thing, give one of them")
    if ("auto" in names) != (args.data is not None):
        parser.error("--profile auto and --data DIR: one needs the other")

    # proofs
    if args.keep_single and args.precision != "fp16":
        parser.error("--keep-single is of half precision: use it with --precision fp16")
    check_proof_options(parser, args)

    # outputs; those of an ONNX model are compared with its own
    unknown = [name for name in outputs if name not in (*ALWAYS, *ON_REQUEST)]
    if args.model.suffix == ".pt" and unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")


def _work(args: argparse.Namespace, engine: Path, request: GraphRequest) -> int:
    if not args.model.is_file():
        raise ModelError(f"{args.model}: no such file, expected a checkpoint (.pt) or an ONNX model (.onnx)")

    # the library, and what it can do
    options = trt_build.BuildOptions(
        args.workspace, args.optimization_level, args.timing_cache, args.version_compatible, args.hardware_compatible
    )
    library = trt_build.choose_library(args.builder)
    options, ignored = trt_build.check_options(library, options)
    targets = trt_build.choose_targets(library, args.target)

    sizes = None if args.data is None else trt_profiles.read_sizes(args.data)
    profiles = {option.name: option for option in args.profile}
    for line in ignored:
        print(one_line(line))
    build_engine(Job(args.model, engine, request, profiles, sizes, library, targets, options, proof_of(args)))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    engine = args.out or args.model.with_suffix(".engine")
    outputs = tuple(name for name in args.outputs.split(",") if name)
    request = GraphRequest(args.precision, args.interface, outputs, args.keep_single, args.keep_half)
    _check_usage(parser, args, engine, request.outputs)
    return run(parser, lambda: _work(args, engine, request), own_file(engine))


if __name__ == "__main__":
    exit_with(main)
