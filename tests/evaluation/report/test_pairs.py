"""evaluation/report/pairs.py, and what report.json, report.md and the page say of pairs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_scores
from report_runs import Page, scores_of, write_run

from evaluation.report import page as page_module
from evaluation.report import write as write_module
from evaluation.report.__main__ import main
from evaluation.report.pairs import Pair, by_p, pairs_by_runtime, pairs_with_baseline
from evaluation.report.results import read_run
from evaluation.scores.paired import WrongAnswers, holm, pair_scores, say_p
from evaluation.scores.table import UNKNOWN_LABEL, Scores

OneLine = Callable[[], str]


def wrong_of(scores: Scores) -> WrongAnswers:
    found = WrongAnswers()
    found.add(scores)
    return found


def on_half(scores: Scores) -> Scores:
    return dataclasses.replace(scores, metadata={**scores.metadata, "runtime": "torch-fp16"})


def unlabelled(scores: Scores) -> Scores:
    return dataclasses.replace(scores, labels=np.full(len(scores.images), UNKNOWN_LABEL, np.int32))


ONE, TWO, THREE = scores_of(), scores_of("two", right=0.9, seed=5), scores_of("three", right=0.72, seed=6)
ONE_AGAIN = scores_of("one again")
DENSE = scores_of(seed=8, protocol="dense")


def places(pairs: list[Pair]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in pairs]


def test_a_family_for_each_runtime() -> None:
    """Fusions, other images and tables without labels are in no pair."""
    elsewhere = scores_of("two", dataset_id="fedcba9876543210")
    members = [ONE, on_half(ONE), TWO, elsewhere, on_half(TWO), THREE, unlabelled(THREE), unlabelled(TWO)]
    tables = [None, *map(wrong_of, members)]
    pairs = pairs_by_runtime(tables)
    assert places(pairs) == [(1, 3), (1, 6), (3, 6), (2, 5)]
    three, single = pairs[:3], pairs[3]
    for k, name in ((1, "top1"), (5, "top5")):
        p_values = [pair_scores(*both, k).p for both in ((ONE, TWO), (ONE, THREE), (TWO, THREE))]
        assert [getattr(pair, f"{name}_mcnemar_p") for pair in three] == p_values
        assert [getattr(pair, f"{name}_holm_p") for pair in three] == holm(p_values)
        assert getattr(single, f"{name}_holm_p") == getattr(single, f"{name}_mcnemar_p")  # a family of one
    expected = pair_scores(ONE, TWO, 1)
    assert (three[0].images, three[0].top1_only_wrong) == (120, (expected.only_first_wrong, expected.only_second_wrong))
    assert three[0].top1_difference_percent == expected.difference_percent
    assert three[0].top1_interval95_percent == expected.interval95_percent


def test_only_the_adjusted_p_says_differs() -> None:
    """Five images against none are p = 0.06; six p = 0.03, which is 0.09 for one of three pairs."""
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    tables = []
    for errors in (0, 6, 0):
        tables.append(wrong_of(make_scores([wrong] * errors + [right] * (100 - errors), [0] * 100)))
    two = pairs_by_runtime(tables[:2])
    assert two[0].top1_mcnemar_p == two[0].top1_holm_p == 1 / 32
    assert (two[0].differs, two[0].in_words) == (True, "A errs less")
    three = pairs_by_runtime(tables)
    assert [pair.top1_holm_p for pair in three] == [3 / 32, 1, 3 / 32]
    assert three[0].top1_interval95_percent[0] > 0  # of the pair alone
    assert {pair.in_words for pair in three} == {"no difference shown"}
    assert pairs_by_runtime(tables[1::-1])[0].in_words == "B errs less"
    assert places(by_p(three)) == [(0, 1), (1, 2), (0, 2)]


def test_a_baseline_is_paired_with_what_is_most_like_it() -> None:
    tables = [wrong_of(each) for each in (ONE, DENSE, on_half(ONE), TWO, on_half(TWO))]
    dense_two = dataclasses.replace(TWO, metadata={**TWO.metadata, "protocol": "dense", "runtime": "onnx-fp32"})
    other_views = dataclasses.replace(TWO, metadata={**TWO.metadata, "protocol": "multicrop"})
    tables += [wrong_of(dense_two), wrong_of(other_views)]
    found = pairs_with_baseline([*tables, None], {0, 1, 2})
    assert places(found) == [(0, 3), (2, 4), (1, 5), (0, 6), (1, 6)]
    assert [pair.top1_holm_p for pair in found] == holm([pair.top1_mcnemar_p for pair in found])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    write_run(folder, [ONE, TWO, THREE, on_half(ONE), DENSE], fused=True)
    return folder


def shown(pair: Any, words: str) -> list[str]:
    """What stands in a row of the page after the names."""
    low, high = pair["top1_interval95_percent"]
    low5, high5 = pair["top5_interval95_percent"]
    return [
        f"{pair['top1_difference_percent']:+.2f} [{low:+.2f}, {high:+.2f}]",
        ", ".join(map(str, pair["top1_only_wrong"])),
        *(say_p(pair[key]).removeprefix("= ") for key in ("top1_mcnemar_p", "top1_holm_p")),
        words,
        f"{pair['top5_difference_percent']:+.2f} [{low5:+.2f}, {high5:+.2f}]",
        say_p(pair["top5_holm_p"]).removeprefix("= "),
    ]


def test_the_page_has_the_pairs_of_report_json(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    pairs = sorted(report["pairs"], key=lambda pair: (pair["top1_holm_p"], pair["top1_mcnemar_p"]))
    assert len(pairs) == 6  # of four on torch-fp32; the one on torch-fp16 is alone, the fusion has no table
    page = Page(out / "report.html")
    rows = page.tables["pairs"][0][1:]
    for row, pair in zip(rows, pairs, strict=True):
        first, second = report["results"][pair["first"]], report["results"][pair["second"]]
        for cell, result in zip(row, (first, second), strict=False):
            assert cell == f"{result['model']} {result['protocol']} at 88 {result['runtime']}"
        better = "A" if first["top1_error_percent"] < second["top1_error_percent"] else "B"
        words = f"{better} errs less" if pair["top1_holm_p"] < 0.05 else "no difference shown"
        assert row[2:] == shown(pair, words)
        difference = second["top1_error_percent"] - first["top1_error_percent"]
        assert pair["top1_difference_percent"] == pytest.approx(difference)
    differing = sum(pair["top1_holm_p"] < 0.05 for pair in pairs)
    assert 0 < differing < 6
    text = page.text["pairs"]
    assert (
        f"Pairs on one runtime: {differing} of 6 differ in top-1 error (adjusted p < 0.05); of the others, no" in text
    )
    assert "where intervals overlap, no result is shown" not in (out / "report.html").read_text()


def test_report_md_has_the_pairs_of_report_json(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    text = (out / "report.md").read_text()
    assert "not by intervals that overlap" in text
    lines = [
        line for line in text.split("## Which differ")[1].split("## By class")[0].splitlines() if line.startswith("|")
    ][2:]
    assert len(lines) == len(report["pairs"]) == 6
    for pair in report["pairs"]:
        low, high = pair["top1_interval95_percent"]
        difference = rf"{pair['top1_difference_percent']:+.2f} [{low:+.2f}, {high:+.2f}]"
        p = say_p(pair["top1_holm_p"]).removeprefix("= ")
        assert any(difference in line and f"| {p} " in line for line in lines)


def test_a_report_of_an_earlier_version_is_paired_from_its_tables(out: Path) -> None:
    written = (out / "report.html").read_bytes()
    content = json.loads((out / "report.json").read_text())
    del content["pairs"]
    (out / "report.json").write_text(json.dumps(content))
    assert read_run(out).report.pairs == []
    assert main([str(out)]) == 0
    assert (out / "report.html").read_bytes() == written


def test_a_single_table_has_no_pairs(tmp_path: Path) -> None:
    assert write_run(tmp_path, [ONE])["pairs"] == []
    assert "pairs" not in Page(tmp_path / "report.html").text
    assert "Which differ" not in (tmp_path / "report.md").read_text()


def test_two_models_of_two_runs_are_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share neither name nor scales; their tables are on different runtimes."""
    other = scores_of("two", right=0.9, seed=5, scales="72,96", protocol="dense", runtime="onnx-fp32")
    write_run(tmp_path / "A", [ONE])
    write_run(tmp_path / "B", [other, scores_of("three", seed=6)])
    monkeypatch.chdir(tmp_path)
    assert main(["A", "B", "--baseline", "A"]) == 0
    page = Page(tmp_path / "comparison.html")
    rows = page.tables["pairs"][0][1:]
    pair = pair_scores(ONE, other, 1)
    low, high = pair.interval95_percent
    (row,) = [row for row in rows if row[1].startswith("two")]
    assert row[:3] == [
        "one center at 88 torch-fp32 A",
        "two dense at 72, 96 onnx-fp32 B",
        f"{pair.difference_percent:+.2f} [{low:+.2f}, {high:+.2f}]",
    ]
    assert row[6] == "B errs less"
    assert "Pairs with the baseline A:" in page.text["pairs"] and "all 2 pairs with the baseline" in page.text["pairs"]
    assert main(["A", "B", "--baseline", "two"]) == 0  # a model
    assert len(Page(tmp_path / "comparison.html").tables["pairs"][0]) == 1 + 2
    assert main(["A", "B"]) == 0  # on one runtime
    assert [row[1].split()[0] for row in Page(tmp_path / "comparison.html").tables["pairs"][0][1:]] == ["three"]


def test_a_baseline_that_is_none(out: Path, tmp_path: Path, one_line: OneLine) -> None:
    before = (out / "report.html").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([str(out), "--baseline", "four"])
    assert "--baseline four: expected one of the models one, two, three" in one_line()
    fused = json.loads((out / "report.json").read_text())["results"][-1]["model"]
    assert main([str(out), "--baseline", fused]) == 1
    assert "nothing can be paired with it" in one_line()
    assert (out / "report.html").read_bytes() == before
    write_run(tmp_path / "unlabelled", [unlabelled(ONE), unlabelled(TWO)], mistakes=0)
    assert main([str(tmp_path / "unlabelled"), "--baseline", "one"]) == 1
    assert "expected another score table of the same labelled images" in one_line()


def test_many_pairs_are_folded(tmp_path: Path) -> None:
    many = [scores_of(f"m{i}", seed=i, images=40) for i in range(9)]
    write_run(tmp_path, many, mistakes=0)
    page = Page(tmp_path / "report.html")
    assert [len(table) - 1 for table in page.tables["pairs"]] == [30, 6]
    assert "The other 6 pairs" in page.text["pairs"]


def test_more_pairs_than_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (page_module, write_module):
        monkeypatch.setattr(module, "MOST_PAIRS", 32)
    report = write_run(tmp_path, [scores_of(f"m{i}", seed=i, images=40) for i in range(9)], mistakes=0)
    assert len(report["pairs"]) == 36
    page = Page(tmp_path / "report.html")
    assert [len(table) - 1 for table in page.tables["pairs"]] == [30, 2]
    assert "2 more of 36 pairs, all of which report.json has" in page.text["pairs"]
    assert "... and 4 more, which report.json has" in (tmp_path / "report.md").read_text()


def test_the_sentence_over_the_pairs(tmp_path: Path) -> None:
    for name, members, said in (
        (
            "none",
            [ONE, ONE_AGAIN],
            "none of 1 is shown to differ in top-1 error (adjusted p \N{GREATER-THAN OR EQUAL TO} 0.05).",
        ),
        ("all", [ONE, TWO], "1 of 1 differs in top-1 error (adjusted p < 0.05). A B"),
    ):
        write_run(tmp_path / name, members)
        assert f"Pairs on one runtime: {said}" in Page(tmp_path / name / "report.html").text["pairs"]
