"""Several processes make the same bytes as one; one that dies or a Ctrl-C loses nothing that was done."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.ilsvrc import main
from evaluation.run import loop
from evaluation.run.loop import GROUP, group_shards
from infer.data.dataset import open_dataset

Exported = Callable[..., Path]


def files(out: Path) -> dict[str, bytes]:
    assert not (out / "unfinished").exists()
    return {path.name: path.read_bytes() for path in sorted((out / "scores").iterdir())}


@pytest.fixture
def arguments(exported: Exported, miniature_dir: Path) -> list[str]:
    engines = [word for net in "AB" for word in ("--engine", str(exported(net)))]
    return [*engines, "--data", str(miniature_dir), "--protocol", "center,dense"]


@pytest.fixture
def whole(arguments: list[str], tmp_path: Path) -> dict[str, bytes]:
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    return files(tmp_path / "whole")


@pytest.mark.processes
def test_two_processes_change_nothing(arguments: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out), "--device", "0,1"]) == 0
    assert files(out) == whole
    assert not multiprocessing.active_children()
    index = "mistakes/index.json"
    assert (out / index).read_bytes() == (tmp_path / "whole" / index).read_bytes()
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert one["dataset"] == other["dataset"]


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.processes
def test_a_process_that_dies_and_a_ctrl_c_keep_what_is_done(
    which: signal.Signals, arguments: list[str], tmp_path: Path, one_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a device is killed, or Ctrl-C comes, as soon as something is kept."""
    out, struck = tmp_path / "out", []
    monkeypatch.setattr(loop, "GROUP", 1)

    def strike() -> None:
        while not list((out / "unfinished").glob("*/*.parquet")):
            time.sleep(0.002)
        struck.append(True)
        os.kill(multiprocessing.active_children()[0].pid if which == signal.SIGKILL else os.getpid(), which)  # type: ignore[arg-type]

    heavy = [*arguments[:-1], "multicrop+dense"]
    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    status = main([*heavy, "--out", str(out), "--device", "0,1"])
    thread.join()
    assert struck and status == (1 if which == signal.SIGKILL else 130)
    assert ("ended without a word" if which == signal.SIGKILL else "24 images are kept in") in one_line()
    assert list((out / "unfinished").glob("*/*.parquet"))
    for folder, more in ((out, ["--resume", "--device", "0,1"]), (tmp_path / "again", [])):
        assert main([*heavy, "--out", str(folder), *more]) == 0
    assert files(out) == files(tmp_path / "again")


@pytest.mark.parametrize("devices", ["", "a", "0,0", "0;1", "-1"])
def test_devices_that_are_none(devices: str, arguments: list[str], tmp_path: Path, one_line: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "out"), f"--device={devices}"])
    assert caught.value.code == 2
    assert f"expected different numbers of GPUs like 0,1, got '{devices}'" in one_line()


def test_tasks_are_shards_that_follow_each_other(miniature_dir: Path) -> None:
    dataset = open_dataset(miniature_dir)  # 24 images
    groups = list(group_shards(dataset.items, 3, [0, 3, 6, 9, 12, 18, 21]))
    assert [first for first, _ in groups] == [0, 12, 18]
    assert [len(items) for _, items in groups] == [3 * GROUP, 3, 6]
    assert all(items == dataset.items[first : first + len(items)] for first, items in groups)
    assert list(group_shards(dataset.items, 7, [21])) == [(21, dataset.items[21:])]
    assert list(group_shards(dataset.items, 7, [])) == []
