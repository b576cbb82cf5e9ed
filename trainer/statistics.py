"""python -m trainer.statistics --data DIR -o statistics.json: mean and principal components of a training set's colours

VGG subtracts the mean RGB of the training set, and shifts colours along their principal components as AlexNet does.
Every image counts as much as another, whatever its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infer.command import Parser, exit_with, print_notes, run
from infer.data.dataset import open_dataset
from infer.errors import UsageError
from infer.files import replacing
from infer.processes.owned import own_file

from .data.colours import measure


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer.statistics", description="Measure the colours of a training set.")
    parser.add_argument("--data", required=True, type=Path, help="as the trainer's")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file, for --statistics of the trainer")
    parser.add_argument("--images", type=int, default=0, metavar="N", help="an evenly spaced sample; default: all")
    args = parser.parse_args(argv)
    return run(parser, lambda: _measure_and_write(args), own_file(args.output) if args.output else None)


def _measure_and_write(args: argparse.Namespace) -> int:
    if args.images < 0:
        raise UsageError(f"--images: expected a number of 0 (all) or more, got {args.images}")

    dataset = open_dataset(args.data, "train")
    print_notes(dataset.notes)
    found = measure(dataset, args.images)
    if args.output is not None:
        with replacing(args.output) as unfinished:
            unfinished.write_text(found.to_json() + "\n")

    mean = ", ".join(f"{m:.3f} +- {e:.3f}" for m, e in zip(found.mean_rgb, found.mean_error, strict=True))
    print(f"mean RGB of {found.images} images: {mean}")
    print("components: " + ", ".join(f"{value:.5f}" for value in found.eigenvalues))
    return 0


if __name__ == "__main__":
    exit_with(main)
