"""report.html: one page that holds all it shows, made from what runs left in their OUT folders and from nothing else.

One run is shown in detail; several are compared.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import functools
import hashlib
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2

from infer.benchmark.points import Point as SpeedPoint
from infer.drawing.figures import confusion
from infer.drawing.page import page_environment
from infer.engine import is_stand_in
from infer.errors import one_line
from infer.files import replacing

from ..errors import NothingInCommon
from ..scores.classes import ClassAverages, ClassMeasures, average_classes, measure_classes
from ..scores.comparison import Comparison, DifferingImage, compare
from ..scores.metrics import BINS, Details, ErrorRate, details
from ..scores.paired import LEVEL, Paired, WrongAnswers, pair_answers, say_p
from ..scores.table import CPU_DECODER, Mistake
from . import charts
from .baseline import pair_up, unrounded_places, wrong_answers
from .charts import Point
from .headline import Headline, headline, precision_name, say_precision, thorough
from .pairs import Pair, by_p
from .results import ReportedRun, Result, read_mistakes
from .write import MOST_PAIRS

HTML = "report.html"
CONFUSED = 12
"""Classes in the figure of the confusion."""
CHANGED = 12
"""Images that are shown of those that one of two results has right and the other wrong, each way."""
SCRIPT = Path(__file__).with_name("page.js")
"""Sorts a table by a column; the page says all without it."""
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
LISTED = 8
"""Worst classes and pairs of the tables that are not shown in detail."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A line of the results' table; `first` is the result of the first run that it is compared with."""

    run: str
    dataset_id: str
    result: Result
    engine_ms: float | None
    first: Result | None
    pair: Paired | None  # top-1, with `first`


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class that has images: its measures, and its top-1 error with the interval."""

    measures: ClassMeasures
    rate: ErrorRate


@dataclass(frozen=True, slots=True)
class TableDetail:
    """A score table beyond its errors; only the table that is shown in full has figures."""

    result: Result
    labelled: int
    unanswered: int
    calibration_error_percent: float | None
    classes: list[ClassRow]  # the worst first
    averages: ClassAverages | None
    brier_score: float | None
    confused: list[tuple[str, str, int]]
    mistakes: list[Mistake]
    wrong: WrongAnswers
    counted: Details
    reliability: str = ""
    confusion: str = ""


def write_html(runs: Sequence[ReportedRun], path: Path, baseline: str | None = None) -> list[Pair]:
    """Writes the page of one run in detail, or of several compared; `baseline` is a model's name or a run's folder.

    Returns the pairs that it shows, the surest differences first. Raises ReportError and ScoresError, and UsageError
    for a baseline that is neither.
    """
    # only one run is shown in detail; every table is read once
    names = run_names([run.out for run in runs])
    listed = [read_mistakes(run.out) for run in runs]
    found = list(_details(runs[0], listed[0][0])) if len(runs) == 1 else []
    every = [(run, result) for run in runs for result in run.report.results]
    of_details = [(detail.result, detail.wrong) for detail in found]
    tables = [wrong_answers(run, result, of_details) for run, result in every]

    pairs = by_p(pair_up(runs, tables, baseline))
    first = headline([result for _, result in every], pairs, baseline=baseline)
    unrounded = unrounded_places(runs)
    rows = list(_rows(runs, names, tables, unrounded))
    comparable = [row for row in rows if row.dataset_id == runs[0].report.dataset.id]
    same_data = len(comparable) == len(rows)
    precisions = list(_precisions(every, unrounded))
    sentence = first.sentence if first else None
    if first and baseline is None and precisions:
        single, lower, counts = max(precisions, key=lambda one: thorough(one[0]))
        sentence = say_precision(single, lower, counts.top1_pairs)

    speed, machines = _rate_figure(runs, names, comparable)

    script = SCRIPT.read_text(encoding="utf-8")
    template = _environment().get_template("page.html.jinja")
    page = template.render(
        reports=[run.report for run in runs],
        runs=names,
        rows=rows,
        hero=rows[first.place] if first and same_data else None,
        sentence=sentence if same_data else None,
        changed=_changed(every, first, listed) if same_data else None,
        unrounded=list(dict.fromkeys(every[place][1].model for place in unrounded)),
        checked=any(is_stand_in(row.result.arithmetic) for row in rows),
        time=_time_figure(comparable, several=len(runs) > 1),
        speed=speed,
        machines=machines,
        scale=_scale_figure(comparable),
        details=_in_order(found, every[first.place][1], runs[0]) if first and found else [],
        thumbnails=listed[0][1],
        pairs=pairs,
        baseline=baseline,
        precisions=precisions,
        lower_precisions=" or ".join(sorted({precision_name(lower) for _, lower, _ in precisions})),
        class_names={name: words for run in runs for name, words in run.report.dataset.class_names.items()},
        colors=_colors(rows),
        same_data=same_data,
        whisker_most=_axis_end(rows),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        BINS=BINS,
        LEVEL=LEVEL,
        LISTED=LISTED,
        MOST_PAIRS=MOST_PAIRS,
    )
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return pairs


class Changed(NamedTuple):
    """Images that one result has right and another wrong: what both answer, and thumbnails by the images' names."""

    first: Result
    second: Result
    gained: Sequence[DifferingImage]
    lost: Sequence[DifferingImage]
    counts: tuple[int, int]
    thumbnails: Mapping[str, str]


Every = Sequence[tuple[ReportedRun, Result]]
Listed = Sequence[tuple[Sequence[Mistake], Mapping[str, str]]]
"""Of each run, its mistakes, and thumbnails by the names of their files."""


def _changed(every: Every, first: Headline | None, listed: Listed) -> Changed | None:
    """The images that tell the two results of a headline apart; None where it is about one, or one has no table."""
    if first is None or first.other is None:
        return None
    one, other = every[first.other], every[first.place]
    found = compare_results(*one, *other)
    if found is None:
        return None

    differing = {image.image: image for image in found.differing}
    gained, lost = ([differing[name] for name in names if name in differing] for names in (found.gained, found.lost))
    thumbnails = {
        mistake.image: files[mistake.thumbnail]
        for mistakes, files in listed
        for mistake in mistakes
        if mistake.thumbnail is not None
    }
    first_gained, first_lost = (
        sorted(own, key=lambda image: -image.second_probability)[:CHANGED] for own in (gained, lost)
    )
    counts = len(found.gained), len(found.lost)
    return Changed(one[1], other[1], first_gained, first_lost, counts, thumbnails)


def _colors(rows: Sequence[ResultRow]) -> dict[str, int]:
    """The colour of each model on the page, a number from 0; fusions come last."""
    models = sorted(rows, key=lambda row: row.result.engine_seconds is None)
    return {model: place for place, model in enumerate(dict.fromkeys(row.result.model for row in models))}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_environment(__package__)
    environment.filters |= {"three_digits": _three_digits, "first_word": first_word, "p_value": _p_value}
    environment.filters["long_date"] = _long_date
    return environment


def _three_digits(value: float) -> str:
    """0.943, 17.0, 141, 2630: three digits that count, but no fewer than there are before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _long_date(date: str) -> str:
    """2026-11-30T05:57:02+00:00 as 30 November 2026, 05:57 UTC; what is no date as it is."""
    try:
        found = datetime.datetime.fromisoformat(date).astimezone(datetime.timezone.utc)
    except ValueError:
        return date
    return f"{found.day} {MONTHS[found.month - 1]} {found:%Y, %H:%M} UTC"


def _p_value(p: float) -> str:
    return say_p(p).removeprefix("= ")


def first_word(names: Mapping[str, str], name: str) -> str:
    """The first synonym of a class; its id where it has no words."""
    return names.get(name, name).split(",")[0]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Names that tell the folders of runs apart: their paths without the folders that all are in."""
    levels = zip(*(folder.parts[:-1] for folder in folders), strict=False)
    common = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    return [str(Path(*folder.parts[common:])) for folder in folders]


def _axis_end(rows: Sequence[ResultRow]) -> float:
    """A round number that no interval of top-1 errors passes; 0 without labels."""
    highs = [row.result.top1_interval95_percent[1] for row in rows if row.result.top1_interval95_percent is not None]
    most = max(highs, default=0.0)
    return next((end for end in (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80) if most <= end), 100) if most else 0


def _rows(
    runs: Sequence[ReportedRun],
    names: Sequence[str],
    tables: Sequence[WrongAnswers | None],
    unrounded: Collection[int],
) -> Iterator[ResultRow]:
    first = runs[0]
    places = itertools.count()
    for run, name in zip(runs, names, strict=True):
        dataset_id = run.report.dataset.id
        for result in run.report.results:
            same: int | None = None

            # the first run's result for the same views, by the same runtime if there is one
            place, others = next(places), first.report.results
            if run is not first and dataset_id == first.report.dataset.id:
                alike = [other for other, one in enumerate(others) if one.views == result.views]
                alike = [other for other in alike if (other in unrounded) == (place in unrounded)]
                same_runtime = [other for other in alike if others[other].runtime == result.runtime]
                same = next(iter(same_runtime or alike), None)

            pair = None
            own, base = tables[place], None if same is None else tables[same]
            if own is not None and base is not None:
                counts = pair_answers(base, own)
                pair = counts[0] if counts else None
            yield ResultRow(
                name, dataset_id, result, run.engine_ms_per_image(result), None if same is None else others[same], pair
            )


def _precisions(every: Every, unrounded: Collection[int]) -> Iterator[tuple[Result, Result, Comparison]]:
    """Results that differ by FP32 and a lower precision alone, in one run or in two, but for unrounded FP16."""
    rounded = [one for place, one in enumerate(every) if place not in unrounded]
    for (one, single), (other, lower) in itertools.product(every, rounded):
        alike = one.report.dataset.id == other.report.dataset.id and single.views == lower.views
        runtime, _, precision = single.runtime.rpartition("-")
        if not alike or precision != "fp32" or lower.runtime not in (f"{runtime}-fp16", f"{runtime}-int8"):
            continue
        found = compare_results(one, single, other, lower)
        if found:
            yield single, lower, found


def compare_results(of_one: ReportedRun, one: Result, of_other: ReportedRun, other: Result) -> Comparison | None:
    """The comparison of two results' tables; None where one has none, or no image was scored by both.

    Raises ScoresError and ReportError.
    """
    first, second = of_one.table(one), of_other.table(other)
    if first is None or second is None:
        return None
    try:
        return compare(of_one.parts(one, first), of_other.parts(other, second))
    except NothingInCommon:
        return None


def _details(run: ReportedRun, mistakes: Sequence[Mistake]) -> Iterator[TableDetail]:
    """Details of every labelled table that was kept."""
    for result in run.report.results:
        path = run.table(result) if result.top1_error_percent is not None else None
        if path is not None:
            yield _detail(run, result, path, mistakes)


def _in_order(found: Sequence[TableDetail], first: Result, run: ReportedRun) -> list[TableDetail]:
    """The details of one result first, with figures, if it has any."""
    ordered = sorted(found, key=lambda detail: detail.result is not first)
    own = ordered[0]
    calibrated = own.calibration_error_percent is not None
    reliability = charts.reliability(own.counted) if calibrated else ""
    confusion = _confusion_figure(own.counted, run.report.dataset.class_names)
    return [dataclasses.replace(own, reliability=reliability, confusion=confusion), *ordered[1:]]


def _detail(run: ReportedRun, result: Result, path: Path, mistakes: Sequence[Mistake]) -> TableDetail:
    wrong = WrongAnswers()
    found = details(wrong.watch(run.parts(result, path)))
    run.check_errors(wrong, result, path)
    labelled = int(found.class_images.sum())
    measures = measure_classes(found)
    rows = [
        ClassRow(own, error.rate)
        for own, error in zip((one for one in measures if one.support), found.class_errors(), strict=True)
    ]
    views = (*result.views, result.runtime)
    calibration = found.expected_calibration_error_percent
    return TableDetail(
        result,
        labelled,
        int(found.unanswered.sum()),
        calibration,
        sorted(rows, key=lambda row: (-row.rate.percent, -row.measures.support, row.measures.name)),
        average_classes(measures),
        found.brier_score,
        found.most_confused(LISTED),
        [one for one in mistakes if (one.model, one.protocol, one.scales, one.pooling, one.runtime) == views],
        wrong,
        found,
    )


def _confusion_figure(found: Details, class_names: Mapping[str, str]) -> str:
    """The figure of the CONFUSED classes that are confused most; none where nothing is."""
    chosen: set[str] = set()
    for true, answer, _ in found.most_confused(CONFUSED * CONFUSED):
        if len(chosen | {true, answer}) <= CONFUSED:
            chosen |= {true, answer}
    if not chosen:
        return ""

    # words for the classes, or the id where two have the same word
    places = sorted(found.classes.index(name) for name in chosen)
    short = [one_line(first_word(class_names, found.classes[place])) for place in places]
    names = [
        word if short.count(word) == 1 else one_line(found.classes[p]) for word, p in zip(short, places, strict=True)
    ]
    return confusion(names, found.block(places), found.class_images[places])


def _time_figure(rows: Sequence[ResultRow], *, several: bool) -> str:
    points, colors = [], _colors(rows)
    for row in rows:
        result, ms = row.result, row.engine_ms
        if ms and result.top1_error_percent is not None and result.top1_interval95_percent is not None:
            series = one_line(f"{row.run}: " * several + f"{result.model}, {result.runtime}")
            errors = result.top1_error_percent, result.top1_interval95_percent
            hollow = result.runtime.endswith(("-fp16", "-int8"))
            points.append(Point(series, one_line(result.protocol), ms, *errors, hollow, colors[result.model]))
    return charts.error_against_time(points) if points else ""


def _rate_figure(runs: Sequence[ReportedRun], names: Sequence[str], rows: Sequence[ResultRow]) -> tuple[str, list[str]]:
    """The figure of the points that infer.benchmark measured of results that are compared here, and their machines."""
    compared = {id(row.result) for row in rows}
    found: list[tuple[str, Result, SpeedPoint]] = []
    for run, name in zip(runs, names, strict=True):
        prefix = f"{name}: " * (len(runs) > 1)
        own = [(prefix, *pair) for pair in run.points()]
        found += [one for one in own if id(one[1]) in compared and one[1].top1_interval95_percent is not None]
    machines = list(dict.fromkeys(measured.device for _, _, measured in found))

    points, colors = [], _colors(rows)
    for prefix, result, measured in found:
        series = f"{prefix}{result.model}, {result.runtime}"
        series += f" on {measured.device}" if len(machines) > 1 else ""
        series += f", {measured.decoder}" if measured.decoder != CPU_DECODER else ""
        assert result.top1_interval95_percent is not None
        points.append(
            Point(
                one_line(series),
                one_line(result.protocol),
                measured.images_per_second,
                measured.top1_error_percent,
                result.top1_interval95_percent,
                hollow=result.runtime.endswith(("-fp16", "-int8")),
                color=colors[result.model],
                label=str(measured.batch),
            )
        )
    return (charts.error_against_rate(points) if points else ""), machines


def _scale_figure(rows: Sequence[ResultRow]) -> str:
    """The figure of the results that differ by their scales alone."""
    found: dict[tuple[str, str], dict[tuple[int, ...], Result]] = {}  # [series, protocol][scales]
    for row in rows:
        result = row.result
        series = one_line(f"{result.model}, {result.runtime}, {result.pooling}")
        found.setdefault((series, one_line(result.protocol)), {}).setdefault(result.scales, result)
    several = {key: own for key, own in found.items() if len(own) > 1}
    colors = {series: place for place, series in enumerate(dict.fromkeys(series for series, _ in several))}

    # single scales first, then sets of them
    order = sorted({scales for own in several.values() for scales in own}, key=lambda scales: (len(scales), scales))
    points = []
    for key, own in several.items():
        for scales, result in own.items():
            if result.top1_error_percent is not None and result.top1_interval95_percent is not None:
                errors = result.top1_error_percent, result.top1_interval95_percent
                points.append(Point(*key, order.index(scales), *errors, color=colors[key[0]]))
    return charts.error_against_scale(points, [",".join(map(str, scales)) for scales in order]) if points else ""
