"""A net of PyTorch's -> a model of ours: a program of torch.export, or whatever a callable returns.

python -m export.from_torch MODEL.pt2|MODULE:CALLABLE --mean R,G,B --std R,G,B [--crop PX] [--classes FILE] -o out.onnx

`torchvision.models:resnet50(weights=None)` and `timm:create_model('resnet50d', pretrained=True)` are your code: it is
imported and called because you named it, its arguments are Python literals, and its net is put into evaluation mode. A
.pt2 is a stranger's file: nothing in it is unpickled or run. Both become ONNX by torch.onnx, with as many open sizes as
the net admits, and go the way of export.from_onnx from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from infer.command import Parser, exit_with, run
from infer.errors import need, one_line
from infer.files import file_sha256
from infer.processes.bounded import Died, bounded_memory, in_its_own_process, keep_reserves_small
from infer.processes.owned import own_file

from .errors import naming
from .foreign.named import Call, parse_call
from .foreign.surgery import ForeignError
from .from_onnx import (
    COPIES,
    DEFAULT_CROP_PX,
    MEMORY_BYTES,
    REFUSALS,
    add_import_options,
    check_usage,
    isolated,
    request_of,
    say_imported,
)

need("export", "torch", "onnxscript")

MODEL = "a program of torch.export (.pt2), or MODULE:CALLABLE(ARGUMENTS), your code, which is imported and called"


def _write_program(path: Path, out: Path) -> str:
    """In a process of its own: a damaged file can crash torch, or ask for any memory."""
    from .foreign.tracing import write_program

    keep_reserves_small()
    most = MEMORY_BYTES + COPIES * path.stat().st_size
    try:
        with bounded_memory(most):
            return write_program(path, out)
    except MemoryError:
        raise ForeignError(f"needs more than the {most / 1e9:.0f} GB that an import may take") from None


def _write_callable(call: Call, crop_px: int, out: Path) -> str:
    """In a process of its own too; its memory is the user's affair."""
    from .foreign.tracing import write_callable

    return write_callable(call, crop_px, out)


def _work(args: argparse.Namespace, call: Call | None) -> int:
    started = time.monotonic()
    path = Path(args.model)
    with naming(path, *REFUSALS), tempfile.TemporaryDirectory() as folder:
        request, chosen = request_of(args)
        written = Path(folder, f"{call.name.rpartition('.')[2] if call else path.stem}.onnx")
        try:
            if call is None:
                origin = {"pt2_sha256": file_sha256(path)}
                crops_alone = in_its_own_process(_write_program, path, written)
            else:
                origin = {"callable": args.model}
                print(one_line(f"calling {args.model}: your code, run because you named it"), flush=True)
                crops_alone = in_its_own_process(_write_callable, call, args.crop or DEFAULT_CROP_PX, written)
        except Died as end:
            who = "torch dies of it" if call is None else "your code, or torch, dies"
            raise ForeignError(f"{who} (its process {end}): it cannot be imported") from None
        source = {"importer": "export.from_torch", **origin}
        request = dataclasses.replace(request, source=source, crops_alone=crops_alone)
        imported = isolated(written, args.out, request)
    say_imported(args, imported, chosen, time.monotonic() - started)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.from_torch", description="Turn a net of PyTorch's into an engine.")
    parser.add_argument("model", metavar="MODEL.pt2|MODULE:CALLABLE", help=MODEL)
    add_import_options(parser)
    args = parser.parse_args(argv)
    call = None if args.model.endswith(".pt2") else parse_call(args.model)
    if call is None and not args.model.endswith(".pt2"):
        parser.error(f"{args.model}: expected {MODEL}; ARGUMENTS are Python literals, like (weights=None)")
    check_usage(parser, args, Path(args.model))
    return run(parser, lambda: _work(args, call), own_file(args.out))


if __name__ == "__main__":
    exit_with(main)
