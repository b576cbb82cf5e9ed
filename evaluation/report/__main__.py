"""evaluation/report/__main__.py."""

from __future__ import annotations

import sys
from pathlib import Path

from infer.command import Parser, exit_with

from ..errors import ReportError, ScoresError
from .page import write_html
from .results import Result as Result
from .results import read_report
from .results import result_from_scores as result_from_scores
from .write import COMPARISON, HTML


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.report",
        description="Make report.html anew from what a run left in OUT (report.json, scores/, mistakes/), or a page "
        "that compares several runs with the first.",
    )
    parser.add_argument("out", nargs="+", type=Path, metavar="OUT", help="OUT folders of evaluation.ilsvrc")
    parser.add_argument(
        "-o",
        "--html",
        type=Path,
        metavar="FILE",
        help=f"the page to write (default: OUT/{HTML} of one run, {COMPARISON} in this folder of several)",
    )
    args = parser.parse_args(argv)
    if len({out.resolve() for out in args.out}) < len(args.out):
        parser.error("a folder is named twice: expected different ones, the first being what others are compared with")
    path = args.html or (args.out[0] / HTML if len(args.out) == 1 else Path(COMPARISON))
    try:
        write_html([read_report(out) for out in args.out], path)
    except (ReportError, ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    exit_with(main)
