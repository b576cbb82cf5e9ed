"""`python -m trainer.miniature DIR [--task detection]`: an embedded data set, made in seconds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from infer.command import Parser, exit_with, run
from infer.processes.owned import own_file

from . import detection, digits
from .files import check_empty

MAKE: dict[str, Callable[..., tuple[int, int]]] = {"classification": digits.make, "detection": detection.make}


def main(argv: list[str] | None = None) -> int:
    about = "The embedded data sets: real handwritten digits in the shape of ILSVRC's, made in seconds."
    parser = Parser(prog="python -m trainer.miniature", description=about)
    parser.add_argument("dir", type=Path, help="folder to create")
    parser.add_argument("--task", choices=MAKE, default="classification", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return run(parser, lambda: _make(args), own_file(args.dir.resolve()))


def _make(args: argparse.Namespace) -> int:
    directory = args.dir.resolve()
    check_empty(directory, args.dir)
    train, val = MAKE[args.task](directory, seed=args.seed)
    print(f"{args.dir}: {train} training images, {val} validation images, 10 classes")
    return 0


if __name__ == "__main__":
    exit_with(main)
