"""Two score tables of the same images: how often they agree, which errs more, where they differ, and on what pixels.

python -m evaluation.compare A.parquet B.parquet [--top N] [--json]
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from infer.command import Parser, exit_with

from .errors import ScoresError
from .scores import table as tables
from .scores.comparison import Comparison, compare
from .scores.table import Scores

DIFFERING = 20
"""How many images on which the tables differ are listed unless told otherwise."""


def describe(found: Comparison, one: Scores, other: Scores, count: int) -> str:
    """The comparison to read, with the first `count` differing images."""
    names = [
        f"{s.model} ({s.metadata['runtime']}, {s.metadata['protocol']} at {s.metadata['scales']})" for s in (one, other)
    ]
    lines = [
        f"A: {names[0]}",
        f"B: {names[1]}",
        f"{found.images} images scored by both, {found.unreadable} not: same top-1 for "
        f"{found.top1_agreement_percent:.2f} %, same top-5 for {found.top5_agreement_percent:.2f} %; "
        f"largest difference of a posterior {found.largest_posterior_difference:.2g}",
    ]
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
        rows = [
            (
                each.image,
                each.label,
                f"{each.first} {each.first_probability:.2f}",
                f"{each.second} {each.second_probability:.2f}",
            )
            for each in found.differing[:count]
        ]
        lines += ["", tabulate(rows, headers=["image", "true", "A", "B"], tablefmt="pipe")]
        if len(found.differing) > count:
            lines.append(f"... and {len(found.differing) - count} more")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.compare", description="Compare two score tables of the same images.")
    parser.add_argument("tables", nargs=2, type=Path, metavar="TABLE.parquet")
    parser.add_argument(
        "--top", type=int, default=DIFFERING, metavar="N", help="differing images (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object, all differing images too")
    args = parser.parse_args(argv)
    try:
        one, other = (tables.read(path) for path in args.tables)
        found = compare(one, other)
    except (ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)) if args.json else describe(found, one, other, args.top))
    return 0


if __name__ == "__main__":
    exit_with(main)
