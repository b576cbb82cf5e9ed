"""trainer/loop/progress.py: what a run leaves to be looked at, and what a resumed one keeps of it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from trainer.loop.progress import CURVES, EVENTS, METRICS, RunSize, TrainingProgress, read_metrics

OPTIONS: dict[str, Any] = {"title": "mini-a", "steps": 90, "steps_per_epoch": 40, "batch": 8}


class Clock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "iteration": min(90, 40 * epoch),
        "learning_rate": 0.1 / epoch,
        "loss": 2.0 / epoch,
        "training_error_percent": 90.0 / epoch,
        "validation_top1_error_percent": 80.0 / epoch,
    }


def run_epochs(progress: TrainingProgress, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        progress.begin_epoch(epoch, 0)
        for iteration in range(40 * (epoch - 1) + 1, min(90, 40 * epoch) + 1):
            progress.step(iteration, 1, loss=1.0 / iteration, error_percent=50.0, rate=0.1)
        progress.end_epoch(row(epoch))


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(out / EVENTS))
        events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_events_and_curves(tmp_path: Path) -> None:
    with TrainingProgress(tmp_path, **OPTIONS, done=0) as progress:
        run_epochs(progress, 1, 3)
    assert read_metrics(tmp_path / METRICS) == [row(1), row(2), row(3)]
    found = scalars(tmp_path)
    assert found["train/loss"] == [(i, pytest.approx(1 / i)) for i in (20, 40, 60, 80)]
    assert found["epoch/validation_top1_error_percent"] == [(40, 80), (80, 40), (90, pytest.approx(80 / 3))]
    assert {"train/images_per_second", "train/learning_rate", "train/error_percent"} <= found.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CURVES, METRICS, EVENTS])


def test_curves_are_drawn_anew_with_each_epoch_that_takes_longer_than_drawing(tmp_path: Path) -> None:
    """Where epochs are shorter, the last one is drawn at the end."""
    ticks, pictures = itertools.count(), []

    def picture() -> Any:
        return np.asarray(Image.open(tmp_path / CURVES).convert("RGB"))

    with TrainingProgress(tmp_path, **OPTIONS, done=0, clock=lambda: next(ticks) / 1000) as progress:
        for epoch in (1, 2):
            run_epochs(progress, epoch, epoch)
            pictures.append(picture())
        progress._draw_due = 100.0
        run_epochs(progress, 3, 3)
        assert (picture() == pictures[1]).all()
    assert (picture() != pictures[1]).any()
    assert pictures[0].shape == pictures[1].shape == (600, 700, 3)
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] < 200).any(-1).sum() > 1000  # there is ink


def test_a_resumed_run_keeps_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    with TrainingProgress(tmp_path, **OPTIONS, done=0) as progress:
        run_epochs(progress, 1, 2)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"epoch": 3, "iter')  # it died as it wrote
    with TrainingProgress(tmp_path, **OPTIONS, done=1) as progress:
        assert read_metrics(tmp_path / METRICS) == [row(1)]
        run_epochs(progress, 2, 3)
    assert read_metrics(tmp_path / METRICS) == [row(1), row(2), row(3)]
    assert scalars(tmp_path)["epoch/loss"] == [(40, 2), (80, 1), (90, pytest.approx(2 / 3))]
    with TrainingProgress(tmp_path, **OPTIONS, done=0):
        assert read_metrics(tmp_path / METRICS) == []


def test_steps_that_are_read_together(tmp_path: Path) -> None:
    """As on a GPU, which is waited for every 20 iterations."""
    with TrainingProgress(tmp_path, **OPTIONS, done=0) as progress:
        progress.begin_epoch(1, 0)
        for iteration in (15, 30, 40):
            progress.step(iteration, 15 if iteration < 40 else 10, loss=0.5, error_percent=1.0, rate=0.1)
        progress.end_epoch(row(1))
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [30, 40]


def test_a_bar_on_a_terminal_says_how_the_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with TrainingProgress(tmp_path, **OPTIONS, done=0) as progress:
        progress.begin_epoch(3, 4)  # the last, of 10 steps, of which 4 are done
        for iteration in range(85, 91):
            progress.step(iteration, 1, loss=0.25, error_percent=12.5, rate=0.001)
        progress.end_epoch(row(3))
    said = capsys.readouterr().err
    assert "mini-a epoch 3/3: 100%" in said and "80/80" in said and "image/s" in said
    assert "loss=0.250" in said and "error=12.5%" in said and "lr=0.001" in said and "run=00:00 left" in said


SIZE = RunSize(images=321, classes=10, held_out=24, device="cpu", shorter="a machine with a GPU, or --set epochs=N")


def test_a_pipe_is_told_how_the_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TrainingProgress(tmp_path, **OPTIONS, done=0, size=SIZE, clock=clock) as progress:
        progress.begin_epoch(1, 0)
        for iteration in range(1, 41):  # the first takes 7 seconds, each other 2
            clock.now += 7 if iteration == 1 else 2
            progress.step(iteration, 1, loss=2.0, error_percent=87.5, rate=0.01)
        progress.end_epoch(row(1))
    head = "mini-a epoch 1/3"
    assert capsys.readouterr().err.splitlines() == [
        "mini-a: 321 training images of 10 classes, 24 validation images, 90 steps of 8 in 3 epochs, on cpu",
        f"{head}: 104 of 320 images (32 %), 3.35 images/s, 01:04 left, iteration 13/90, loss 2.000, error 87.5%, "
        "lr 0.01, run 02:34 left",
        f"{head}: 224 of 320 images (70 %), 3.67 images/s, 00:26 left, iteration 28/90, loss 2.000, error 87.5%, "
        "lr 0.01, run 02:04 left",
        "mini-a: 1 epoch takes about 82 s here, what is left about 2 min",
        f"{head}: loss 2, training error 90.00 %, validation top1 error 80.00 %, learning rate 0.1, 01:46 left",
    ]


def test_a_long_run_is_told_what_takes_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first step alone takes longer than the minute after which its time is foretold."""
    clock = Clock()
    with TrainingProgress(tmp_path, **OPTIONS, done=0, size=SIZE, clock=clock) as progress:
        progress.begin_epoch(1, 0)
        clock.now += 360
        progress.step(1, 1, loss=2.0, error_percent=87.5, rate=0.01)
        clock.now += 360
        progress.step(2, 1, loss=2.0, error_percent=87.5, rate=0.01)
    foretold = [line for line in capsys.readouterr().err.splitlines() if "takes" in line]
    takes = "1 epoch takes about 4 h here, what is left about 9 h"
    assert foretold == [f"mini-a: {takes}; for less: a machine with a GPU, or --set epochs=N"]


def test_a_resumed_run_says_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TrainingProgress(tmp_path, **OPTIONS, done=1, size=SIZE, clock=clock) as progress:
        progress.begin_epoch(2, 10)
        clock.now += 100
        progress.step(55, 5, loss=2.0, error_percent=87.5, rate=0.01)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("90 steps of 8 in 3 epochs, 50 are done, on cpu")
    assert said[1].startswith("mini-a epoch 2/3: 120 of 320 images (37 %), 0.4 images/s, ")
    assert said[2].startswith("mini-a: 1 epoch takes about 14 min here, what is left about 12 min")


@pytest.mark.processes
def test_matplotlib_says_nothing_of_its_caches(tmp_path: Path) -> None:
    """Where it has no folder for them it would, into the bar."""
    (tmp_path / "file").touch()
    imports = "from trainer.loop.progress import draw; from pathlib import Path"
    code = f"{imports}; draw([{row(1)}], Path('curves.png'), title='a')"
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "") and (tmp_path / "curves.png").exists()


def test_metrics_that_are_not_there(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / METRICS) == []
    (tmp_path / METRICS).write_text(json.dumps(row(1)))  # no end of line: cut off
    assert read_metrics(tmp_path / METRICS) == []
