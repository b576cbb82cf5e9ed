"""Nothing of a run is lost: stopped, killed, out of disk or diverged, it goes on to the same weights, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.errors import Refused
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, load
from trainer.loop.execution import Execution
from trainer.loop.progress import MetricsError, read_metrics
from trainer.loop.stopping import wish_to_stop
from trainer.loop.train import Stopped, TrainingError, train
from trainer.recipes import RECIPES

TINY = dataclasses.replace(RECIPES["mini-a"], name="mini-a", width=1 / 16, fc_width=16, epochs=2, batch=8)
SETTINGS = ["width=0.0625", "fc_width=16", "epochs=2", "batch=8"]
Run = Callable[..., Path]


def command(data: Path, out: Path, *more: str) -> list[str]:
    words = ["--recipe", "mini-a", "--data", str(data), "--out", str(out), "--save-minutes", "0"]
    words += ["--final-protocol", "none"]
    return [sys.executable, "-m", "trainer", *words, *more, "--set", *SETTINGS]


def same(one: Path, other: Path) -> bool:
    """Checkpoints and metrics of two finished runs."""
    a, b = load(one / "ckpt.pt"), load(other / "ckpt.pt")
    tensors = all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in ((a.weights, b.weights), (a.momentum, b.momentum))
    )
    rows = [(path / "metrics.jsonl").read_text() for path in (one, other)]
    return tensors and a.spec == b.spec and a.epochs_done == b.epochs_done == TINY.epochs and rows[0] == rows[1]


@pytest.fixture(scope="module")
def whole(miniature_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    train(TINY, miniature_dir, out)
    return out


def train_and_die(data: Path, out: Path, stop_at: int, save_minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a checkpoint has been written so many times."""
    save, calls = checkpoints.save, 0

    def save_and_die(checkpoint: Checkpoint, path: Path) -> None:
        nonlocal calls
        save(checkpoint, path)
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, data, out, execution=Execution(save_minutes=save_minutes))


@pytest.mark.parametrize(("stop_at", "epochs", "steps"), [(1, 0, 1), (5, 0, 5), (8, 0, 8), (9, 1, 0), (13, 1, 4)])
def test_a_run_that_died_in_an_epoch_goes_on_to_the_same_bits(
    stop_at: int,
    epochs: int,
    steps: int,
    whole: Path,
    miniature_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an epoch's nine checkpoints the eighth is from before the validation."""
    train_and_die(miniature_dir, tmp_path, stop_at, 0, monkeypatch)
    kept = load(tmp_path / "ckpt.pt")
    assert (kept.epochs_done, kept.steps_of_epoch) == (epochs, steps)
    train(TINY, miniature_dir, tmp_path, resume=True)
    assert same(tmp_path, whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.processes
def test_a_signal_ends_the_step_and_keeps_it(
    number: int, status: int, whole: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    """As a cluster does that takes its machine back."""
    process = subprocess.Popen(command(miniature_dir, tmp_path), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "ckpt.pt").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    *lines, last = said.splitlines()
    assert process.returncode == status and all(line.startswith("mini-a") for line in lines), said
    assert f" of 16 iterations are in {tmp_path / 'ckpt.pt'}, go on with --resume" in last
    assert subprocess.run(command(miniature_dir, tmp_path, "--resume"), stderr=subprocess.PIPE).returncode == 0
    assert same(tmp_path, whole)


@pytest.mark.parametrize(("numbers", "interrupted"), [((15, 15, 15), False), ((2, 2), True), ((15, 2), True)])
def test_only_a_later_ctrl_c_interrupts(
    numbers: tuple[int, ...], interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout`, schedulers and torchrun send SIGTERM more than once."""
    now = 100.0
    monkeypatch.setattr("trainer.loop.stopping.time.monotonic", lambda: now)
    with wish_to_stop() as wish:
        signal.raise_signal(numbers[0])
        signal.raise_signal(signal.SIGINT)  # the same key, through another process
        now += 2
        with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
            for number in numbers[1:]:
                signal.raise_signal(number)
    assert wish.signal == numbers[0]


def test_a_folder_with_a_checkpoint_is_not_trained_over(whole: Path, miniature_dir: Path) -> None:
    before = (whole / "ckpt.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"ckpt\.pt is there already: go on with --resume, or use a new --out"):
        train(TINY, miniature_dir, whole)
    assert (whole / "ckpt.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "curves.png"])
def test_a_file_of_another_command_is_not_replaced(name: str, miniature_dir: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("of another command")
    with pytest.raises(TrainingError, match=rf"{name} is there already: go on with --resume, or use a new --out"):
        train(TINY, miniature_dir, tmp_path)
    assert (tmp_path / name).read_text() == "of another command" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.processes
def test_a_full_disk_keeps_the_checkpoint_before(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files, below that of a checkpoint, stands for the disk."""
    train_and_die(miniature_dir, tmp_path, 2, 10, monkeypatch)
    before = (tmp_path / "ckpt.pt").read_bytes()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    done = subprocess.run(
        command(miniature_dir, tmp_path, "--resume"), preexec_fn=limit, stderr=subprocess.PIPE, text=True
    )
    failed = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path / 'ckpt.pt'}: cannot be written" in failed or "File too large" in failed
    assert "ake room, then " in failed and "go on with --resume" in failed
    assert (tmp_path / "ckpt.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt.pt", "curves.png", "metrics.jsonl", "tensorboard"]


def test_a_loss_that_is_no_number_names_the_iteration_and_the_last_checkpoint(
    miniature_dir: Path, tmp_path: Path
) -> None:
    wild = dataclasses.replace(TINY, learning_rate=1e8, warmup=0.0)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in iteration \d+ \(epoch 1\): .*ckpt\.pt$"):
        train(wild, miniature_dir, tmp_path, execution=Execution(save_minutes=0))
    kept = load(tmp_path / "ckpt.pt")
    assert kept.steps_of_epoch >= 1
    with pytest.raises(TrainingError, match=r"in iteration \d+ \(epoch 1\): lower learning_rate$"):
        train(wild, miniature_dir, tmp_path / "none")


def test_a_run_in_another_thread_takes_no_signals(miniature_dir: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, dataclasses.replace(TINY, epochs=1), miniature_dir, tmp_path).result()
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopped_says_by_which_signal() -> None:
    assert Stopped(15, "stopped").signal == 15


@pytest.mark.slow
@pytest.mark.processes
def test_kills_at_random_moments(whole: Path, miniature_dir: Path, tmp_path: Path) -> None:
    """kill -9, again and again, until the run gets through."""
    random.seed(0)
    for kill in range(30):
        process = subprocess.Popen(command(miniature_dir, tmp_path, "--resume"))
        try:
            process.wait(timeout=random.uniform(2.0, 6.0) + kill)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0 and same(tmp_path, whole)
    rows = [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": {"fc8.bias": torch.zeros(2)}}, "its momentum has fc8.bias (2,), expected (10,): it is damaged"),
        ({"momentum": {"fc9.bias": torch.zeros(2)}}, "its momentum has fc9.bias (2,), expected no such tensor"),
        (
            {"iterate": {"fc8.bias": torch.zeros(10)}},
            "its iterate has conv1_1.bias missing, expected (4,): it is",
        ),
        ({"epochs_done": 3}, "says 3 epochs and 0 steps, of 0 images, of a run of 2 epochs with"),
        ({"epochs_done": 2, "steps_of_epoch": 1}, "says 2 epochs and 1 steps, of 0 images, of a run of 2 epochs with"),
        ({"steps_of_epoch": 10**6, "sums": (1.0, 1.0, 1.0)}, "says 1 epochs and 1000000 steps, of 1 images, of a run"),
        ({"steps_of_epoch": 1}, "says 1 epochs and 1 steps, of 0 images, of a run of 2 epochs with"),
    ],
)
def test_a_checkpoint_whose_state_does_not_fit(
    changes: dict[str, Any], message: str, whole: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    content = torch.load(whole / "ckpt.pt", weights_only=True) | {"finished": False, "epochs_done": 1}
    torch.save({**content, **changes}, tmp_path / "ckpt.pt")
    with pytest.raises(Refused, match=re.escape(message)) as caught:
        train(TINY, miniature_dir, tmp_path, resume=True)
    assert str(caught.value).startswith(str(tmp_path / "ckpt.pt"))
    assert str(caught.value).endswith("it is damaged, start from its weights by --init in a new --out")


@pytest.mark.parametrize(
    "text", [b"\0\0\0\n", b"{}\n", b"[]\n", b"[" * 100_000 + b"\n", b'{"epoch": "x", "iteration": 1}\n', b"\xff\n"]
)
def test_damaged_metrics(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(text)
    with pytest.raises(
        MetricsError, match=r"metrics\.jsonl: line 1 is no metrics of a run .*: remove the file"
    ) as caught:
        read_metrics(tmp_path / "metrics.jsonl")
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_a_killed_process_that_decodes(miniature_dir: Path, tmp_path: Path, whole: Path) -> None:
    """As the system kills where memory is short: one line, and the steps done before are kept."""
    process = subprocess.Popen(
        [*command(miniature_dir, tmp_path / "out", "--save-minutes", "100"), "epochs=400"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline, killed = time.monotonic() + 60, False
    while not killed and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if (tmp_path / "out" / "metrics.jsonl").exists() and (tmp_path / "out" / "metrics.jsonl").read_text():
            own = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
            for child in own:
                os.kill(int(child), signal.SIGKILL)
                killed = True
    _, said = process.communicate(timeout=60)
    assert killed and process.returncode == 1
    *lines, last = said.strip().splitlines()
    assert all(line.startswith("mini-a") for line in lines), said
    assert last.startswith("a process that decodes images was ended by SIGKILL, as the system does")
    assert load(tmp_path / "out" / "ckpt.pt").epochs_done >= 1
