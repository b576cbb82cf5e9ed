"""Options of `python -m evaluation.ilsvrc`, and those that every command over a data set shares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from infer.command import Parser, count_argument, scales_argument, whole_argument
from infer.engine import Provider
from infer.views import PROTOCOLS

from .run.protocol import POOLING_OUTPUT


def make_parser() -> Parser:
    """Makes the parser of evaluation.ilsvrc."""
    parser = Parser(
        prog="python -m evaluation.ilsvrc",
        description="The evaluation command: engines over a labelled data set, by the papers' protocols.",
    )
    add = parser.add_argument

    # what is run
    model = "a model: .pt, .onnx or .engine; repeat to evaluate and fuse several"
    data = "ILSVRC-2012 or class folders, a tar of them, or shards (docs/data.md)"
    pooling = (
        "what is averaged over the positions of a dense view: class scores, before the softmax, as in the paper, or "
        "posteriors, after it (default: scores)"
    )
    submission = (
        "engines to fuse, each with its protocol and scales (examples/submissions), instead of --engine, --protocol, "
        "--scales and --pooling"
    )
    add("--engine", action="append", type=Path, help=model)
    add("--data", required=True, type=Path, help=data)
    add("--protocol", type=_protocols, metavar="P[,P...]", help=f"of {', '.join(PROTOCOLS)} (docs/evaluation.md)")
    add("--scales", type=scales_argument, metavar="Q[,Q...]", help="shorter sides in px (default: each model's own)")
    add("--pooling", choices=list(POOLING_OUTPUT), help=pooling)
    add("--submission", type=Path, metavar="FILE.yaml", help=submission)
    add("--limit", type=count_argument, metavar="N", help="only the first N images")

    # where and how
    add("--out", type=Path, default=Path("results"), help="folder for scores/ and the report (default: %(default)s)")
    add_run_options(parser)

    # what is said
    mistakes = "of each table, the most confident mistakes to show in the report, with thumbnails (default: 8)"
    events = "events as JSON lines on stdout (docs/evaluation.md), in place of the table"
    add("--mistakes", type=whole_argument, default=8, metavar="N", help=mistakes)
    add("--log-json", action="store_true", help=events)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where engines run, and how a run goes on; `check_run_options` checks them."""
    add = parser.add_argument
    device = (
        "GPUs of this machine, by ordinal; several run one process each, which changes no result (default: 0). With "
        "--provider cpu a number only stands for a process"
    )
    ray = (
        "run on a Ray cluster (docs/cluster.md): the one this machine belongs to, else one of this machine alone, or "
        "the one at ADDRESS"
    )
    actors = "processes of the cluster (default: one for each GPU; with --provider cpu one for each machine)"
    workers = "threads that decode; changes no result (default: 1)"
    resume = "go on with the unfinished run, if there is one and it is this one"
    strict = "stop at the first image that cannot be read or seen, instead of counting it wrong"

    add("--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime (default: %(default)s)")
    add("--device", type=_devices, metavar="N[,N...]", help=device)
    add("--ray", metavar="auto|ADDRESS", help=ray)
    add("--ray-actors", type=whole_argument, default=0, metavar="N", help=actors)
    add("--workers", type=count_argument, default=1, metavar="N", help=workers)
    add("--resume", action="store_true", help=resume)
    add("--strict", action="store_true", help=strict)


def check_run_options(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options of `add_run_options` exclude each other."""
    if args.ray is not None and args.device is not None:
        parser.error("--ray and --device exclude each other: Ray gives each of its processes a GPU")
    if args.ray is None and args.ray_actors:
        parser.error("--ray-actors is for --ray: add --ray auto, or use --device 0,1")


def check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options of evaluation.ilsvrc exclude each other, or are too few."""
    singly = {"--engine": args.engine, "--protocol": args.protocol, "--scales": args.scales, "--pooling": args.pooling}
    given = [option for option, value in singly.items() if value]
    if args.submission is not None and given:
        parser.error(f"{given[0]} is said by the --submission for each member: leave it out")
    if args.submission is None and not (args.engine and args.protocol):
        parser.error("expected --engine ENGINE --protocol P, or --submission FILE.yaml")
    check_run_options(parser, args)


def say_interrupted(kept: str) -> int:
    """Says on stderr what a Ctrl-C leaves; returns the exit status."""
    print(f"interrupted: {kept}, go on by --resume", file=sys.stderr)
    return 130


def _protocols(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or len(set(names)) != len(names):
        what = f"unknown protocol {unknown[0]!r}" if unknown else "a protocol is named twice"
        raise argparse.ArgumentTypeError(f"{what}: expected different ones of {', '.join(PROTOCOLS)}")
    return names


def _devices(text: str) -> list[int]:
    names = text.split(",")
    if not all(name.isdigit() for name in names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different numbers of GPUs like 0,1, got {text!r}")
    return [int(name) for name in names]
