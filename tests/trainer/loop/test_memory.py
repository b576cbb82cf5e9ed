"""trainer/loop/memory.py: what a step will take, what may be taken, a batch that is refused before the first step."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.__main__ import main
from trainer.loop import memory
from trainer.loop.execution import Execution, Precision
from trainer.loop.memory import Free, check_memory, free_memory, kept_bytes, step_memory
from trainer.loop.start import make_initial_net
from trainer.loop.training_state import TrainingState
from trainer.processes import ExecutionError, Peers
from trainer.recipes import RECIPES

CLASSES = tuple("abcdefghij")


def state(name: str, precision: Precision = "fp32", *, parts: int = 1, **changes: object) -> TrainingState:
    recipe = dataclasses.replace(RECIPES[name], **{"batch": 8, "fc_width": 32, **changes})  # type: ignore[arg-type]
    spec = recipe.spec(CLASSES, (), (120.0, 115.0, 100.0))
    execution = Execution("cpu", precision, parts)
    return TrainingState(recipe, spec, make_initial_net(recipe, spec, None), execution, Peers(torch.device("cpu")))


def kept_by_a_real_pass(run: TrainingState, images: int) -> int:
    """Bytes of the storages that autograd saves, of real tensors, without weights."""
    own = {t.untyped_storage().data_ptr() for t in (*run.objective.parameters(), *run.objective.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # which lives as long, so that no other gets its address
        return tensor

    side = run.spec.crop_px
    target = torch.zeros(images, dtype=torch.long) if run.spec.task == "classify" else torch.zeros(images, 6)
    batch = (torch.zeros(images, side, side, 3, dtype=torch.uint8), torch.zeros(images, 3), target)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        run.execution.autocast(torch.device("cpu")),
    ):
        loss, _ = run.objective(*batch)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["mini-a", "mini-a-lrn", "mini-d", "mini-googlenet", "mini-d-loc-pcr"])
def test_what_autograd_keeps_is_counted_exactly(name: str) -> None:
    run = state(name)
    assert kept_bytes(run, 3) == kept_by_a_real_pass(run, 3) > 0


def test_half_precision_keeps_less() -> None:
    single, half = state("mini-d"), state("mini-d", "bf16")
    assert kept_bytes(half, 8) < 0.7 * kept_bytes(single, 8)
    assert kept_bytes(half, 8) == pytest.approx(kept_by_a_real_pass(half, 8), rel=0.03)
    assert kept_bytes(state("mini-d", "fp64"), 8) == pytest.approx(2 * kept_bytes(single, 8), rel=0.15)


def test_layers_that_are_not_trained_keep_little() -> None:
    whole, head = state("mini-d"), state("mini-d-loc-scr", train_layers="fully-connected")
    assert kept_bytes(head, 8) < 0.05 * kept_bytes(whole, 8)
    assert step_memory(head, 8).gradients == sum(p.nbytes for p in head.trained.values())


def test_gradients_and_momentum_that_are_there_do_not_count_again() -> None:
    run = state("mini-a")
    weights = sum(p.nbytes for p in run.net.parameters())
    before = step_memory(run, 8)
    assert before.gradients == before.momentum == weights
    pixels, labels = torch.zeros(8, 64, 64, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    run.step([(pixels, torch.zeros(8, 3), labels, torch.arange(8))], 0.01)
    assert step_memory(run, 8).momentum == 0
    assert step_memory(state("mini-a", momentum=0.0), 8).momentum == 0


def allow(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda run: [Free(count, "of the machine"), Free(1 << 50, "elsewhere")])


def test_what_just_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = state("mini-a")
    allow(monkeypatch, 2 * step_memory(run, 8).total)
    check_memory(run)
    assert capsys.readouterr().err == ""

    allow(monkeypatch, step_memory(run, 8).total)
    check_memory(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a batch of 8 would take 0.0 GB more, 0.0 GB are free (of the machine): it ends where other")
    assert re.search(r"what is left, --parts \d would leave room$", line)

    allow(monkeypatch, step_memory(run, 8).total - 1)
    with pytest.raises(ExecutionError, match="--parts 2 computes"):
        check_memory(run)


@pytest.mark.parametrize(("images", "parts"), [(4, 2), (3, 4), (2, 4), (1, 8)])
def test_the_fewest_pieces_that_fit_are_named(images: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = state("mini-a")
    allow(monkeypatch, step_memory(run, images).total)
    with pytest.raises(ExecutionError) as refused:
        check_memory(run)
    assert re.fullmatch(
        rf"a batch of 8 would take 0\.\d GB more, 0\.\d GB are free \(of the machine\): --parts {parts} computes it in "
        "pieces that fit",
        str(refused.value),
    )
    check_memory(state("mini-a", parts=parts))


def test_where_one_image_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 1000)
    with pytest.raises(
        ExecutionError, match=r"a batch of 8 in 2 pieces would take .*: no --parts makes it fit, a single"
    ):
        check_memory(state("mini-a", parts=2))


def test_a_compiled_step_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 1000)
    run = state("mini-a")
    run.execution = dataclasses.replace(run.execution, compile=True)
    check_memory(run)


def test_a_run_is_refused_in_one_line(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allow(monkeypatch, 20_000_000)
    argv = ["--recipe", "mini-a", "--data", str(miniature_dir), "--out", str(tmp_path), "--set", "batch=64"]
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a batch of 64 would take 0.0 GB more, 0.0 GB are free (of the machine): --parts ")
    assert not (tmp_path / "ckpt.pt").exists()


GB = 10**9


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  2000000 kB\n"}, [Free(2_048_000_000, "of the machine")]),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": f"{GB}\n",
                "sys/fs/cgroup/job/memory.max": f"{4 * GB}\n",
                "sys/fs/cgroup/job/memory.current": f"{3 * GB}\n",
                "sys/fs/cgroup/job/memory.stat": f"anon 5\nactive_file {GB}\ninactive_file 7\n",
            },
            [Free(2 * GB + 7, "of the container")],
        ),
        (  # a container that sees its own group as the root
            {
                "proc/self/cgroup": "0::/docker/1234\n",
                "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GB}\n",
            },
            [Free(GB, "of the container")],
        ),
        (  # version 1
            {
                "proc/self/cgroup": "5:cpuset:/\n4:memory:/job\n0::/\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{3 * GB}\n",
                "sys/fs/cgroup/memory/job/memory.stat": "total_inactive_file 9\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
            },
            [Free(GB + 9, "of the container")],
        ),
    ],
)
def test_what_may_be_taken(
    files: dict[str, str], expected: list[Free], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    run = state("mini-a")
    assert free_memory(run) == (expected or [Free(memory.NO_LIMIT, "no limit is known")])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [free.bytes for free in free_memory(run)] == [free.bytes // 2 for free in expected] or not expected


def test_a_limit_of_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "statm").write_text("1000 500 1 1 0 1 0\n")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (GB, -1))
    assert free_memory(state("mini-a")) == [Free(GB - 1000 * resource.getpagesize(), "of ulimit -v")]


def test_a_gpu_as_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here: what is asked of CUDA, and that its optimiser's copies and DDP's buckets count."""
    run, on_host = state("mini-a"), step_memory(state("mini-a"), 8)
    weights = sum(p.nbytes for p in run.trained.values())
    run.peers = Peers(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GB, 8 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GB)
    assert free_memory(run) == [Free(6 * GB, "on the GPU")]

    alone = step_memory(run, 8)
    assert (alone.kept, alone.gradients, alone.momentum) == (on_host.kept, weights, weights)
    assert alone.temporaries == max(0, weights - alone.kept) and alone.waiting == 8 * 64 * 64 * 3
    run.peers = Peers(torch.device("cuda", 0), world=2)
    assert step_memory(run, 8).gradients == 2 * weights
