"""infer/processes/owned.py: one run at a time writes a place, whoever dies; only files of ours are removed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infer.errors import Refused
from infer.processes.owned import LOCK, Owned, check_ours, is_empty, own_file, own_folder, remove_ours

HOLD = """
import os, sys, time
from pathlib import Path
from infer.processes.owned import own_folder
with own_folder(Path(sys.argv[1])):
    child = os.fork()  # as torch's loader
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that owns the folder, and its forked child."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_second_run_is_told_who_holds_the_folder_and_a_kill_of_the_parent_alone_frees_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process, child = hold(out)
    try:
        with (
            pytest.raises(Owned, match=rf"out: process {process.pid} on .* \(.*-c.*\) writes there: wait"),
            own_folder(out),
        ):
            raise AssertionError("two at once")
        process.kill()
        process.wait()
        os.kill(child, 0)  # is there still
        with own_folder(out):
            assert not is_empty(tmp_path) and is_empty(out)
    finally:
        os.kill(child, 9)
        process.kill()
        process.communicate()
    assert list(out.iterdir()) == []


def test_nothing_is_left_and_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with own_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]
    with pytest.raises(Refused), own_folder(tmp_path / "c"):
        raise Refused("nothing was done")
    assert not (tmp_path / "c").exists()
    with own_file(tmp_path / "c" / "m.onnx"):
        assert [path.name for path in (tmp_path / "c").iterdir()] == [f".m.onnx{LOCK}"]
    assert not (tmp_path / "c").exists()


def test_one_process_is_kept_out_by_itself(tmp_path: Path) -> None:
    with own_folder(tmp_path):
        with pytest.raises(Owned, match="this process writes there already"), own_folder(tmp_path):
            raise AssertionError("two at once")
        with own_file(tmp_path / "other"):
            pass


def test_without_locks_a_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lockf(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with own_folder(tmp_path):
        (line,) = capsys.readouterr().err.splitlines()
    assert "no locks on this file system" in line
    assert is_empty(tmp_path)


@pytest.mark.processes
def test_a_worker_ends_with_its_parent() -> None:
    code = """
import multiprocessing, os, time
from infer.processes.owned import end_with_parent
def work(pipe):
    end_with_parent()
    pipe.send(os.getpid())
    time.sleep(60)
if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    for _ in range(2):  # the second holds what the first is told by
        multiprocessing.get_context("fork").Process(target=work, args=(theirs,)).start()
    print(ours.recv(), ours.recv(), flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.communicate(timeout=20)  # until nobody writes there any more
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}/cmdline").exists() and is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_only_what_is_ours_is_removed(tmp_path: Path) -> None:
    names, folder = re.compile(r"(run\.json|[^/]+/[0-9]+\.parquet)"), tmp_path / "unfinished"
    remove_ours(folder, names, Refused)  # nothing is there
    (folder / "table").mkdir(parents=True)
    for name in ("run.json", "table/1.parquet", "table/draft.txt"):
        (folder / name).touch()
    for other in (folder / "table" / "draft.txt", folder / "1.parquet", folder / "table" / "2.parquet"):
        if other.name == "2.parquet":
            other.symlink_to(folder / "run.json")
        else:
            other.touch()
        with pytest.raises(Refused, match=rf"{other}: is not of ours"):
            remove_ours(folder, names, Refused)
        other.unlink()
    assert check_ours(folder, names, Refused) == [folder / "run.json", folder / "table" / "1.parquet"]
    remove_ours(folder, names, Refused)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="expected a folder of ours"):
        remove_ours(folder, names, Refused)
