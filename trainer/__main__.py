"""python -m trainer --recipe NAME --data DIR --out DIR; torchrun --nproc-per-node N -m trainer ... on many GPUs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from infer.command import Parser, exit_with
from infer.data.dataset import has_validation
from infer.views import PROTOCOLS

from .checkpoint import load
from .data.colours import Statistics
from .loop.options import add_execution_options, execution_of, outcome
from .loop.train import train
from .processes import join
from .recipe import Recipe, RecipeError, override
from .recipes import RECIPES


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer", description="Train a net; writes OUT/ckpt.pt.")
    parser.add_argument("--recipe", required=True, choices=list(RECIPES))
    parser.add_argument("--data", required=True, type=Path, help="ILSVRC-2012, class folders, tars or shards")
    parser.add_argument("--out", required=True, type=Path, help="folder for ckpt.pt, metrics.jsonl, curves.png ...")
    parser.add_argument("--init", type=Path, help="checkpoint whose layers start the net (A's, for deeper nets)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/ckpt.pt")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override fields of the recipe"
    )
    parser.add_argument("--statistics", type=Path, metavar="FILE", help="colours from python -m trainer.statistics")
    parser.add_argument(
        "--final-protocol",
        default="dense",
        metavar="P",
        help="of evaluation.ilsvrc, on the finished net, into OUT/evaluation; or none (default: %(default)s)",
    )
    add_execution_options(parser)
    args = parser.parse_args(argv)
    try:
        recipe = override(RECIPES[args.recipe], args.set)
    except RecipeError as error:
        parser.error(str(error))
    if not args.save_minutes >= 0:
        parser.error(f"--save-minutes: expected a number of 0 or more, got {args.save_minutes}")
    if args.final_protocol not in ("none", *PROTOCOLS):
        parser.error(f"--final-protocol: expected none or one of {', '.join(PROTOCOLS)}, got {args.final_protocol!r}")
    return outcome(lambda: run_of(args, recipe))


def run_of(args: argparse.Namespace, recipe: Recipe) -> int:
    """Trains and evaluates. Raises what `train` does."""
    started, execution = time.monotonic(), execution_of(args)
    peers = join(execution.device)
    if peers.rank == 0 and recipe.init and args.init is None:
        print(f"{recipe.name}: without --init (of {recipe.init}) every layer starts at random", file=sys.stderr)
    path = train(
        recipe,
        args.data,
        args.out,
        init=args.init,
        resume=args.resume,
        save_minutes=args.save_minutes,
        statistics=Statistics.read(args.statistics) if args.statistics else None,
        execution=execution,
    )
    if peers.rank:
        return 0
    print(f"{path}: {recipe.name}, {load(path).epochs_done} epochs, {time.monotonic() - started:.0f} s")
    if args.final_protocol == "none" or recipe.task != "classify":
        return 0
    return evaluate(path, args.data, args.final_protocol, peers.device.type)


def evaluate(path: Path, data: Path, protocol: str, provider: str) -> int:
    """The protocol of the papers on the finished net, by its own command: beside it, in evaluation/. What has been done
    of it is not done again."""
    if not has_validation(data):
        print(f"{data}: no validation images, so {protocol} was not run", file=sys.stderr)
        return 0
    out = path.parent / "evaluation"
    if is_evaluated(path, out / "report.json", protocol):
        print(f"{out}: {protocol} is there already")
        return 0
    words = ["--engine", path, "--data", data, "--out", out, "--protocol", protocol, "--provider", provider, "--resume"]
    status = subprocess.run([sys.executable, "-m", "evaluation.ilsvrc", *map(str, words)]).returncode
    return status if status >= 0 else 128 - status


def is_evaluated(path: Path, report: Path, protocol: str) -> bool:
    """Whether a report is of this protocol and younger than the checkpoint."""
    if not report.exists() or report.stat().st_mtime < path.stat().st_mtime:
        return False
    return protocol in [row["protocol"] for row in json.loads(report.read_text())["results"]]


if __name__ == "__main__":
    exit_with(main)
