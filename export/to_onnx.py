"""ckpt.pt or model.onnx -> model.onnx: the view graph around the net, its spec and a self-test in the metadata.

python -m export.to_onnx ckpt.pt|model.onnx [-o model.onnx] [--precision fp32|fp16|int8] [--interface views|images|nchw]
    [--calibrate DIR [--verify DIR [--max-drop 0.5] [--max-drop-bound POINTS]] [--keep-half LAYER,...]]

From an ONNX model of ours, imported or exported in FP32, an FP16 or INT8 version is made. INT8 needs images: scales are
placed on those of --calibrate, and what it costs is measured on those of --verify (export/int8/).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import onnx

from infer import self_test
from infer.command import Parser, exit_with, run
from infer.errors import one_line
from infer.files import file_sha256
from infer.processes.owned import own_file
from infer.spec import Interface, ModelSpec, Precision
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, CheckpointError
from trainer.torch_engine import TorchEngine

from .errors import ModelError
from .graph.interface import ALWAYS, NOT_OF_BOXES, ON_REQUEST, OUTPUTS_HELP, outputs_asked_for
from .graph.view_graph import write_graph
from .model.check import save_model
from .model.precision import check_weights
from .model.source import (
    GraphRequest,
    Graphs,
    Source,
    answers_alone,
    check_request,
    half_source,
    is_to_be_made,
    leaves_out,
    read_source,
)
from .proof.options import add_proof_options, check_proof_options, proof_of


def load_with_source(path: Path, outputs: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint whose spec says which file it came from.

    Raises CheckpointError, also where a box net has no such `outputs`.
    """
    checkpoint = checkpoints.load(path)
    lacking = [name for name in outputs if name in NOT_OF_BOXES and checkpoint.spec.task != "classify"]
    if lacking:
        raise CheckpointError(f"{path}: a box net, which has no {lacking[0]}: leave it out of --outputs")
    source = {**checkpoint.spec.source, "checkpoint_sha256": file_sha256(path)}
    return dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, source=source))


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    interface: Interface = "views",
    precision: Precision = "fp32",
    outputs: Sequence[str] = (),
    infinite_weights: Literal["refuse", "keep"] = "refuse",
    with_graphs: bool = False,
) -> Source:
    """Writes `path`. `outputs` are beside the usual ones, unless they are ANSWERS.

    Raises PrecisionError for weights beyond the range of half, unless they are kept for the graph to be rescaled.
    """
    spec = _spec(checkpoint, interface, precision, outputs)
    engine = TorchEngine(checkpoint)
    model = write_graph(engine.net, spec)
    if infinite_weights == "refuse":
        check_weights(model)
    expected = self_test.record(engine)
    onnx.helper.set_model_props(model, {"spec": spec.to_json(), "self_test": expected})
    save_model(model, path)

    single = single_model(checkpoint, interface, outputs) if with_graphs else None
    return Source(path, spec, json.loads(expected), graphs=None if single is None else Graphs(model, single))


def single_model(checkpoint: Checkpoint, interface: Interface, outputs: Sequence[str]) -> onnx.ModelProto:
    """The FP32 model of a checkpoint with its spec but without a self-test, in memory."""
    spec = _spec(checkpoint, interface, "fp32", outputs)
    model = write_graph(TorchEngine(checkpoint).net, spec)
    onnx.helper.set_model_props(model, {"spec": spec.to_json()})
    return model


def _spec(checkpoint: Checkpoint, interface: Interface, precision: Precision, outputs: Sequence[str]) -> ModelSpec:
    every = outputs_asked_for(outputs, checkpoint.spec.task)
    return dataclasses.replace(checkpoint.spec, interface=interface, precision=precision, outputs=every)


def _work(args: argparse.Namespace, path: Path, request: GraphRequest) -> int:
    started = time.monotonic()
    if not args.model.is_file():
        raise ModelError(f"{args.model}: no such file, expected a checkpoint (.pt) or an ONNX model (.onnx)")
    checkpoint = source = None
    if args.model.suffix == ".pt":
        checkpoint = load_with_source(args.model, request.outputs)
    else:
        source = read_source(args.model, with_graphs=True)
        check_request(source, request)
        if leaves_out(source, request):
            source = answers_alone(source)
        elif not is_to_be_made(source, request):
            raise ModelError(f"{args.model}: {source.spec.precision.upper()} already: use it as it is")

    # INT8 of an FP32 model, FP16 of a foreign one, or what the checkpoint says
    if request.precision == "int8":
        from .int8.making import int8_source

        if checkpoint is not None:
            single = single_model(checkpoint, request.interface or "views", request.outputs)
        else:
            assert source is not None and source.graphs is not None
            single = source.graphs.single
        made = int8_source(single, path, proof_of(args), request.keep_half, path.with_suffix(".layers.svg"))
    elif checkpoint is not None:
        interface = request.interface or "views"
        made = export_onnx(checkpoint, path, interface=interface, precision=request.precision, outputs=request.outputs)
    elif source is not None and is_to_be_made(source, request):
        made = half_source(source, path)
    else:
        assert source is not None and source.graphs is not None
        save_model(source.graphs.built, path)
        made = dataclasses.replace(source, path=path)

    spec, size = made.spec, path.stat().st_size / 1e6
    seconds = time.monotonic() - started
    print(one_line(f"{path}: {spec.interface} interface, {spec.precision}, {size:.1f} MB, {seconds:.0f} s"))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_onnx", description="Turn a checkpoint into an ONNX model.")
    parser.add_argument("model", type=Path, help="a checkpoint (.pt), or an FP32 ONNX model of ours (.onnx)")
    parser.add_argument("-o", "--out", type=Path, help="default: the model's name with .onnx, or .int8.onnx")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="(default: %(default)s)")
    parser.add_argument("--interface", choices=get_args(Interface), help="default: views; an ONNX model's own")
    parser.add_argument("--outputs", default="", help=OUTPUTS_HELP)
    add_proof_options(parser)
    args = parser.parse_args(argv)

    # options that contradict each other, before anything is read
    asked = tuple(name for name in args.outputs.split(",") if name)
    unknown = [name for name in asked if name not in (*ALWAYS, *ON_REQUEST)]
    if unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")
    if args.model.suffix not in (".pt", ".onnx"):
        parser.error(f"{args.model}: expected a checkpoint (.pt) or an ONNX model (.onnx)")
    if args.precision != "int8" and (args.calibrate or args.verify):
        parser.error("--calibrate and --verify are of --precision int8 here; export.to_trt has them for FP16")
    check_proof_options(parser, args)
    suffix = ".onnx" if args.model.suffix == ".pt" else f".{args.precision}.onnx"
    out = args.out or args.model.with_suffix(suffix)
    if out.suffix != ".onnx" or out.resolve() == args.model.resolve():
        parser.error(f"-o {out}: expected another file whose name ends in .onnx")
    request = GraphRequest(args.precision, args.interface, asked, keep_half=args.keep_half)
    return run(parser, lambda: _work(args, out, request), own_file(out))


if __name__ == "__main__":
    exit_with(main)
