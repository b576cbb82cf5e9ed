"""The papers' numbers beside ours: which row of which table a result may stand beside, and all of them to read.

python -m evaluation.paper [OUT ...] [--released] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from infer.command import Parser, exit_with, run

from .published.beside import Beside, put_beside
from .published.papers import OTHERS_ROWS, PAPER_ROWS, PublishedRow
from .published.released import RELEASED_ROWS
from .report.results import Result, read_run


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
    lines_beside = released_lines if args.released else paper_lines
    ours: list[Result] = []
    for out in args.out:
        found = read_results(out)
        if not any(line.ours for line in lines_beside(found)):
            print(f"{out}: no result for any of these rows: all are of whole nets on ILSVRC-2012", file=sys.stderr)
        ours += found
    lines = lines_beside(ours)
    print(json.dumps(list(map(_content, lines)), indent=2) if args.json else format_tables(lines))
    return 0


def read_results(out: Path) -> list[Result]:
    """Results of a run; none unless it is on ILSVRC-2012's whole validation set. Raises ReportError."""
    report = read_run(out).report
    return report.results if report.dataset.is_ilsvrc2012_val else []


def paper_lines(ours: Sequence[Result]) -> list[Line]:
    """Every row of the papers, each with our results for the same nets, protocol and scales."""

    def belongs(result: Result, row: PublishedRow) -> bool:
        return result.paper is not None and result.paper.label == row.label

    return _lines([*PAPER_ROWS, *OTHERS_ROWS], ours, belongs)


def released_lines(ours: Sequence[Result]) -> list[Line]:
    """Every row of released weights, each with our results for the same net, protocol and scales.

    Imported weights stand beside what is known of them, a net that was trained here beside all of its kind.
    """

    def belongs(result: Result, row: PublishedRow) -> bool:
        (net,) = row.nets
        same_views = (result.net, result.protocol, result.scales) == (net.net, row.protocol, net.scales)
        return same_views and result.origin in (None, row.origin)

    return _lines(RELEASED_ROWS, ours, belongs)


def _lines(
    rows: Sequence[PublishedRow], ours: Sequence[Result], belongs: Callable[[Result, PublishedRow], bool]
) -> list[Line]:
    lines = [Line(row, []) for row in rows]
    for row, beside in lines:
        for result in ours:
            if belongs(result, row):
                percents = result.top1_error_percent, result.top5_error_percent
                intervals = result.top1_interval95_percent, result.top5_interval95_percent
                beside.append((result, put_beside(row, percents, intervals)))
    return lines


def _content(line: Line) -> dict[str, Any]:
    """A line for --json."""
    row = line.row
    return {
        "source": row.source,
        "label": row.label,
        "top1_error_percent": row.top1_error_percent,
        "top5_error_percent": row.top5_error_percent,
        "test_top5_error_percent": row.test_top5_error_percent,
        "ours": [
            {
                "model": result.model,
                "runtime": result.runtime,
                "pooling": result.pooling,
                "top1_error_percent": result.top1_error_percent,
                "top5_error_percent": result.top5_error_percent,
                "top1_difference_percent": beside.top1_difference_percent,
                "top1_inside_interval95": beside.top1_inside_interval95,
                "top5_difference_percent": beside.top5_difference_percent,
                "top5_inside_interval95": beside.top5_inside_interval95,
            }
            for result, beside in line.ours
        ],
    }


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
    return f"{result.model} {errors}: {beside.difference} ({result.runtime}, {result.pooling})"


if __name__ == "__main__":
    exit_with(main)
