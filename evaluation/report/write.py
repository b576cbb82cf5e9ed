"""The report of a run: report.json, report.md, report.html, and the table for stdout."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec
from tabulate import tabulate

from infer.files import replacing

from .page import HTML, say_paper, write_html
from .results import REPORT, DataSet, Environment, Interval, Report, ReportedRun, Result

PACKAGES = ("torch", "numpy", "pillow", "opencv-python-headless", "onnxruntime")
"""Packages whose versions a report tells."""


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
    """Writes report.json, report.md and, from these and all else in `out`, report.html; returns the table as text.

    unreadable: the reason for each image that could not be scored. class_names: words for each of `classes`.
    Raises ReportError and ScoresError.
    """
    words = {name: words for name, words in zip(classes, class_names, strict=True) if name != words}
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    versions = {name: _version(name) for name in PACKAGES}
    report = Report(
        DataSet(dataset_id, is_ilsvrc2012_val, results[0].images, len(unreadable), dict(unreadable), words),
        list(results),
        list(remarks),
        Environment(command, commit, platform.python_version(), machine, versions),
    )
    with replacing(out / REPORT) as unfinished:
        unfinished.write_text(json.dumps(msgspec.to_builtins(report), indent=2) + "\n")

    table = format_table(results)
    lines = [
        "# Evaluation",
        "",
        f"Data set {dataset_id}, {results[0].images} images, {len(unreadable)} unreadable or out of range. "
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

    write_html([ReportedRun(out, report)], out / HTML)
    return table


def format_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table that also reads well on a terminal."""
    rows = []
    for result in results:
        rows.append(
            {
                "model": result.model,
                "runtime": result.runtime,
                "protocol": result.protocol,
                "Q": ",".join(map(str, result.scales)),
                "pooling": result.pooling,
                "images": result.images,
                "top-1 error %": _error(result.top1_error_percent, result.top1_interval95_percent),
                "top-5 error %": _error(result.top5_error_percent, result.top5_interval95_percent),
                "paper: ours - paper": say_paper(result.paper),
            }
        )
    return tabulate(rows, headers="keys", tablefmt="pipe")


def _error(percent: float | None, interval: Interval | None) -> str:
    if percent is None or interval is None:
        return "unknown"
    return f"{percent:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
