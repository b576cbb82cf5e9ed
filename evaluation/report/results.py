"""Results of a run as values: the types of report.json, filled from score tables, and the files of OUT read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from infer.benchmark.points import POINTS, Point
from infer.engine import is_stand_in
from infer.files import read_file
from infer.pixels.header import HeaderError, read_header

from ..errors import ReportError
from ..published import papers
from ..published.papers import Beside, EvaluatedNet
from ..scores import table as tables
from ..scores.classes import ClassAverages, ClassMeasures, average_classes, measure_classes
from ..scores.metrics import TOP5_CLASSES, Details, ErrorCounts, FirstAnswers
from ..scores.paired import WrongAnswers
from ..scores.table import ARITHMETIC, INDEX, OK, Mistake, Scores, fuse, in_step
from .pairs import Pair

REPORT = "report.json"
SCORES, FUSIONS = "scores", "fusions"
"""Folders of the score tables in OUT: of a model each, and of several."""
SCHEMA_VERSION = 2
"""Of report.json; a report without one is 1. 2 adds date, engine_sha256, measures by class and of calibration."""
MOST_BYTES, MOST_THUMBNAIL_BYTES, MOST_THUMBNAIL_PIXELS = 1 << 28, 1 << 20, 1 << 22
"""The largest report.json, which may name every image, and the largest thumbnail that are read."""
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
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
    top1_error_percent: Percent | None
    top5_error_percent: Percent | None
    top1_interval95_percent: tuple[Percent, Percent] | None
    top5_interval95_percent: tuple[Percent, Percent] | None
    paper: Beside | None
    engine_seconds: Seconds | None  # of the engine for all protocols of the run, which share views; None: a fusion
    wall_seconds: Seconds | None  # of the whole run
    protocol_engine_seconds: Seconds | None = None  # of engine_seconds, this protocol's share by its views' pixels
    engine_sha256: str | None = None  # of the model's file; of a fusion those of all members, joined by +
    class_count: int | None = None  # that the model knows
    expected_calibration_error_percent: float | None = None
    brier_score: float | None = None  # from 0 to 2
    class_averages: ClassAverages | None = None
    classes: list[ClassMeasures] = []  # that have images or are an answer
    arithmetic: str | None = None  # what was computed in (infer.engine); None: a report of an earlier version
    table: str | None = None  # its score table, relative to OUT; None: a report of an earlier version

    @property
    def has_table(self) -> bool:
        """False for a fusion of an earlier version, which kept none."""
        return self.table is not None or self.engine_seconds is not None

    @property
    def has_top5(self) -> bool:
        """True where a top-5 error says anything, or where the number of classes is not known."""
        return self.class_count is None or self.class_count >= TOP5_CLASSES

    @property
    def views(self) -> tuple[str, str, tuple[int, ...], str]:
        """Model, protocol, scales, pooling: two results that share them differ by their runtime alone."""
        return self.model, self.protocol, self.scales, self.pooling


class EvaluatedImages(msgspec.Struct, frozen=True, omit_defaults=True):
    """The images of a run."""

    id: str
    is_ilsvrc2012_val: bool
    images: int
    unreadable: int
    unreadable_images: dict[str, str]  # the reason, by the image's name
    class_names: dict[str, str] = {}  # words by a class's id, where they are known and not the id itself
    left_out: dict[str, int] = {}  # files of the data set that are no images, by their endings
    name: str = ""  # of its folder or file


class Environment(msgspec.Struct, frozen=True):
    command: str
    commit: str
    python: str
    machine: str
    packages: dict[str, str | None]  # versions, None where not installed


class Report(msgspec.Struct, frozen=True):
    """A report.json."""

    dataset: EvaluatedImages
    results: list[Result]
    remarks: list[str]
    environment: Environment
    pairs: list[Pair] = []  # of the results on one runtime; none in a report of an earlier version
    schema_version: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA_VERSION)] = 1
    date: str | None = None  # of the end of the run: ISO 8601, UTC


@dataclass(slots=True)
class TableSummary:
    """Counts of one score table, taken part by part; unreadable: the reason, by the image's name."""

    head: Scores | None = None  # its first part without rows
    images: int = 0
    errors: ErrorCounts = field(default_factory=ErrorCounts)  # top-1, top-5
    answers: FirstAnswers = field(default_factory=FirstAnswers)
    wrong: WrongAnswers = field(default_factory=WrongAnswers)
    details: Details | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, part: Scores) -> None:
        self.head = self.head or part.rows([])
        self.images += len(part.images)
        self.errors.add(part)
        self.answers.add(part)
        self.wrong.add(part)
        self.details = self.details or Details(part.classes)
        self.details.add(part)
        for name, status in zip(part.images, part.statuses, strict=True):
            if status != OK:
                self.unreadable[name] = status

    @property
    def remark(self) -> str | None:
        """Says that the protocol is none for these images, or that answers are no numbers; None where all is well."""
        assert self.head is not None
        if self.errors.not_finite:
            return (
                f"{self.head.model} by {self.head.metadata['protocol']}: its answers to {self.errors.not_finite} of "
                f"{self.images} images are not finite (NaN or infinite), which counts as wrong: the model is damaged, "
                "or overflows in half precision"
            )
        if not self.errors.blind:
            return None
        name, status = next(iter(self.unreadable.items()))
        return (
            f"{self.head.model} by {self.head.metadata['protocol']}: {len(self.unreadable)} of {self.images} images "
            f"have no answer, so that there is no error to tell (the first is {name}: {status})"
        )

    def result(self, nets: Sequence[EvaluatedNet], *, is_ilsvrc2012_val: bool) -> Result:
        """The row of the table, without its time; `nets` is its net or, for a fusion, each of its nets."""
        assert self.head is not None and self.details is not None
        metadata = self.head.metadata
        spec = nets[0].spec if len(nets) == 1 else None

        top1, top5 = self.errors.rates()
        percents = top1.percent if top1 else None, top5.percent if top5 else None
        intervals = top1.interval95_percent if top1 else None, top5.interval95_percent if top5 else None
        row = papers.find_paper_row(nets) if is_ilsvrc2012_val else None
        classes = measure_classes(self.details) if top1 else []

        return Result(
            model=self.head.model,
            net=spec.net if spec and papers.is_papers_size(spec) else None,
            origin=papers.origin_of(spec) if spec else None,
            runtime=metadata["runtime"],
            protocol=metadata["protocol"],
            scales=self.head.scales,
            pooling=metadata["pooling"],
            images=self.images,
            top1_error_percent=percents[0],
            top5_error_percent=percents[1],
            top1_interval95_percent=intervals[0],
            top5_interval95_percent=intervals[1],
            paper=papers.put_beside(row, percents, intervals) if row else None,
            engine_seconds=None,
            wall_seconds=None,
            engine_sha256=metadata["engine_sha256"],
            arithmetic=metadata.get(ARITHMETIC),
            class_count=len(self.head.classes),
            expected_calibration_error_percent=self.details.expected_calibration_error_percent if top1 else None,
            brier_score=self.details.brier_score if top1 else None,
            class_averages=average_classes(classes),
            classes=classes,
        )


def summarise(paths: Sequence[Path]) -> list[TableSummary]:
    """Summaries of tables of the same images. Each is decoded once, one part of each at a time. Raises ScoresError."""
    summaries = [TableSummary() for _ in paths]
    for parts in in_step(paths):
        for summary, part in zip(summaries, parts, strict=True):
            summary.add(part)
    return summaries


def write_fusion(out: Path, name: str, members: Sequence[Path]) -> Path:
    """Writes the fusion of score tables into OUT/FUSIONS and returns its path. Raises ScoresError."""
    metadata = fuse([tables.read_head(path) for path in members], name).metadata
    path = out / FUSIONS / tables.file_name(metadata)
    tables.write((fuse(parts, name) for parts in in_step(members)), path)
    return path


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run that has ended: its report and the folder that it was read from."""

    out: Path
    report: Report

    def table(self, result: Result) -> Path | None:
        """Path of a result's score table; None for a fusion of an earlier version, which was not kept.

        Raises ReportError for one that would lie outside of the run's folder.
        """
        name = result.table
        if name is None:
            if not result.has_table:
                return None
            spec, scales = json.dumps({"name": result.model}), ",".join(map(str, result.scales))
            views = {"protocol": result.protocol, "scales": scales, "pooling": result.pooling}
            name = f"{SCORES}/{tables.file_name({'spec': spec, 'runtime': result.runtime, **views})}"
        path = self.out / name
        plain = Path(name).parts[:-1] in ((SCORES,), (FUSIONS,)) and path.suffix == ".parquet" and "\0" not in name
        if not plain or not path.resolve().is_relative_to(self.out.resolve()):
            raise ReportError(f"{self.out / REPORT}: names the table {name!r}, expected one within its folder")
        return path

    def points(self) -> list[tuple[Result, Point]]:
        """The points of speed that infer.benchmark measured of results of this run, each with its result.

        Those of engines and images that the run is not of any more are left out. Raises ReportError.
        """
        path = self.out / POINTS
        try:
            points = _read_as(list[Point], path, self.out, "the points of infer.benchmark")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReportError(f"{path}: {error.strerror}") from None

        found = []
        for point in points:
            views = point.model, point.protocol, point.scales, point.pooling
            engine = point.engine_sha256, point.runtime, point.dataset_id
            for result in self.report.results:
                if (result.views, (result.engine_sha256, result.runtime, self.report.dataset.id)) == (views, engine):
                    found.append((result, point))
        return found

    def parts(self, result: Result, path: Path) -> Iterator[Scores]:
        """Parts of a result's score table. Raises ScoresError, and ReportError for another table."""
        for part in tables.parts(path):
            self.check(part, result, path)
            yield part

    def check(self, part: Scores, result: Result, path: Path) -> None:
        """Raises ReportError for a part of a table of another data set, or of another result."""
        found, expected = part.metadata.get("dataset_id"), self.report.dataset.id
        if found != expected:
            raise ReportError(
                f"{path}: scores of data set {found}, but report.json is of {expected}: run the evaluation again"
            )

        views = part.metadata["protocol"], part.scales, part.metadata["pooling"]
        one = part.model, *views, part.metadata["runtime"], part.metadata["engine_sha256"]
        other = *result.views, result.runtime, result.engine_sha256 or one[-1]  # not in reports of version 1
        differing = next(((a, b) for a, b in zip(one, other, strict=True) if a != b), None)
        if differing is not None:
            raise ReportError(
                f"{path}: scores of {differing[0]}, but report.json is of {differing[1]}: run the evaluation again"
            )

    def check_errors(self, wrong: WrongAnswers, result: Result, path: Path) -> None:
        """Raises ReportError where the errors of a result's whole table are not those of the report."""
        found = [100 * float(own.mean()) if len(own) else None for own in wrong.wrong]
        for k, own, said in zip((1, 5), found, (result.top1_error_percent, result.top5_error_percent), strict=True):
            if own is None or said is None or abs(own - said) > 1e-6:
                raise ReportError(
                    f"{path}: its top-{k} error is {own} %, but report.json has {said} %: run the evaluation again"
                )

    def engine_ms_per_image(self, result: Result) -> float | None:
        """Engine time; None for a fusion, for one of several protocols that were timed together, and for a check graph.

        That computes in FP32 what a GPU computes in half, so its time is not the model's.
        """
        if is_stand_in(result.arithmetic):
            return None
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
        return ReportedRun(out, _read_as(Report, path, out))
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
        mistakes = _read_as(list[Mistake], path, out)
        names = dict.fromkeys(mistake.thumbnail for mistake in mistakes if mistake.thumbnail is not None)
        for name in names:
            if Path(name).name != name:
                raise _no_report(path, f"thumbnail {name!r} is not a file beside it")

        # read at once, so that a missing file is an error of the folder, not of the page
        thumbnails = {name: _thumbnail(path.parent / name, out) for name in names}
    except FileNotFoundError as error:
        raise ReportError(f"{error.filename}: no such file, but {path} names it: run the evaluation again") from None
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None
    prefix = "data:image/jpeg;base64,"
    return mistakes, {name: prefix + base64.b64encode(jpeg).decode() for name, jpeg in thumbnails.items()}


def _thumbnail(path: Path, out: Path) -> bytes:
    """A JPEG that a run made. Raises ReportError for what is none, since the page would show it as one."""
    data = read_file(path, MOST_THUMBNAIL_BYTES, ReportError, within=out)
    try:
        header = read_header(data)
    except HeaderError as error:
        raise ReportError(f"{path}: {error}, expected a thumbnail: run the evaluation again") from None
    if header.kind != "JPEG" or header.height * header.width > MOST_THUMBNAIL_PIXELS:
        said = f"{header.kind} of {header.width}x{header.height} px"
        raise ReportError(f"{path}: a {said}, expected a thumbnail, a small JPEG: run the evaluation again")
    return data


def _read_as(kind: type[T], path: Path, out: Path, what: str = "a report of evaluation.ilsvrc") -> T:
    """A JSON file as a value of its type. Raises OSError, and ReportError that says which field is not right."""
    data = read_file(path, MOST_BYTES, ReportError, within=out)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # also what a wrong encoding raises
        raise _no_report(path, f"{type(error).__name__}: {error}", what) from None


def _no_report(path: Path, said: str, what: str = "a report of evaluation.ilsvrc") -> ReportError:
    return ReportError(f"{path}: not {what} ({' '.join(said.split())[:100]})")
