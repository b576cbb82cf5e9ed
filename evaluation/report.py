"""report.json, report.md and the table on stdout, from score tables."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tabulate import tabulate

from infer.files import replacing

from . import paper
from .metrics import ErrorRate, top_errors
from .paper import Entry
from .scores import OK, Scores


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One row of the table, named as in report.json."""

    model: str
    net: str | None  # None: a fusion, or a net of another size than the paper's
    origin: str | None  # where imported weights are from
    runtime: str
    protocol: str
    scales: list[int]
    pooling: str
    images: int
    top1_error_percent: float | None
    top5_error_percent: float | None
    top1_interval95_percent: tuple[float, float] | None
    top5_interval95_percent: tuple[float, float] | None
    paper: dict[str, Any] | None
    engine_seconds: float | None  # of the engine for all protocols of the run, which share their views
    wall_seconds: float | None  # of the whole run
    protocol_engine_seconds: float | None = None  # of engine_seconds, this protocol's share by its views' pixels


def result_from_scores(
    parts: Iterable[Scores],
    entries: Sequence[Entry],
    *,
    is_ilsvrc2012_val: bool,
    engine_seconds: float | None = None,
    wall_seconds: float | None = None,
    protocol_engine_seconds: float | None = None,
) -> Result:
    """The row of one table from its parts; `entries` is its net or, for a fusion, each of its nets."""
    counted = _Counted(parts)
    top1, top5 = top_errors(counted, (1, 5))
    scores = counted.first
    spec = entries[0].spec if len(entries) == 1 else None
    return Result(
        scores.model,
        spec.net if spec and paper.is_papers_size(spec) else None,
        paper.origin(spec) if spec else None,
        scores.metadata["runtime"],
        scores.metadata["protocol"],
        list(scores.scales),
        scores.metadata["pooling"],
        counted.images,
        top1.percent if top1 else None,
        top5.percent if top5 else None,
        top1.interval95_percent if top1 else None,
        top5.interval95_percent if top5 else None,
        _beside_paper(entries, top1, top5) if is_ilsvrc2012_val else None,
        engine_seconds,
        wall_seconds,
        protocol_engine_seconds,
    )


def _beside_paper(entries: Sequence[Entry], top1: ErrorRate | None, top5: ErrorRate | None) -> dict[str, Any] | None:
    """The paper's row for this result, ours - paper, and whether the paper's number lies in our 95 % interval."""
    row = paper.find(entries)
    if row is None:
        return None
    rates = (top1, top5)
    return {
        "top1_error_percent": row.top1_error_percent,
        "top5_error_percent": row.top5_error_percent,
        "source": row.source,
        "label": row.label,
        **paper.difference(
            [rate.percent if rate else None for rate in rates],
            [rate.interval95_percent if rate else None for rate in rates],
            (row.top1_error_percent, row.top5_error_percent),
        ),
    }


class _Counted:
    """Parts as they pass, with how many images they have and the first of them, for what all have in common."""

    first: Scores

    def __init__(self, parts: Iterable[Scores]) -> None:
        self._parts, self.images = parts, 0

    def __iter__(self) -> Iterator[Scores]:
        for part in self._parts:
            if self.images == 0:
                self.first = part
            self.images += len(part.images)
            yield part


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
) -> str:
    """Writes report.json and report.md into `out`; returns the table as text."""
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
        "dataset": {**dataset, "unreadable_images": dict(unreadable)},
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
            "paper: ours - paper": _paper(r.paper),
        }
        for r in results
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe")


def _error(percent: float | None, interval: tuple[float, float] | None) -> str:
    if percent is None or interval is None:
        return "unknown"
    return f"{percent:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _paper(row: dict[str, Any] | None) -> str:
    """`24.8 / 7.5 (VGG Table 4): +0.12 / -0.30, inside / outside`: ours - paper, and the paper in our interval."""
    if row is None:
        return "-"
    numbers = ("-" if row[f"top{k}_error_percent"] is None else str(row[f"top{k}_error_percent"]) for k in (1, 5))
    return f"{' / '.join(numbers)} ({row['source']}): {paper.say_difference(row)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
