"""--fail-above of evaluation.ilsvrc: held to its own models and to an earlier run, after everything was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.ilsvrc import main
from evaluation.report.results import read_run

Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]
FILES = ("report.json", "report.md", "report.html", "classes.csv")


@pytest.fixture
def argv(slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path) -> list[str]:
    named = [word for net in "AB" for word in ("--engine", str(slim_checkpoint(net)))]
    views = ["--protocol", "center", "--scales", "72", "--limit", "12", "--mistakes", "0"]
    return [*named, "--data", str(miniature_dir), *views, "--out", str(tmp_path / "out")]


def test_errors_and_a_model_of_the_run(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--fail-above", "top1=0"]) == 3
    assert "--fail-above: above the limit: top-1 error of slim-a" in capsys.readouterr().err
    assert all((tmp_path / "out" / name).exists() for name in FILES)

    # the fusion's answers are at hand: it is held to the limit, too
    assert main([*argv, "--fail-above", "drop=100,top1=100", "--baseline", "slim-a"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "all within the limits" in said and "points [" in said and "against slim-a" in said
    assert "keep no score table" not in said


def test_an_earlier_run(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = [*argv[:-1], str(tmp_path / "earlier")]
    assert main(earlier) == 0
    limits = ["--fail-above", "drop=0", "--baseline", str(tmp_path / "earlier")]
    assert main([*argv, *limits]) == 0  # the same models: nothing is lost
    assert read_run(tmp_path / "out").report.pairs == read_run(tmp_path / "earlier").report.pairs

    # another data set: all is written, then it is refused
    other = [*argv, "--limit", "11", *limits]
    assert main(other) == 1
    assert "nothing can be paired with it" in capsys.readouterr().err.splitlines()[-1]
    assert read_run(tmp_path / "out").report.dataset.images == 11


def test_bad_baselines_before_anything_is_scored(argv: list[str], tmp_path: Path, one_line: OneLine) -> None:
    for more, said in (
        (["--fail-above", "drop=1"], "needs --baseline"),
        (["--baseline", "slim-a"], "--baseline is for --fail-above drop"),
        (
            ["--fail-above", "drop=1", "--baseline", "nobody"],
            "one of the models slim-a, slim-b, fused, or the OUT folder",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*argv, *more])
        assert ended.value.code == 2 and said in one_line()
        assert not (tmp_path / "out" / "report.json").exists()


def test_a_run_is_not_its_own_baseline(argv: list[str], tmp_path: Path, one_line: OneLine) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").touch()  # as after a loss of power
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--fail-above", "drop=1", "--baseline", str(out)])
    assert ended.value.code == 2 and "whose report is replaced" in one_line()
