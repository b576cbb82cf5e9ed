"""infer/data/own_parquet.py: what was damaged or changed since it was written is refused by each reader of a table."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_tables import noisy, write_table
from helpers import make_scores

from evaluation import analyse, compare, fuse
from evaluation.errors import ScoresError
from evaluation.features import table as feature_tables
from evaluation.features.__main__ import main as features
from evaluation.localization import table as box_tables
from evaluation.localization.table import LocatedImage
from evaluation.run.loop import Effort, Shard
from evaluation.scores import table as tables
from infer.boxes.finding import Guess
from infer.data import own_parquet
from infer.data.annotations import Box
from infer.errors import Refused


def score_table(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    statuses = tuple("ok" if i % 7 else "cut" for i in range(40))
    tables.write([make_scores(rng.random((40, 6)), rng.integers(-1, 6, 40), statuses)], path)
    return path


def box_table(path: Path) -> Path:
    guess = Guess(1, 0.5, Box(1, 2, 3, 4))
    rows = [LocatedImage(f"{i}.jpg", 1, "ok", "0f", (9, i), (guess,) * (i % 3), guess) for i in range(8)]
    run = box_tables.UnfinishedBoxes(path.parent, {"protocol": "dense"}, 8, resume=False)
    run.add(Shard(0, 8, rows, Effort(0, (0.0,), 0.0)))
    run.finish(path)
    return path


def scores_in(path: Path) -> Any:
    found = tables.read(path)
    return (*found.rows([0]).images, found.images, found.labels.tolist(), found.statuses, found.posterior.tobytes())


def features_in(path: Path) -> Any:
    found = feature_tables.read([path])
    return found.images, found.splits.tolist(), found.labels.tolist(), found.features.tobytes(), found.metadata


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "scores": (score_table, lambda path: (scores_in(path), tables.read_head(path).metadata)),
    "boxes": (box_table, lambda path: list(box_tables.read_located(path))),
    "features": (lambda path: write_table(path, noisy()), features_in),
}


def places_to_flip(path: Path) -> list[int]:
    """Bytes anywhere, and one in the first page of each column and in the value of each key of the metadata."""
    data, found = path.read_bytes(), pq.read_metadata(path)
    numbers = random.Random(0)
    places = [numbers.randrange(len(data)) for _ in range(60)]
    for number in range(found.num_columns):
        column = found.row_group(0).column(number)
        places.append(column.data_page_offset + 40)
    for value in found.metadata.values():
        places.append(data.rindex(value) + len(value) // 2)
    return places


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_or_harmless(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    path = make(tmp_path / "table.parquet")
    expected, data, noticed = read(path), path.read_bytes(), 0
    for place in places_to_flip(path):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == expected, place
        except Refused as error:
            assert "\n" not in str(error) and str(path) in str(error)
            noticed += 1
    assert noticed > 40


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """The file as another program writes it after a change, with checksums of its own and all metadata."""
    metadata = pq.read_metadata(path).metadata
    metadata.pop(b"ARROW:schema")
    table = change(pq.read_table(path).replace_schema_metadata(metadata))
    pq.write_table(table, path, write_page_checksum=True, **options)


CHANGES: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "a label": ("rows", lambda t: t.set_column(1, "label", pa.array([5, *t["label"].to_pylist()[1:]], pa.int32()))),
    "the order": ("rows", lambda t: t.take([1, 0, *range(2, len(t))])),
    "a column more": ("rows", lambda t: t.append_column("more", t["label"])),
    "a row less": ("rows", lambda t: t[1:]),
    "the scales": ("metadata", lambda t: t.replace_schema_metadata({**t.schema.metadata, b"scales": b"96"})),
    "a digest less": ("metadata", lambda t: t.replace_schema_metadata({b"spec": b"{}", b"rows": b"40"})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_told_by_every_reader(change: str, tmp_path: Path, one_line: Any) -> None:
    what, edit = CHANGES[change]
    path, other = score_table(tmp_path / "a.parquet"), score_table(tmp_path / "b.parquet")
    rewritten(path, edit)
    with pytest.raises(ScoresError, match=f"its {what} are not those that were written"):
        tables.read(path)

    # nothing is printed or written before
    both, fused = [str(other), str(path)], str(tmp_path / "f.parquet")
    for main, words in ((fuse.main, [*both, "-o", fused]), (compare.main, both), (analyse.main, both[1:])):
        assert main(words) == 1
        assert one_line()
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_other_rows_of_features_are_told(tmp_path: Path, one_line: Any) -> None:
    path = write_table(tmp_path / "f.parquet", noisy())
    rewritten(path, lambda table: table.take([1, 0, *range(2, len(table))]))
    assert features(["svm", str(path)]) == 1
    assert "damaged, its rows are not those that were written" in one_line()


def test_the_digest_does_not_depend_on_how_rows_are_stored(tmp_path: Path) -> None:
    path = score_table(tmp_path / "a.parquet")
    expected = scores_in(path)
    for options in ({"compression": "snappy", "row_group_size": 7}, {"use_dictionary": False, "compression": "none"}):
        rewritten(path, lambda table: table, **options)
        assert scores_in(path) == expected


def test_nulls_and_nested_values_count() -> None:
    def digest(*parts: list[Any]) -> str:
        found = own_parquet.RowDigest()
        for part in parts:
            found.add(pa.table({"x": pa.array(part, pa.list_(pa.struct({"a": pa.int32(), "b": pa.string()})))}))
        return found.hexdigest()

    row, null = [{"a": 0, "b": ""}], [{"a": None, "b": ""}]
    others = [
        [row, null],
        [null, row],
        [row, row],
        [row + row, []],
        [row, [None]],
        [row, None],
        [[{"a": 0, "b": "x"}], row],
    ]
    assert len({digest(rows) for rows in others}) == len(others)
    for rows in others:
        assert digest(rows) == digest(rows[:1], rows[1:]) == digest(rows, [])


def test_a_table_of_an_earlier_version_is_read_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = score_table(tmp_path / "a.parquet")
    expected = scores_in(path)
    new = {b"rows", b"rows_sha256", b"metadata_sha256"}
    old = lambda t: t.replace_schema_metadata({k: v for k, v in t.schema.metadata.items() if k not in new})  # noqa: E731
    rewritten(path, old)
    assert scores_in(path) == scores_in(path) == expected
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and re.search(r"a\.parquet: a table of an earlier version, without digests", said[0])


@pytest.mark.parametrize("what", ["text", "numbers"])
def test_a_small_file_that_stands_for_gigabytes_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    text = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 2_000_000])
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), 1_000_000)
    pq.write_table(pa.table({"x": text if what == "text" else numbers}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    if what == "numbers":
        monkeypatch.setattr(own_parquet, "MOST_VALUES", 999_999)
    said = r"column x\S* has \d+ values in a group of \d+ rows, or texts of \d+ bytes: too large"
    with pytest.raises(ScoresError, match=said), own_parquet.opened(path, "a table", "ours", ScoresError):
        raise AssertionError("opened")


def test_a_pipe_is_no_table_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    for read in (tables.read, lambda path: list(box_tables.read_located(path)), lambda p: feature_tables.read([p])):
        with pytest.raises(Refused, match=r"a\.parquet: is no regular file, expected a "):
            read(tmp_path / "a.parquet")
