"""The files that a run leaves beside its score tables: report.json, report.md, and classes.csv, a line a class."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from tabulate import tabulate

from infer.files import replacing

from ..scores.classes import ClassMeasures
from ..scores.paired import Interval, say_p
from ..text import cell, code, csv_field
from .pairs import Pair, by_p
from .results import REPORT, SCHEMA_VERSION, Environment, EvaluatedImages, Report, ReportedRun, Result

CLASSES = "classes.csv"
PACKAGES = ("torch", "numpy", "pillow", "opencv-contrib-python-headless", "onnxruntime")
"""Packages whose versions a report tells."""
NAMES = [0, 1, 2, 3, 4]
"""Columns of the table that hold names: one that looks like a number stays as it is."""
MOST_PAIRS = 500
"""Pairs of results that report.md and the page list; report.json has all."""
NAMED = 5
"""Classes that report.md names of those that are never predicted; classes.csv has all."""
CLASS_COLUMNS = (
    *("model", "runtime", "protocol", "scales", "pooling", "class", "words", "support", "predicted", "right"),
    *("precision_percent", "recall_percent", "f1_percent", "remark"),
)


def write_report(
    out: Path,
    dataset: EvaluatedImages,
    results: Sequence[Result],
    remarks: Sequence[str],
    pairs: Sequence[Pair] = (),
    *,
    command: str,
    commit: str,
) -> ReportedRun:
    """Writes report.json, report.md and classes.csv."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    versions = {name: _version(name) for name in PACKAGES}
    environment = Environment(command, commit, platform.python_version(), machine, versions)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    report = Report(dataset, list(results), list(remarks), environment, list(pairs), SCHEMA_VERSION, date)
    _write_classes(out / CLASSES, results, dataset.class_names)
    with replacing(out / REPORT) as unfinished:
        unfinished.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")

    lines = [
        "# Evaluation",
        "",
        f"Data set {dataset.id}, {dataset.images} images, {dataset.unreadable} unreadable or out of range. "
        "Errors in percent with 95 % intervals (Wilson).",
        "",
        format_table(results),
        "",
        *_pairs_section(results, pairs),
        *_classes_section(results),
        *(f"Remark: {cell(remark)}\n" for remark in remarks),
        *(f"- {cell(name)}: {cell(status)}" for name, status in dataset.unreadable_images.items()),
        f"Command: {code(command)}, commit {cell(commit)}, {date}.",
    ]
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    return ReportedRun(out, report)


def format_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table that also reads well on a terminal."""
    with_top5 = any(result.has_top5 for result in results)
    headers = ["model", "runtime", "protocol", "Q", "pooling", "images", "top-1 error %"]
    headers += ["top-5 error %"] * with_top5
    rows = []
    for result in results:
        views = (cell(result.protocol), ",".join(map(str, result.scales)), cell(result.pooling))
        top1 = _error(result.top1_error_percent, result.top1_interval95_percent)
        top5 = _error(result.top5_error_percent, result.top5_interval95_percent) if result.has_top5 else "-"
        names = cell(result.model), cell(result.runtime)
        rows.append((*names, *views, result.images, top1, *[top5] * with_top5, cell(result.paper or "-")))
    return tabulate(rows, [*headers, "paper: ours - paper"], tablefmt="pipe", disable_numparse=NAMES)


def _pairs_section(results: Sequence[Result], pairs: Sequence[Pair]) -> list[str]:
    """The pairs as a section of report.md; none where nothing is paired."""
    if not pairs:
        return []

    rows = []
    for pair in by_p(pairs)[:MOST_PAIRS]:
        names = [cell(say_result(results[place])) for place in (pair.first, pair.second)]
        low, high = pair.top1_interval95_percent
        difference = f"{pair.top1_difference_percent:+.2f} [{low:+.2f}, {high:+.2f}]"
        p_values = [say_p(p).removeprefix("= ") for p in (pair.top1_mcnemar_p, pair.top1_holm_p)]
        rows.append((*names, results[pair.first].runtime, difference, *p_values, pair.in_words))
    headers = ["A", "B", "runtime", "B - A, top-1 points", "p", "p adjusted", "in words"]

    lines = [
        "## Which differ",
        "",
        "Pairs of results on one runtime, image by image: McNemar's exact test, adjusted by Holm's method for all of "
        "them on it; 95 % interval of the difference by Newcombe's method 10 (1998), of each pair alone. Whether "
        "two results differ is said by the adjusted p, not by intervals that overlap.",
        "",
        tabulate(rows, headers, tablefmt="pipe", disable_numparse=True),
        "",
    ]
    more = len(pairs) - MOST_PAIRS
    return [*lines, f"... and {more} more, which report.json has", ""] if more > 0 else lines


def _classes_section(results: Sequence[Result]) -> list[str]:
    """The measures by class and of calibration as a section of report.md; none without labels."""
    rows, never = [], []
    for result in results:
        found = result.class_averages
        if found is None:
            continue
        macro = found.macro_precision_percent, found.macro_recall_percent, found.macro_f1_percent
        weighted = found.weighted_precision_percent, found.weighted_recall_percent, found.weighted_f1_percent
        calibration = result.expected_calibration_error_percent, result.brier_score
        numbers = [" / ".join(f"{value:.1f}" for value in means) for means in (macro, weighted)]
        numbers += [
            "-" if value is None else f"{value:.{digits}f}" for value, digits in zip(calibration, (2, 4), strict=True)
        ]
        rows.append((cell(say_result(result)), cell(result.runtime), found.classes, *numbers))
        if found.never_predicted:
            never.append(f"{cell(say_result(result))} on {cell(result.runtime)}: {_say_never(result.classes)}.")
    if not rows:
        return []

    headers = ["result", "runtime", "classes", "macro P / R / F1 %", "weighted P / R / F1 %", "ECE %", "Brier"]
    return [
        "## By class",
        "",
        f"Precision, recall and F1 of each class are in {CLASSES}; here their means over the classes that have images. "
        "The macro recall is the balanced accuracy, the weighted recall the accuracy. A class that is never predicted "
        "counts with a precision of 0. ECE: expected calibration error; Brier: from 0 to 2, best 0.",
        "",
        tabulate(rows, headers, tablefmt="pipe", disable_numparse=True),
        "",
        *(line for one in never for line in (one, "")),
    ]


def _say_never(classes: Sequence[ClassMeasures]) -> str:
    """Which classes are never predicted, though there are images of them."""
    names = [cell(row.name) for row in classes if row.is_never_predicted]
    some = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
    which = "1 class that has images is" if len(names) == 1 else f"{len(names)} classes that have images are"
    return f"{which} never predicted ({some})"


def _write_classes(path: Path, results: Sequence[Result], class_names: dict[str, str]) -> None:
    """Measures of every class of every result, a line each."""
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CLASS_COLUMNS)
        for result in results:
            scales = ",".join(map(str, result.scales))
            views = result.model, result.runtime, result.protocol, scales, result.pooling
            for row in result.classes:
                names = *views, row.name, class_names.get(row.name, "")
                shares = [
                    "" if share is None else f"{share:.4f}"
                    for share in (row.precision_percent, row.recall_percent, row.f1_percent)
                ]
                remark = "never predicted" if row.is_never_predicted else "" if row.support else "no images"
                writer.writerow([*map(csv_field, names), row.support, row.predicted, row.right, *shares, remark])


def say_result(result: Result) -> str:
    """A result's model and views, for one of several on a runtime."""
    pooling = "" if result.pooling == "scores" else f", pooled {result.pooling}"
    return f"{result.model}, {result.protocol} at {','.join(map(str, result.scales))}{pooling}"


def _error(percent: float | None, interval: Interval | None) -> str:
    if percent is None or interval is None:
        return "unknown"
    return f"{percent:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
