"""evaluation/run/store.py: a shard that is not whole is made anew, and a table has each image of its run once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.errors import RunError
from evaluation.localization.table import LocatedImage, UnfinishedBoxes
from evaluation.run.loop import Effort, Shard
from evaluation.run.store import ScoreRun, UnfinishedShards

SETTINGS = {"protocol": "dense", "scales": "72", "commit": "abc"}


def run_of(out: Path, *, resume: bool = False, settings: dict[str, str] = SETTINGS) -> UnfinishedBoxes:
    return UnfinishedBoxes(out, settings, 20, resume=resume)


def fill(run: UnfinishedBoxes) -> None:
    for first in run.pending:
        rows = [LocatedImage(f"{i}.jpg", 0, "ok") for i in range(first, min(20, first + 8))]
        run.add(Shard(first, len(rows), rows, Effort(first, (1.0,), 2.0)))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: os.truncate(path, 0),
    "cut": cut,
    "flipped": flip,
    "text": lambda path: path.write_text("a part"),
    "another's": lambda path: shutil.copyfile(path.with_name("00000000.parquet"), path),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_shard_is_named_and_made_anew(how: str, tmp_path: Path) -> None:
    fill(run_of(tmp_path))
    shard = tmp_path / "unfinished-boxes" / "00000008.parquet"
    DAMAGE[how](shard)
    run = run_of(tmp_path, resume=True)
    assert (run.pending, run.done) == ([8], 12)
    (said,) = run.remarks
    assert str(shard) in said and said.endswith("it is made anew")
    fill(run)
    run.finish(tmp_path / "mended.parquet")

    fill(other := run_of(tmp_path / "other"))
    other.finish(tmp_path / "whole.parquet")
    assert (tmp_path / "mended.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert run.seconds() == other.seconds() == (3.0, 6.0)


def test_a_shard_of_another_run_is_made_anew(tmp_path: Path) -> None:
    fill(run_of(tmp_path / "other", settings={**SETTINGS, "scales": "96"}))
    fill(run_of(tmp_path))
    name = "unfinished-boxes/00000016.parquet"
    shutil.copyfile(tmp_path / "other" / name, tmp_path / name)
    run = run_of(tmp_path, resume=True)
    assert run.pending == [16] and "a shard of other images or of another run" in run.remarks[0]


def test_a_table_is_written_only_of_all_shards_as_they_were(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with pytest.raises(RunError, match="0 of 20 images are done: go on with --resume"):
        run.finish(tmp_path / "boxes.parquet")
    fill(run)

    shard = tmp_path / "unfinished-boxes" / "00000008.parquet"
    kept = shard.read_bytes()
    shutil.copyfile(shard.with_name("00000000.parquet"), shard)
    with pytest.raises(
        RunError, match=r"00000008\.parquet: a shard of other images .*: go on with --resume, which makes it anew"
    ):
        run.finish(tmp_path / "boxes.parquet")
    shard.unlink()
    with pytest.raises(RunError, match=r"00000008\.parquet: no such file.*: go on with --resume"):
        run.finish(tmp_path / "boxes.parquet")
    assert not (tmp_path / "boxes.parquet").exists()

    shard.write_bytes(kept)
    run.finish(tmp_path / "boxes.parquet")
    run.discard()
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("", "truncated"),
        ("[1]", "Expected `object`"),
        ('{"listing": "a", "images": NaN, "tables": [[]]}', "JSON is malformed"),
        ('{"listing": "a", "images": -1, "tables": [[]]}', r"\$\.images"),
        ('{"listing": "a", "images": 1e300, "tables": [[]]}', r"\$\.images"),
        ('{"listing": 3, "images": 1, "tables": [[]]}', r"\$\.listing"),
        ('{"listing": "a", "images": 1, "tables": [[{"spec": 3}]]}', r"\$\.tables\[0\]\[0\]"),
        ('{"listing": "a", "images": 1, "tables": []}', r"\$\.tables"),
        ('{"listing": ' + "[" * 100_000, r"\$\.listing|recursion"),
        (None, "No such file"),
    ],
)
def test_a_damaged_run_is_one_line(content: str | None, field: str, tmp_path: Path) -> None:
    fill(run_of(tmp_path))
    path = tmp_path / "unfinished-boxes" / "run.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnfinishedShards, "run_type", ScoreRun)
        with pytest.raises(RunError, match=field) as caught:
            run_of(tmp_path, resume=True)
    assert "remove that folder to begin again" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_ours_is_neither_removed_nor_joined(tmp_path: Path) -> None:
    folder = tmp_path / "unfinished-boxes"
    folder.mkdir()
    (folder / "draft.txt").write_text("mine")
    with pytest.raises(RunError, match=r"unfinished-boxes/draft\.txt: is not of ours"):
        run_of(tmp_path)
    (folder / "draft.txt").unlink()
    fill(run := run_of(tmp_path))
    (folder / "00000000.parquet.bak").write_text("mine")
    with pytest.raises(RunError, match=r"is not of ours"):
        run.discard()
    assert len(list(folder.glob("*.parquet"))) == 3
