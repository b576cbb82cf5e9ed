"""What a run is reported by: report.json, report.md, report.html, the table on stdout; and runs beside each other.

python -m evaluation.report OUT [OUT ...] [-o FILE]
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tabulate import tabulate

from infer.files import replacing

from ..scores.table import OK, Scores
from .page import write_html
from .results import Result as Result
from .results import read_report, say_paper
from .results import result_from_scores as result_from_scores

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
