"""ckpt.pt -> model.onnx: the view graph around the net, its spec and a self-test in the metadata.

python -m export.to_onnx ckpt.pt [-o model.onnx] [--precision fp32|fp16] [--interface views|images|nchw]
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
from infer.spec import Interface, Precision
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, CheckpointError
from trainer.torch_engine import TorchEngine

from .graph.interface import ALWAYS, ALWAYS_OF_BOXES, NOT_OF_BOXES, ON_REQUEST
from .graph.view_graph import write_graph
from .model.check import save_model
from .model.precision import check_weights
from .model.source import Graphs, Source


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
    """Writes `path`. `outputs` are those of ON_REQUEST, beside the usual ones.

    Raises PrecisionError for weights beyond the range of half, unless they are kept for the graph to be rescaled.
    """
    always = ALWAYS if checkpoint.spec.task == "classify" else ALWAYS_OF_BOXES
    all_outputs = tuple(dict.fromkeys((*always, *outputs)))
    spec = dataclasses.replace(checkpoint.spec, interface=interface, precision=precision, outputs=all_outputs)

    engine = TorchEngine(checkpoint)
    model = write_graph(engine.net, spec)
    if infinite_weights == "refuse":
        check_weights(model)
    expected = self_test.record(engine)
    onnx.helper.set_model_props(model, {"spec": spec.to_json(), "self_test": expected})
    save_model(model, path)

    graphs = None
    if with_graphs:
        single_spec = dataclasses.replace(spec, precision="fp32")
        single = write_graph(engine.net, single_spec)
        onnx.helper.set_model_props(single, {"spec": single_spec.to_json()})
        graphs = Graphs(model, single)
    return Source(path, spec, json.loads(expected), graphs=graphs)


def _work(args: argparse.Namespace, asked: Sequence[str]) -> int:
    started = time.monotonic()
    path = args.out or args.checkpoint.with_suffix(".onnx")
    checkpoint = load_with_source(args.checkpoint, asked)
    outputs = [name for name in asked if name in ON_REQUEST]
    export_onnx(checkpoint, path, interface=args.interface, precision=args.precision, outputs=outputs)

    size = path.stat().st_size / 1e6
    seconds = time.monotonic() - started
    print(one_line(f"{path}: {args.interface} interface, {args.precision}, {size:.1f} MB, {seconds:.0f} s"))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_onnx", description="Turn a checkpoint into an ONNX model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="default: the checkpoint's name with .onnx")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--interface", choices=get_args(Interface), default="views")
    parser.add_argument("--outputs", default="", help=f"more outputs, comma-separated: {', '.join(ON_REQUEST)}")
    args = parser.parse_args(argv)

    asked = [name for name in args.outputs.split(",") if name]
    unknown = [name for name in asked if name not in (*ALWAYS, *ON_REQUEST)]
    if unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")
    out = args.out or args.checkpoint.with_suffix(".onnx")
    return run(parser, lambda: _work(args, asked), own_file(out))


if __name__ == "__main__":
    exit_with(main)
