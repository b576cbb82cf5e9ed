"""Tables of features: a row for each example, as Parquet, with the labels and sets that an SVM needs.

Columns: image, split, status ("ok" or why there are no features), pixels (digest of what the engines saw), sha256 (of
the file's bytes), labels i8 [classes] (see collection.Example), features f32 [width], null where the status is not
"ok". They hold nothing that differs between two runs of the same command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infer.errors import Refused
from infer.files import refuse_pointer, replacing

from ..run.loop import Shard, dataset_id
from ..run.store import UnfinishedShards
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


class UnfinishedTable(UnfinishedShards[Sequence[FeatureRow]]):
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
        with replacing(self._path(shard.first)) as unfinished:
            pq.write_table(_to_arrow(shard.rows, self._width), unfinished, compression="zstd")

    def finish(self) -> int:
        """Writes the table, a shard at a time, removes the shards and returns the number of rows."""
        shards = sorted(self.folder.glob("*.parquet"))

        # which data set it is, from what was read
        content = rows = 0
        for path in shards:
            known = pq.read_table(path, columns=["split", "sha256", "labels"])
            rows += len(known)
            content += sum(_digest(**row) for row in known.to_pylist())
        metadata = {**self._metadata, "dataset_id": dataset_id(rows, content)}

        # each shard is a row group
        schema = pq.read_schema(shards[0]).with_metadata(metadata)
        with replacing(self._table) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for path in shards:
                writer.write_table(pq.read_table(path).replace_schema_metadata(metadata))
        self.discard()
        return rows

    def _say_done(self, found: Any) -> str:
        return ""

    def _difference(self, found: Mapping[str, str], run: Mapping[str, Any]) -> str | None:
        return next((f"{key} changed" for key in run if found.get(key) != run[key]), None)


def _digest(split: str, sha256: str, labels: Sequence[int]) -> int:
    """Digest of one example; a data set's identity is their sum, as that of images is (run/loop.py)."""
    return int.from_bytes(hashlib.sha256(f"{split} {sha256} {labels}".encode()).digest(), "big")


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
    found = [_read(path) for path in paths]
    first = found[0]
    for number, (path, other) in enumerate(zip(paths, found, strict=True)):
        same = other.metadata[0]["dataset_id"] == first.metadata[0]["dataset_id"] and other.images == first.images
        if not same:
            raise FeatureError(
                f"{path} has features of other images or labels than {paths[0]} ({len(other.images)} and "
                f"{len(first.images)} rows): use tables of one data set"
            )
        for known, before in zip(paths[:number], found[:number], strict=True):
            if other.metadata == before.metadata:
                raise FeatureError(f"{path} has the same features as {known}: give each table once")

    # each table fills its columns
    widths = [one.features.shape[1] for one in found]
    features = np.zeros((len(first.images), sum(widths)), np.float32)  # [rows, widths of all tables]
    for path, width, end in zip(paths, widths, np.cumsum(widths).tolist(), strict=True):
        _fill(features[:, end - width : end], path)

    # an example has features where it has them in every table
    statuses = zip(*(one.statuses for one in found), strict=True)
    worst = tuple(next((status for status in of_example if status != OK), OK) for of_example in statuses)
    return replace(first, statuses=worst, features=features, metadata=tuple(one.metadata[0] for one in found))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Opens a table; turns what fails of reading it into a FeatureError."""
    refuse_pointer(path, FeatureError)
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise FeatureError(f"{path}: no such file, expected a table of features (.parquet)") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FeatureError(f"{path}: not a table of features ({str(error).splitlines()[0]})") from None


def _read(path: Path) -> Table:
    """Reads all of a table but its features, which are left empty: f32 [0, width]. Raises FeatureError."""
    with _opened(path) as file:
        schema = file.schema_arrow
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        if metadata.get("format") != FORMAT:
            raise FeatureError(f"{path}: not a table of features: make one by python -m evaluation.features extract")

        known = file.read(["image", "split", "status", "labels"])
        images, statuses = (tuple(known[name].to_pylist()) for name in ("image", "status"))
        splits = np.array(known["split"].to_pylist(), np.str_)
        labels = np.concatenate([_matrix(chunk) for chunk in known["labels"].chunks])  # i8 [rows, classes]
        none = np.zeros((0, schema.field("features").type.list_size), np.float32)
        return Table(images, splits, statuses, labels, none, (metadata,))


def _fill(features: NDArray[np.float32], path: Path) -> None:
    """Reads a table's features into their place, a row group (as `extract` writes them: a shard) at a time.

    `iter_batches` would keep as much again as the whole table.
    """
    first = 0
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, ["features"])["features"].chunks:
                features[first : first + len(chunk)] = _matrix(chunk)
                first += len(chunk)


def _matrix(values: pa.FixedSizeListArray) -> NDArray[Any]:
    """Returns lists as [rows, numbers of a list]; null rows are zero."""
    size = values.type.list_size
    flat = values.values.slice(values.offset * size, len(values) * size)  # unlike `flatten`, with null rows
    return np.asarray(flat.fill_null(0).to_numpy(zero_copy_only=False)).reshape(len(values), size)
