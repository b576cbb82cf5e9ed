"""A Ray of this machine: the same bytes as a run without, also when an actor is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.ilsvrc import main

pytest.importorskip("ray", reason="Ray is in the extra `distributed`")

ACTOR = "ray::MapWorker(MapBatches(Actor))"
Exported = Callable[..., Path]


@pytest.fixture
def arguments(exported: Exported, miniature_dir: Path) -> list[str]:
    engines = [word for net in "AB" for word in ("--engine", str(exported(net)))]
    return [*engines, "--data", str(miniature_dir), "--protocol", "center,multicrop+dense"]


def on_ray(arguments: list[str], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since Ray leaves threads and handlers behind."""
    command = [sys.executable, "-m", "evaluation.ilsvrc", *arguments, "--out", str(out), "--ray", "auto", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def scores(out: Path) -> dict[str, bytes]:
    assert not (out / "unfinished").exists()
    return {path.name: path.read_bytes() for path in (out / "scores").iterdir()}


def actors() -> list[int]:
    """Process ids of Ray's actors, by what they call themselves."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cmdline").read_text().startswith(ACTOR):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.processes
@pytest.mark.usefixtures("alone_on_ray")
def test_two_actors_change_nothing_even_if_one_is_killed(killed: bool, arguments: list[str], tmp_path: Path) -> None:
    out, struck = tmp_path / "out", []

    def kill() -> None:
        while not list((out / "unfinished").glob("*/*.parquet")):
            time.sleep(0.01)
        victim = actors()[0]
        os.kill(victim, signal.SIGKILL)
        struck.append(victim)

    if killed:
        threading.Thread(target=kill, daemon=True).start()
    done = on_ray(arguments, out, "--ray-actors", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(struck) == killed
    assert main([*arguments, "--out", str(tmp_path / "local")]) == 0
    assert scores(out) == scores(tmp_path / "local")
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "local"))
    assert one["dataset"] == other["dataset"]
    assert actors() == []


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("alone_on_ray")
def test_errors_of_actors_are_one_line(arguments: list[str], tmp_path: Path, miniature_copy: Path) -> None:
    absent = ["--engine", str(tmp_path / "absent.onnx"), *arguments[4:]]
    done = on_ray(absent, tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        1,
        f"{tmp_path}/absent.onnx: no such file, expected an engine (.onnx, .engine)\n",
    )
    first = next(miniature_copy.rglob("ILSVRC2012_val_00000001.JPEG"))
    first.write_bytes(b"damaged")
    strict = [*arguments[:5], str(miniature_copy), *arguments[6:], "--strict"]
    done = on_ray(strict, tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{first.name}" in done.stderr and "--strict stops at the first unreadable image" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray", "auto", "--device", "0,1"], "--ray and --device exclude each other"),
        (["--ray-actors", "2"], "--ray-actors is for --ray"),
    ],
)
def test_usage(
    more: list[str], said: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "out"), *more])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
