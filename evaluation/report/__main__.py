"""The page of a finished run made anew, or one page that compares several runs.

python -m evaluation.report OUT [OUT ...] [--baseline MODEL|OUT] [--fail-above top1=25.0,drop=0.5] [-o FILE]
"""

from __future__ import annotations

from pathlib import Path

from infer.command import Parser, exit_with, run
from infer.errors import UsageError, one_line
from infer.processes.owned import own_file

from .baseline import places_of, unrounded_places
from .gate import Limits, add_gate_options, check_gate, judge, tell
from .page import HTML, write_html
from .results import read_run

COMPARISON = "comparison.html"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.report",
        description="Make report.html anew from what a run left in OUT (report.json, scores/, mistakes/), or a page "
        "that compares several runs with the first.",
    )
    add = parser.add_argument
    add("out", nargs="+", type=Path, metavar="OUT", help="OUT folders of evaluation.ilsvrc")
    page_help = f"the page to write (default: OUT/{HTML} of one run, {COMPARISON} in this folder of several)"
    add("-o", "--html", type=Path, metavar="FILE", help=page_help)
    baseline_help = "pair the other results with this model's, or with this OUT folder's (default: all on one runtime)"
    add_gate_options(parser, baseline_help)
    args = parser.parse_args(argv)
    check_gate(parser, args.fail_above, args.baseline)
    return run(parser, lambda: _write(args.out, args.html, args.baseline, args.fail_above))


def _write(folders: list[Path], path: Path | None, baseline: str | None, limits: Limits | None) -> int:
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError(
            "a folder is named twice: expected different ones, the first being what others are compared with"
        )
    if path is None:
        path = folders[0] / HTML if len(folders) == 1 else Path(COMPARISON)
    with own_file(path):
        runs = [read_run(folder) for folder in folders]
        pairs = write_html(runs, path, baseline)
    print(one_line(str(path)))
    if not limits:
        return 0

    results = [result for one in runs for result in one.report.results]
    places = places_of(runs, baseline) if baseline is not None else ()
    return tell(judge(limits, results, pairs, places, unrounded_places(runs)))


if __name__ == "__main__":
    exit_with(main)
