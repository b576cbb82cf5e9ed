"""What `python -m evaluation.ilsvrc` takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from infer.command import Parser, count_argument, scales_argument, whole_argument
from infer.engine import Provider
from infer.views import PROTOCOLS

from .run.protocol import POOLING_OUTPUT


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.ilsvrc",
        description="The evaluation command: engines over a labelled data set, by the papers' protocols.",
    )
    parser.add_argument(
        "--engine",
        action="append",
        type=Path,
        help="a model: .pt, .onnx or .engine; repeat to evaluate and fuse several",
    )
    parser.add_argument(
        "--data", required=True, type=Path, help="ILSVRC-2012 or class folders, a tar of them, or shards (docs/data.md)"
    )
    parser.add_argument(
        "--protocol", type=_protocols, metavar="P[,P...]", help=f"of {', '.join(PROTOCOLS)} (docs/evaluation.md)"
    )
    parser.add_argument(
        "--scales", type=scales_argument, metavar="Q[,Q...]", help="shorter sides in px (default: each model's own)"
    )
    parser.add_argument(
        "--pooling",
        choices=list(POOLING_OUTPUT),
        help="what is averaged over the positions of a dense view: class scores, before the softmax, as in the paper, "
        "or posteriors, after it (default: scores)",
    )
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE.yaml",
        help="engines to fuse, each with its protocol and scales (examples/submissions), instead of --engine, "
        "--protocol, --scales and --pooling",
    )
    parser.add_argument(
        "--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for scores/ and the report (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        type=_devices,
        metavar="N[,N...]",
        help="GPUs of this machine, by ordinal; several run one process each, which changes no result (default: 0). "
        "With --provider cpu a number only stands for a process",
    )
    parser.add_argument(
        "--ray",
        metavar="auto|ADDRESS",
        help="make the scores on a Ray cluster (docs/cluster.md): the one this machine belongs to, else one of this "
        "machine alone, or the one at ADDRESS",
    )
    parser.add_argument(
        "--ray-actors",
        type=whole_argument,
        default=0,
        metavar="N",
        help="processes of the cluster (default: one for each GPU; with --provider cpu one for each machine)",
    )
    parser.add_argument("--limit", type=count_argument, metavar="N", help="only the first N images")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the unfinished run in OUT, if there is one and it is this one"
    )
    parser.add_argument(
        "--workers",
        type=count_argument,
        default=1,
        metavar="N",
        help="threads that decode; changes no result (default: 1)",
    )
    parser.add_argument(
        "--mistakes",
        type=whole_argument,
        default=8,
        metavar="N",
        help="of each table, the most confident mistakes to show in the report, with thumbnails (default: 8)",
    )
    parser.add_argument(
        "--log-json",
        action="store_true",
        help="events as JSON lines on stdout (docs/evaluation.md), in place of the table",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read, instead of counting it wrong",
    )
    return parser


def check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options exclude each other, or are too few."""
    singly = {"--engine": args.engine, "--protocol": args.protocol, "--scales": args.scales, "--pooling": args.pooling}
    given = [option for option, value in singly.items() if value]
    if args.submission is not None and given:
        parser.error(f"{given[0]} is said by the --submission for each member: leave it out")
    if args.submission is None and not (args.engine and args.protocol):
        parser.error("expected --engine ENGINE --protocol P, or --submission FILE.yaml")
    if args.ray is not None and args.device is not None:
        parser.error("--ray and --device exclude each other: Ray gives each of its processes a GPU")
    if args.ray is None and args.ray_actors:
        parser.error("--ray-actors is for --ray: add --ray auto, or use --device 0,1")


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
