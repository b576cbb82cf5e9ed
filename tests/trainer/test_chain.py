"""trainer/chain.py: which net comes after which, what is left of a chain that was stopped, and where it ends."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_net

import trainer.chain
from evaluation.ilsvrc import main as evaluate
from evaluation.run.submission import read_submission
from trainer.chain import chain, main
from trainer.checkpoint import Checkpoint, load, save
from trainer.loop.train import Stopped, TrainingError
from trainer.recipe import Recipe
from trainer.recipes import RECIPES

OneLine = Callable[[], str]
SMALL = ["width=0.0625", "fc_width=16", "epochs=1", "batch=32"]
PAPER = ["a", "b", "c", "d", "e", "c-384", "d-384", "e-384", "c-jitter", "d-jitter", "e-jitter"]


@dataclasses.dataclass
class Trained:
    """A double of `train`: writes untrained nets, and remembers what it was asked for."""

    calls: list[tuple[str, Path | None]] = dataclasses.field(default_factory=list)
    pages: list[Path] = dataclasses.field(default_factory=list)
    stops_at: str = ""

    def __call__(self, recipe: Recipe, data: Path, out: Path, *, init: Path | None, **options: Any) -> Path:
        assert options["resume"] and out.name == recipe.name
        assert init is None or load(init).finished  # the parent is there, whole
        self.calls.append((recipe.name, init))
        spec = recipe.spec(("a", "b"), (), (120.0, 110.0, 100.0))
        stopped = recipe.name == self.stops_at
        done = Checkpoint(
            spec, random_net(spec).state_dict(), recipe=recipe.to_json(), epochs_done=1, finished=not stopped
        )
        save(done, out / "ckpt.pt")
        if stopped:
            raise Stopped(signal.SIGTERM, "stopped: go on with --resume")
        return out / "ckpt.pt"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    double = Trained()
    monkeypatch.setattr(trainer.chain, "train", double)
    monkeypatch.setattr(trainer.chain, "try_to_report", lambda path, *_: double.pages.append(path))
    return double


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--mini", *more, "--set", *SMALL]


def test_the_chain_of_the_paper() -> None:
    recipes = chain("ABCDE")
    assert list(recipes) == [f"vgg-{name}" for name in PAPER]
    assert recipes == {name: RECIPES[name] for name in recipes}
    assert [recipe.init.removeprefix("vgg-") for recipe in recipes.values()] == [
        *("", "a", "a", "a", "a"),
        *("c", "d", "e", "c-384", "d-384", "e-384"),
    ]
    assert list(chain("ABCDE", mini=True)) == [f"mini-{name}" for name in PAPER]


def test_a_net_brings_those_it_starts_from() -> None:
    assert list(chain(["D"])) == ["vgg-a", "vgg-d", "vgg-d-384", "vgg-d-jitter"]
    assert list(chain(["A-LRN", "B"])) == ["vgg-a-lrn", "vgg-a", "vgg-b"]


def test_a_random_start_needs_no_other_net() -> None:
    recipes = chain(["D"], start="glorot")
    assert list(recipes) == ["vgg-d", "vgg-d-384", "vgg-d-jitter"]
    assert recipes["vgg-d"] == dataclasses.replace(RECIPES["vgg-d"], start="glorot", init="")
    assert recipes["vgg-d-384"] == RECIPES["vgg-d-384"]


def test_every_run_has_its_folder_and_its_parent(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "data", tmp_path / "out")) == 0
    parents = ["", "a", "a", "a", "a", "c", "d", "e", "c-384", "d-384", "e-384"]
    assert trained.calls == [
        (f"mini-{name}", tmp_path / "out" / f"mini-{parent}" / "ckpt.pt" if parent else None)
        for name, parent in zip(PAPER, parents, strict=True)
    ]
    assert trained.pages == [tmp_path / "out" / f"mini-{name}" / "ckpt.pt" for name in PAPER]
    said = capsys.readouterr()
    assert "0 of 11 runs are finished, 11 are left" in said.out
    assert "[11 of 11] mini-e-jitter" in said.out and said.err == ""


def test_the_submission_is_the_best_of_the_paper(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "data", tmp_path)) == 0
    submission = read_submission(tmp_path / "submission.yaml")
    assert submission.name == "mini-d-and-e"
    assert [(member.engine, member.protocol, member.scales) for member in submission.members] == [
        (tmp_path / f"mini-{net}-jitter" / "ckpt.pt", "multicrop+dense", None) for net in "de"
    ]
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["python", "-m", "evaluation.ilsvrc"]
    assert words[3:7] == ["--submission", str(tmp_path / "submission.yaml"), "--data", str(tmp_path / "data")]


def test_without_the_best_two_the_last_run_of_each_net_is_evaluated(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "data", tmp_path, "--nets", "D,B")) == 0
    assert not (tmp_path / "submission.yaml").exists()
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])[3:]
    engines = [word for flag, word in itertools.pairwise(words) if flag == "--engine"]
    assert engines == [str(tmp_path / f"mini-{name}" / "ckpt.pt") for name in ("b", "d-jitter")]


def test_a_chain_that_was_stopped_goes_on_with_what_is_left(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.stops_at = "mini-d"
    assert main(arguments(tmp_path / "data", tmp_path, "--nets", "B,D")) == 128 + signal.SIGTERM
    assert [name for name, _ in trained.calls] == ["mini-a", "mini-b", "mini-d"]
    assert capsys.readouterr().err == "stopped: go on with --resume\n"
    trained.stops_at, trained.calls = "", []
    assert main(arguments(tmp_path / "data", tmp_path, "--nets", "B,D", "--resume")) == 0
    assert [name for name, _ in trained.calls] == ["mini-d", "mini-d-384", "mini-d-jitter"]
    said = capsys.readouterr().out
    assert "2 of 5 runs are finished, 3 are left" in said and "begun, 1 epochs" in said
    trained.calls = []
    assert main(arguments(tmp_path / "data", tmp_path, "--nets", "B,D", "--resume")) == 0
    assert trained.calls == [] and "5 of 5 runs are finished, 0 are left" in capsys.readouterr().out


def test_a_plan_writes_nothing(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "data", tmp_path / "out", "--plan", "--nets", "E")) == 0
    assert trained.calls == [] and not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "random weights (he)" in said and "4 are left" in said


def test_settings_of_one_run_and_of_all(trained: Trained, tmp_path: Path) -> None:
    settings = ["mini-b:momentum=0.5", "mini-b:phases=1:72-120:dropout"]
    assert main([*arguments(tmp_path, tmp_path / "out", "--nets", "B"), *settings]) == 0
    for name, momentum in (("mini-a", 0.9), ("mini-b", 0.5)):
        made = dataclasses.replace(RECIPES[name], width=1 / 16, fc_width=16, epochs=1, batch=32, momentum=momentum)
        if name == "mini-b":
            made = dataclasses.replace(made, phases=(dataclasses.replace(made.phases[1], share=1.0),))
        assert load(tmp_path / "out" / name / "ckpt.pt").recipe == made.to_json()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nets", "A,F"], "expected nets of A, A-LRN, B, C, D, E, got 'F'"),
        (["--nets", ""], "expected nets of A, A-LRN, B, C, D, E, got ''"),
        (["--start", "normal"], "argument --start: invalid choice"),
        (["--set", "speed=1"], "--set speed=1: expected key=value"),
        (["--set", "net=B"], "--set net=B: the chain decides net (--nets, --start)"),
        (["--set", "vgg-a:init=x"], "--set vgg-a:init=x: the chain decides init"),
        (["--set", "mini-a:epochs=1"], "--set mini-a:epochs=1: expected one of vgg-a, vgg-b"),
        (["--save-minutes", "-1"], "--save-minutes: expected a number of 0 or more, got -1"),
    ],
)
def test_usage_errors(argv: list[str], message: str, one_line: OneLine) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--data", "d", "--out", "o", *argv])
    assert caught.value.code == 2
    line = one_line()
    assert line.startswith("python -m trainer.chain: ") and message in line


def test_a_folder_with_something_in_it(trained: Trained, tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note").touch()
    assert main(arguments(tmp_path, tmp_path / "out")) == 1
    assert one_line() == f"{tmp_path / 'out'} is not empty: go on with --resume, or use a new --out"
    assert main(arguments(tmp_path, tmp_path / "out", "--resume")) == 0


def test_other_settings_are_refused_before_anything_is_trained(
    trained: Trained, tmp_path: Path, one_line: OneLine
) -> None:
    assert main(arguments(tmp_path, tmp_path / "out", "--nets", "B")) == 0
    trained.calls = []
    assert main([*arguments(tmp_path, tmp_path / "out", "--nets", "B", "--resume"), "mini-b:seed=1"]) == 1
    assert one_line().startswith(f"{tmp_path / 'out' / 'mini-b' / 'ckpt.pt'} was made with other settings")
    assert main(arguments(tmp_path, tmp_path / "out", "--nets", "B", "--resume", "--start", "glorot")) == 1
    assert one_line().startswith(f"{tmp_path / 'out' / 'mini-b' / 'ckpt.pt'} was made with other settings")
    (tmp_path / "out" / "mini-a" / "ckpt.pt").write_bytes(b"x")
    assert main(arguments(tmp_path, tmp_path / "out", "--nets", "B", "--resume")) == 1
    assert str(tmp_path / "out" / "mini-a" / "ckpt.pt") in one_line()
    assert trained.calls == []


def test_a_run_that_fails_ends_the_chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_line: OneLine) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TrainingError("the loss became nan")

    monkeypatch.setattr(trainer.chain, "train", fail)
    assert main(arguments(tmp_path, tmp_path / "out")) == 1
    assert one_line() == "the loss became nan"


@pytest.mark.processes
def test_the_real_thing(miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiny nets, two steps each; the submission goes through the command that is printed."""
    seeds = ["mini-d:seed=1", "mini-d-384:seed=2", "mini-d-jitter:seed=3"]  # no two begin alike by themselves
    assert main([*arguments(miniature_dir, tmp_path, "--nets", "D,E"), *seeds]) == 0
    a, d, fine, jitter = (load(tmp_path / f"mini-{name}" / "ckpt.pt") for name in ("a", "d", "d-384", "d-jitter"))
    assert all(one.finished and one.epochs_done == 1 for one in (a, d, fine, jitter))
    assert jitter.spec.train_short_px == (72, 120) and fine.spec.train_short_px == 88
    # two steps move little: a net is nearest to the one it started from
    assert distance(d, a, "conv1_1.weight") < 0.3 and distance(fine, d, "conv1_2.weight") < 0.3
    assert distance(jitter, fine, "conv5_3.weight") < 0.3
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert evaluate([*words[3:], "--limit", "4"]) == 0
    table = capsys.readouterr().out
    assert "mini-d-and-e" in table and "multicrop+dense" in table and "72,96,120" in table.replace(" ", "")


def distance(one: Checkpoint, other: Checkpoint, name: str) -> float:
    """Relative to the length of the other."""
    a, b = one.weights[name], other.weights[name]
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
