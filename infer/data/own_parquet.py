"""Parquet files of ours, which tell by themselves whether they are still what was written.

Pages have Parquet's own checksums, and the metadata of a file has a digest of its rows and one of all other metadata.
A reader checks both, so a flipped bit is noticed or changes nothing that is read. Rows are written and read in parts;
a digest of all of them is known at the end, so nothing may be told before. This file knows no columns.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from ..errors import Refused
from ..files import refuse_pointer, replacing
from .footer import BYTE_ARRAY, read_groups

MOST_ROWS = 1000
"""That a reader takes at once."""
MOST_VALUES = 2**28
"""Of one column in a row group, which may be read at once; ours have 1,000 rows, of up to 100,000 numbers."""
MOST_TEXT_BYTES = 2**30
"""Of one column in the rows that are read at once, if all were as long as those of a row group together."""
ROWS, ROWS_SHA256, METADATA_SHA256 = "rows", "rows_sha256", "metadata_sha256"
"""Keys that a file has beside its own metadata; readers of the rows do not see them."""
ARROW_SCHEMA = "ARROW:schema"
"""Key of Arrow's own note in the metadata of a file, from which it takes the types of columns."""


class RowDigest:
    """A SHA-256 of rows, taken part by part: of every value of every column, in order.

    It does not depend on how the rows were cut, encoded or compressed. Each column, and what is nested in it, has a
    stream of its own: of the values, of the lengths of texts and lists, and of the places that are null.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._streams: dict[str, Any] = {}
        self._seen: dict[str, int] = {}  # values of each column so far

    def add(self, part: pa.Table | pa.RecordBatch) -> None:
        if not len(part):
            return
        self.rows += len(part)
        for name, column in zip(part.schema.names, part.columns, strict=True):
            for values in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                self._take(name, values)

    def hexdigest(self) -> str:
        lines = [f"{name}: {stream.hexdigest()}" for name, stream in sorted(self._streams.items())]
        return hashlib.sha256("\n".join([f"{self.rows} rows", *lines]).encode()).hexdigest()

    def _take(self, name: str, values: pa.Array) -> None:
        kind = values.type
        if values.null_count:
            places = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            self._feed(f"{name} null", places + self._seen.get(name, 0))
        self._seen[name] = self._seen.get(name, 0) + len(values)

        if pa.types.is_struct(kind):
            for field, inner in zip(kind, values.flatten(), strict=True):
                self._take(f"{name}.{field.name}", inner)
        elif pa.types.is_fixed_size_list(kind):
            self._take(f"{name}[{kind.list_size}]", values.flatten())  # without lists that are null
        elif pa.types.is_list(kind):
            self._feed(f"{name} lengths", _numbers(pc.list_value_length(values)))
            self._take(f"{name}[]", values.flatten())
        elif pa.types.is_string(kind):
            self._feed(f"{name} lengths", _numbers(pc.binary_length(values)))
            self._feed(f"{name} {kind}", "".join(values.fill_null("").to_pylist()).encode())
        else:
            self._feed(f"{name} {kind}", _numbers(values))

    def _feed(self, name: str, data: bytes | np.ndarray[Any, Any]) -> None:
        stream = self._streams.setdefault(name, hashlib.sha256())
        stream.update(data if isinstance(data, bytes) else data.tobytes())


def _numbers(values: pa.Array) -> np.ndarray[Any, Any]:
    """The numbers of an array, 0 where they are null."""
    found: np.ndarray[Any, Any] = (values.fill_null(0) if values.null_count else values).to_numpy(zero_copy_only=False)
    return found


def _metadata_sha256(metadata: Mapping[str, str]) -> str:
    known = {key: value for key, value in metadata.items() if key not in (METADATA_SHA256, ARROW_SCHEMA)}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def write(parts: Iterable[pa.Table], path: Path, row_group: int) -> None:
    """Writes the parts of one table, in order, under a temporary name and renames the file when it is whole.

    The bytes depend on the rows alone, not on how they are cut into parts: row groups of `row_group` rows, the last one
    shorter. That many rows and one part are in memory at a time. The metadata is that of the first part.
    """
    digest = RowDigest()
    with replacing(path) as unfinished, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.Table] = []  # rows that do not fill a row group yet

        for part in parts:
            digest.add(part)
            waiting.append(part)
            if writer is None:
                # sorted, since what was read from a file comes in no order
                metadata = {key.decode(): value.decode() for key, value in sorted((part.schema.metadata or {}).items())}
                schema = part.schema.with_metadata(metadata)
                own = pq.ParquetWriter(unfinished, schema, compression="zstd", write_page_checksum=True)
                writer = stack.enter_context(own)

            while sum(map(len, waiting)) >= row_group:
                table = pa.concat_tables(waiting)
                writer.write_table(table[:row_group].combine_chunks(), row_group)
                waiting = [table[row_group:]]

        rest = pa.concat_tables(waiting)
        assert writer is not None  # there is a part
        if len(rest):
            writer.write_table(rest.combine_chunks(), row_group)

        of_rows = {ROWS: str(digest.rows), ROWS_SHA256: digest.hexdigest()}
        writer.add_key_value_metadata({**of_rows, METADATA_SHA256: _metadata_sha256({**metadata, **of_rows})})


@dataclass(frozen=True, slots=True)
class StoredTable:
    """An open file. metadata: its own, without the keys of this module; rows: how many there are."""

    path: Path
    file: pq.ParquetFile
    metadata: dict[str, str]
    rows: int
    _rows_sha256: str | None
    _error: type[Refused]

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow.remove_metadata()

    def parts(self, rows: int) -> Iterator[pa.RecordBatch]:
        """All rows, so many at a time. Raises the error of `opened` at the end where they are not what was written."""
        digest = RowDigest()
        for part in self.file.iter_batches(rows):
            digest.add(part)
            yield part

        if self._rows_sha256 is None:
            _say_unchecked(self.path)
        elif self._rows_sha256 != digest.hexdigest():
            raise self._error(_damaged(self.path, "rows"))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """A few columns in memory. Nothing is checked but Parquet's own checksums: read all rows, too."""
        return self.file.read(columns=list(names))

    def read(self) -> pa.Table:
        """All rows in memory."""
        return pa.Table.from_batches(self.parts(max(1, self.rows)), self.schema)


@contextlib.contextmanager
def opened(path: Path, kind: str, command: str, error: type[Refused]) -> Iterator[StoredTable]:
    """Opens a table of a kind that a command makes. Raises `error`, also for what fails of reading it.

    A table from before there were digests is read, and a line on stderr says so, once for each.
    """
    refuse_pointer(path, error)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise error(f"{path}: is no regular file, expected {kind} (.parquet)")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            found = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
            metadata = {key: value for key, value in found.items() if key not in (*_KEYS, ARROW_SCHEMA)}
            if found.keys() & set(_KEYS):
                _check(path, found, file.metadata.num_rows, error)
            _check_sizes(path, error)
            yield StoredTable(path, file, metadata, file.metadata.num_rows, found.get(ROWS_SHA256), error)
    except FileNotFoundError:
        raise error(f"{path}: no such file, expected {kind} (.parquet)") from None
    except (OSError, KeyError, AttributeError, TypeError, ValueError, OverflowError, pa.ArrowException) as failure:
        said = " ".join(str(failure).split())[:200]
        raise error(f"{path}: not {kind} of {command} ({said})") from None


_KEYS = (ROWS, ROWS_SHA256, METADATA_SHA256)


def _check(path: Path, found: Mapping[str, str], rows: int, error: type[Refused]) -> None:
    """Raises `error` where the metadata is not what was written, or of other rows than there are."""
    if not all(key in found for key in _KEYS) or found[METADATA_SHA256] != _metadata_sha256(found):
        raise error(_damaged(path, "metadata"))
    if found[ROWS] != str(rows):
        raise error(_damaged(path, "rows"))


def _check_sizes(path: Path, error: type[Refused]) -> None:
    """Raises `error` for columns that would take gigabytes, before any is read: a few bytes can stand for them."""
    for group in read_groups(path):
        for column in group.columns:
            texts = column.kind == BYTE_ARRAY
            text_bytes = column.uncompressed_bytes * min(group.rows, MOST_ROWS) if texts else 0
            if column.values > MOST_VALUES or text_bytes > MOST_TEXT_BYTES:
                raise error(
                    f"{path}: column {column.path} has {column.values} values in a group of "
                    f"{group.rows} rows, or texts of {column.uncompressed_bytes} bytes: too large to be ours"
                )


def _damaged(path: Path, what: str) -> str:
    return f"{path}: damaged, its {what} are not those that were written: take a copy that is whole, or make it again"


def check_replaceable(path: Path, read_head: Callable[[Path], object]) -> None:
    """Raises Refused for a file that is there and that `read_head` does not know: it would be lost."""
    if path.exists():
        try:
            read_head(path)
        except Refused as error:
            raise Refused(f"{error}; it is not replaced: remove it, or use another -o") from None


@functools.cache
def _say_unchecked(path: Path) -> None:
    tqdm.write(f"{path}: a table of an earlier version, without digests: damage to it would not be seen", sys.stderr)
