"""The report of a finished run of SVMs on features: a table to read, and the files that VOC's server takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from infer.errors import one_line
from infer.files import replacing

from ..text import cell
from .table import FeatureError, Table

COMPETITION = {"voc2007": ("cls", 2), "voc2012": ("cls", 2), "voc": ("cls", 2), "voc-action": ("action", 10)}
"""VOC's task, and its competition for methods that learnt from other data too."""


def write_submission(table: Table, places: NDArray[np.intp], scores: NDArray[np.float64], folder: Path) -> None:
    """Writes `comp2_cls_test_CLASS.txt`, or comp10_action's, of the test images at `places`; scores f64 [N, classes].

    One of -inf (no features) is written as 1 below the lowest of its file: the server asks for numbers.
    """
    task, number = COMPETITION[table.kind]
    odd = next((name for name in table.classes if Path(name).name != name), None)
    if odd is not None:
        raise FeatureError(f"a class called {odd!r}, expected names that can be part of a file's")
    names = [Path(table.images[place]).stem if task == "cls" else table.images[place] for place in places]
    for name, exact in zip(table.classes, scores.T, strict=True):
        known = np.isfinite(exact)
        column = np.where(known, exact, exact[known].min() - 1 if known.any() else 0)
        with replacing(folder / f"comp{number}_{task}_test_{name}.txt") as unfinished:
            lines = (f"{one.replace('/', ' ')} {score:.6f}\n" for one, score in zip(names, column, strict=True))
            unfinished.write_text("".join(lines))


def as_text(report: dict[str, Any]) -> str:
    """Writes a table with the paper's rows for the same data set below ours, and the conditions of ours."""
    first = report["tables"][0]
    conditions = f"{first['combine']} over Q = {first['scales']}, {first['regions']}, data set {first['dataset_id']}"
    ours = cell(" + ".join(report["models"]))

    # our rows, by one of three measures
    if "splits" in report:
        value = f"{report['mean_class_recall_percent']:.2f} +- {report['std_percent']:.2f}"
        lines, measure = [[ours, value, "here"]], "mean class recall %"
        chosen = ", ".join(f"{split['c']:g}" for split in report["splits"])
        tested = f"{len(report['splits'])} random splits, {report['train_images_per_class']} images of a class train"
    else:
        chosen = f"{report['c']:g}"
        tested = f"{report['train_images']} images train, {report['test_images']} of {report['tested']} test"
        if "top1_error_percent" in report:
            low, high = report["top1_interval95_percent"]
            measure = "top-1 error %"
            lines = [[ours, f"{report['top1_error_percent']:.2f} [{low:.1f}, {high:.1f}]", "here"]]
        else:
            measure, lines = "mAP %", []
            for convention in ("11-point", "all-point"):
                percent = report[f"map_{convention}_percent".replace("-", "_")]
                lines.append([f"{ours}, {convention} ({report['tested']})", f"{percent:.2f}", "here"])

    # the paper's
    for row in report["paper"]:
        std = "" if row["std_percent"] is None else f" +- {row['std_percent']}"
        of_test = " (test)" if report.get("tested") == "val" else ""
        lines.append([f"{row['method']}{of_test}", f"{row['percent']}{std}", row["source"]])

    table = tabulate(lines, [cell(report["kind"]), measure, "source"], tablefmt="pipe", disable_numparse=True)
    return f"{table}\n\n{one_line(conditions)}; {tested}; C = {chosen}{_remarks(report)}"


def remarks_on_c(fits: Sequence[dict[str, Any]]) -> list[str]:
    """Says what one should know of how the SVMs were trained, a line each."""
    said = []
    grid = [float(c) for c in fits[0]["held_out_percent"]]
    edge = [fit["c"] for fit in fits if grid and fit["c"] in (min(grid), max(grid))]
    if edge:
        said.append(f"C = {edge[0]:g} is at the end of what was tried: try others by --c")
    if any("unconverged_classes" in fit for fit in fits):
        said.append("the solver gave up for some classes: try smaller C by --c")
    return said


def _remarks(report: dict[str, Any]) -> str:
    """Says what one should know before believing the numbers, a line each."""
    said = remarks_on_c(report.get("splits", [report]))

    precisions = report.get("ap_all_point_percent", {})
    absent = [name for name, value in precisions.items() if value is None]
    if absent:
        said.append(
            f"no image that is tested has {', '.join(absent)}: without AP, {len(absent)} of {len(precisions)} classes "
            "are not in the mAP"
        )

    if report["paper_not_shown"]:
        said.append(report["paper_not_shown"])
    if report["without_features"]:
        said.append(f"{len(report['without_features'])} images have no features: they train nothing and count as wrong")
    return "".join(f"\n{one_line(one)}" for one in said)
