"""--log-json: events that a machine reads; and what a run shows of itself while it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.ilsvrc import main
from evaluation.run import store
from evaluation.run.store import Watch


def test_every_line_on_stdout_is_an_event(
    exported: Callable[..., Path],
    miniature_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "LEAST_SECONDS", 0.0)
    argv = ["--engine", str(exported("A")), "--data", str(miniature_dir), "--protocol", "dense", "--log-json"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert events[0] == {"event": "begin", "images": 0, "of": 24}
    assert events[-1] == {"event": "end", "images": 24, "of": 24, "report": str(tmp_path / "report.json")}
    progress = events[1:-1]
    assert {event["event"] for event in progress} == {"progress"}
    assert [event["images"] for event in progress] == list(range(1, 25))
    assert all(event["of"] == 24 and event["images_per_second"] > 0 for event in progress)
    assert progress[-1]["seconds_left"] == 0
    errors = [event["top1_error_percent"] for event in progress]
    assert errors[:8] == [None] * 8  # known when the first shard is committed
    known = [error for error in errors if error is not None]
    assert known and all(0 <= error <= 100 for error in known)


def test_lines_come_at_most_once_a_second_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(100, 20, log_json=True) as shown:
        for _ in range(80):
            shown.images(1)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event["images"]) for event in events] == [("begin", 20), ("progress", 100)]


def test_a_bar_has_the_running_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Watch(10, 0, log_json=False) as shown:
        shown.error(12.5)
        shown.images(10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "10/10" in captured.err and "top-1 error 12.5 %" in captured.err
