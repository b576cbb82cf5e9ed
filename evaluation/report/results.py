"""Results of a run as values: report.json, written and read by one type, and the other files of OUT read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from ..errors import ReportError
from ..published import beside
from ..published.beside import Beside, EvaluatedNet
from ..scores import table as tables
from ..scores.mistakes import INDEX, Mistake
from ..scores.summary import TableSummary
from ..scores.table import Scores

REPORT = "report.json"
Interval = tuple[float, float]
T = TypeVar("T")


class Result(msgspec.Struct, frozen=True):
    """One row of the table: a model, or a fusion of several, by one protocol."""

    model: str
    net: str | None  # None: a fusion, or a net of another size than the paper's
    origin: str | None  # of imported weights
    runtime: str
    protocol: str
    scales: tuple[int, ...]
    pooling: str
    images: Annotated[int, msgspec.Meta(ge=1)]
    top1_error_percent: float | None
    top5_error_percent: float | None
    top1_interval95_percent: Interval | None
    top5_interval95_percent: Interval | None
    paper: Beside | None
    engine_seconds: float | None  # of the engine for all protocols of the run, which share their views
    wall_seconds: float | None  # of the whole run
    protocol_engine_seconds: float | None = None  # of engine_seconds, this protocol's share by its views' pixels

    @property
    def views(self) -> tuple[str, str, tuple[int, ...], str]:
        """Model, protocol, scales, pooling: two results that share them differ by their runtime alone."""
        return self.model, self.protocol, self.scales, self.pooling


class DataSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """The images of a run."""

    id: str
    is_ilsvrc2012_val: bool
    images: int
    unreadable: int
    unreadable_images: dict[str, str]  # the reason, by the image's name
    class_names: dict[str, str] = {}  # words by a class's id, where they are known and not the id itself


class Environment(msgspec.Struct, frozen=True):
    command: str
    commit: str
    python: str
    machine: str
    packages: dict[str, str | None]  # versions, None where not installed


class Report(msgspec.Struct, frozen=True):
    """A report.json."""

    dataset: DataSet
    results: list[Result]
    remarks: list[str]
    environment: Environment


def result_from_summary(
    summary: TableSummary,
    nets: Sequence[EvaluatedNet],
    *,
    is_ilsvrc2012_val: bool,
    engine_seconds: float | None = None,
    wall_seconds: float | None = None,
    protocol_engine_seconds: float | None = None,
) -> Result:
    """The row of one table; `nets` is its net or, for a fusion, each of its nets."""
    spec = nets[0].spec if len(nets) == 1 else None
    top1, top5 = summary.errors.rates()
    percents = top1.percent if top1 else None, top5.percent if top5 else None
    intervals = top1.interval95_percent if top1 else None, top5.interval95_percent if top5 else None
    row = beside.find_paper_row(nets) if is_ilsvrc2012_val else None
    return Result(
        model=tables.model_name(summary.metadata),
        net=spec.net if spec and beside.is_papers_size(spec) else None,
        origin=beside.origin_of(spec) if spec else None,
        runtime=summary.metadata["runtime"],
        protocol=summary.metadata["protocol"],
        scales=tables.scales(summary.metadata),
        pooling=summary.metadata["pooling"],
        images=summary.images,
        top1_error_percent=percents[0],
        top5_error_percent=percents[1],
        top1_interval95_percent=intervals[0],
        top5_interval95_percent=intervals[1],
        paper=beside.put_beside(row, percents, intervals) if row else None,
        engine_seconds=engine_seconds,
        wall_seconds=wall_seconds,
        protocol_engine_seconds=protocol_engine_seconds,
    )


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run that has ended: its report and the folder that it was read from."""

    out: Path
    report: Report

    def table(self, result: Result) -> Path | None:
        """Path of a result's score table; None for a fusion, which is not kept and has no time of its own."""
        if result.engine_seconds is None:
            return None
        metadata = {
            "spec": json.dumps({"name": result.model}),
            "runtime": result.runtime,
            "protocol": result.protocol,
            "scales": ",".join(map(str, result.scales)),
            "pooling": result.pooling,
        }
        return self.out / "scores" / tables.file_name(metadata)

    def parts(self, path: Path) -> Iterator[Scores]:
        """Parts of one score table. Raises ScoresError, and ReportError for a table of another data set."""
        expected = self.report.dataset.id
        for part in tables.parts(path):
            found = part.metadata.get("dataset_id")
            if found != expected:
                raise ReportError(
                    f"{path}: scores of data set {found}, but report.json is of {expected}: run the evaluation again"
                )
            yield part

    def engine_ms_per_image(self, result: Result) -> float | None:
        """Engine time; None for a fusion and for one of several protocols that were timed together."""
        seconds = result.protocol_engine_seconds
        if seconds is None:
            same = (result.model, result.runtime)
            own = [one for one in self.report.results if (one.model, one.runtime) == same]
            seconds = result.engine_seconds if len(own) == 1 else None
        return None if seconds is None else 1000 * seconds / result.images


def read_run(out: Path) -> ReportedRun:
    """The run whose OUT folder this is. Raises ReportError."""
    path = out / REPORT
    try:
        return ReportedRun(out, _read_as(Report, path))
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}, expected the OUT folder of an evaluation.ilsvrc run") from None


def read_mistakes(out: Path) -> tuple[list[Mistake], Mapping[str, str]]:
    """Mistakes that a run listed, and their thumbnails by name as data: URIs. Raises ReportError.

    Without OUT/mistakes there are none.
    """
    path = out / "mistakes" / INDEX
    if not path.exists():
        return [], {}
    try:
        mistakes = _read_as(list[Mistake], path)
        names = dict.fromkeys(mistake.thumbnail for mistake in mistakes if mistake.thumbnail is not None)
        for name in names:
            if Path(name).name != name:
                raise _no_report(path, f"thumbnail {name!r} is not a file beside it")
        thumbnails = {name: (path.parent / name).read_bytes() for name in names}
    except FileNotFoundError as error:
        raise ReportError(f"{error.filename}: no such file, but {path} names it: run the evaluation again") from None
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None
    prefix = "data:image/jpeg;base64,"
    return mistakes, {name: prefix + base64.b64encode(jpeg).decode() for name, jpeg in thumbnails.items()}


def _read_as(kind: type[T], path: Path) -> T:
    """A JSON file as a value of its type. Raises OSError, and ReportError that says which field is not right."""
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), kind)
    except (ValueError, RecursionError) as error:  # also what json, msgspec and a wrong encoding raise
        raise _no_report(path, f"{type(error).__name__}: {error}") from None


def _no_report(path: Path, said: str) -> ReportError:
    return ReportError(f"{path}: not a report of evaluation.ilsvrc ({' '.join(said.split())[:100]})")
