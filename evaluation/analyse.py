"""One score table, or any subset of it, in detail: errors, the worst classes, what is confused with what, calibration.

python -m evaluation.analyse TABLE.parquet [--classes A,B,...] [--images FILE] [--worst N] [--json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import msgspec
from tabulate import tabulate

from infer.command import Parser, exit_with, print_notes, run, whole_argument
from infer.files import read_file

from .errors import ScoresError
from .scores import table as tables
from .scores.classes import average_classes, measure_classes
from .scores.metrics import TOP5_CLASSES, Details, ErrorCounts, ErrorRate, select
from .text import cell

LARGEST_LIST = 1 << 28
"""Bytes of a list of images at most; the names of ILSVRC-2012's training images have 40 million."""
Errors = tuple[ErrorRate | None, ...]
"""Top-1 and top-5 error."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.analyse", description="Errors of a score table in detail.")
    add = parser.add_argument
    add("table", type=Path, metavar="TABLE.parquet")
    add("--classes", default="", metavar="A[,B...]", help="only images of these true classes")
    add("--images", type=Path, metavar="FILE", help="only the images named in FILE, one a line")
    add("--worst", type=whole_argument, default=10, metavar="N", help="rows of each list (default: %(default)s)")
    add("--json", action="store_true", help="everything as one JSON object")
    args = parser.parse_args(argv)
    return run(parser, lambda: _analyse(args))


def _analyse(args: argparse.Namespace) -> int:
    # the subset that is asked for
    classes = {name for name in args.classes.split(",") if name}
    try:
        names = (
            set(read_file(args.images, LARGEST_LIST, ScoresError).decode().split("\n")) - {""} if args.images else set()
        )
    except UnicodeDecodeError as error:
        raise ScoresError(str(error)) from None
    head = tables.read_head(args.table)
    if head.unrounded:
        print_notes([f"{args.table}: {tables.WHY_UNROUNDED}"])
    known = head.classes
    if not classes <= set(known):
        raise ScoresError(f"--classes: {args.table} has no class {min(classes - set(known))!r}")

    counts, found = ErrorCounts(), Details(known)
    for part in select(tables.parts(args.table), images=names, classes=classes):
        counts.add(part)
        found.add(part)
    errors = counts.rates()
    if errors[0] is None:
        raise ScoresError(f"{args.table}: no labelled image of this subset")
    print(json.dumps(_content(errors, found)) if args.json else _format(errors, found, args.worst))
    return 0


def _content(errors: Errors, found: Details) -> dict[str, object]:
    """The whole analysis, for --json."""
    bins = zip(found.bin_images.tolist(), found.bin_confidence.tolist(), found.bin_accuracy.tolist(), strict=True)
    confused = found.most_confused(len(found.classes) ** 2)
    measures = measure_classes(found)
    measures_of = {own.name: msgspec.to_builtins(own) for own in measures}
    classes = {
        name: {"images": images, **asdict(rate), **measures_of[name]} for name, images, rate in found.class_errors()
    }
    return {
        "images": int(found.class_images.sum()),
        "top1": asdict(errors[0]) if errors[0] else None,
        "top5": asdict(errors[1]) if errors[1] else None,
        "expected_calibration_error_percent": found.expected_calibration_error_percent,
        "brier_score": found.brier_score,
        "averages": msgspec.to_builtins(average_classes(measures)),
        "calibration": [{"images": n, "confidence": sure, "accuracy": right} for n, sure, right in bins],
        "classes": classes,
        "confused": [{"true": true, "answer": answer, "images": count} for true, answer, count in confused],
    }


def _format(errors: Errors, found: Details, count: int) -> str:
    """The analysis to read, with `count` rows of each list."""
    lines = [f"{found.class_images.sum()} labelled images, {found.unanswered.sum()} without an answer"]
    shown = errors if len(found.classes) >= TOP5_CLASSES else errors[:1]
    lines += [f"top-{k} error {_percent(rate)}" for k, rate in zip((1, 5), shown, strict=False) if rate]
    calibration = found.expected_calibration_error_percent
    if calibration is not None:
        lines.append(
            f"expected calibration error {calibration:.2f} % ({len(found.bin_images)} bins of confidence), "
            f"Brier score {found.brier_score:.4f} (0 to 2)"
        )
    measures = measure_classes(found)
    averages = average_classes(measures)
    if averages is not None:
        lines.append(
            f"balanced accuracy {averages.balanced_accuracy_percent:.2f} %, "
            f"macro F1 {averages.macro_f1_percent:.2f} %, weighted F1 {averages.weighted_f1_percent:.2f} %"
        )

    rate_of = {error.name: error.rate for error in found.class_errors()}
    worst = sorted((own for own in measures if own.support), key=lambda own: -rate_of[own.name].percent)[:count]
    rows = []
    for own in worst:
        precision = "never predicted" if own.precision_percent is None else f"{own.precision_percent:.1f}"
        rows.append((cell(own.name), own.support, _percent(rate_of[own.name]), precision, f"{own.f1_percent:.1f}"))
    headers = ["worst classes", "images", "top-1 error", "precision %", "F1 %"]
    lines += ["", tabulate(rows, headers, tablefmt="pipe", disable_numparse=[0])]

    confused = found.most_confused(count)
    if confused:
        pairs = [(cell(true), cell(answer), images) for true, answer, images in confused]
        headers = ["true class", "first answer", "images"]
        lines += ["", tabulate(pairs, headers, tablefmt="pipe", disable_numparse=[0, 1])]
    return "\n".join(lines)


def _percent(rate: ErrorRate) -> str:
    low, high = rate.interval95_percent
    return f"{rate.percent:.2f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    exit_with(main)
