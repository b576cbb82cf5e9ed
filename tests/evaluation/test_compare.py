"""evaluation/compare.py on tables worked by hand, and on two runtimes that saw the same pixels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_scores

from evaluation.compare import format_comparison, main
from evaluation.errors import ScoresError
from evaluation.ilsvrc import main as evaluate
from evaluation.scores.comparison import compare
from evaluation.scores.paired import Paired
from evaluation.scores.table import UNKNOWN_LABEL, Scores, write

FIRST = make_scores([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.0, 0.0]], [0, 0, 1, 1], ("ok", "ok", "ok", "broken"))
SECOND = dataclasses.replace(FIRST, posterior=np.array([[0.8, 0.2], [0.3, 0.7], [0.3, 0.7], [0.0, 0.0]], np.float32))


def test_worked_by_hand() -> None:
    found = compare([FIRST], [SECOND])
    assert (found.images, found.unreadable) == (3, 1)
    assert found.top1_agreement_percent == pytest.approx(200 / 3)
    assert found.top5_agreement_percent == 100
    assert found.largest_posterior_difference == pytest.approx(0.3)
    assert found.top1_error_percent == (25, 50)
    assert (found.top1_only_wrong, found.top1_mcnemar_p) == ((0, 1), 1)
    assert found.same_pixels is None  # made by hand: no digests
    (only,) = found.differing
    assert (only.image, only.label, only.first, only.second) == ("1.jpg", "a", "a", "b")
    assert only.second_probability == pytest.approx(0.7)


def test_described() -> None:
    text = format_comparison(compare([FIRST], [SECOND]), FIRST, SECOND, 20)
    assert "3 images scored by both, 1 not: same top-1 for 66.67 %; largest difference" in text
    assert "top-1 error 25.00 % and 50.00 %: only A wrong on 0, only B on 1 images, McNemar's exact test p = 1" in text
    assert "| 1.jpg   | a      | a 0.60 | b 0.70 |" in text
    assert "top-5" not in text  # of three classes
    assert "... and 1 more" in format_comparison(compare([FIRST], [SECOND]), FIRST, SECOND, 0)


def test_half_against_single_precision_names_the_command_that_names_layers() -> None:
    half = {**json.loads(SECOND.metadata["spec"]), "precision": "fp16"}
    other = dataclasses.replace(SECOND, metadata={**SECOND.metadata, "spec": json.dumps(half)})
    assert "export.to_trt MODEL.onnx --verify DIR" in format_comparison(compare([FIRST], [other]), FIRST, other, 20)
    assert "export.to_trt" not in format_comparison(compare([FIRST], [SECOND]), FIRST, SECOND, 20)


def test_errors_are_paired_image_by_image() -> None:
    found = compare([FIRST], [SECOND])
    assert found.top1_pairs == Paired(1, 0, 1, 2)  # the image that neither could read is wrong in both
    assert (found.top1_difference_percent, found.top1_interval95_percent) == (25, Paired(1, 0, 1, 2).interval95_percent)
    assert (found.gained, found.lost, found.scored_by_one) == ((), ("1.jpg",), (0, 0))
    unread = dataclasses.replace(FIRST, statuses=("ok", "ok", "broken", "broken"))
    other = compare([SECOND], [unread])
    assert (other.gained, other.lost, other.scored_by_one) == (("1.jpg",), ("2.jpg",), (1, 0))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_half_precision_that_was_not_rounded_gets_no_verdict(
    order: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of an earlier version, or one that says so itself; two of them were computed alike."""
    half = dict(FIRST.metadata) | {"runtime": "onnxruntime-fp16"}
    said = half | {"arithmetic": "fp16 weights, fp32 arithmetic"}
    rounded = half | {"arithmetic": "fp16, rounded by hand.check.onnx"}
    old, new = dataclasses.replace(FIRST, metadata=half), dataclasses.replace(FIRST, metadata=rounded)
    assert (old.unrounded, dataclasses.replace(FIRST, metadata=said).unrounded, new.unrounded) == (True, True, False)
    for pair, known in (((FIRST, old), False), ((new, old), False), ((old, old), True), ((FIRST, new), True)):
        found = compare(*([pair[place]] for place in order))
        assert (found.top1_difference_percent is not None) == known
        tables = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
        for place, path in zip(order, tables, strict=True):
            write([pair[place]], path)
        assert main([*map(str, tables)]) == 0
        shown = capsys.readouterr().out
        assert ("verdict" in shown) == ("McNemar" in shown) == known
        assert ("is an FP16 model's table of an earlier version" in shown) == (any(one is old for one in pair))
        assert main([*map(str, tables), "--json"]) == 0
        shown, noted = capsys.readouterr()
        assert json.loads(shown)["unrounded"] == [pair[place] is old for place in order]
        assert ("no cost of half precision shows in it" in noted) == (any(one is old for one in pair))


def test_two_models_get_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other models, protocols and runtimes of the same images."""
    wrong = [(i % 5 == 0, i % 5 == 0 and i % 3 > 0) for i in range(120)]  # 24 and 16 wrong, the 16 among the 24
    rows = [[[0.1, 0.9] if each[k] else [0.9, 0.1] for each in wrong] for k in (0, 1)]
    one = make_scores(rows[0], [0] * 120, model="one")
    other = make_scores(rows[1], [0] * 120, model="other", protocol="dense", scales="72,96", runtime="onnx-fp16")
    paths = [str(tmp_path / f"{name}.parquet") for name in ("one", "other")]
    for path, scores in zip(paths, (one, other), strict=True):
        write([scores], Path(path))
    pair = Paired(16, 8, 0, 96)
    low, high = pair.interval95_percent
    assert main([*paths, "--changed"]) == 0
    said = capsys.readouterr().out
    assert f"top-1 verdict: B errs less: -6.7 points [{low:+.1f}, {high:+.1f}], p = 0.0078" in said
    assert "top-5 verdict" not in said  # of two classes
    assert "B gains 8 images and loses 0 (top-1)" in said
    assert "gained: A wrong, B right (8)\n- 0.jpg\n- 15.jpg\n" in said and said.endswith("lost: A right, B wrong (0)\n")
    assert main([*paths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1_pairs"] == dataclasses.asdict(pair)
    assert found["top1_interval95_percent"] == [low, high]
    assert found["gained"] == [f"{i}.jpg" for i in range(0, 120, 15)]


def test_equal_tables_and_tables_without_labels() -> None:
    text = format_comparison(compare([FIRST], [FIRST]), FIRST, FIRST, 20)
    assert "top-1 verdict: no difference shown; one above" in text
    unlabelled = dataclasses.replace(FIRST, labels=np.full(4, UNKNOWN_LABEL, np.int32))
    found = compare([unlabelled], [unlabelled])
    assert (found.top1_difference_percent, found.top1_interval95_percent, found.top1_mcnemar_p) == (None, None, 1)
    assert "no image has a label" in format_comparison(found, unlabelled, unlabelled, 20)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (dataclasses.replace(SECOND, metadata={**SECOND.metadata, "dataset_id": "x"}), "was scored on data set x"),
        (make_scores([[0.1, 0.2, 0.7]] * 4, [0] * 4), "different classes"),
        (dataclasses.replace(SECOND, statuses=("broken",) * 4), "none of 4 images was scored by both"),
    ],
)
def test_tables_that_cannot_be_compared(other: Any, said: str, tmp_path: Path, one_line: Callable[[], str]) -> None:
    with pytest.raises(ScoresError, match=said):
        compare([FIRST], [other])
    for name, scores in (("a", FIRST), ("b", other)):
        write([scores], tmp_path / f"{name}.parquet")
    assert main([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]) == 1
    assert said in one_line()


def test_two_runtimes_saw_the_same_pixels(
    slim_checkpoint: Callable[..., Path],
    exported: Callable[..., Path],
    miniature_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engines = ["--engine", str(slim_checkpoint("A")), "--engine", str(exported("A"))]
    common = ["--data", str(miniature_dir), "--protocol", "center", "--out", str(tmp_path)]
    assert evaluate([*engines, *common]) == 0
    capsys.readouterr()
    tables = sorted(map(str, (tmp_path / "scores").iterdir()))
    assert main([*tables, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["same_pixels"], found["top1_agreement_percent"]) == (24, 24, 100)
    assert 0 < found["largest_posterior_difference"] < 1e-4
    assert main(tables) == 0
    assert "pixels: the same for 24 of 24 images" in capsys.readouterr().out


def in_parts(scores: Scores, rows: int) -> list[Scores]:
    return [scores.rows(range(i, min(i + rows, len(scores.images)))) for i in range(0, len(scores.images), rows)]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_parts_change_nothing(rows: int) -> None:
    assert compare(in_parts(FIRST, rows), in_parts(SECOND, rows)) == compare([FIRST], [SECOND])


def test_the_error_counts_the_images_of_whole_tables() -> None:
    shorter = SECOND.rows([0, 1, 2])
    elsewhere = dataclasses.replace(SECOND, metadata={**SECOND.metadata, "dataset_id": "x"})
    for other, count in ((shorter, 3), (elsewhere, 4)):
        for rows in (1, 2, 3, 4):
            with pytest.raises(ScoresError, match=rf"\({count} images\), hand on 0123456789abcdef \(4\)"):
                compare(in_parts(FIRST, rows), in_parts(other, rows))
    with pytest.raises(ScoresError, match=r"\(4 images\), hand on 0123456789abcdef \(3\)"):
        compare(in_parts(shorter, 3), in_parts(FIRST, 3))


def test_a_table_without_images(tmp_path: Path, one_line: Callable[[], str]) -> None:
    for name, scores in (("a", FIRST), ("empty", FIRST.rows([]))):
        write([scores], tmp_path / f"{name}.parquet")
    for pair in (("a", "empty"), ("empty", "a"), ("empty", "empty")):
        assert main([str(tmp_path / f"{name}.parquet") for name in pair]) == 1
        assert "a table has no images" in one_line()


def test_a_posterior_that_is_not_a_number_is_no_small_difference() -> None:
    broken = dataclasses.replace(SECOND, posterior=np.where(SECOND.posterior == np.float32(0.7), np.nan, 0.5))
    found = compare(in_parts(FIRST, 1), in_parts(broken, 1))
    assert np.isnan(found.largest_posterior_difference)


def test_json_is_json_where_an_answer_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN and Infinity are no JSON (RFC 8259, 6): null."""
    for name, odd in (("nan", np.nan), ("inf", np.inf)):
        posterior = SECOND.posterior.copy()
        posterior[0, 1] = odd
        write([FIRST], tmp_path / "a.parquet")
        write([dataclasses.replace(SECOND, posterior=posterior)], tmp_path / f"{name}.parquet")
        assert main([str(tmp_path / "a.parquet"), str(tmp_path / f"{name}.parquet"), "--json"]) == 0

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        found = json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert found["largest_posterior_difference"] is None
        assert found["differing"][0]["second_probability"] is None and found["top1_error_percent"] == [25, 75]
