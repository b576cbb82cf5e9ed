"""evaluation/localization/table.py: rows come back as they were, the same bytes however they were cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.errors import RunError
from evaluation.localization import table as box_table
from evaluation.localization.table import LocatedImage, UnfinishedBoxes, read_located
from evaluation.run.loop import Effort, Shard, dataset_id
from evaluation.scores import table as tables
from infer.boxes.finding import Guess
from infer.data.annotations import Box

SETTINGS = {"protocol": "dense", "scales": "72", "commit": "abc"}


def rows(count: int) -> list[LocatedImage]:
    guesses = [Guess(i % 4, 0.1 * i, Box(1 + i / 3, 2, 30 + i, 40.5)) for i in range(count)]
    return [
        LocatedImage(
            f"{i}.jpg",
            i % 3 - 1,
            "ok" if i % 5 else "damaged",
            "00",
            (i, 2 * i),
            tuple(guesses[: i % 6]),
            own if i % 2 else None,
        )
        for i, own in enumerate(guesses)
    ]


def run_of(out: Path, content: list[LocatedImage], order: list[int]) -> Path:
    """A run whose shards come in some order."""
    run = UnfinishedBoxes(out, SETTINGS, len(content), resume=False)
    for place in order:
        first = run.pending[place % len(run.pending)]
        own = content[first : first + box_table.SHARD_IMAGES]
        run.add(Shard(first, len(own), own, Effort(sum(range(first, first + len(own))), (1.5,), 2.0)))
    assert run.pending == [] and run.done == len(content)
    run.finish(out / "boxes.parquet")
    assert run.dataset_id == dataset_id(len(content), sum(range(len(content))))
    assert run.seconds() == (1.5 * len(order), 2.0 * len(order))
    run.discard()
    return out / "boxes.parquet"


def test_rows_come_back(tmp_path: Path) -> None:
    assert list(read_located(run_of(tmp_path, rows(21), [0, 0, 0]))) == rows(21)


def test_the_same_bytes_however_the_shards_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 7)
    whole = run_of(tmp_path / "one", rows(30), [0] * 4).read_bytes()
    assert run_of(tmp_path / "two", rows(30), [2, 1, 1, 0]).read_bytes() == whole
    assert list(read_located(tmp_path / "two" / "boxes.parquet")) == rows(30)
    assert run_of(tmp_path / "three", rows(29), [0] * 4).read_bytes() != whole
    monkeypatch.setattr(box_table, "SHARD_IMAGES", 5)
    assert run_of(tmp_path / "four", rows(30), [0] * 6).read_bytes() == whole


def test_another_run_and_a_damaged_one(tmp_path: Path) -> None:
    run = UnfinishedBoxes(tmp_path, SETTINGS, 20, resume=False)
    UnfinishedBoxes(tmp_path, {**SETTINGS, "scales": "80"}, 20, resume=False)  # nothing is lost of one without a shard
    UnfinishedBoxes(tmp_path, SETTINGS, 20, resume=False)
    run.add(Shard(16, 4, rows(4), Effort(0, (0.0,), 0.0)))
    assert (run.done, run.pending) == (4, [0, 8])
    assert UnfinishedBoxes(tmp_path, SETTINGS, 20, resume=True).pending == [0, 8]
    with pytest.raises(RunError, match=r"holds 4 of 20 images of a run that did not end: go on with it by --resume"):
        UnfinishedBoxes(tmp_path, SETTINGS, 20, resume=False)
    for changed, images, said in (
        ({**SETTINGS, "scales": "80"}, 20, "the scales changed from 72 to 80 since"),
        (SETTINGS, 21, "the number of images changed from 20 to 21 since"),
        ({**SETTINGS, "merging": "literal"}, 20, "the merging changed from None to literal since"),
    ):
        with pytest.raises(RunError, match=f"^--resume: {said}"):
            UnfinishedBoxes(tmp_path, changed, images, resume=True)
    (tmp_path / "unfinished-boxes" / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"a run that another version began, or is damaged \(.*\): remove that folder"):
        UnfinishedBoxes(tmp_path, SETTINGS, 20, resume=True)
