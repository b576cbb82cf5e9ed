"""What a run is reported by: report.json, report.md, report.html, the table on stdout; and runs beside each other.

python -m evaluation.report OUT [OUT ...] [-o FILE]
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tabulate import tabulate

from infer.command import Parser, run
from infer.files import replacing

from .html_report import write_html
from .paper import ReportError
from .results import Result as Result
from .results import read_report, say_paper
from .results import result_from_scores as result_from_scores
from .scores import OK, Scores, ScoresError

HTML, COMPARISON = "report.html", "comparison.html"


def unreadable_images(tables: Iterable[Iterable[Scores]]) -> dict[str, str]:
    """The images of which some table says why they could not be scored."""
    return {
        name: status
        for parts in tables
        for part in parts
        for name, status in zip(part.images, part.statuses, strict=True)
        if status != OK
    }


def write_report(
    out: Path,
    results: Sequence[Result],
    unreadable: Mapping[str, str],
    remarks: Sequence[str] = (),
    *,
    dataset_id: str,
    is_ilsvrc2012_val: bool,
    command: str,
    commit: str,
    classes: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> str:
    """Writes report.json, report.md and, of these and all else in `out`, report.html; returns the table as text.

    `class_names` has words for each of `classes`. Raises ReportError and ScoresError.
    """
    words = {name: words for name, words in zip(classes, class_names, strict=True) if name != words}
    dataset = {
        "id": dataset_id,
        "is_ilsvrc2012_val": is_ilsvrc2012_val,
        "images": results[0].images,
        "unreadable": len(unreadable),
    }
    environment = {
        "command": command,
        "commit": commit,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": {
            name: _version(name) for name in ("torch", "numpy", "pillow", "opencv-python-headless", "onnxruntime")
        },
    }
    content = {
        "dataset": {
            **dataset,
            "unreadable_images": dict(unreadable),
            **({"class_names": words} if words else {}),
        },
        "results": [dataclasses.asdict(result) for result in results],
        "remarks": list(remarks),
        "environment": environment,
    }
    with replacing(out / "report.json") as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
    table = format_table(results)
    lines = [
        "# Evaluation",
        "",
        f"Data set {dataset_id}, {dataset['images']} images, {dataset['unreadable']} unreadable or out of range. "
        "Errors in percent with 95 % intervals (Wilson).",
        "",
        table,
        "",
        *(f"Remark: {remark}\n" for remark in remarks),
        *(f"- {name}: {status}" for name, status in unreadable.items()),
        f"Command: `{command}`, commit {commit}.",
    ]
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    write_html([read_report(out)], out / HTML)
    return table


def format_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table that also reads well on a terminal."""
    rows = [
        {
            "model": r.model,
            "runtime": r.runtime,
            "protocol": r.protocol,
            "Q": ",".join(map(str, r.scales)),
            "pooling": r.pooling,
            "images": r.images,
            "top-1 error %": _error(r.top1_error_percent, r.top1_interval95_percent),
            "top-5 error %": _error(r.top5_error_percent, r.top5_interval95_percent),
            "paper: ours - paper": say_paper(r.paper),
        }
        for r in results
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe")


def _error(percent: float | None, interval: tuple[float, float] | None) -> str:
    if percent is None or interval is None:
        return "unknown"
    return f"{percent:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
    run(main)
