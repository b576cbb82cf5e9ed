"""Runs that end early go on where they were: the score files are the same bytes, and another run is refused."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import make_scores

from evaluation.ilsvrc import main
from evaluation.run import loop
from evaluation.scores import table as tables
from evaluation.scores.table import concatenate, parts, write

Checkpoints = Callable[..., Path]
PROTOCOLS = "center,dense"  # of several views, so shards of 8 images


@pytest.fixture
def arguments(slim_checkpoint: Checkpoints, miniature_copy: Path, tmp_path: Path) -> list[str]:
    return ["--engine", str(slim_checkpoint("A")), "--data", str(miniature_copy), "--protocol", PROTOCOLS]


def files(out: Path) -> dict[str, bytes]:
    """The score tables of a run that ended."""
    assert not (out / "unfinished").exists()
    assert (out / "report.json").is_file()
    return {path.name: path.read_bytes() for path in sorted((out / "scores").iterdir())}


def images(data: Path) -> list[Path]:
    return sorted((data / "ILSVRC2012_img_val").rglob("*.JPEG"))


@pytest.fixture
def whole(arguments: list[str], tmp_path: Path) -> dict[str, bytes]:
    """The score tables of the run when nothing happens to it."""
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    found = files(tmp_path / "whole")
    assert len(found) == 2
    return found


def stop_early(arguments: list[str], out: Path, data: Path, number: int) -> None:
    """A run whose data set is gone from image `number` on, and comes back afterwards."""
    lost, moved, real = set(images(data)[number:]), [], loop.read_image

    def read_image(item: Any, **rules: Any) -> Any:
        if item.path in lost:
            moved.append((item.path, item.path.rename(data.with_name(f"{item.path.name}.away"))))
        return real(item, **rules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "read_image", read_image)
        assert main([*arguments, "--out", str(out)]) == 1
    for path, away in moved:
        away.rename(path)


def test_a_table_joined_from_shards_has_the_bytes_of_one_written_whole(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Down to the footer, where Arrow's schema of a table that was read is not that of one that was made."""
    checked = 0
    for name, data in whole.items():
        if name.endswith(".parquet"):
            joined, again = tmp_path / "joined.parquet", tmp_path / "again.parquet"
            joined.write_bytes(data)
            write([concatenate(list(parts(joined)))], again)
            assert again.read_bytes() == data, name
            checked += 1
    assert checked


@pytest.mark.parametrize("number", [8, 13, 20])
def test_a_data_set_that_vanishes_stops_the_run_which_then_goes_on(
    number: int, arguments: list[str], whole: dict[str, bytes], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    out = tmp_path / "out"
    stop_early(arguments, out, miniature_copy, number)
    assert f"{images(miniature_copy)[number].name}: No such file or directory, which is no fault of the" in one_line()
    assert not (out / "scores").exists()
    assert main([*arguments, "--out", str(out)]) == 1
    assert f"holds {number // 8 * 8} of 24 images of a run that did not end: go on with it by --resume" in one_line()
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert files(out) == whole


def test_a_run_that_has_nothing_yet_is_begun_again(
    arguments: list[str], whole: dict[str, bytes], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    stop_early(arguments, tmp_path / "out", miniature_copy, 3)
    one_line()
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == whole


def test_what_is_done_is_not_done_again(
    arguments: list[str], whole: dict[str, bytes], miniature_copy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stop_early(arguments, out, miniature_copy, 17)
    first = {path: path.stat().st_mtime_ns for path in (out / "unfinished").rglob("*.parquet")}
    assert len(first) == 4  # two tables of two shards
    for path in images(miniature_copy)[:16]:
        path.write_bytes(bytes(path.stat().st_size))  # would be unreadable
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert files(out) == whole


def test_a_damaged_shard_of_scores_is_made_anew(
    arguments: list[str],
    whole: dict[str, bytes],
    miniature_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    stop_early(arguments, out, miniature_copy, 17)
    cut, flipped = (
        next((out / "unfinished").glob(f"*.{name}.parquet")) for name in ("dense.*/00000000", "center.*/00000008")
    )
    os.truncate(cut, 1000)
    flipped.write_bytes(flipped.read_bytes()[:-9] + b"X" + flipped.read_bytes()[-8:])
    capsys.readouterr()
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "made anew" in line]
    assert len(said) == 2 and "00000000" in said[0] and "00000008" in said[1]
    assert files(out) == whole


def test_resume_of_nothing_is_a_run(arguments: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert files(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--protocol", "center,ten-crop"], "--resume: the protocol of slim-a changed from center,dense to center,ten"),
        (["--scales", "72,80"], "--resume: the scales of slim-a changed from 96,72,96,120 to 72,80"),
        (["--pooling", "posteriors"], "--resume: the pooling of slim-a changed from scores to posteriors"),
        (["--limit", "20"], "--resume: the number of images changed from 24 to 20"),
    ],
)
def test_another_run_is_refused(
    change: list[str], said: str, arguments: list[str], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    out = tmp_path / "out"
    stop_early(arguments, out, miniature_copy, 10)
    one_line()
    assert main([*arguments, *change, "--out", str(out), "--resume"]) == 1
    assert said in one_line()
    assert main([*arguments, "--out", str(out), "--resume"]) == 0


def test_another_engine_is_refused(
    arguments: list[str], slim_checkpoint: Checkpoints, miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    out = tmp_path / "out"
    stop_early(arguments, out, miniature_copy, 10)
    one_line()
    other = slim_checkpoint("A", seed=1)
    assert main(["--engine", str(other), *arguments[2:], "--out", str(out), "--resume"]) == 1
    assert "--resume: the engine of slim-a changed from " in one_line()
    two = ["--engine", str(slim_checkpoint("B")), *arguments]
    assert main([*two, "--out", str(out), "--resume"]) == 1
    assert "--resume: the number of engines changed from 1 to 2" in one_line()


def test_a_full_disk_is_one_line_and_keeps_what_is_done(
    arguments: list[str],
    whole: dict[str, bytes],
    tmp_path: Path,
    one_line: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, original, written = tmp_path / "out", pq.ParquetWriter.write_table, []

    def write_table(self: Any, *rows: Any) -> None:
        written.append(rows)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", write_table)
        assert main([*arguments, "--out", str(out)]) == 1
    said = one_line()
    assert said.startswith(str(out / "unfinished" / "slim-a.torch-fp32")) and ": No space left on device: make" in said
    assert said.endswith("make room, then go on with --resume: what was done is kept")
    assert not [path for path in out.rglob("*") if path.name.endswith(".unfinished")]
    kept = sorted(path.name for path in (out / "unfinished").glob("*/*.parquet"))
    assert kept == ["00000000.parquet", "00000000.parquet", "00000008.parquet"]  # a whole shard, and half of one
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert files(out) == whole


@pytest.mark.parametrize("workers", ["2", "7"])
def test_workers_change_nothing(workers: str, arguments: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out"), "--workers", workers]) == 0
    assert files(tmp_path / "out") == whole


def test_a_table_is_the_same_bytes_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 7)
    rng = np.random.default_rng(0)
    rows = [make_scores(rng.random((1, 3)), [i % 3]) for i in range(31)]
    whole = concatenate(rows)
    write([whole], tmp_path / "whole.parquet")
    expected = (tmp_path / "whole.parquet").read_bytes()
    for step in (1, 4, 7, 10, 30):
        write((concatenate(rows[i : i + step]) for i in range(0, 31, step)), tmp_path / "cut.parquet")
        assert (tmp_path / "cut.parquet").read_bytes() == expected, step
    assert [len(part.images) for part in parts(tmp_path / "whole.parquet")] == [7, 7, 7, 7, 3]
    assert np.array_equal(tables.read(tmp_path / "whole.parquet").posterior, whole.posterior)


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "evaluation.ilsvrc", *arguments, "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(arguments: list[str], out: Path) -> None:
    process = start(arguments, out)
    _, said = process.communicate()
    assert process.returncode == 0
    assert all(" of 24 images, all 8 classes" in line for line in said.splitlines())


def after_first_shard(process: subprocess.Popen[str], out: Path) -> None:
    """Waits until the run has something to lose."""
    while not list((out / "unfinished").glob("*/*.parquet")):
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.processes
def test_a_signal_keeps_what_is_done(arguments: list[str], tmp_path: Path) -> None:
    heavy = [*arguments[:-1], "multicrop+dense", "--limit", "12"]
    finish(heavy, tmp_path / "whole")  # a process too: torch's sums depend on the number of threads
    for which in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / which.name
        stop_and_go_on(heavy, out, which)
        assert files(out) == files(tmp_path / "whole")


def stop_and_go_on(heavy: list[str], out: Path, which: signal.Signals) -> None:
    process = start(heavy, out)
    after_first_shard(process, out)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "images are kept in" in said and len(said.splitlines()) == 1 + ("--limit" in heavy)
    finish(heavy, out)


KILLS = int(os.environ.get("VERYDEEP_KILLS", "8"))
"""100 take eight minutes; that many were tried when the shards were written."""


@pytest.mark.slow
@pytest.mark.processes
def test_many_kills(arguments: list[str], tmp_path: Path) -> None:
    """kill -9 at random moments, from the start of the process to its end, until it gets through."""
    out, seconds, kills = tmp_path / "out", random.Random(0), 0
    finish(arguments, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    while kills < KILLS:
        process = start(arguments, out)
        try:
            process.wait(seconds.uniform(0.5, 6))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            assert files(out) == whole
            shutil.rmtree(out)
    finish(arguments, out)
    assert files(out) == whole
