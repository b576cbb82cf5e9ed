"""The options by which a model is proven on images, for the commands that write one."""

from __future__ import annotations

import argparse
from pathlib import Path

from infer.command import Parser, columns_argument, positive_argument
from infer.views import PROTOCOLS

from ..model.source import Proof, Reading


def add_proof_options(parser: Parser) -> None:
    """Adds --calibrate, --verify and what is said beside them."""
    add = parser.add_argument
    add(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="images to measure activations on: FP16 is kept within half by them, INT8 scaled by them",
    )
    add("--verify", type=Path, metavar="DIR", help="data set on which the model must answer as FP32 does")
    add(
        "--tolerance",
        type=positive_argument,
        help=f"of --verify, for a posterior of FP16 or a box (default: {Proof().tolerance})",
    )
    add(
        "--max-drop",
        type=points_argument,
        metavar="POINTS",
        help=f"of --verify of INT8: most top-1 error more than FP32's (default: {Proof().max_drop})",
    )
    add(
        "--max-drop-bound",
        type=points_argument,
        metavar="POINTS",
        help="of --verify of INT8: the same of the upper limit of its 95 %% interval",
    )
    add("--protocol", choices=list(PROTOCOLS), help=f"of both (default: {Proof().protocol})")
    add(
        "--limit",
        type=int,
        metavar="N",
        help=f"images of each, evenly spaced over all classes; 0 for all (default: {Proof().limit})",
    )
    add("--labels", type=Path, metavar="FILE.csv", help="of --verify, for images in no class folders")
    add("--columns", type=columns_argument, metavar="image=NAME,label=NAME", help="of --verify, of Parquet files")
    add("--only", type=Path, metavar="FILE.txt", help="of --verify: a list of the images to take, a name a line")
    add("--classes-by-order", action="store_true", help="of --verify: take classes by their places, not their names")
    add(
        "--keep-half",
        type=layers_argument,
        default=(),
        metavar="LAYER,...",
        help="layers of an INT8 model that compute in half",
    )


def points_argument(text: str) -> float:
    """Percentage points like 0.5, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected points of top-1 error from 0 to 100, got {text[:80]!r}")
    return value


def layers_argument(text: str) -> tuple[str, ...]:
    """`conv3_1,relu3_1` as names, each once: an empty list would keep none without a word."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names of layers like conv3_1,relu3_1, got {text[:80]!r}")
    return tuple(dict.fromkeys(names))


def check_proof_options(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses options that contradict each other or the precision, before anything is read."""
    precision = args.precision
    if precision == "int8" and args.calibrate is None and (args.model.suffix == ".pt" or args.verify):
        parser.error("--precision int8 needs images of the kind that the net is for: --calibrate DIR")
    if (args.calibrate or args.verify) and precision == "fp32":
        parser.error("--calibrate and --verify are about half precision and INT8: use them with --precision fp16|int8")
    if args.tolerance is not None and args.verify is None:
        parser.error("--tolerance is of --verify DIR: give both")
    for name in ("max_drop", "max_drop_bound"):
        if getattr(args, name) is not None and (args.verify is None or precision != "int8"):
            parser.error(f"--{name.replace('_', '-')} is of --verify DIR of INT8: give both, with --precision int8")
    if args.keep_half and precision != "int8":
        parser.error("--keep-half is of INT8: use it with --precision int8")
    if (args.protocol or args.limit is not None) and not (args.calibrate or args.verify):
        parser.error("--protocol and --limit are of --calibrate DIR and --verify DIR: give one of these")
    if (args.labels or args.columns or args.only or args.classes_by_order) and args.verify is None:
        parser.error("--labels, --columns, --only and --classes-by-order are of --verify DIR: give both")
    if args.limit is not None and args.limit < 0:
        parser.error(f"--limit: expected a number of images or 0 for all, got {args.limit}")


def proof_of(args: argparse.Namespace) -> Proof:
    """The proof that the options ask for."""
    names = ("calibrate", "verify", "protocol", "limit", "tolerance", "max_drop", "max_drop_bound")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return Proof(**given, reading=Reading(args.labels, args.columns, args.only, args.classes_by_order))
