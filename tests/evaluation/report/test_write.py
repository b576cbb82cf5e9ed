"""Measures of each class and of calibration in every file of a run; what a report of an earlier version lacks."""

from __future__ import annotations

import csv
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_scores
from report_runs import Page, scores_of, write_run
from sklearn.metrics import f1_score

from evaluation.report.__main__ import main
from evaluation.report.results import SCHEMA_VERSION, read_run
from evaluation.scores.metrics import details
from evaluation.scores.table import Scores


def never_c() -> Scores:
    """Class c has images and is never predicted."""
    scores = scores_of("blind", images=90, engine_sha256="ab" * 32)
    posterior = scores.posterior.copy()
    posterior[:, 2] = 0
    return make_scores(posterior, scores.labels, model="blind", engine_sha256="ab" * 32)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measures")
    names = ("ant, emmet", *(f"word {i}" for i in range(1, 10)))
    write_run(folder, [never_c(), scores_of("two", images=90, seed=1)], names=names, fused=True, mistakes=0)
    return folder


def report_of(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def test_report_json_has_version_date_digests_and_measures(out: Path) -> None:
    report = report_of(out)
    assert report["schema_version"] == SCHEMA_VERSION == 2
    date = datetime.fromisoformat(report["date"])
    assert date.utcoffset() == timedelta(0) and abs(datetime.now(timezone.utc) - date) < timedelta(hours=1)

    one, two, fused = report["results"]
    assert [row["engine_sha256"] for row in (one, two)] == ["ab" * 32, "00"]
    assert fused["engine_sha256"] == "ab" * 32 + "+00"
    found = details([never_c()])
    assert one["expected_calibration_error_percent"] == pytest.approx(found.expected_calibration_error_percent)
    assert one["brier_score"] == pytest.approx(found.brier_score)
    assert (one["class_count"], len(one["classes"]), len(fused["classes"])) == (10, 10, 10)
    f1 = f1_score(never_c().labels, never_c().posterior.argmax(1), average=None)
    assert [row["f1_percent"] for row in one["classes"]] == pytest.approx((100 * f1).tolist())
    assert one["classes"][2]["precision_percent"] is None and one["class_averages"]["never_predicted"] == 1


def test_classes_csv_has_no_formula(tmp_path: Path) -> None:
    write_run(tmp_path, [scores_of("=1+1")], mistakes=0, names=["@SUM(A1)", *"bcdefghij"])
    with (tmp_path / "classes.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["model"], first["words"]) == ("'=1+1", "'@SUM(A1)")


def test_classes_csv_has_a_line_for_each_class_of_each_result(out: Path) -> None:
    with (out / "classes.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [(result, row) for result in report_of(out)["results"] for row in result["classes"]]
    assert len(lines) == len(rows) == 30
    for line, (result, row) in zip(lines, rows, strict=True):
        assert (line["model"], line["class"], int(line["support"])) == (result["model"], row["name"], row["support"])
        precision = row["precision_percent"]
        assert line["precision_percent"] == ("" if precision is None else f"{precision:.4f}")
        assert (line["remark"] == "never predicted") == (row["predicted"] == 0)
    assert lines[0]["words"] == "ant, emmet"


def test_report_md_and_the_page_say_it(out: Path) -> None:
    averages = report_of(out)["results"][0]["class_averages"]
    text = (out / "report.md").read_text().split("## By class")[1]
    assert f"{averages['macro_precision_percent']:.1f} / {averages['macro_recall_percent']:.1f}" in text
    assert "blind, center at 88 on torch-fp32: 1 class that has images is never predicted (c)." in text

    page = Page(out / "report.html")
    sections = page.text["detail"] + page.text["others"]
    assert f"balanced accuracy {averages['balanced_accuracy_percent']:.1f} %" in sections
    assert "1 class is never predicted, which counts as a precision of 0: word 2 c ." in sections
    cells = [row for tables in (page.tables["detail"], page.tables["others"]) for table in tables for row in table]
    assert [row[4] for row in cells if row[0] == "word 2 c" and row[4] == "never predicted"] == ["never predicted"]


def test_top5_is_shown_where_there_are_more_than_five_classes(tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    for classes in (5, 6):
        folder = tmp_path / str(classes)
        members = [
            make_scores(chance.dirichlet(np.ones(classes), 40), np.arange(40) % classes, model=name)
            for name in ("one", "two")
        ]
        report = write_run(folder, members, mistakes=0)
        assert "top5_error_percent" in report["results"][0] and "top5_holm_p" in report["pairs"][0]
        # report.html's words and tables alike
        shown = (folder / "report.html").read_text() + (folder / "report.md").read_text()
        assert ("top-5" in shown) == (classes > 5)


def test_a_report_of_an_earlier_version_is_read_and_one_of_a_later_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_run(tmp_path, [scores_of()], mistakes=0)
    new = (
        "engine_sha256",
        "class_count",
        "expected_calibration_error_percent",
        "brier_score",
        "class_averages",
        "classes",
    )
    old = {key: value for key, value in report.items() if key not in ("schema_version", "date")}
    old["results"] = [{key: value for key, value in row.items() if key not in new} for row in report["results"]]
    (tmp_path / "report.json").write_text(json.dumps(old))
    assert (read_run(tmp_path).report.schema_version, read_run(tmp_path).report.date) == (1, None)
    assert main([str(tmp_path)]) == 0
    assert "top-5" in (tmp_path / "report.html").read_text()

    (tmp_path / "report.json").write_text(json.dumps({**report, "schema_version": 3}))
    assert main([str(tmp_path)]) == 1
    assert "schema_version" in capsys.readouterr().err
