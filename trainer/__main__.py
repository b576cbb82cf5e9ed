"""python -m trainer --recipe NAME --data DIR --out DIR"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from infer.command import Parser, run
from infer.dataset import DatasetError
from infer.image import ImageError
from infer.spec import SpecError

from .checkpoint import CheckpointError
from .data import loader_workers
from .recipe import RecipeError, override
from .recipes import RECIPES
from .train import SAVE_MINUTES, Stopped, TrainingError, train


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer", description="Train a net; writes OUT/ckpt.pt.")
    parser.add_argument("--recipe", required=True, choices=list(RECIPES))
    parser.add_argument("--data", required=True, type=Path, help="ILSVRC-2012 or class folders")
    parser.add_argument("--out", required=True, type=Path, help="folder for ckpt.pt and metrics.jsonl")
    parser.add_argument("--init", type=Path, help="checkpoint whose layers start the net (A's, for deeper nets)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/ckpt.pt")
    parser.add_argument(
        "--save-minutes",
        type=float,
        default=SAVE_MINUTES,
        metavar="N",
        help="write the checkpoint as often, beside after every epoch (default: %(default)g)",
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override fields of the recipe")
    args = parser.parse_args(argv)
    try:
        recipe = override(RECIPES[args.recipe], args.set)
    except RecipeError as error:
        parser.error(str(error))
    if not args.save_minutes >= 0:
        parser.error(f"--save-minutes: expected a number of 0 or more, got {args.save_minutes}")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - loader_workers()))
    started = time.monotonic()
    try:
        path = train(recipe, args.data, args.out, init=args.init, resume=args.resume, save_minutes=args.save_minutes)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    except (DatasetError, ImageError, CheckpointError, TrainingError, SpecError, OSError) as error:
        print(str(error).strip().splitlines()[-1], file=sys.stderr)
        return 1
    print(f"{path}: {recipe.name}, {recipe.epochs} epochs, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    run(main)
