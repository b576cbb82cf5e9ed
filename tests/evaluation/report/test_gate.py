"""--fail-above of evaluation.report: what decides, what is said, the status, and that all was written before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import make_scores
from report_runs import Page, scores_of, write_run

from evaluation.report.__main__ import main
from evaluation.report.gate import FAILED, limits_argument
from evaluation.scores.metrics import is_wrong
from evaluation.scores.paired import count_pairs

OneLine = Callable[[], str]
OLD_HALF = "onnxruntime-fp16"
OLD, NEW, BEST = scores_of("old", right=0.72), scores_of("new", right=0.6, seed=1), scores_of("best", right=0.9, seed=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("gate")
    write_run(folder / "a", [OLD], mistakes=0)
    write_run(folder / "b", [NEW, BEST], mistakes=0)
    return str(folder / "a"), str(folder / "b")


def drop() -> float:
    """Of `new` against `old`, in points."""
    return 100 * float(is_wrong(NEW, 1).mean() - is_wrong(OLD, 1).mean())


def test_an_error_above_its_limit_is_status_3_and_the_page_is_there(
    runs: tuple[str, str], tmp_path: Path, one_line: OneLine
) -> None:
    page = tmp_path / "page.html"
    worst = 100 * float(is_wrong(NEW, 1).mean())
    argv = [runs[1], "-o", str(page), "--fail-above"]
    assert main([*argv, f"top1={worst - 0.01}"]) == FAILED == 3
    assert page.exists()
    said = one_line()
    assert f"top-1 error of new, center at 88 on torch-fp32 {worst:.3f} %" in said and "best" not in said
    page.unlink()
    assert main([*argv, f"top1={worst},top5=100"]) == 0 and page.exists()


def test_a_drop_is_the_paired_estimate_and_its_interval_is_said(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interval may pass the limit, and may leave out 0: neither decides."""
    low, high = count_pairs(is_wrong(OLD, 1), is_wrong(NEW, 1)).interval95_percent
    assert drop() > 1 and high > drop() + 1
    argv = [*runs, "-o", str(tmp_path / "page.html"), "--baseline", runs[0], "--fail-above"]
    for limit, status in ((drop() - 0.01, 3), (drop() + 0.01, 0)):
        assert main([*argv, f"drop={limit}"]) == status
        shown = capsys.readouterr()
        said = shown.err if status else shown.out
        assert f"against old, center at 88 on torch-fp32 {drop():+.3f} points [{low:+.2f}, {high:+.2f}]" in said
        assert bool(shown.err) == (status == 3)


def test_the_baseline_itself_is_held_to_nothing(runs: tuple[str, str], tmp_path: Path) -> None:
    argv = [*runs, "-o", str(tmp_path / "page.html"), "--fail-above", "top1=0"]
    best = 100 * float(is_wrong(BEST, 1).mean())
    limit = ["--fail-above", f"top1={best}"]
    assert main([*argv[:-2], *limit]) == 3
    # only `best` is left
    write_run(tmp_path / "c", [BEST], mistakes=0)
    assert main([runs[0], str(tmp_path / "c"), *argv[2:-2], "--baseline", "old", *limit]) == 0


def test_what_is_not_known_is_above_every_limit(runs: tuple[str, str], tmp_path: Path, one_line: OneLine) -> None:
    unlabelled = make_scores(NEW.posterior, [-1] * len(NEW.images), model="unlabelled")
    write_run(tmp_path / "u", [unlabelled], mistakes=0)
    assert main([str(tmp_path / "u"), "--fail-above", "top1=100"]) == 3
    assert "top-1 error of unlabelled, center at 88 on torch-fp32 is not known" in one_line()

    write_run(tmp_path / "d", [scores_of("far", dataset_id="f" * 16)], mistakes=0)
    argv = [*runs, str(tmp_path / "d"), "-o", str(tmp_path / "page.html"), "--baseline", "old"]
    assert main([*argv, "--fail-above", "drop=100"]) == 3
    assert "drop of far, center at 88 on torch-fp32 is not known" in one_line()


@pytest.mark.parametrize(("first", "second"), [("onnxruntime-fp32", OLD_HALF), (OLD_HALF, "onnxruntime-fp32")])
def test_half_precision_that_was_not_rounded_passes_no_limit(
    first: str, second: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of an earlier version: it has no arithmetic, and the FP16 net may overflow wherever it is rounded."""
    for name, runtime in (("a", first), ("b", second)):
        write_run(tmp_path / name, [scores_of(runtime=runtime)], mistakes=0)
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "page.html")]
    assert main([*argv, "--baseline", argv[0], "--fail-above", "drop=100"]) == 1
    said = capsys.readouterr().err
    assert "nothing can be paired with it" in said and "FP16 that was not rounded" in said

    assert main([*argv, "--fail-above", "top1=100"]) == 3
    assert f"on {OLD_HALF} 2" not in (said := capsys.readouterr().err) and "is not known: FP16 that was not" in said
    page = Page(tmp_path / "page.html")
    assert "Not rounded. FP16 tables of one were made" in page.text[""]
    (row,) = [row for row in page.tables["results"][0] if "b" in row[0]]
    assert row[-1] == row[-2] == "\N{EN DASH}"

    # beside another model that is paired, it is named
    write_run(tmp_path / "b", [scores_of(runtime=second), scores_of("two", runtime=first)], mistakes=0)
    assert main([*argv, "--baseline", argv[0], "--fail-above", "drop=100"]) == 3
    assert f"drop of one, center at 88 on {second} is not known" in capsys.readouterr().err


def test_a_new_model_of_the_baselines_name_is_not_passed_over(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a baseline, too, and held to nothing; the folder says which is meant."""
    write_run(tmp_path / "new", [scores_of("old", right=0.2, seed=3), BEST], mistakes=0)
    argv = [runs[0], str(tmp_path / "new"), "-o", str(tmp_path / "page.html"), "--fail-above", "drop=5", "--baseline"]
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "old"])
    said = capsys.readouterr().err
    assert f"--baseline old: a model of {runs[0]} and of {tmp_path / 'new'}, expected one of these OUT folders" in said
    assert main([*argv, runs[0]]) == 3
    assert "drop of old, center at 88 on torch-fp32 against old" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["top1=100", "drop=100"])
def test_the_table_of_another_result_passes_no_limit(
    limit: str, runs: tuple[str, str], tmp_path: Path, one_line: OneLine
) -> None:
    write_run(tmp_path / "b", [NEW, BEST], mistakes=0)
    new, best = sorted((tmp_path / "b" / "scores").iterdir(), key=lambda path: path.name[0] == "b")
    new.write_bytes(best.read_bytes())
    argv = [runs[0], str(tmp_path / "b"), "-o", str(tmp_path / "page.html"), "--baseline", runs[0]]
    assert main([*argv, "--fail-above", limit]) == 1
    assert "new.torch-fp32.center.q88.scores.parquet: scores of best, but report.json is of new" in one_line()


def test_a_fusion_without_a_table_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [OLD, NEW], mistakes=0, fused=True)
    assert main([str(tmp_path), "--baseline", "old", "--fail-above", "drop=100"]) == 0
    assert "1 fusions have no score table and are not held to drop" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "top2=3", "top1", "top1=", "top1=x", "top1=nan", "drop=-1", "top1=101", "top1=1,top1=2"]
)
def test_bad_limits_are_usage_errors(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["out", "--fail-above", text])
    assert ended.value.code == 2
    assert "expected each of top1, top5, drop" in capsys.readouterr().err


def test_a_drop_needs_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["out", "--fail-above", "drop=1"])
    assert ended.value.code == 2 and "needs --baseline" in capsys.readouterr().err
    assert limits_argument("top1=25.0,top5=8,drop=0.5") == {"top1": 25, "top5": 8, "drop": 0.5}
