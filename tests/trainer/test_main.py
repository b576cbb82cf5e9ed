"""python -m trainer: what it prints, and one line and a status for every kind of bad input."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import Checkpoints, slim_spec, write_checkpoint

import trainer.loop.start
import trainer.loop.train
from infer.data.dataset import TRAIN, open_dataset
from trainer.__main__ import TIMED_CROPS, evaluate, evaluation_seconds, is_evaluated, main, run_until_wished
from trainer.checkpoint import load
from trainer.data.colours import measure
from trainer.loop.stopping import Wish, wish_to_stop
from trainer.recipe import Recipe, override
from trainer.recipes import RECIPES

OneLine = Callable[[], str]
SMALL = ["width=0.0625", "fc_width=16", "batch=16", "epochs=1"]


def arguments(data: Path, out: Path, *more: str, recipe: str = "mini-a") -> list[str]:
    return ["--recipe", recipe, "--data", str(data), "--out", str(out), *more]


@pytest.mark.processes
def test_a_run(miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(miniature_dir, tmp_path, "--set", *SMALL)) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(rf"{tmp_path / 'ckpt.pt'}: mini-a, 1 epochs, \d+ s\n", captured.out)
    begun, epoch, final = captured.err.splitlines()  # no progress bar in a pipe
    assert begun == ("mini-a: 64 training images of 10 classes, 24 validation images, 4 steps of 16 in 1 epoch, on cpu")
    assert final.startswith("final evaluation: dense of 24 images, about ")
    assert re.match(r"mini-a epoch 1/1: loss [\d.]+, training error [\d.]+ %, validation top1 error ", epoch)
    assert load(tmp_path / "ckpt.pt").spec.fc_width == 16


def test_settings_add_up_however_often_the_option_is_given(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr(
        "trainer.__main__.train_and_evaluate",
        lambda args, settings: seen.append(override(RECIPES["mini-a"], settings)) or 0,
    )
    assert main(arguments(miniature_dir, tmp_path, "--set", "epochs=3", "--set", "batch=8", "seed=2")) == 0
    assert main(arguments(miniature_dir, tmp_path, "--exif", "apply")) == 0
    assert [(recipe.epochs, recipe.batch, recipe.seed) for recipe in seen[:1]] == [(3, 8, 2)]
    assert [recipe.exif for recipe in seen] == ["ignore", "apply"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: --recipe, --data, --out"),
        (["--recipe", "mini-z", "--data", "d", "--out", "o"], "argument --recipe: invalid choice: 'mini-z'"),
        (["--recipe", "mini-a", "--data", "d", "--out", "o", "--set", "speed=1"], "--set speed=1: expected key=value"),
        (["--recipe", "mini-a", "--data", "d", "--out", "o", "--set", "epochs=0"], "epochs must be positive, got 0"),
        (["--recipe", "mini-a", "--data", "d", "--out", "o", "--fast"], "unrecognized arguments: --fast"),
        (
            ["--recipe", "mini-a", "--data", "d", "--out", "o", "--final-protocol", "crops"],
            "--final-protocol: expected none or one of center, ten-crop, dense",
        ),
    ],
)
def test_usage_errors(argv: list[str], message: str, one_line: OneLine) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    line = one_line()
    assert line.startswith("python -m trainer: ")
    assert message in line


@pytest.mark.parametrize(
    "settings",
    [
        ["net=F"],
        ["name=a/b"],
        ["crop_px=50"],
        ["test_short_px=10"],
        ["crop_px=96"],  # above the recipe's smallest S
        ["seed=-1"],
        ["momentum=-1"],
        ["weight_decay=-1"],
    ],
    ids=lambda settings: settings[0],
)
def test_settings_that_make_no_net_or_no_optimiser(
    miniature_dir: Path, tmp_path: Path, settings: list[str], one_line: OneLine
) -> None:
    argv = arguments(miniature_dir, tmp_path, "--set", *SMALL, *settings)
    try:
        status = main(argv)
    except SystemExit as stop:  # a usage error
        status = int(str(stop.code))
    assert status in (1, 2)
    assert one_line()


def test_googlenet_with_a_crop_too_small_for_its_heads(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    argv = arguments(miniature_dir, tmp_path, "--set", *SMALL, "crop_px=64", recipe="mini-googlenet")
    try:
        status = main(argv)
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status in (1, 2)
    assert "use crop_px >= 96" in one_line()


def test_data_that_is_not_there_or_too_little(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    assert main(arguments(tmp_path / "missing", tmp_path / "out")) == 1
    assert one_line() == f"{tmp_path / 'missing'}: no such folder"
    assert main(arguments(miniature_dir, tmp_path / "out", "--set", "batch=65")) == 1
    assert one_line() == "64 training images do not fill a batch of 65: --set batch=N, or more images"
    assert not (tmp_path / "out" / "ckpt.pt").exists()


def test_an_out_that_is_a_file(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "file").write_text("x")
    assert main(arguments(miniature_dir, tmp_path / "file")) == 1
    assert str(tmp_path / "file") in one_line()


@pytest.mark.parametrize("in_worker", [False, True])
def test_a_truncated_training_image_is_named(
    miniature_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_worker: bool,
) -> None:
    """Found while the colours are measured, or by a worker that loads a batch."""
    damaged = sorted((miniature_copy / TRAIN).rglob("*.JPEG"))[10]
    damaged.write_bytes(damaged.read_bytes()[:500])
    if in_worker:
        monkeypatch.setattr(trainer.loop.start, "measure", functools.partial(measure, images=1))
    assert main(arguments(miniature_copy, tmp_path / "out", "--set", *SMALL)) == 1
    *begun, line = capsys.readouterr().err.splitlines()
    assert len(begun) == in_worker  # what the run is made of
    assert damaged.relative_to(miniature_copy).as_posix() in line
    assert line.endswith("truncated or damaged JPEG")


def test_init_that_is_no_checkpoint_or_does_not_fit(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    def status(init: Path) -> int:
        return main(arguments(miniature_dir, tmp_path / "out", "--set", *SMALL, "--init", str(init)))

    assert status(tmp_path / "a.pt") == 1
    assert one_line() == f"{tmp_path / 'a.pt'}: no such file, expected a checkpoint (.pt)"
    torch.save({"state_dict": {}}, tmp_path / "a.pt")
    assert status(tmp_path / "a.pt") == 1
    assert "not a checkpoint of ours" in one_line()
    assert status(write_checkpoint(tmp_path / "a.pt", slim_spec("A", classes=("a", "b")))) == 1
    assert one_line().startswith("--init: slim-a (net A) does not fit: conv1_1.weight")


def test_resume_refuses_other_settings_and_damaged_files(
    miniature_dir: Path, tmp_path: Path, one_line: OneLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(miniature_dir, tmp_path, "--resume", "--set", *SMALL)) == 0  # nothing there yet
    assert main(arguments(miniature_dir, tmp_path, "--resume", "--set", *SMALL)) == 0
    capsys.readouterr()
    assert main(arguments(miniature_dir, tmp_path, "--resume", "--set", *SMALL, "seed=1")) == 1
    assert one_line().startswith(f"{tmp_path / 'ckpt.pt'} was made by another recipe or other settings")
    (tmp_path / "ckpt.pt").write_bytes(b"x" * 100)
    assert main(arguments(miniature_dir, tmp_path, "--resume", "--set", *SMALL)) == 1
    assert str(tmp_path / "ckpt.pt") in one_line()


@pytest.mark.processes
def test_a_run_that_fails_ends(miniature_copy: Path, tmp_path: Path) -> None:
    """Its loading processes ignore SIGTERM, so they must not be what Python waits for in the end."""
    damaged = sorted((miniature_copy / TRAIN).rglob("*.JPEG"))[1]
    damaged.write_bytes(damaged.read_bytes()[:500])
    patch = "import trainer.statistics as s; s.measure.__defaults__ = (1,); import runpy; "
    code = f"{patch}runpy.run_module('trainer', run_name='__main__')"
    words = arguments(miniature_copy, tmp_path / "out", "--set", *SMALL)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    begun, failed = done.stderr.splitlines()
    assert "64 training images" in begun and "truncated or damaged JPEG" in failed


@pytest.mark.processes
def test_the_final_evaluation_goes_on_and_is_not_done_twice(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(miniature_dir, tmp_path, "--resume", "--final-protocol", "center", "--set", *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.__main__.evaluate", lambda *_: 130)
        assert main(argv) == 130
    unfinished = tmp_path / "evaluation" / "unfinished"
    begin = ["-m", "evaluation.ilsvrc", "--engine", str(tmp_path / "ckpt.pt"), "--data", str(miniature_dir)]
    begin += ["--protocol", "center", "--out", str(tmp_path / "evaluation")]
    process = subprocess.Popen([sys.executable, *begin], stderr=subprocess.DEVNULL)
    while not list(unfinished.glob("*.scores/*")) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    capfd.readouterr()
    assert main(argv) == 0
    report = tmp_path / "evaluation" / "report.json"
    before = report.read_bytes()
    captured = capfd.readouterr()
    assert "| mini-a  | torch-fp32 | center" in captured.out and not unfinished.exists()
    announced = r"final evaluation: center of 24 images, about \d+ s of computing here; "
    assert re.match(announced + rf"{tmp_path / 'ckpt.pt'} is whole, so Ctrl-C loses nothing, ", captured.err)
    assert main(argv) == 0
    assert f"{tmp_path / 'evaluation'}: center is there already\n" in capfd.readouterr().out
    assert report.read_bytes() == before
    argv[argv.index("center")] = "ten-crop"
    assert main(argv) == 0
    assert "| mini-a  | torch-fp32 | ten-crop" in capfd.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", '{"results": 5}', '{"results": [{"protocol": 5}]}', "[" * 100_000])
def test_a_damaged_report_is_no_evaluation(text: str, tmp_path: Path, one_line: Callable[[], str]) -> None:
    (tmp_path / "ckpt.pt").touch()
    (tmp_path / "report.json").write_text(text)
    assert not is_evaluated(tmp_path / "ckpt.pt", tmp_path / "report.json", "center")
    assert one_line().startswith(f"{tmp_path / 'report.json'}: no report (")


def test_an_evaluation_that_the_system_ended_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: Callable[[], str]
) -> None:
    monkeypatch.setattr("trainer.__main__.has_validation", lambda data: True)
    monkeypatch.setattr("trainer.__main__.run_until_wished", lambda command, wish: -9)
    args = argparse.Namespace(data=tmp_path, labels=None, columns=None, only=None)
    assert evaluate(tmp_path / "ckpt.pt", args, "center", "cpu", None) == 137
    assert one_line().startswith(f"{tmp_path / 'evaluation'}: the evaluation was ended by SIGKILL, as the system does")


def test_the_final_evaluation_reads_the_data_as_the_training_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("trainer.__main__.has_validation", lambda data: True)
    monkeypatch.setattr("trainer.__main__.run_until_wished", lambda command, wish: said.extend(command) or 0)
    options = {"labels": Path("l.csv"), "columns": {"image": "img"}, "only": Path("few.txt"), "limit": 9}
    args = argparse.Namespace(data=tmp_path, **options)
    assert evaluate(tmp_path / "ckpt.pt", args, "center", "cpu", None) == 0
    assert said[-6:] == ["--labels", "l.csv", "--only", "few.txt", "--columns", "image=img"]


@pytest.mark.parametrize(("protocol", "views"), [("center", 1), ("ten-crop", 10)])
def test_the_time_of_an_evaluation_is_that_of_its_views(
    protocol: str, views: int, slim_checkpoint: Checkpoints, miniature_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is a second later, so that TIMED_CROPS crops take one."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    found = evaluation_seconds(slim_checkpoint("A"), open_dataset(miniature_dir), protocol, "cpu")
    assert found == pytest.approx(24 * views / TIMED_CROPS)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.processes
def test_the_final_evaluation_is_cut_short_without_loss(
    number: int, status: int, miniature_dir: Path, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal is for the whole group; a scheduler sends SIGTERM to the process that it started."""
    words = arguments(miniature_dir, tmp_path, "--resume", "--final-protocol", "multicrop+dense", "--set", *SMALL)
    command = [sys.executable, "-m", "trainer", *words]
    kept, errors = tmp_path / "evaluation" / "unfinished", tmp_path / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, start_new_session=True)
        while not list(kept.glob("*.scores/*")):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.005)
        weights = (tmp_path / "ckpt.pt").read_bytes()
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        assert process.wait(60) == status, errors.read_text()

    *_, evaluation, last = errors.read_text().splitlines()
    assert re.fullmatch(r"interrupted: \d+ of 24 images are kept in .*, go on by --resume", evaluation)
    assert last == f"{tmp_path / 'ckpt.pt'}: the net is trained and kept, its evaluation goes on with --resume"
    assert "Traceback" not in errors.read_text()
    assert list(kept.glob("*.scores/*")) and (tmp_path / "ckpt.pt").read_bytes() == weights
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "evaluation" / "report.json").exists()


@pytest.mark.processes
def test_a_second_ctrl_c_ends_an_evaluation_that_does_not_listen() -> None:
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    with wish_to_stop() as wish:
        timers = [threading.Timer(after, signal.raise_signal, [signal.SIGINT]) for after in (0.5, 2.0)]
        for timer in timers:
            timer.start()
        assert run_until_wished([sys.executable, "-c", code], wish) == -signal.SIGKILL
        for timer in timers:
            timer.join()
    assert wish.signal == signal.SIGINT


def test_an_evaluation_that_is_not_wanted_any_more_is_not_begun() -> None:
    assert run_until_wished(["/nonexistent"], Wish(signal.SIGTERM)) == 0
