"""report.html: one page that holds all it shows, made from what runs left in their OUT folders and from nothing else.

One run is shown in detail; several are compared.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from infer.files import replacing

from ..errors import ReportError, ScoresError
from ..scores.metrics import BINS, ErrorRate, McNemar, agreement_percent, details, mcnemar
from ..scores.table import check_same_images
from . import charts
from .charts import Point
from .mistakes import ShownMistake, read_mistakes
from .results import Report, Result, say_paper

WORST = 20
"""Classes that are listed at once; the others unfold."""
CONFUSED = 12
"""Classes of the confusion's figure."""
LISTED = 8
"""Worst classes and pairs of the tables that are not shown in detail."""
NAMED = 500
"""Images that could not be scored."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tables of the same images, beside each other: percents and largest difference over those scored by both."""

    one: Result
    other: Result
    images: int
    top1_agreement_percent: float
    largest_posterior_difference: float
    top1: McNemar
    top5: McNemar
    same_pixels: int | None  # None: the views differ


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the results' table. `first`: the result of the first run that it is compared with."""

    run: str
    dataset_id: str
    result: Result
    engine_ms: float | None
    first: Result | None
    pair: Pair | None


@dataclass(frozen=True, slots=True)
class ClassRow:
    name: str
    images: int
    rate: ErrorRate


@dataclass(frozen=True, slots=True)
class Detail:
    """A score table beyond its errors. Figures are of the one table that is shown in full."""

    result: Result
    labelled: int
    unanswered: int
    calibration_error_percent: float | None
    classes: tuple[ClassRow, ...]  # the worst first
    confused: tuple[tuple[str, str, int], ...]
    mistakes: tuple[ShownMistake, ...]
    reliability: str = ""
    confusion: str = ""


def write_html(reports: Sequence[Report], path: Path) -> None:
    """One run in detail, or several compared. Raises ReportError and ScoresError."""
    template = _environment().get_template("page.html.jinja")
    names = run_names([report.out for report in reports])
    rows = list(_rows(reports, names))
    comparable = [row for row in rows if row.dataset_id == reports[0].dataset_id]
    labelled = [row for row in comparable if row.result.top1_error_percent is not None]
    page = template.render(
        reports=reports,
        runs=names,
        rows=rows,
        best=min(labelled, key=_top1, default=None) if len(comparable) == len(rows) else None,
        time=_time_figure(comparable, several=len(reports) > 1),
        scale=_scale_figure(comparable),
        details=_details(reports[0]) if len(reports) == 1 else [],
        pairs=list(_precisions(reports)),
        class_names={name: words for report in reports for name, words in report.class_names.items()},
        same_data=len(comparable) == len(rows),
        whisker_most=_axis_end(rows),
        BINS=BINS,
        WORST=WORST,
        LISTED=LISTED,
        NAMED=NAMED,
    )
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "say_paper": say_paper,
        "say_scales": _say_scales,
        "three_digits": _three_digits,
        "first_word": first_word,
    }
    return environment


def _say_scales(scales: Sequence[int]) -> str:
    return ", ".join(map(str, scales))


def _three_digits(value: float) -> str:
    """0.943, 17.0, 141, 2630: three that count, but no fewer than there are before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _top1(row: Row) -> float:
    assert row.result.top1_error_percent is not None
    return row.result.top1_error_percent


def run_names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders of runs apart: their paths without the folders that all are in."""
    levels = zip(*(folder.parts[:-1] for folder in folders), strict=False)
    common = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    return [str(Path(*folder.parts[common:])) for folder in folders]


def _axis_end(rows: Sequence[Row]) -> float:
    """A round number that no interval of top-1 errors passes; 0 without labels."""
    highs = [row.result.top1_interval95_percent[1] for row in rows if row.result.top1_interval95_percent is not None]
    most = max(highs, default=0.0)
    return next((end for end in (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80) if most <= end), 100) if most else 0


def _rows(reports: Sequence[Report], names: Sequence[str]) -> Iterator[Row]:
    first = reports[0]
    for report, name in zip(reports, names, strict=True):
        for result in report.results:
            same: Result | None = None
            if report is not first and report.dataset_id == first.dataset_id:
                alike = [one for one in first.results if one.views == result.views]
                same = next((one for one in alike if one.runtime == result.runtime), alike[0] if alike else None)
            pair = compare_tables(first, same, report, result) if same else None
            yield Row(name, report.dataset_id, result, report.engine_ms_per_image(result), same, pair)


def _precisions(reports: Sequence[Report]) -> Iterator[Pair]:
    """Results that differ by FP32 and FP16 alone, in one run or in two."""
    every = [(report, result) for report in reports for result in report.results]
    for one, single in every:
        for other, half in every:
            alike = one.dataset_id == other.dataset_id and single.views == half.views
            runtimes = [result.runtime.rpartition("-") for result in (single, half)]
            if alike and runtimes[0][0] == runtimes[1][0] and [r[2] for r in runtimes] == ["fp32", "fp16"]:
                pair = compare_tables(one, single, other, half)
                if pair:
                    yield pair


def compare_tables(of_one: Report, one: Result, of_other: Report, other: Result) -> Pair | None:
    """None where one is a fusion, or no image was scored by both. Holds a part of each. Raises ScoresError."""
    paths = of_one.table(one), of_other.table(other)
    if paths[0] is None or paths[1] is None:
        return None
    both = same_pixels = 0
    agreeing = largest = 0.0
    only = np.zeros((2, 2), np.int64)  # [top-1, top-5][only one is wrong, only the other]
    comparable = True
    for a, b in itertools.zip_longest(of_one.parts(paths[0]), of_other.parts(paths[1])):
        if a is None or b is None:
            raise ScoresError(f"{paths[b is None]} has fewer images than {paths[a is None]}: run the evaluation again")
        check_same_images(a, b)
        tests = [mcnemar(a, b, k) for k in (1, 5)]
        only += [[test.only_first_wrong, test.only_second_wrong] for test in tests]
        seen = a.readable & b.readable
        if seen.any():
            both += int(seen.sum())
            agreeing += agreement_percent(a, b, 1) * int(seen.sum())
            largest = max(largest, float(np.abs(a.posterior[seen] - b.posterior[seen]).max()))
            pixels = np.array(a.pixel_digests)[seen], np.array(b.pixel_digests)[seen]
            comparable &= bool((pixels[0] != "").all() and (pixels[1] != "").all())
            same_pixels += int((pixels[0] == pixels[1]).sum())
    if not both:
        return None
    top1, top5 = (McNemar(int(counts[0]), int(counts[1])) for counts in only)
    return Pair(one, other, both, agreeing / both, largest, top1, top5, same_pixels if comparable else None)


def _details(report: Report) -> list[Detail]:
    """Of every table that was kept; the one with the lowest top-1 error first, with figures."""
    kept = [(result, path) for result in report.results if (path := report.table(result)) is not None]
    kept = [(result, path) for result, path in kept if result.top1_error_percent is not None]
    kept.sort(key=lambda each: each[0].top1_error_percent or 0)  # a stable sort: of equal ones the first
    mistakes = read_mistakes(report.out)
    return [_detail(report, result, path, mistakes, full=not place) for place, (result, path) in enumerate(kept)]


def _detail(report: Report, result: Result, path: Path, mistakes: Sequence[ShownMistake], *, full: bool) -> Detail:
    found = details(report.parts(path))
    labelled = int(found.class_images.sum())
    percent = 100 * (labelled - int(found.confusion.trace())) / labelled if labelled else None
    if percent is None or abs(percent - (result.top1_error_percent or 0)) > 1e-6:
        raise ReportError(
            f"{path}: its top-1 error is {percent} %, but report.json has {result.top1_error_percent} %: "
            "run the evaluation again"
        )
    images = dict(zip(found.classes, found.class_images.tolist(), strict=True))
    classes = [ClassRow(name, images[name], rate) for name, rate in found.class_errors().items()]
    chosen: dict[str, None] = {}
    for true, answer, _ in found.most_confused(CONFUSED * CONFUSED):
        chosen |= dict.fromkeys((true, answer)) if len(chosen | {true: None, answer: None}) <= CONFUSED else {}
    places = sorted(found.classes.index(name) for name in chosen)
    short = [first_word(report.class_names, found.classes[place]) for place in places]
    names = [name if short.count(name) == 1 else found.classes[p] for name, p in zip(short, places, strict=True)]
    calibration = found.expected_calibration_error_percent
    return Detail(
        result,
        labelled,
        int(found.unanswered.sum()),
        calibration,
        tuple(sorted(classes, key=lambda row: (-row.rate.percent, -row.images, row.name))),
        tuple(found.most_confused(LISTED)),
        tuple(each for each in mistakes if (*each.views_of, each.runtime) == (*result.views, result.runtime)),
        charts.reliability(found) if full and calibration is not None else "",
        charts.confusion(names, found.confusion[np.ix_(places, places)]) if full and places else "",
    )


def first_word(names: Mapping[str, str], name: str) -> str:
    """Of a class, the first of its synonyms; the id where it has no words."""
    return names.get(name, name).split(",")[0]


def _time_figure(rows: Sequence[Row], *, several: bool) -> str:
    points = []
    for row in rows:
        result, ms = row.result, row.engine_ms
        if ms and result.top1_error_percent is not None and result.top1_interval95_percent is not None:
            series = f"{row.run}: " * several + f"{result.model}, {result.runtime}"
            errors = result.top1_error_percent, result.top1_interval95_percent
            points.append(Point(series, result.protocol, ms, *errors, result.runtime.endswith("-fp16")))
    return charts.error_against_time(points) if points else ""


def _scale_figure(rows: Sequence[Row]) -> str:
    """Of the results that differ by their scales alone."""
    found: dict[tuple[str, str], dict[tuple[int, ...], Result]] = {}
    for row in rows:
        result = row.result
        series = f"{result.model}, {result.runtime}, {result.pooling}"
        found.setdefault((series, result.protocol), {}).setdefault(tuple(result.scales), result)
    several = {key: own for key, own in found.items() if len(own) > 1}
    order = sorted({scales for own in several.values() for scales in own}, key=lambda scales: (len(scales), scales))
    points = [
        Point(*key, order.index(scales), result.top1_error_percent, result.top1_interval95_percent)
        for key, own in several.items()
        for scales, result in own.items()
        if result.top1_error_percent is not None and result.top1_interval95_percent is not None
    ]
    return charts.error_against_scale(points, [",".join(map(str, scales)) for scales in order]) if points else ""
