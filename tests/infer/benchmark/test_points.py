"""--run OUT: the error of an evaluation beside the speed here, in OUT/points.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.ilsvrc import main as ilsvrc
from infer.benchmark import measure, pipelined
from infer.benchmark.__main__ import main
from infer.benchmark.points import POINTS, PointError, read_points

Exported = Callable[..., Path]
OneLine = Callable[[], str]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_matrix_product", lambda: 1e12)
    for module in (measure, pipelined):
        monkeypatch.setattr(module, "LEAST_S", 0.0)


@pytest.fixture
def out(exported: Exported, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run of A by two protocols."""
    run = ["--engine", str(exported("A")), "--data", str(miniature_dir), "--protocol", "center,dense"]
    assert ilsvrc([*run, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    return tmp_path / "out"


def results(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["results"]
    return found


def test_the_point_has_the_errors_of_the_run_and_the_speed_of_the_rows(
    exported: Exported, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--engine", str(exported("A")), "--protocol", "center,dense", "--runs", "2", "--workers", "1"]
    assert main([*argv, "--batch", "1,2", "--run", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{out / POINTS}: draw it by python -m evaluation.report {out}\n"
    rows = [json.loads(line) for line in captured.out.splitlines()]

    points = read_points(out / POINTS)
    assert [(point.protocol, point.batch) for point in points] == [
        ("center", 1),
        ("center", 2),
        ("dense", 1),
        ("dense", 2),
    ]
    dataset_id = json.loads((out / "report.json").read_text())["dataset"]["id"]
    for point, row in zip(points, rows, strict=True):
        (result,) = (one for one in results(out) if one["protocol"] == point.protocol)
        assert point.top1_error_percent == result["top1_error_percent"] == row["evaluated"]["top1_error_percent"]
        assert (point.images, point.pooling, point.dataset_id) == (24, "scores", dataset_id)
        assert point.images_per_second == row["pipelined_images_per_second"]
        assert point.compute_images_per_second == row["compute_images_per_second"]
        assert point.latency_ms == row["latency_ms"]
        assert point.engine_sha256 == result["engine_sha256"] == row["engine_sha256"]
        assert (point.device, point.decoder, point.workers) == (row["device"], "cpu", 1)


def test_measured_again_it_takes_the_place_of_the_old_point_and_of_no_other(exported: Exported, out: Path) -> None:
    argv = ["--engine", str(exported("A")), "--runs", "1", "--workers", "1", "--run", str(out)]
    assert main([*argv, "--protocol", "center,dense"]) == 0
    center, dense = read_points(out / POINTS)
    assert main([*argv, "--protocol", "dense"]) == 0
    again = read_points(out / POINTS)
    assert again[0] == center
    assert again[1].key == dense.key and again[1] != dense
    assert main([*argv, "--protocol", "dense", "--batch", "2"]) == 0
    assert read_points(out / POINTS)[:2] == again and len(read_points(out / POINTS)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--protocol", "ten-crop"],
            r"by ten-crop at 96, but A \(.*\) by center at 96; A \(.*\) by dense at 72,96,120",
        ),
        (["--scales", "80"], "by center at 80, but A "),
    ],
)
def test_another_protocol_is_a_line(
    options: list[str], said: str, exported: Exported, out: Path, one_line: OneLine
) -> None:
    assert main(["--engine", str(exported("A")), *options, "--runs", "1", "--run", str(out)]) == 1
    line = one_line()
    assert line.startswith(f"{out}/report.json: no result of ")
    assert said.replace("\\", "").split(", but")[0] in line
    assert ": evaluate this engine so by python -m evaluation.ilsvrc --engine " in line
    assert not (out / POINTS).exists()


def test_another_engine_is_a_line_and_the_others_have_their_points(
    exported: Exported, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = ["--engine", str(exported("B")), "--engine", str(exported("A"))]
    assert main([*engines, "--runs", "1", "--run", str(out), "--json"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "no result of slim-b (" in lines[0] and "draw it by" in lines[1]
    assert [point.protocol for point in read_points(out / POINTS)] == ["center"]


def test_a_stand_in_for_half_precision_has_no_point(exported: Exported, out: Path, one_line: OneLine) -> None:
    half = str(exported("A", precision="fp16"))
    assert main(["--engine", half, "--runs", "1", "--run", str(out)]) == 1
    assert "its speed is not the model's, so there is no point: measure it on a GPU" in one_line()


def test_what_is_no_run_is_a_line(exported: Exported, out: Path, tmp_path: Path, one_line: OneLine) -> None:
    argv = ["--engine", str(exported("A")), "--runs", "1", "--run"]
    assert main([*argv, str(tmp_path / "none")]) == 1
    assert (
        "none/report.json: No such file or directory, expected the OUT folder of an evaluation.ilsvrc run" in one_line()
    )
    (out / POINTS).write_text('[{"engine_sha256": 3}]')
    assert main([*argv, str(out)]) == 1
    assert "points.json: not the points of infer.benchmark (" in one_line()
    (out / "report.json").write_text("{}")
    assert main([*argv, str(out)]) == 1
    assert "report.json: not a report of evaluation.ilsvrc (" in one_line()
    with pytest.raises(PointError, match="remove it, and measure again"):
        read_points(out / POINTS)
