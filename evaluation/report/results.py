"""What a run found, as values: the rows of report.json, made from score tables and read back from OUT."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ReportError
from ..published import beside as paper
from ..published.beside import Entry
from ..scores import table as tables
from ..scores.metrics import ErrorRate, top_errors
from ..scores.table import Scores

Interval = tuple[float, float]


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
    top1_interval95_percent: Interval | None
    top5_interval95_percent: Interval | None
    paper: dict[str, Any] | None
    engine_seconds: float | None  # of the engine for all protocols of the run, which share their views
    wall_seconds: float | None  # of the whole run
    protocol_engine_seconds: float | None = None  # of engine_seconds, this protocol's share by its views' pixels

    @property
    def views(self) -> tuple[str, str, tuple[int, ...], str]:
        """What two results must share to differ by their runtime alone."""
        return self.model, self.protocol, tuple(self.scales), self.pooling


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


def say_paper(row: dict[str, Any] | None) -> str:
    """`24.8 / 7.5 (VGG Table 4): +0.12 / -0.30, inside / outside`: ours - paper, and the paper in our interval."""
    if row is None:
        return "-"
    numbers = ("-" if row[f"top{k}_error_percent"] is None else str(row[f"top{k}_error_percent"]) for k in (1, 5))
    return f"{' / '.join(numbers)} ({row['source']}): {paper.say_difference(row)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """A report.json, and the folder that it was read from."""

    out: Path
    dataset_id: str
    images: int
    is_ilsvrc2012_val: bool
    unreadable: dict[str, str]  # why, of each image's name
    class_names: dict[str, str]  # words for a class's id; those of the others are not known
    results: tuple[Result, ...]
    remarks: tuple[str, ...]
    environment: dict[str, str]
    packages: dict[str, str | None]

    def table(self, result: Result) -> Path | None:
        """Where its scores lie; a fusion, which has no time of its own, is not kept."""
        if result.engine_seconds is None:
            return None
        described = {
            "spec": json.dumps({"name": result.model}),
            "scales": ",".join(map(str, result.scales)),
            **{key: getattr(result, key) for key in ("runtime", "protocol", "pooling")},
        }
        return self.out / "scores" / tables.file_name(described)

    def parts(self, path: Path) -> Iterator[Scores]:
        """Of one table. Raises ScoresError, and ReportError for a table of another data set."""
        for part in tables.parts(path):
            found = part.metadata.get("dataset_id")
            if found != self.dataset_id:
                raise ReportError(
                    f"{path}: scores of data set {found}, but report.json is of {self.dataset_id}: "
                    "run the evaluation again"
                )
            yield part

    def engine_ms_per_image(self, result: Result) -> float | None:
        """None where it is not known: of a fusion, and of one of several protocols that were timed together."""
        seconds = result.protocol_engine_seconds
        if seconds is None:
            own = [one for one in self.results if (one.model, one.runtime) == (result.model, result.runtime)]
            seconds = result.engine_seconds if len(own) == 1 else None
        return None if seconds is None else 1000 * seconds / result.images


def read_report(out: Path) -> Report:
    """Raises ReportError."""
    path = out / "report.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dataset, environment = content["dataset"], content["environment"]
        return Report(
            out,
            str(dataset["id"]),
            int(dataset["images"]),
            bool(dataset["is_ilsvrc2012_val"]),
            {str(name): str(status) for name, status in dataset["unreadable_images"].items()},
            {str(name): str(words) for name, words in dataset.get("class_names", {}).items()},
            tuple(_read_result(row) for row in content["results"]),
            tuple(map(str, content["remarks"])),
            {key: str(environment[key]) for key in ("command", "commit", "python", "machine")},
            {str(name): version and str(version) for name, version in environment["packages"].items()},
        )
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}, expected the OUT folder of an evaluation.ilsvrc run") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise not_readable(path, error) from None


def not_readable(path: Path, error: Exception) -> ReportError:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:100]
    return ReportError(f"{path}: not a report of evaluation.ilsvrc ({said})")


def _read_result(row: Mapping[str, Any]) -> Result:
    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    def interval(value: Any) -> Interval | None:
        return None if value is None else (float(value[0]), float(value[1]))

    say_paper(row["paper"])  # which fails for what is no row of the paper
    result = Result(
        model=str(row["model"]),
        net=row["net"],
        origin=row["origin"],
        runtime=str(row["runtime"]),
        protocol=str(row["protocol"]),
        scales=[int(q) for q in row["scales"]],
        pooling=str(row["pooling"]),
        images=int(row["images"]),
        top1_error_percent=number(row["top1_error_percent"]),
        top5_error_percent=number(row["top5_error_percent"]),
        top1_interval95_percent=interval(row["top1_interval95_percent"]),
        top5_interval95_percent=interval(row["top5_interval95_percent"]),
        paper=row["paper"],
        engine_seconds=number(row["engine_seconds"]),
        wall_seconds=number(row["wall_seconds"]),
        protocol_engine_seconds=number(row.get("protocol_engine_seconds")),
    )
    if result.images < 1:
        raise ValueError(f"{result.images} images")
    return result
