"""trainer/processes.py: which process speaks, and the lines of long work where there is no terminal."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from paths import ROOT

from trainer import processes
from trainer.processes import Bar, say, say_seconds


class Clock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_each_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bar("colours", 200, clock=clock) as bar:
        for _ in range(8):
            clock.now += 10
            bar.update(5)
        bar.set_postfix({"loss": "0.5"})
        clock.now += 10
        bar.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "colours: 15 of 200 images (7 %), 0.5 images/s, 06:10 left",
        "colours: 30 of 200 images (15 %), 0.5 images/s, 05:40 left",
        "colours: 50 of 200 images (25 %), 0.556 images/s, 04:30 left, loss 0.5",
    ]


def test_the_rate_is_of_this_run_alone(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Bar("features", 100, done=90, clock=clock) as bar:
        clock.now += 30
        bar.update(3)
    assert capsys.readouterr().err == "features: 93 of 100 images (93 %), 0.1 images/s, 01:10 left\n"


def test_a_step_of_minutes_is_not_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "EVERY_SECONDS", 0.02)
    said = ""
    with Bar("mini-a epoch 1/1", 64):
        until = time.monotonic() + 10
        while said.count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert set(said.splitlines()) == {"mini-a epoch 1/1: 0 of 64 images (0 %), none in 00:00 yet"}
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""  # it is closed


def test_on_a_terminal_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar("colours", 2, leave=True) as bar:
        bar.update(2)
        bar.set_postfix({"loss": "0.5"})
    said = capsys.readouterr().err
    assert "colours: 100%|" in said and "2/2" in said and "image/s, loss=0.5]" in said


@pytest.mark.parametrize("terminal", [False, True])
def test_the_first_process_alone_speaks(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    clock = Clock()
    with Bar("colours", 2, clock=clock) as bar:
        clock.now += 100
        bar.update(2)
        bar.set_postfix({"loss": "0.5"})
    say("a line")
    assert capsys.readouterr().err == ""


@pytest.mark.processes
def test_a_run_goes_on_where_nobody_reads_any_more() -> None:
    code = "from trainer.processes import say\nfor _ in range(2000): say('x' * 100)\nprint('done')"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stderr.close()
        assert run.stdout.read() == "done\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (50, "50 s"), (720, "12 min"), (4.1 * 3600, "4 h"), (30 * 3600, "30 h"), (3.2 * 86400, "3 days")],
)
def test_a_time_to_read(seconds: float, text: str) -> None:
    assert say_seconds(seconds) == text
