"""Tables of proposals: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.proposals.table import UnfinishedProposals, boxes_of, no_proposals, to_arrow
from evaluation.run.loop import Effort, Shard
from infer.boxes.proposed import ProposalsError, ProposedImage, read_proposals
from infer.data import own_parquet


def image(number: int, counts: dict[str, int]) -> ProposedImage:
    rng = np.random.default_rng(number)
    corners = rng.uniform(1, 90, (sum(counts.values()), 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    methods = [method for method, count in counts.items() for _ in range(count)]
    return ProposedImage(
        f"val/{number}.jpg", "ok", (80, 90 + number), boxes, -np.arange(len(boxes), dtype="f4"), methods
    )


ROWS = [
    *(image(number, {"selective-search": number * 3, "multibox": 2}) for number in range(10)),
    no_proposals("val/bad.jpg", "val/bad.jpg: is damaged"),
    image(11, {}),
]


def write(folder: Path, starts: list[int], *, resume: bool = False) -> UnfinishedProposals:
    unfinished = UnfinishedProposals(folder / "p.parquet", {"methods": "both"}, len(ROWS), resume=resume)
    for first in starts:
        own = ROWS[first : first + 8]
        unfinished.add(Shard(first, len(own), own, Effort(first + 1, (), 1.0)))
    return unfinished


def same(one: ProposedImage, other: ProposedImage) -> bool:
    known = [(row.image, row.status, row.size_px, list(row.methods)) for row in (one, other)]
    arrays = np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)
    return known[0] == known[1] and arrays


def test_what_is_written_is_read(tmp_path: Path) -> None:
    unfinished = write(tmp_path, [0, 8])
    unfinished.finish(tmp_path / "p.parquet")
    read = list(read_proposals(tmp_path / "p.parquet"))
    assert len(read) == len(ROWS) and all(map(same, read, ROWS))
    assert read[0].boxes.dtype == read[0].scores.dtype == np.float32
    with own_parquet.opened(tmp_path / "p.parquet", "it", "this", ProposalsError) as table:
        assert table.metadata == {"methods": "both", "dataset_id": unfinished.dataset_id}


def test_boxes_of_some_methods_come_in_their_order() -> None:
    row = image(3, {"selective-search": 4, "multibox": 2})
    np.testing.assert_array_equal(boxes_of(row, ["multibox", "selective-search"]), row.boxes[[4, 5, 0, 1, 2, 3]])
    assert boxes_of(row, ["other"]).shape == (0, 4)


def test_a_run_that_is_gone_on_with_ends_in_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a", [0, 8]).finish(tmp_path / "a/p.parquet")
    write(tmp_path / "b", [8])
    unfinished = write(tmp_path / "b", [0], resume=True)
    unfinished.finish(tmp_path / "b/p.parquet")
    unfinished.discard()
    assert (tmp_path / "a/p.parquet").read_bytes() == (tmp_path / "b/p.parquet").read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["p.parquet"]


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """The boxes of one of its rows would be lost."""
    rows = [image(1, {"file": 2}), image(2, {"file": 1}), image(1, {"file": 3})]
    own_parquet.write([to_arrow(rows)], tmp_path / "p.parquet", 2)
    with pytest.raises(ProposalsError, match="twice, expected each image once"):
        list(read_proposals(tmp_path / "p.parquet"))


def test_a_table_of_something_else_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(ProposalsError, match=r"x\.parquet: not a table of proposals of evaluation\.proposals"):
        list(read_proposals(tmp_path / "x.parquet"))
