"""Tables of proposals as Parquet: for each image the boxes that each method proposes, in the image's own pixels.

One row for each image, in the data set's order: image, status ("ok", or why there are no proposals), height and width
of the decoded image, and boxes, a list of (xmin, ymin, xmax, ymax, score, method), those of the first method first, the
best of each first. Pixels are counted from 1, both ends included. A table holds nothing that differs between two runs of
the same command; its metadata says all that the rows depend on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infer.data.annotations import Box
from infer.errors import Refused
from infer.spec import Size

from .. import parquet
from ..run.loop import Shard
from ..run.store import ShardNotes, UnfinishedShards
from ..scores.table import OK

SHARD_IMAGES = 8
ROW_GROUP = 100
"""Images of a row group, of which each may have thousands of boxes."""
PROPOSAL = pa.struct(
    [*((edge, pa.float32()) for edge in Box._fields), ("score", pa.float32()), ("method", pa.string())]
)
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "status": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(PROPOSAL),
    }
)


class ProposalError(Refused):
    """A file that is no table of proposals, or proposals of other images."""


@dataclass(frozen=True, slots=True)
class ProposedImage:
    """The proposals of one image: boxes f32 [N, 4], scores f32 [N], and the method that each is of.

    status: "ok" or why there are none; size_px: (height, width) of the decoded image, (0, 0) where there is none.
    """

    image: str
    status: str
    size_px: Size
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    methods: Sequence[str]

    def of(self, methods: Sequence[str]) -> NDArray[np.float32]:
        """The boxes of some methods, f32 [N, 4], in the order of `methods`."""
        own = np.array(self.methods, np.str_)
        return np.concatenate([self.boxes[:0], *(self.boxes[own == method] for method in methods)])


def no_proposals(image: str, status: str) -> ProposedImage:
    """The row of an image that cannot be read."""
    return ProposedImage(image, status, (0, 0), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())


class UnfinishedProposals(UnfinishedShards[Sequence[ProposedImage], ShardNotes]):
    """The shards of one run over `images` images, beside its table; `settings` are all that its rows depend on."""

    def __init__(self, table: Path, settings: Mapping[str, str], images: int, *, resume: bool) -> None:
        self.settings = dict(settings)
        run = {**settings, "number of images": str(images)}
        super().__init__(table.with_name(f"{table.name}.shards"), run, images, SHARD_IMAGES, resume=resume)

    def add(self, shard: Shard[Sequence[ProposedImage]]) -> None:
        notes = ShardNotes(**self._basic_notes(shard, len(shard.rows), shard.effort.wall_seconds))
        self._write_shard(to_arrow(shard.rows), notes)
        self._take_note(shard.first, [notes])

    def finish(self, path: Path) -> None:
        """Writes the table. Raises RunError."""
        self._join({**self.settings, "dataset_id": self.dataset_id}, path, ROW_GROUP)

    def _difference(self, found: Mapping[str, str], run: Mapping[str, Any]) -> str | None:
        for name in {**run, **found}:
            before, now = (str(side.get(name)) for side in (found, run))
            if before != now:
                return f"the {name} changed from {before[:40]} to {now[:40]}"
        return None


def to_arrow(rows: Sequence[ProposedImage]) -> pa.Table:
    """Rows as columns."""
    counts = [len(row.boxes) for row in rows]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(row.boxes for row in rows)]).astype(np.float32)
    scores = np.concatenate([np.zeros(0, np.float32), *(row.scores for row in rows)]).astype(np.float32)
    methods = pa.array([method for row in rows for method in row.methods], pa.string())
    edges = [pa.array(np.ascontiguousarray(column)) for column in boxes.T]

    flat = pa.StructArray.from_arrays([*edges, pa.array(scores), methods], fields=list(PROPOSAL))
    starts = pa.array(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32))
    known = [
        [row.image for row in rows],
        [row.status for row in rows],
        *zip(*(row.size_px for row in rows), strict=True),
    ]
    columns = [pa.array(list(values), kind) for values, kind in zip(known, SCHEMA.types[:4], strict=True)]
    return pa.Table.from_arrays([*columns, pa.ListArray.from_arrays(starts, flat)], schema=SCHEMA)


def read_proposals(path: Path) -> Iterator[ProposedImage]:
    """The rows of a table, in its order. Raises ProposalError for a file that is none; of damage at the end."""
    with parquet.opened(path, "a table of proposals", "evaluation.proposals", ProposalError) as table:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")
        for part in table.parts(ROW_GROUP):
            yield from _rows(part)


def read_metadata(path: Path) -> dict[str, str]:
    """What a table says that its rows depend on. Raises ProposalError."""
    with parquet.opened(path, "a table of proposals", "evaluation.proposals", ProposalError) as table:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")
        return table.metadata


def _rows(part: pa.RecordBatch) -> Iterator[ProposedImage]:
    lists = part.column("boxes")
    found = lists.flatten()
    columns = [found.field(edge).to_numpy(zero_copy_only=False) for edge in Box._fields]
    boxes, scores = np.stack(columns, 1), found.field("score").to_numpy(zero_copy_only=False)
    methods = found.field("method").to_pylist()

    first = 0
    known = (part.column(name).to_pylist() for name in ("image", "status", "height", "width"))
    for image, status, height, width, count in zip(*known, lists.value_lengths().to_pylist(), strict=True):
        own = slice(first, first + count)
        yield ProposedImage(image, status, (height, width), boxes[own], scores[own], methods[own])
        first += count


def is_read(row: ProposedImage) -> bool:
    """Whether the image of a row could be read."""
    return row.status == OK
