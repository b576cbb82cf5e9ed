"""One score table, or any subset of it, in detail: errors, the worst classes, what is confused with what, calibration.

python -m evaluation.analyse TABLE.parquet [--classes A,B,...] [--images FILE] [--worst N] [--json]
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
from .scores.metrics import Details, ErrorRate, details, select, top_errors


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.analyse", description="Errors of a score table in detail.")
    parser.add_argument("table", type=Path, metavar="TABLE.parquet")
    parser.add_argument("--classes", default="", metavar="A[,B...]", help="only images of these true classes")
    parser.add_argument("--images", type=Path, metavar="FILE", help="only the images named in FILE, one a line")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="rows of each list (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    args = parser.parse_args(argv)
    try:
        classes = [name for name in args.classes.split(",") if name]
        names = set(args.images.read_text().split("\n")) - {""} if args.images else set()
        known = set(tables.classes(args.table))
        if not known >= set(classes):
            raise ScoresError(f"--classes: {args.table} has no class {min(set(classes) - known)!r}")
        errors = top_errors(select(tables.parts(args.table), images=names, classes=classes), (1, 5))
        found = details(select(tables.parts(args.table), images=names, classes=classes))
        if errors[0] is None:
            raise ScoresError(f"{args.table}: no labelled image of this subset")
    except (ScoresError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(_content(errors, found)) if args.json else _describe(errors, found, args.worst))
    return 0


def _content(errors: tuple[ErrorRate | None, ...], found: Details) -> dict[str, object]:
    bins = zip(found.bin_images.tolist(), found.bin_confidence.tolist(), found.bin_accuracy.tolist(), strict=True)
    return {
        "images": int(found.class_images.sum()),
        "top1": asdict(errors[0]) if errors[0] else None,
        "top5": asdict(errors[1]) if errors[1] else None,
        "expected_calibration_error_percent": found.expected_calibration_error_percent,
        "calibration": [{"images": n, "confidence": sure, "accuracy": right} for n, sure, right in bins],
        "classes": {
            name: {"images": int(found.class_images[found.classes.index(name)]), **asdict(rate)}
            for name, rate in found.class_errors().items()
        },
        "confused": [
            {"true": true, "answer": answer, "images": images}
            for true, answer, images in found.most_confused(len(found.classes) ** 2)
        ],
    }


def _describe(errors: tuple[ErrorRate | None, ...], found: Details, count: int) -> str:
    lines = [f"{found.class_images.sum()} labelled images, {found.unanswered.sum()} without an answer"]
    lines += [f"top-{k} error {_percent(rate)}" for k, rate in zip((1, 5), errors, strict=True) if rate]
    calibration = found.expected_calibration_error_percent
    if calibration is not None:
        lines.append(f"expected calibration error {calibration:.2f} % ({len(found.bin_images)} bins of confidence)")
    worst = sorted(found.class_errors().items(), key=lambda item: -item[1].percent)[:count]
    rows = [(name, found.class_images[found.classes.index(name)], _percent(rate)) for name, rate in worst]
    lines += ["", tabulate(rows, headers=["worst classes", "images", "top-1 error"], tablefmt="pipe")]
    confused = found.most_confused(count)
    if confused:
        lines += ["", tabulate(confused, headers=["true class", "first answer", "images"], tablefmt="pipe")]
    return "\n".join(lines)


def _percent(rate: ErrorRate) -> str:
    low, high = rate.interval95_percent
    return f"{rate.percent:.2f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    exit_with(main)
