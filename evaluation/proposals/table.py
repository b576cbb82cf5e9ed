"""The run that makes a table of proposals (infer/boxes/proposed.py): its shards, and the table at its end.

A table holds nothing that differs between two runs of the same command; its metadata says all that the rows depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infer.boxes.proposed import PROPOSAL, ROWS, SCHEMA, ProposedImage

from ..run.loop import Shard
from ..run.store import ShardNotes, UnfinishedShards

SHARD_IMAGES = 8


def no_proposals(image: str, status: str) -> ProposedImage:
    """The row of an image that cannot be read."""
    return ProposedImage(image, status, (0, 0), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), [])


def boxes_of(row: ProposedImage, methods: Sequence[str]) -> NDArray[np.float32]:
    """The boxes of some methods, f32 [N, 4], in the order of `methods`."""
    own = np.array(row.methods, np.str_)
    return np.concatenate([row.boxes[:0], *(row.boxes[own == method] for method in methods)])


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
        self._join({**self.settings, "dataset_id": self.dataset_id}, path, ROWS)

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
