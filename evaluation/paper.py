"""The papers' numbers beside ours: which row of which table a result may stand beside, and all of them to read.

python -m evaluation.paper [OUT ...] [--released] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from infer.command import Parser, exit_with, run
from infer.errors import one_line

from .published.papers import OTHERS_ROWS, PAPER_ROWS, Beside, PublishedRow, put_beside
from .published.released import RELEASED_ROWS
from .report.results import Result, read_run
from .text import cell

ERRORS = ("top1_error_percent", "top5_error_percent")
DIFFERENCES = tuple(f"top{k}_{name}" for k in (1, 5) for name in ("difference_percent", "inside_interval95"))


class Line(NamedTuple):
    """A published row with our results that may stand beside it."""

    row: PublishedRow
    ours: list[tuple[Result, Beside]]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.paper",
        description="Every table of both papers on classification, and our results beside them.",
    )
    add = parser.add_argument
    add("out", nargs="*", type=Path, metavar="OUT", help="OUT folders of evaluation.ilsvrc, whose results stand beside")
    add("--released", action="store_true", help="what released weights are known to score, instead of the papers")
    add("--json", action="store_true", help="one JSON array of rows instead of Markdown tables")
    args = parser.parse_args(argv)
    return run(parser, lambda: _show(args))


def _show(args: argparse.Namespace) -> int:
    rows = RELEASED_ROWS if args.released else (*PAPER_ROWS, *OTHERS_ROWS)
    ours: list[Result] = []
    for out in args.out:
        report = read_run(out).report
        found = report.results if report.dataset.is_ilsvrc2012_val else []
        if not any(line.ours for line in lines_beside(rows, found)):
            none = f"{out}: no result for any of these rows: all are of whole nets on ILSVRC-2012"
            print(one_line(none), file=sys.stderr)
        ours += found

    lines = lines_beside(rows, ours)
    print(json.dumps([_content(line) for line in lines], indent=2) if args.json else format_tables(lines))
    return 0


def lines_beside(rows: Sequence[PublishedRow], ours: Sequence[Result]) -> list[Line]:
    """Every row with our results for the same nets, protocol and scales."""
    lines = [Line(row, []) for row in rows]
    for row, beside in lines:
        for result in ours:
            if _may_stand_beside(row, result):
                percents = result.top1_error_percent, result.top5_error_percent
                intervals = result.top1_interval95_percent, result.top5_interval95_percent
                beside.append((result, put_beside(row, percents, intervals)))
    return lines


def _may_stand_beside(row: PublishedRow, result: Result) -> bool:
    """Imported weights stand beside what is known of them, a net that was trained here beside all of its kind."""
    if row.origin is None:  # a row of the papers, which the report has found
        return result.paper is not None and result.paper.label == row.label
    (net,) = row.nets
    same_views = (result.net, result.protocol, result.scales) == (net.net, row.protocol, net.scales)
    return same_views and result.origin in (None, row.origin)


def _content(line: Line) -> dict[str, Any]:
    """A line for --json."""
    return {
        **_fields(line.row, ("source", "label", *ERRORS, "test_top5_error_percent")),
        "ours": [
            {**_fields(result, ("model", "runtime", "pooling", *ERRORS)), **_fields(beside, DIFFERENCES)}
            for result, beside in line.ours
        ],
    }


def _fields(value: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def format_tables(lines: Sequence[Line]) -> str:
    """A Markdown table for each source, with a column of ours where there are any."""
    headers = ["top-1 %", "top-5 %", "test top-5 %"]
    any_ours = any(line.ours for line in lines)
    if any_ours:
        headers.append("ours: ours - theirs, theirs in our 95 % interval")

    tables = []
    for source in dict.fromkeys(line.row.source for line in lines):
        cells = []
        for row, ours in lines:
            if row.source == source:
                numbers = (row.top1_error_percent, row.top5_error_percent, row.test_top5_error_percent)
                cells.append([row.label, *("-" if number is None else number for number in numbers)])
                if any_ours:
                    cells[-1].append("; ".join(_describe_result(*one) for one in ours))
        tables.append(tabulate(cells, [source, *headers], tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(tables)


def _describe_result(result: Result, beside: Beside) -> str:
    percents = (result.top1_error_percent, result.top5_error_percent)
    errors = " / ".join("-" if percent is None else f"{percent:.2f}" for percent in percents)
    return cell(f"{result.model} {errors}: {beside.difference} ({result.runtime}, {result.pooling})")


if __name__ == "__main__":
    exit_with(main)
