"""ckpt.pt -> model.onnx: the view graph around the net, its spec and a self-test in the metadata.

python -m export.to_onnx ckpt.pt [-o model.onnx] [--precision fp32|fp16] [--interface views|images|nchw]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from infer.command import Parser, exit_with, run
from infer.spec import Interface, Precision

from .graph.interface import ALWAYS, ON_REQUEST
from .model.from_checkpoint import export_onnx, load_with_source


def _work(args: argparse.Namespace, asked: Sequence[str]) -> int:
    started = time.monotonic()
    path = args.out or args.checkpoint.with_suffix(".onnx")
    checkpoint = load_with_source(args.checkpoint, asked)
    outputs = [name for name in asked if name in ON_REQUEST]
    export_onnx(checkpoint, path, interface=args.interface, precision=args.precision, outputs=outputs)

    size = path.stat().st_size / 1e6
    print(f"{path}: {args.interface} interface, {args.precision}, {size:.1f} MB, {time.monotonic() - started:.0f} s")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_onnx", description="Turn a checkpoint into an ONNX model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="default: the checkpoint's name with .onnx")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--interface", choices=get_args(Interface), default="views")
    parser.add_argument("--outputs", default="", help=f"more outputs, comma-separated: {', '.join(ON_REQUEST)}")
    args = parser.parse_args(argv)

    asked = [name for name in args.outputs.split(",") if name]
    unknown = [name for name in asked if name not in (*ALWAYS, *ON_REQUEST)]
    if unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")
    return run(parser, lambda: _work(args, asked))


if __name__ == "__main__":
    exit_with(main)
