"""Many processes, pieces of batches, precisions: the same training, computed in another way."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.data.known_images import known_images
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, load
from trainer.loop.execution import Execution
from trainer.loop.train import TrainingError, train
from trainer.processes import ExecutionError, join
from trainer.recipe import Phase
from trainer.recipes import RECIPES

PHASES = (Phase(1.0, (82, 90), dropout=False),)
TINY = dataclasses.replace(
    RECIPES["mini-a"], width=1 / 16, fc_width=16, epochs=2, batch=8, phases=PHASES, average="polyak"
)
SETTINGS = ["width=0.0625", "fc_width=16", "epochs=2", "batch=8", "phases=1:82-90", "average=polyak"]


def torchrun(data: Path, out: Path, *more: str, processes: int = 2, sets: tuple[str, ...] = ()) -> list[str]:
    """With threads and ports of its own."""
    own = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["--recipe", "mini-a", "--data", str(data), "--out", str(out), "--final-protocol", "none"]
    return [sys.executable, *own, "-m", "trainer", *words, *more, "--set", *SETTINGS, *sets]


def quiet_run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def two_processes(miniature_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 56 steps by two processes, in float64."""
    out = tmp_path_factory.mktemp("two") / "out"
    run = quiet_run(torchrun(miniature_dir, out, "--precision", "fp64", sets=("epochs=7",)))
    assert run.returncode == 0, run.stderr
    return out


@pytest.mark.processes
def test_two_processes_train_as_one(two_processes: Path, miniature_dir: Path, tmp_path: Path) -> None:
    """50 steps and more in float64 without dropout: 1e-5 is asked, rounding alone is left."""
    recipe = dataclasses.replace(TINY, epochs=7)
    alone = train(recipe, miniature_dir, tmp_path / "one", execution=Execution(precision="fp64"))
    one, two = load(alone), load(two_processes / "ckpt.pt")
    assert one.epochs_done == two.epochs_done == 7
    assert one.spec == two.spec and known_images(one.spec) is not None
    assert next(iter(two.iterate.values())).dtype == torch.float64
    assert largest_difference(one.iterate, two.iterate) < 1e-9
    assert largest_difference(one.weights, two.weights) < 1e-6
    rows = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (tmp_path / "one", two_processes)
    ]
    assert len(rows[0]) == 7
    for mine, theirs in zip(*rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_a_batch_in_pieces_is_the_same_batch(miniature_dir: Path, tmp_path: Path) -> None:
    def run(parts: int) -> Checkpoint:
        execution = Execution(precision="fp64", parts=parts)
        return load(train(TINY, miniature_dir, tmp_path / str(parts), execution=execution))

    whole, pieces = run(1), run(4)
    assert 0 < largest_difference(whole.iterate, pieces.iterate) < 1e-9


@pytest.mark.parametrize(
    ("processes", "parts", "pieces"), [(1, 3, 3), (2, 8, 16)], ids=["one process", "two processes"]
)
@pytest.mark.processes
def test_a_batch_that_cannot_be_cut_is_refused(
    processes: int, parts: int, pieces: int, miniature_dir: Path, tmp_path: Path
) -> None:
    message = f"a batch of 8 cannot be cut into {pieces} equal pieces: --set batch=..."
    if processes == 1:
        with pytest.raises(TrainingError, match=message):
            train(TINY, miniature_dir, tmp_path, execution=Execution(parts=parts))
        return
    run = quiet_run(torchrun(miniature_dir, tmp_path, "--parts", str(parts)))
    assert run.returncode == 1
    assert message in run.stderr and "Traceback" not in run.stderr.split("torch/distributed")[0]


@pytest.mark.processes
def test_two_processes_stop_together_and_go_on_to_the_same_bits(
    two_processes: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    own = ["--precision", "fp64"]
    command = torchrun(miniature_dir, tmp_path, *own, "--save-minutes", "0", sets=("epochs=7",))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "ckpt.pt").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode and " of 56 iterations are in " in said, said
    kept = load(tmp_path / "ckpt.pt")
    assert 0 < 8 * kept.epochs_done + kept.steps_of_epoch < 56

    again = quiet_run(torchrun(miniature_dir, tmp_path, *own, "--resume", sets=("epochs=7",)))
    assert again.returncode == 0, again.stderr
    a, b = (load(out / "ckpt.pt") for out in (two_processes, tmp_path))
    assert largest_difference(a.weights, b.weights) == 0
    assert largest_difference(a.iterate, b.iterate) == 0
    assert largest_difference(a.momentum, b.momentum) == 0
    rows = [(out / "metrics.jsonl").read_text() for out in (two_processes, tmp_path)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "execution",
    [
        Execution(precision="bf16"),
        Execution(precision="fp16"),
        Execution(channels_last=False),
    ],
    ids=["bf16", "fp16", "channels first"],
)
def test_other_ways_train_nearly_the_same(
    execution: Execution, miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 finds the scale of its loss by steps that it leaves out: here it starts with one that fits."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **more: scaler(*a, init_scale=256.0, **more))
    recipe = dataclasses.replace(TINY, epochs=1, batch=16)
    plain = load(train(recipe, miniature_dir, tmp_path / "plain"))
    other = load(train(recipe, miniature_dir, tmp_path / "other", execution=execution))
    assert all(t.dtype == torch.float32 for t in other.weights.values())
    assert 0 < largest_difference(plain.weights, other.weights) < 0.02
    assert bool(other.scaler) == (execution.precision == "fp16")


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile makes C++ of a CPU's steps: no g++ here")
def test_compiled_steps_train_nearly_the_same(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some CPUs to the same bits: that a step was compiled shows in the code that torch.compile left."""
    generated = tmp_path / "generated"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(generated))

    def weights(name: str, *more: str) -> dict[str, torch.Tensor]:
        run = quiet_run(torchrun(miniature_dir, tmp_path / name, *more, processes=1, sets=("epochs=1", "batch=16")))
        assert run.returncode == 0, run.stderr
        return load(tmp_path / name / "ckpt.pt").weights

    plain = weights("plain")
    assert not list(generated.rglob("*.py"))
    compiled = weights("compiled", "--compile")
    code = "".join(path.read_text() for path in generated.rglob("*.py"))
    fused = set(re.findall("cpp_fused_[a-z0-9_]+", code))
    assert all(any(operation in name for name in fused) for operation in ("relu", "max_pool2d", "log_softmax")), fused
    assert largest_difference(plain, compiled) < 0.02


def whole_and_resumed(
    execution: Execution, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Checkpoint, Checkpoint]:
    """The ends of an uninterrupted run, and of one that died after its first checkpoint, in an epoch."""

    def save_and_die(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        raise KeyboardInterrupt

    save = checkpoints.save
    whole = load(train(TINY, data, out / "whole", execution=execution))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, data, out, execution=dataclasses.replace(execution, save_minutes=0))
    return whole, load(train(TINY, data, out, resume=True, execution=execution))


def test_fp16_goes_on_with_its_scale(miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, resumed = whole_and_resumed(Execution(precision="fp16"), miniature_dir, tmp_path, monkeypatch)
    assert whole.scaler == resumed.scaler and whole.scaler["scale"] > 1
    assert largest_difference(whole.weights, resumed.weights) == 0


@pytest.mark.parametrize(("one", "other"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "bf16")])
def test_a_run_goes_on_in_another_precision(one: Any, other: Any, miniature_dir: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(TINY, epochs=1), miniature_dir, tmp_path, execution=Execution(precision=one))
    path = tmp_path / "ckpt.pt"
    begun = dataclasses.replace(load(path), finished=False, recipe=TINY.to_json())
    checkpoints.save(begun, path)
    train(TINY, miniature_dir, tmp_path, resume=True, execution=Execution(precision=other))
    assert (load(path).epochs_done, load(path).finished) == (2, True)


def test_fp64_with_an_average_goes_on_to_the_same_bits(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = whole_and_resumed(Execution(precision="fp64"), miniature_dir, tmp_path, monkeypatch)
    assert largest_difference(whole.average, resumed.average) == largest_difference(whole.iterate, resumed.iterate) == 0
    assert next(iter(whole.average.values())).dtype == torch.float64


def test_no_such_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ExecutionError, match="1 GPUs for process 1 of this machine: start fewer"):
        join("cuda")


def test_alone_a_process_is_the_first_of_one() -> None:
    peers: Any = join("auto")
    assert (peers.rank, peers.world, peers.device.type) == (0, 1, "cuda" if torch.cuda.is_available() else "cpu")
    assert peers.most([3, 0]) == [3, 0]
    assert peers.total(torch.ones(2)).tolist() == [1, 1]
