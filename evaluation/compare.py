"""Two score tables of the same images: how often they agree, which errs more, where they differ, and on what pixels.

python -m evaluation.compare A.parquet B.parquet [--top N] [--json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from infer.command import Parser, exit_with, run
from infer.errors import one_line

from .scores import table as tables
from .scores.comparison import Comparison, compare
from .scores.table import Scores
from .text import cell

DIFFERING = 20
"""Images on which the tables differ that are listed unless told otherwise."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.compare", description="Compare two score tables of the same images.")
    add = parser.add_argument
    add("tables", nargs=2, type=Path, metavar="TABLE.parquet")
    add("--top", type=int, default=DIFFERING, metavar="N", help="differing images (default: %(default)s)")
    add("--json", action="store_true", help="everything as one JSON object, all differing images too")
    args = parser.parse_args(argv)
    return run(parser, lambda: _compare(args))


def _compare(args: argparse.Namespace) -> int:
    found = compare(*map(tables.parts, args.tables))
    if args.json:
        print(json.dumps(asdict(found)))
    else:
        one, other = map(tables.read_head, args.tables)
        print(format_comparison(found, one, other, args.top))
    return 0


def format_comparison(found: Comparison, one: Scores, other: Scores, count: int) -> str:
    """The comparison of tables A and B to read, with the first `count` differing images."""
    lines = [f"A: {_describe_table(one)}", f"B: {_describe_table(other)}"]
    lines.append(
        f"{found.images} images scored by both, {found.unreadable} not: same top-1 for "
        f"{found.top1_agreement_percent:.2f} %, same top-5 for {found.top5_agreement_percent:.2f} %; "
        f"largest difference of a posterior {found.largest_posterior_difference:.2g}"
    )

    for k, percents, only, p in (
        (1, found.top1_error_percent, found.top1_only_wrong, found.top1_mcnemar_p),
        (5, found.top5_error_percent, found.top5_only_wrong, found.top5_mcnemar_p),
    ):
        if percents is not None:
            lines.append(
                f"top-{k} error {percents[0]:.2f} % and {percents[1]:.2f} %: only A wrong on {only[0]}, only B on "
                f"{only[1]} images, McNemar's exact test p = {p:.2g}"
            )

    if found.same_pixels is None:
        lines.append("pixels: not comparable, since the views differ or a table is a fusion")
    else:
        lines.append(f"pixels: the same for {found.same_pixels} of {found.images} images")

    if found.differing:
        rows = []
        for each in found.differing[:count]:
            answers = f"{each.first} {each.first_probability:.2f}", f"{each.second} {each.second_probability:.2f}"
            rows.append([cell(one) for one in (each.image, each.label or "", *answers)])
        lines += ["", tabulate(rows, ["image", "true", "A", "B"], tablefmt="pipe", disable_numparse=True)]
        if len(found.differing) > count:
            lines.append(f"... and {len(found.differing) - count} more")
    return "\n".join(lines)


def _describe_table(table: Scores) -> str:
    metadata = table.metadata
    return one_line(f"{table.model} ({metadata['runtime']}, {metadata['protocol']} at {metadata['scales']})")


if __name__ == "__main__":
    exit_with(main)
