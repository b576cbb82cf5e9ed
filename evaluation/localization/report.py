"""The report of a localisation run: errors of a table of boxes, report.json, report.md, and the paper beside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from infer.data.annotations import Box, in_frame
from infer.files import replacing

from ..errors import RunError
from ..published.papers import LOCALIZATION, LOCALIZATION_LITERATURE, PaperNet, difference, is_papers_own
from ..scores.metrics import ErrorRate, error_rate
from ..scores.table import OK, OUT_OF_RANGE
from ..text import cell, code
from .find_boxes import ScaledNet
from .ground_truth import GUESSES, GroundTruth, Truth, is_right
from .table import KIND, LocatedImage, read_located

Nets = Sequence[ScaledNet]
GIVEN, TOP5 = "given class", "top-5"


@dataclasses.dataclass(frozen=True, slots=True)
class LocalizationResult:
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


Results = Sequence[LocalizationResult]


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of the images that count: all, and those that are wrong by each measure."""

    images: int
    wrong_given: int
    wrong_top5: int
    wrong_class: int


def count(path: Path, truth: GroundTruth) -> Counts:
    """Counts what is wrong in a table of boxes, whose rows are in the order of `truth`. An unreadable image is wrong.

    Raises RunError where no image counts, or none of them was seen by the nets.
    """
    images = given = top5 = unnamed = seen = beyond = 0
    for found, true in zip(read_located(path), truth.truths, strict=True):
        if true is None or found.label < 0:
            continue
        images += 1
        seen += found.status == OK
        beyond += found.status == OUT_OF_RANGE
        own = [] if found.given is None else [(found.given.label, _framed(found, true, found.given.box))]
        guesses = [(guess.label, _framed(found, true, guess.box)) for guess in found.guesses]

        given += not is_right(found.label, true.boxes, own)
        top5 += not is_right(found.label, true.boxes, guesses)
        unnamed += found.label not in [label for label, _ in guesses[:GUESSES]]

    if not images:
        raise RunError("no image counts: all are without a label, blacklisted or without readable boxes")
    if beyond and not seen:
        raise RunError(f"{beyond} of {images} images are beyond the engines' range, none was seen: there is no result")
    return Counts(images, given, top5, unnamed)


def _framed(found: LocatedImage, true: Truth, box: Box) -> Box:
    """Returns a box in the frame of the XML, which need not be the image's size."""
    return in_frame(box, found.size_px, true.size_px) if true.size_px else box


def results_of(
    counts: Counts, nets: Nets, protocol: str, *, is_ilsvrc2012_val: bool, classes_of: str | None, **described: Any
) -> list[LocalizationResult]:
    """Makes the rows of a run; `described` has the fields of LocalizationResult that are not computed here."""
    wrong = {GIVEN: counts.wrong_given, **({TOP5: counts.wrong_top5} if protocol == "dense" else {})}
    rows = []
    for measure, number in wrong.items():
        rate = error_rate(number, counts.images)
        of_guesses = measure == TOP5
        papers = is_ilsvrc2012_val and of_guesses == (protocol == "dense")
        rows.append(
            LocalizationResult(
                nets=" + ".join(map(str, nets)),
                protocol=protocol,
                measure=measure,
                classes_of=classes_of if of_guesses else None,
                images=counts.images,
                localization_error_percent=rate.percent,
                interval95_percent=rate.interval95_percent,
                classification_error_percent=100 * counts.wrong_class / counts.images if of_guesses else None,
                paper=beside(nets, protocol, rate) if papers else [],
                **described,
            )
        )
    return rows


def beside(nets: Nets, protocol: str, rate: ErrorRate) -> list[dict[str, Any]]:
    """Finds the paper's rows for these nets: several where `source["fine_tuned"]` does not say what was trained."""
    if not all(is_papers_own(net.spec) for net in nets):
        return []

    members = sorted((PaperNet(net.spec.net, net.spec.train_short_px, net.scales) for net in nets), key=repr)
    trained = {net.spec.source.get("fine_tuned") for net in nets} - {None}
    kinds = {net.kind for net in nets}

    found = []
    for row in LOCALIZATION:
        same_nets = (row.protocol, sorted(row.members, key=repr)) == (protocol, members)
        if same_nets and kinds == {row.kind} and trained <= {row.fine_tuned}:
            said = {name: getattr(row, name) for name in ("error_percent", "test_error_percent", "source", "label")}
            apart, inside = difference(rate.percent, rate.interval95_percent, row.error_percent)
            found.append({**said, "difference_percent": apart, "inside_interval95": inside})
    return found


def write_report(
    out: Path, results: Results, dataset: dict[str, Any], remarks: Sequence[str], environment: dict[str, str]
) -> str:
    """Writes report.json and report.md; returns the table as text."""
    content = {
        "kind": KIND,
        "dataset": dataset,
        "results": [dataclasses.asdict(result) for result in results],
        "remarks": list(remarks),
        "environment": environment,
    }
    with replacing(out / "report.json") as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")

    table, unreadable, broken = format_table(results), dataset["unreadable_images"], dataset["broken_annotations"]
    lines = [
        "# Localisation",
        "",
        f"Data set {dataset['id']}, {dataset['images']} images, {len(unreadable)} unreadable or out of range (counted "
        f"wrong); {dataset['blacklisted']} blacklisted and {len(broken)} with broken annotations are left out. Errors "
        "in percent with 95 % intervals (Wilson), by the ILSVRC devkit's rules.",
        "",
        table,
        "",
        *(f"Remark: {cell(remark)}\n" for remark in remarks),
        *(f"- {cell(said if said.startswith(name) else f'{name}: {said}')}" for name, said in unreadable.items()),
        *(f"- {cell(said)}" for said in broken),
        "",
        "## The paper: VGG's Tables 8 to 10",
        "",
        format_paper(results),
        "",
        f"Command: {code(environment['command'])}, commit {cell(environment['commit'])}.",
    ]
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    return table


def unreadable_images(path: Path) -> dict[str, str]:
    return {found.image: found.status for found in read_located(path) if found.status != OK}


def format_table(results: Results) -> str:
    """Writes the results as a Markdown table that also reads well on a terminal."""
    rows = []
    for result in results:
        of_model = "" if result.classes_of is None else f" of {result.classes_of}"
        rows.append(
            {
                "box nets": cell(result.nets),
                "classifier": cell(result.classifier or "-"),
                "runtime": cell(result.runtime),
                "protocol": result.protocol,
                "merging": result.merging or "-",
                "images": result.images,
                "classes": cell(f"{result.measure}{of_model}"),
                "localisation error %": _error(result),
                "classification error %": _number(result.classification_error_percent),
                "paper: ours - paper": "; ".join(map(_say, result.paper)) or "-",
            }
        )
    return tabulate(rows, headers="keys", tablefmt="pipe")


def format_paper(results: Results) -> str:
    """Writes every row of the paper's tables with our results that may stand beside it."""
    rows = []
    for row in (*LOCALIZATION, *LOCALIZATION_LITERATURE):
        ours = [_error(result) for result in results if row.label in [one["label"] for one in result.paper]]
        percents = _number(row.error_percent, 1), _number(row.test_error_percent, 1)
        rows.append([row.source, row.label, *percents, "; ".join(ours) or "-"])
    return tabulate(rows, headers=["source", "result", "val %", "test %", "ours"], tablefmt="pipe")


def _say(row: dict[str, Any]) -> str:
    inside = "inside" if row["inside_interval95"] else "outside"
    return f"{row['error_percent']} ({row['source']}, {row['label']}): {row['difference_percent']:+.2f}, {inside}"


def _error(result: LocalizationResult) -> str:
    low, high = result.interval95_percent
    return f"{result.localization_error_percent:.2f} [{low:.1f}, {high:.1f}]"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
