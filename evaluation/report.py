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
from infer.spec import ModelSpec

from . import paper
from .metrics import ErrorRate, top_errors
from .scores import OK, Scores


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One row of the table, named as in report.json."""

    model: str
    net: str | None  # None: a fusion
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


def result_from_scores(
    parts: Iterable[Scores],
    members: Sequence[ModelSpec],
    *,
    is_ilsvrc2012_val: bool,
    engine_seconds: float | None = None,
    wall_seconds: float | None = None,
) -> Result:
    """The row of one table from its parts; `members` are the specs of its net or, for a fusion, of all its nets."""
    counted = _Counted(parts)
    top1, top5 = top_errors(counted, (1, 5))
    scores = counted.first
    protocol = scores.metadata["protocol"]
    beside = _beside_paper(scores, members, top1, top5) if is_ilsvrc2012_val else None
    return Result(
        scores.model,
        members[0].net if len(members) == 1 else None,
        scores.metadata["runtime"],
        protocol,
        list(scores.scales),
        scores.metadata["pooling"],
        counted.images,
        top1.percent if top1 else None,
        top5.percent if top5 else None,
        top1.interval95_percent if top1 else None,
        top5.interval95_percent if top5 else None,
        beside,
        engine_seconds,
        wall_seconds,
    )


def _beside_paper(
    scores: Scores, members: Sequence[ModelSpec], top1: ErrorRate | None, top5: ErrorRate | None
) -> dict[str, Any] | None:
    """The paper's row for this result, ours - paper, and whether the paper's number lies in our 95 % interval."""
    sets = [[int(q) for q in part.split(",")] for part in scores.metadata["scales"].split("+")]
    row = paper.find(members, scores.metadata["protocol"], sets * len(members) if len(sets) == 1 else sets)
    if row is None:
        return None
    beside: dict[str, Any] = {
        "top1_error_percent": row.top1_error_percent,
        "top5_error_percent": row.top5_error_percent,
        "source": row.source,
        "label": row.label,
    }
    for k, ours, theirs in ((1, top1, row.top1_error_percent), (5, top5, row.top5_error_percent)):
        known = ours is not None and theirs is not None
        low, high = ours.interval95_percent if ours else (0.0, 0.0)
        beside[f"top{k}_difference_percent"] = round(ours.percent - theirs, 3) if ours and theirs is not None else None
        beside[f"top{k}_inside_interval95"] = low <= theirs <= high if known and theirs is not None else None
    return beside


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
    command: str,
    commit: str,
) -> str:
    """Writes report.json and report.md into `out`; returns the table as text."""
    dataset = {"id": dataset_id, "images": results[0].images, "unreadable": len(unreadable)}
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
    numbers = ["-" if row[f"top{k}_error_percent"] is None else str(row[f"top{k}_error_percent"]) for k in (1, 5)]
    differences = [row[f"top{k}_difference_percent"] for k in (1, 5)]
    inside = [{True: "inside", False: "outside", None: "-"}[row[f"top{k}_inside_interval95"]] for k in (1, 5)]
    signed = ["-" if difference is None else f"{difference:+.2f}" for difference in differences]
    return f"{' / '.join(numbers)} ({row['source']}): {' / '.join(signed)}, {' / '.join(inside)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
