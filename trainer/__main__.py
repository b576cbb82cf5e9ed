"""python -m trainer --recipe NAME --data DIR --out DIR; torchrun --nproc-per-node N -m trainer ... on many GPUs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from infer.command import Parser, data_options, exit_with
from infer.data.dataset import has_validation
from infer.errors import UsageError, one_line
from infer.files import read_file
from infer.processes.bounded import how_ended
from infer.processes.owned import PARENT
from infer.views import PROTOCOLS

from .checkpoint import Checkpoint, load
from .data.colours import Statistics
from .fine_tuning import fit_recipe
from .loop.options import add_run_options, execution_from_args, run_training, settings_from_args
from .loop.train import HELD_OUT, train
from .processes import join
from .recipe import Recipe, override
from .recipes import RECIPES

MOST_BYTES = 1 << 28
"""The largest report.json that is read; it may name every image."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer", description="Train a net; writes OUT/ckpt.pt.")
    add = parser.add_argument
    final = "of evaluation.ilsvrc, on the finished net, into OUT/evaluation; or none (default: %(default)s)"
    out = "folder for ckpt.pt, metrics.jsonl, curves.png ..."
    init = "checkpoint whose layers start the net (A's, for deeper nets), or that a -finetune recipe goes on from"
    freeze = "layers that stay as they were loaded: all but the last, none, or the first N (--set train_layers=...)"
    split = "keep this share of each class for validation, like 0.2 (the same as --set val_split=...)"

    add("--recipe", required=True, choices=list(RECIPES))
    add_run_options(parser, out, "KEY=VALUE", "override fields of the recipe")
    add("--init", type=Path, help=init)
    add("--freeze", type=freeze_argument, metavar="features|none|N", help=freeze)
    add("--val-split", metavar="SHARE", help=split)
    add("--resume", action="store_true", help="go on from OUT/ckpt.pt")
    add("--final-protocol", default="dense", metavar="P", help=final)
    args = parser.parse_args(argv)
    settings = settings_from_args(args)
    settings += [] if args.freeze is None else [f"train_layers={args.freeze}"]
    settings += [] if args.val_split is None else [f"val_split={args.val_split}"]
    return run_training(parser, lambda: train_and_evaluate(args, settings))


def freeze_argument(text: str) -> str:
    """The value of train_layers for `features`, `none` or a number, for argparse."""
    if text in ("features", "none", "0"):
        return "last" if text == "features" else "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected features, none or a number of layers, got {text!r}")
    return f"after-{int(text)}"


def open_weights(args: argparse.Namespace, settings: list[str]) -> tuple[Recipe, Checkpoint | None]:
    """The recipe with its settings, and the weights that it starts from, if any.

    One that fine-tunes is fitted to these, or to the checkpoint of its own run. Raises RecipeError, CheckpointError.
    """
    recipe, own = override(RECIPES[args.recipe], settings), args.out / "ckpt.pt"
    source = None if args.init is None else load(args.init)
    if not recipe.fine_tune:
        return recipe, source
    weights = load(own) if source is None and args.resume and own.exists() else source
    if weights is None:
        raise UsageError(f"{recipe.name}: goes on from weights, expected --init CKPT.pt (docs/own-photos.md)")
    exif = [setting for setting in settings if setting.startswith("exif=")]
    return override(fit_recipe(recipe, weights.spec), exif), source


def train_and_evaluate(args: argparse.Namespace, settings: list[str]) -> int:
    """Trains the net, then evaluates it by the final protocol. Raises UsageError, and what `train` raises."""
    started, execution = time.monotonic(), execution_from_args(args)
    if args.final_protocol not in ("none", *PROTOCOLS):
        raise UsageError(
            f"--final-protocol: expected none or one of {', '.join(PROTOCOLS)}, got {args.final_protocol!r}"
        )

    peers = join(execution.device)
    recipe, source = open_weights(args, settings)
    if peers.rank == 0 and recipe.init and args.init is None:
        print(f"{recipe.name}: without --init (of {recipe.init}) every layer starts at random", file=sys.stderr)
    given = Statistics.read(args.statistics) if args.statistics else None
    path = train(
        recipe,
        args.data,
        args.out,
        init=source,
        resume=args.resume,
        statistics=given,
        execution=execution,
        reading=data_options(args),
    )

    # The first process alone speaks and evaluates.
    if peers.rank:
        return 0
    done = f"{path}: {recipe.name}, {load(path).epochs_done} epochs, {time.monotonic() - started:.0f} s"
    print(one_line(done))
    if args.final_protocol == "none" or recipe.task != "classify":
        return 0
    held_out = path.with_name(HELD_OUT) if recipe.val_split else None
    return evaluate(path, args, args.final_protocol, peers.device.type, held_out)


def evaluate(path: Path, args: argparse.Namespace, protocol: str, provider: str, held_out: Path | None) -> int:
    """The exit status of evaluation.ilsvrc, which runs a protocol of the papers on the finished net.

    It writes into evaluation/ beside the checkpoint, and goes on where an earlier evaluation ended. --limit is of
    training alone: the net is evaluated on all images. held_out: a list of those that were kept for it, if they were.
    """
    data, only = args.data, held_out or args.only
    if held_out is None and not has_validation(data):
        print(one_line(f"{data}: no validation images, so {protocol} was not run"), file=sys.stderr)
        return 0

    out = path.parent / "evaluation"
    if is_evaluated(path, out / "report.json", protocol):
        print(one_line(f"{out}: {protocol} is there already"))
        return 0

    words = ["--engine", path, "--data", data, "--out", out, "--protocol", protocol, "--provider", provider, "--resume"]
    words += ["--labels", args.labels] if args.labels else []
    words += ["--only", only] if only else []
    words += ["--columns", ",".join(f"{key}={name}" for key, name in args.columns.items())] if args.columns else []
    environment = {**os.environ, PARENT: str(os.getpid())}  # so that it ends with this process
    command = [sys.executable, "-m", "evaluation.ilsvrc", *map(str, words)]
    status = subprocess.run(command, env=environment).returncode
    if status >= 0:
        return status
    said = f"{out}: the evaluation {how_ended(status)}: the net is trained, go on with --resume"
    print(one_line(said), file=sys.stderr)
    return 128 - status


class _Row(msgspec.Struct):
    protocol: str


class _Evaluation(msgspec.Struct):
    """What is needed of a report.json."""

    results: list[_Row]


def is_evaluated(path: Path, report: Path, protocol: str) -> bool:
    """True where a report has results of this protocol and is younger than the checkpoint.

    One that cannot be read, as a loss of power may leave it, has none: the evaluation is made again.
    """
    if not report.exists() or report.stat().st_mtime < path.stat().st_mtime:
        return False
    try:
        found = msgspec.convert(json.loads(read_file(report, MOST_BYTES, UsageError)), _Evaluation)
    except (UsageError, ValueError, RecursionError) as error:
        print(one_line(f"{report}: no report ({error}): evaluating again"), file=sys.stderr)
        return False
    return protocol in [row.protocol for row in found.results]


if __name__ == "__main__":
    exit_with(main)
