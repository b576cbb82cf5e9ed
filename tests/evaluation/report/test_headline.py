"""What a page says first, and of which results: by rule, whatever their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_runs import Page, scores_of, write_run

from evaluation.report.__main__ import main
from evaluation.report.headline import headline
from evaluation.report.page import write_html
from evaluation.report.results import read_run
from evaluation.scores.comparison import compare
from evaluation.scores.paired import pair_scores, say_verdict
from evaluation.scores.table import Scores, write

DENSE = {"protocol": "dense", "scales": "72,96,120"}


def page_of(out: Path, members: list[Scores], **options: bool) -> Page:
    write_run(out, members, **options)  # type: ignore[arg-type]
    return Page(out / "report.html")


def test_without_a_question_it_is_the_first_model_by_its_most_thorough_protocol(tmp_path: Path) -> None:
    """The second model errs less, and the first errs less by another protocol."""
    first, luckier = scores_of(right=0.6, **DENSE), scores_of(right=0.9, seed=1)
    page = page_of(tmp_path, [luckier, first, scores_of("two", right=0.95, seed=2, **DENSE)])
    (low, high), percent = json_of(tmp_path)[1]["top1_interval95_percent"], json_of(tmp_path)[1]["top1_error_percent"]
    said = f"one errs on {percent:.2f} % [{low:.1f}, {high:.1f}] of 120 images (top-1, dense on torch-fp32)"
    assert said in page.text[""] and page.text[""].startswith("one, two on 120 images")
    assert page.text["detail"].startswith("In detail one, torch-fp32, dense at Q = 72, 96, 120.")


def json_of(out: Path) -> list[dict[str, object]]:
    results: list[dict[str, object]] = json.loads((out / "report.json").read_text())["results"]
    return results


def test_a_fusion_goes_before_its_members(tmp_path: Path) -> None:
    page = page_of(tmp_path, [scores_of(), scores_of("two", seed=1)], fused=True)
    assert "fused errs on" in page.text[""] and "The most thorough protocol of the fusion" in page.text[""]


def test_of_two_precisions_it_says_what_half_costs(tmp_path: Path) -> None:
    single, half = scores_of(**DENSE), scores_of(seed=4, right=0.4, runtime="torch-fp16", **DENSE)
    page = page_of(tmp_path, [scores_of(), scores_of(runtime="torch-fp16"), single, half])
    counts = pair_scores(single, half, 1)
    assert f"FP16 against FP32, one by dense: {say_verdict(counts, counts.p, 'FP32', 'FP16')}." in page.text[""]


def test_a_table_that_may_be_unrounded_says_nothing_of_half_precision(tmp_path: Path) -> None:
    """An FP16 ONNX model's table of an earlier version: it has no arithmetic."""
    runtimes = ("onnxruntime-fp32", "onnxruntime-fp16")
    page = page_of(tmp_path, [scores_of(runtime=runtime) for runtime in runtimes])
    assert "precision" not in page.text and "FP16 against FP32" not in page.text[""]
    assert "Not rounded. FP16 tables of one were made by an earlier version" in page.text[""]

    rounded = {"runtime": "onnxruntime-fp16", "arithmetic": "fp16, rounded by one.check.onnx"}
    page = page_of(tmp_path / "now", [scores_of(runtime="onnxruntime-fp32"), scores_of(**rounded)])
    assert "precision" in page.text and "Not rounded" not in page.text[""]


@pytest.mark.parametrize("right", [0.72, 0.95])
def test_with_a_baseline_it_is_the_verdict_on_that(right: float, tmp_path: Path) -> None:
    """And the images that changed are those of evaluation.compare, with both answers and the thumbnails there are."""
    base = [scores_of(), scores_of(**DENSE)]
    other = [scores_of("two", right=right, seed=5), scores_of("two", right=right, seed=6, **DENSE)]
    write_run(tmp_path, [*base, *other], mistakes=120)
    assert main([str(tmp_path), "--baseline", "one"]) == 0
    page = Page(tmp_path / "report.html")
    found = compare([base[1]], [other[1]])
    low, high = found.top1_pairs.interval95_percent
    assert "two against one by dense: " in page.text[""] and "adjusted for 2 pairs." in page.text[""]
    errs_less = f"two errs less: {found.top1_pairs.difference_percent:+.1f} points [{low:+.1f}, {high:+.1f}]"
    assert (errs_less in page.text[""]) == (right == 0.95)
    assert ("no difference shown; one above" in page.text[""]) == (right == 0.72)

    text = page.text["changed"]
    assert (
        f"right where that is wrong on {len(found.gained)} images, wrong where that is right on {len(found.lost)}"
        in text
    )
    shown = {word for word in text.split() if word.endswith(".jpg")}
    assert shown <= {*found.gained, *found.lost} and len(shown) == min(12, len(found.gained)) + min(12, len(found.lost))
    assert page.tags.count("img") == len(shown)


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert headline([], [], baseline=None) is None
    labels = np.full(120, -1, np.int32)
    unlabelled = scores_of()
    unlabelled = Scores(
        *(unlabelled.images, labels, unlabelled.statuses), *(("",) * 120, unlabelled.posterior), {**unlabelled.metadata}
    )
    write_run(tmp_path, [unlabelled], mistakes=0)
    assert "errs" not in Page(tmp_path / "report.html").text[""]
    write([unlabelled], tmp_path / "scores" / "again.parquet")
    assert write_html([read_run(tmp_path)], tmp_path / "again.html") == []
