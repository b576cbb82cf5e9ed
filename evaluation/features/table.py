"""Tables of features: a row for each example, as Parquet, with the labels and sets that an SVM needs.

Columns: image, split, status ("ok" or why there are no features), pixels (digest of what the engines saw), sha256 (of
the file's bytes), labels i8 [classes] (see collection.Example), features f32 [width], null where the status is not
"ok". They hold nothing that differs between two runs of the same command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infer.data import own_parquet as parquet
from infer.data.own_parquet import StoredTable
from infer.errors import Refused

from ..run.loop import Shard, dataset_id
from ..run.store import ShardNotes, UnfinishedShards
from ..scores.table import OK
from .collection import Labels

FORMAT = "features-1"
PART = 64
"""Pictures that are kept in memory, and lost when a run is killed."""


class FeatureError(Refused):
    """A file that is no table of features, tables that do not belong together, or too little to learn from."""


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The features of one example, f32 [width], None where the status is not "ok"."""

    image: str
    split: str
    labels: Labels
    status: str
    pixels: str  # digest of what the engines saw
    sha256: str
    features: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or several side by side, in memory.

    labels i8 [N, classes]; features f32 [N, width], zero where the status is not "ok"."""

    images: tuple[str, ...]
    splits: NDArray[np.str_]
    statuses: tuple[str, ...]
    labels: Labels
    features: NDArray[np.float32]
    metadata: tuple[Mapping[str, str], ...]  # of each file

    @property
    def kind(self) -> str:
        return self.metadata[0]["kind"]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(json.loads(self.metadata[0]["classes"]))

    @property
    def readable(self) -> NDArray[np.bool_]:
        return np.array([status == OK for status in self.statuses], np.bool_)


class UnfinishedTable(UnfinishedShards[Sequence[FeatureRow], ShardNotes]):
    """The shards of a table that is being made of `pictures` pictures, in a folder beside it, NAME.parts.

    metadata: of the table, all that its rows depend on but the data set, which `listing` says; width: of a descriptor.
    """

    damaged = "is damaged"

    def __init__(
        self, path: Path, metadata: Mapping[str, str], listing: str, width: int, pictures: int, *, resume: bool
    ) -> None:
        self._table, self._metadata, self._width = path, metadata, width
        folder = path.with_name(path.name + ".parts")
        super().__init__(folder, {**metadata, "listing": listing}, pictures, PART, resume=resume)

    def add(self, shard: Shard[Sequence[FeatureRow]]) -> None:
        content = sum(_digest(row) for row in shard.rows)  # of examples, not of pictures
        shard = replace(shard, effort=replace(shard.effort, content=content))
        notes = ShardNotes(**self._basic_notes(shard, len(shard.rows), shard.effort.wall_seconds))
        self._write_shard(_to_arrow(shard.rows, self._width), notes)
        self._take_note(shard.first, [notes])

    def finish(self) -> int:
        """Writes the table, removes the shards and returns the number of rows. Raises RunError."""
        rows = sum(notes.rows for (notes,) in self._notes.values())
        self._join({**self._metadata, "dataset_id": dataset_id(rows, self._content)}, self._table, PART)
        self.discard()
        return rows

    def _say_done(self, found: Any) -> str:
        return ""

    def _difference(self, found: Mapping[str, str], run: Mapping[str, Any]) -> str | None:
        return next((f"{key} changed" for key in {**run, **found} if found.get(key) != run.get(key)), None)


def _digest(row: FeatureRow) -> int:
    """Digest of one example; a data set's identity is their sum, as that of images is (run/loop.py)."""
    said = f"{row.split} {row.sha256} {row.labels.tolist()}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest(), "big")


def _to_arrow(rows: Sequence[FeatureRow], width: int) -> pa.Table:
    labels = np.stack([row.labels for row in rows])  # i8 [rows, classes]
    failed = np.array([row.features is None for row in rows])
    none = np.zeros(width, np.float32)
    features = np.concatenate([none if row.features is None else row.features for row in rows])  # [rows x width]
    columns = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in _TEXTS}
    columns["labels"] = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1])
    columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(features), width, mask=pa.array(failed))
    return pa.table(columns)


_TEXTS = ("image", "split", "status", "pixels", "sha256")


def read(paths: Sequence[Path]) -> Table:
    """Reads tables of the same examples as one, their features side by side. Raises FeatureError."""
    heads = [read_head(path) for path in paths]
    first = heads[0]
    for number, (path, other) in enumerate(zip(paths, heads, strict=True)):
        if (other.metadata["dataset_id"], other.rows) != (first.metadata["dataset_id"], first.rows):
            raise _of_others(path, paths[0], other.rows, first.rows)
        for known, before in zip(paths[:number], heads[:number], strict=True):
            if other.metadata == before.metadata:
                raise FeatureError(f"{path} has the same features as {known}: give each table once")

    # each table fills its columns
    features = np.zeros((first.rows, sum(head.width for head in heads)), np.float32)  # [rows, widths of all tables]
    ends = np.cumsum([head.width for head in heads]).tolist()
    found = []
    for path, head, end in zip(paths, heads, ends, strict=True):
        found.append(_fill(features[:, end - head.width : end], path))
        if found[-1].images != found[0].images:
            raise _of_others(path, paths[0], head.rows, first.rows)

    # an example has features where it has them in every table
    statuses = zip(*(one.statuses for one in found), strict=True)
    worst = tuple(next((status for status in of_example if status != OK), OK) for of_example in statuses)
    return replace(found[0], statuses=worst, features=features, metadata=tuple(head.metadata for head in heads))


def _of_others(path: Path, first: Path, rows: int, rows_of_first: int) -> FeatureError:
    return FeatureError(
        f"{path} has features of other images or labels than {first} ({rows} and {rows_of_first} rows): use tables of "
        "one data set"
    )


class Head(NamedTuple):
    """What a table says of itself; its features are f32 [rows, width]."""

    metadata: Mapping[str, str]
    rows: int
    width: int


def _opened(path: Path) -> contextlib.AbstractContextManager[StoredTable]:
    return parquet.opened(path, "a table of features", "evaluation.features extract", FeatureError)


def read_head(path: Path) -> Head:
    """Reads what a table says of itself. Raises FeatureError."""
    with _opened(path) as table:
        if table.metadata.get("format") != FORMAT:
            raise FeatureError(f"{path}: not a table of features: make one by python -m evaluation.features extract")
        return Head(table.metadata, table.rows, table.schema.field("features").type.list_size)


def _fill(features: NDArray[np.float32], path: Path) -> Table:
    """Reads a table, a few rows at a time, and its features into their place. Raises FeatureError."""
    texts: dict[str, list[str]] = {name: [] for name in ("image", "split", "status")}
    labels = []
    first = 0
    with _opened(path) as table:
        for part in table.parts(PART):
            for name, values in texts.items():
                values += part[name].to_pylist()
            labels.append(_matrix(part["labels"]))
            features[first : first + len(part)] = _matrix(part["features"])
            first += len(part)

        columns = tuple(texts["image"]), np.array(texts["split"], np.str_), tuple(texts["status"])
        return Table(*columns, np.concatenate(labels), features, (table.metadata,))


def _matrix(values: pa.FixedSizeListArray) -> NDArray[Any]:
    """Returns lists as [rows, numbers of a list]; null rows are zero."""
    size = values.type.list_size
    flat = values.values.slice(values.offset * size, len(values) * size)  # unlike `flatten`, with null rows
    return np.asarray(flat.fill_null(0).to_numpy(zero_copy_only=False)).reshape(len(values), size)
