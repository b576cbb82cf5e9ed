"""What a localisation run is reported by: errors of a table of boxes, report.json, report.md, and the paper beside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from infer.data.annotations import Box, in_frame
from infer.files import replacing
from infer.spec import ModelSpec

from ..errors import RunError
from ..published.beside import is_papers_own
from ..published.papers import LOCALIZATION, LOCALIZATION_LITERATURE, PaperNet
from ..scores.metrics import ErrorRate, error_rate
from ..scores.table import OK
from .ground_truth import GroundTruth, Truth
from .metric import GUESSES, is_right
from .table import Row, read_rows

GIVEN, TOP5 = "given class", "top-5"
KIND = "localization"
"""By which report.json is known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Net:
    """A box net of a run: what it is, SCR or PCR, and its scales."""

    spec: ModelSpec
    kind: str
    scales: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.spec.name}/{','.join(map(str, self.scales))} {self.kind}"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One row, named as in report.json.

    measure: "given class", one guess of the image's own class, or "top-5", five guesses as in the challenge, whose
    classification error is that of the same images; they are those of the model `classes_of`.
    """

    nets: str
    classifier: str | None
    runtime: str
    protocol: str
    merging: str | None
    measure: str
    classes_of: str | None
    images: int
    localization_error_percent: float
    interval95_percent: tuple[float, float]
    classification_error_percent: float | None
    paper: list[dict[str, Any]]
    engine_seconds: float
    wall_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Of the images that count: how many, and how many are wrong by each measure."""

    images: int
    wrong_given: int
    wrong_top5: int
    wrong_class: int


def count(path: Path, truth: GroundTruth) -> Counts:
    """Over a table of boxes, whose rows are in the order of `truth`. An unreadable image is wrong. Raises RunError
    where no image counts."""
    images = given = top5 = unnamed = 0
    for row, true in zip(read_rows(path), truth.truths, strict=True):
        if true is None or row.label < 0:
            continue
        images += 1
        own = [] if row.given is None else [(row.given.label, _framed(row, true, row.given.box))]
        guesses = [(guess.label, _framed(row, true, guess.box)) for guess in row.guesses]
        given += not is_right(row.label, true.boxes, own)
        top5 += not is_right(row.label, true.boxes, guesses)
        unnamed += row.label not in [label for label, _ in guesses[:GUESSES]]
    if not images:
        raise RunError("no image counts: all are without a label, blacklisted or without readable boxes")
    return Counts(images, given, top5, unnamed)


def _framed(row: Row, true: Truth, box: Box) -> Box:
    return in_frame(box, row.size_px, true.size_px) if true.size_px else box


def results_of(
    counts: Counts,
    nets: Sequence[Net],
    protocol: str,
    *,
    is_ilsvrc2012_val: bool,
    classes_of: str | None,
    **described: Any,
) -> list[Result]:
    """The rows of a run; `described` has the fields of Result that are not computed here."""
    wrong = {GIVEN: counts.wrong_given, **({TOP5: counts.wrong_top5} if protocol == "dense" else {})}
    rows = []
    for measure, number in wrong.items():
        rate = error_rate(number, counts.images)
        papers = is_ilsvrc2012_val and (measure == TOP5) == (protocol == "dense")
        rows.append(
            Result(
                nets=" + ".join(map(str, nets)),
                protocol=protocol,
                measure=measure,
                classes_of=classes_of if measure == TOP5 else None,
                images=counts.images,
                localization_error_percent=rate.percent,
                interval95_percent=rate.interval95_percent,
                classification_error_percent=100 * counts.wrong_class / counts.images if measure == TOP5 else None,
                paper=beside(nets, protocol, rate) if papers else [],
                **described,
            )
        )
    return rows


def beside(nets: Sequence[Net], protocol: str, rate: ErrorRate) -> list[dict[str, Any]]:
    """The paper's rows for these nets: several where `source["fine_tuned"]` does not say which layers were trained."""
    if not all(is_papers_own(net.spec) for net in nets):
        return []
    members = sorted((PaperNet(net.spec.net, net.spec.train_short_px, net.scales) for net in nets), key=repr)
    trained = {net.spec.source.get("fine_tuned") for net in nets} - {None}
    low, high = rate.interval95_percent
    return [
        {
            "error_percent": row.error_percent,
            "test_error_percent": row.test_error_percent,
            "source": row.source,
            "label": row.label,
            "difference_percent": round(rate.percent - row.error_percent, 3),
            "inside_interval95": low <= row.error_percent <= high,
        }
        for row in LOCALIZATION
        if (row.protocol, sorted(row.members, key=repr)) == (protocol, members)
        and {net.kind for net in nets} == {row.kind}
        and trained <= {row.fine_tuned}
    ]


def write_report(
    out: Path,
    results: Sequence[Result],
    dataset: dict[str, Any],
    truth: GroundTruth,
    unreadable: dict[str, str],
    remarks: Sequence[str],
    environment: dict[str, str],
) -> str:
    """Writes report.json and report.md; returns the table as text."""
    content = {
        "kind": KIND,
        "dataset": {
            **dataset,
            "blacklisted": truth.blacklisted,
            "broken_annotations": list(truth.broken),
            "unreadable_images": unreadable,
        },
        "results": [dataclasses.asdict(result) for result in results],
        "remarks": list(remarks),
        "environment": environment,
    }
    with replacing(out / "report.json") as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
    table = format_table(results)
    lines = [
        "# Localisation",
        "",
        f"Data set {dataset['id']}, {dataset['images']} images, {len(unreadable)} unreadable or out of range (counted "
        f"wrong); {truth.blacklisted} blacklisted and {len(truth.broken)} with broken annotations are left out. Errors "
        "in percent with 95 % intervals (Wilson), by the ILSVRC devkit's rules.",
        "",
        table,
        "",
        *(f"Remark: {remark}\n" for remark in remarks),
        *(f"- {status if status.startswith(name) else f'{name}: {status}'}" for name, status in unreadable.items()),
        *(f"- {said}" for said in truth.broken),
        "",
        "## The paper: VGG's Tables 8 to 10",
        "",
        format_paper(results),
        "",
        f"Command: `{environment['command']}`, commit {environment['commit']}.",
    ]
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    return table


def unreadable_images(path: Path) -> dict[str, str]:
    return {row.image: row.status for row in read_rows(path) if row.status != OK}


def format_table(results: Sequence[Result]) -> str:
    """The results as a Markdown table that also reads well on a terminal."""
    rows = [
        {
            "box nets": r.nets,
            "classifier": r.classifier or "-",
            "runtime": r.runtime,
            "protocol": r.protocol,
            "merging": r.merging or "-",
            "images": r.images,
            "classes": r.measure if r.classes_of is None else f"{r.measure} of {r.classes_of}",
            "localisation error %": _error(r),
            "classification error %": _number(r.classification_error_percent),
            "paper: ours - paper": "; ".join(_say(row) for row in r.paper) or "-",
        }
        for r in results
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe")


def format_paper(results: Sequence[Result]) -> str:
    """Every row of the paper's tables with our results that may stand beside it."""
    rows = [
        {
            "source": row.source,
            "result": row.label,
            "val %": _number(row.error_percent, 1),
            "test %": _number(row.test_error_percent, 1),
            "ours": "; ".join(_error(r) for r in results if row.label in [one["label"] for one in r.paper]) or "-",
        }
        for row in LOCALIZATION
    ]
    rows += [
        {
            "source": row.source,
            "result": row.method,
            "val %": _number(row.error_percent, 1),
            "test %": _number(row.test_error_percent, 1),
            "ours": "-",
        }
        for row in LOCALIZATION_LITERATURE
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe")


def _say(row: dict[str, Any]) -> str:
    inside = "inside" if row["inside_interval95"] else "outside"
    return f"{row['error_percent']} ({row['source']}, {row['label']}): {row['difference_percent']:+.2f}, {inside}"


def _error(result: Result) -> str:
    low, high = result.interval95_percent
    return f"{result.localization_error_percent:.2f} [{low:.1f}, {high:.1f}]"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
