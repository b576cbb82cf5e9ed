"""Tables of features: a row for each example, as Parquet, with the labels and sets that an SVM needs.

Columns: image, split, status ("ok" or why there are no features), pixels (digest of what the engines saw), sha256 (of
the file's bytes), labels i8 [classes] (see feature_data.Example), features f32 [width], null where the status is not
"ok". They hold nothing that differs between two runs of the same command.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infer.errors import Refused
from infer.files import replacing

from ..errors import RunError
from ..run.identity import dataset_id
from ..scores.table import OK
from .collection import Labels

FORMAT = "features-1"
PART = 64
"""Pictures that are kept in memory, and lost when a run is killed."""


class FeatureError(Refused):
    """A file that is no table of features, tables that do not belong together, or too little to learn from."""


@dataclass(frozen=True, slots=True)
class Row:
    """The features of one example, f32 [width], None where the status is not "ok"."""

    image: str
    split: str
    labels: Labels
    status: str
    pixels: str
    sha256: str
    features: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Table:
    """All examples in memory. labels i8 [N, classes]; features f32 [N, width], zero where the status is not "ok"."""

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


class UnfinishedTable:
    """The parts of a table that is being made, in a folder beside it, each committed by rename.

    Raises RunError where there are some already and `resume` was not asked for, or they are of another run. A folder
    without any is of a run that is not begun.
    """

    def __init__(self, path: Path, metadata: dict[str, str], listing: str, width: int, *, resume: bool) -> None:
        self._path, self._metadata, self._width = path, metadata, width
        self.folder = path.with_name(path.name + ".parts")
        run = {**metadata, "listing": listing}
        if not any(self.folder.glob("*.parquet")):
            with replacing(self.folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(run))
            return
        try:
            found = dict(json.loads((self.folder / "run.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.folder} is damaged ({error}): remove that folder to begin again") from None
        if not resume:
            raise RunError(
                f"{self.folder} holds a run that did not end: go on with it by --resume, or remove that folder to "
                "begin again"
            )
        elif found != run:
            changed = next(key for key in run if found.get(key) != run[key])
            raise RunError(
                f"--resume: {changed} changed since the run in {self.folder} began: use what it began with, or remove "
                "that folder to begin again"
            )

    def pending(self, pictures: int) -> list[int]:
        """The first pictures of the parts that are to be made."""
        return [first for first in range(0, pictures, PART) if not self._part(first).is_file()]

    def add(self, first: int, rows: Sequence[Row]) -> None:
        """Commits the rows of the pictures from `first` on."""
        table = _to_arrow(rows, self._width)
        with replacing(self._part(first)) as unfinished:
            pq.write_table(table, unfinished, compression="zstd")

    def finish(self) -> int:
        """Writes the table, a part at a time, removes the parts and returns the number of rows."""
        parts = sorted(self.folder.glob("*.parquet"))
        content = rows = 0
        for path in parts:
            known = pq.read_table(path, columns=["split", "sha256", "labels"])
            rows += len(known)
            content += sum(_content(*row.values()) for row in known.to_pylist())
        metadata = {**self._metadata, "dataset_id": dataset_id(rows, content)}
        schema = pq.read_schema(parts[0]).with_metadata(metadata)
        with replacing(self._path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for path in parts:
                writer.write_table(pq.read_table(path).replace_schema_metadata(metadata))
        shutil.rmtree(self.folder)
        return rows

    def _part(self, first: int) -> Path:
        return self.folder / f"{first:08d}.parquet"


def _content(split: str, sha256: str, labels: Sequence[int]) -> int:
    """Digest of one example; a data set's identity is their sum (see runner.content_of)."""
    return int.from_bytes(hashlib.sha256(f"{split} {sha256} {labels}".encode()).digest(), "big")


def _to_arrow(rows: Sequence[Row], width: int) -> pa.Table:
    labels = np.stack([row.labels for row in rows])
    failed = np.array([row.features is None for row in rows])
    none = np.zeros(width, np.float32)
    features = np.concatenate([none if row.features is None else row.features for row in rows])
    texts = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in _TEXTS}
    return pa.table(
        {
            **texts,
            "labels": pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1]),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features), width, mask=pa.array(failed)),
        }
    )


_TEXTS = ("image", "split", "status", "pixels", "sha256")


def read(paths: Sequence[Path]) -> Table:
    """Tables of the same examples as one, their features side by side. Raises FeatureError."""
    first, *others = found = [_read(path) for path in paths]
    for number, (path, other) in enumerate(zip(paths[1:], others, strict=True), 1):
        same = other.metadata["dataset_id"] == first.metadata["dataset_id"] and other.images == first.images
        if not same:
            raise FeatureError(
                f"{path} has features of other images or labels than {paths[0]} ({len(other.images)} and "
                f"{len(first.images)} rows): use tables of one data set"
            )
        for known, before in zip(paths, found[:number], strict=False):
            if other.metadata == before.metadata:
                raise FeatureError(f"{path} has the same features as {known}: give each table once")
    widths = [one.width for one in found]
    features = np.zeros((len(first.images), sum(widths)), np.float32)
    for path, width, end in zip(paths, widths, np.cumsum(widths).tolist(), strict=True):
        _fill(features[:, end - width : end], path)
    statuses = zip(*(one.statuses for one in found), strict=True)
    return Table(
        first.images,
        np.array(first.splits, np.str_),
        tuple(next((status for status in row if status != OK), OK) for row in statuses),
        first.labels,
        features,
        tuple(one.metadata for one in found),
    )


class _Beside(NamedTuple):
    """All of a table but its features."""

    images: tuple[str, ...]
    splits: tuple[str, ...]
    statuses: tuple[str, ...]
    labels: Labels
    width: int
    metadata: Mapping[str, str]


def _read(path: Path) -> _Beside:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
            if metadata.get("format") != FORMAT:
                raise FeatureError(
                    f"{path}: not a table of features: make one by python -m evaluation.features extract"
                )
            known = file.read(["image", "split", "status", "labels"])
            images, splits, statuses = (tuple(known[name].to_pylist()) for name in ("image", "split", "status"))
            labels = np.concatenate([_matrix(chunk) for chunk in known["labels"].chunks])
            return _Beside(images, splits, statuses, labels, schema.field("features").type.list_size, metadata)
    except FileNotFoundError:
        raise FeatureError(f"{path}: no such file, expected a table of features (.parquet)") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FeatureError(f"{path}: not a table of features ({str(error).splitlines()[0]})") from None


def _fill(features: NDArray[np.float32], path: Path) -> None:
    """Reads a table's features into their place, a row group (as `extract` writes them: a part) at a time.

    `iter_batches` would keep as much again as the whole table.
    """
    try:
        with pq.ParquetFile(path) as file:
            first = 0
            for group in range(file.num_row_groups):
                for chunk in file.read_row_group(group, ["features"])["features"].chunks:
                    features[first : first + len(chunk)] = _matrix(chunk)
                    first += len(chunk)
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(f"{path}: not a table of features ({str(error).splitlines()[0]})") from None


def _matrix(values: pa.FixedSizeListArray) -> NDArray[Any]:
    """[rows, numbers of a list]; null rows are zero."""
    size = values.type.list_size
    flat = values.values.slice(values.offset * size, len(values) * size)  # unlike `flatten`, with null rows
    return np.asarray(flat.fill_null(0).to_numpy(zero_copy_only=False)).reshape(len(values), size)
