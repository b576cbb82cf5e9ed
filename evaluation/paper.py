"""The papers' numbers beside ours: which row of which table a result may stand beside, and all of them to read.

python -m evaluation.paper [OUT ...] [--released] [--json]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from infer.command import Parser, exit_with

from .errors import ReportError
from .published.beside import Interval, Percent, difference, say_difference
from .published.papers import LITERATURE, ROWS, Literature, PaperRow
from .published.released import LEDGER, Released

NUMBERS = ("top1_error_percent", "top5_error_percent", "test_top5_error_percent")


class Ours(NamedTuple):
    """One of our results on all of ILSVRC-2012's validation set, as its report has it."""

    model: str
    runtime: str
    pooling: str
    net: str | None  # None: a fusion, or a net of another size than the paper's
    origin: str | None  # where imported weights are from
    protocol: str
    scales: tuple[int, ...]
    percent: tuple[Percent, Percent]  # top-1, top-5
    interval95: tuple[Interval, Interval]
    label: str | None  # of the papers' row that it may stand beside


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.paper",
        description="Every table of both papers on classification, and our results beside them.",
    )
    parser.add_argument(
        "out", nargs="*", type=Path, metavar="OUT", help="OUT folders of evaluation.ilsvrc, whose results stand beside"
    )
    parser.add_argument(
        "--released", action="store_true", help="what released weights are known to score, instead of the papers"
    )
    parser.add_argument("--json", action="store_true", help="one JSON array of rows instead of Markdown tables")
    args = parser.parse_args(argv)
    rows_beside = released_rows if args.released else paper_rows
    ours: list[Ours] = []
    try:
        for out in args.out:
            found = read_results(out)
            if not any(row["ours"] for row in rows_beside(found)):
                print(f"{out}: no result for any of these rows: all are of whole nets on ILSVRC-2012", file=sys.stderr)
            ours += found
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    rows = rows_beside(ours)
    print(json.dumps(rows, indent=2) if args.json else as_tables(rows))
    return 0


def read_results(out: Path) -> list[Ours]:
    """The results of a report; none unless it is on ILSVRC-2012's whole validation set. Raises ReportError."""
    path = out / "report.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = [_ours(result) for result in content["results"]]
        return results if content["dataset"]["is_ilsvrc2012_val"] else []
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}, expected the OUT folder of an evaluation.ilsvrc run") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise ReportError(f"{path}: not a report of evaluation.ilsvrc ({said})") from None


def _ours(result: dict[str, Any]) -> Ours:
    def percent(k: int) -> Percent:
        value = result[f"top{k}_error_percent"]
        return None if value is None else float(value)

    def interval(k: int) -> Interval:
        value = result[f"top{k}_interval95_percent"]
        return None if value is None else (float(value[0]), float(value[1]))

    return Ours(
        str(result["model"]),
        str(result["runtime"]),
        str(result["pooling"]),
        result["net"],
        result["origin"],
        str(result["protocol"]),
        tuple(int(q) for q in result["scales"]),
        (percent(1), percent(5)),
        (interval(1), interval(5)),
        None if result["paper"] is None else str(result["paper"]["label"]),
    )


def paper_rows(ours: Sequence[Ours]) -> list[dict[str, Any]]:
    """Every row of the papers, each with our results that may stand beside it."""
    measured = [_row(row, row.label, [one for one in ours if one.label == row.label]) for row in ROWS]
    return [*measured, *(_row(row, row.method, []) for row in LITERATURE)]


def released_rows(ours: Sequence[Ours]) -> list[dict[str, Any]]:
    """The ledger, with our results for the same net, protocol and scales.

    Imported weights stand beside what is known of them, a net that was trained here beside all of its kind.
    """
    rows = []
    for row in LEDGER:
        same = (row.net, row.protocol, row.scales)
        beside = [o for o in ours if (o.net, o.protocol, o.scales) == same and o.origin in (None, row.origin)]
        views = f"{row.protocol} at {','.join(map(str, row.scales))}" if row.scales else row.protocol
        rows.append(_row(row, f"{row.weights} ({row.net}), {views}, {row.pixels}", beside))
    return rows


def _row(row: PaperRow | Literature | Released, label: str, ours: Sequence[Ours]) -> dict[str, Any]:
    theirs = (row.top1_error_percent, row.top5_error_percent)
    beside = [
        {
            **{key: getattr(one, key) for key in ("model", "runtime", "pooling")},
            **dict(zip(NUMBERS[:2], one.percent, strict=True)),
            **difference(one.percent, one.interval95, theirs),
        }
        for one in ours
    ]
    numbers = {key: getattr(row, key) for key in NUMBERS}
    return {"source": row.source, "label": label, **numbers, "ours": beside}


def as_tables(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table for each source, with a column of ours where there are any."""
    any_ours = any(row["ours"] for row in rows)
    headers = ["top-1 %", "top-5 %", "test top-5 %", *["ours: ours - theirs, theirs in our 95 % interval"] * any_ours]
    parts = []
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = []
        for row in rows:
            if row["source"] == source:
                numbers = ["-" if row[key] is None else row[key] for key in NUMBERS]
                lines.append([row["label"], *numbers, *["; ".join(map(_say, row["ours"]))] * any_ours])
        parts.append(tabulate(lines, [source, *headers], tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(parts)


def _say(one: dict[str, Any]) -> str:
    errors = " / ".join("-" if one[key] is None else f"{one[key]:.2f}" for key in NUMBERS[:2])
    return f"{one['model']} {errors}: {say_difference(one)} ({one['runtime']}, {one['pooling']})"


if __name__ == "__main__":
    exit_with(main)
