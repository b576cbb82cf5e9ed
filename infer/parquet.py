"""Parquet files of images as Hugging Face's `datasets` writes them, read a row group at a time.

Columns: `image`, a struct of `bytes` and `path` or the bytes themselves, and `label`, a number (named in the schema's
metadata where it is a ClassLabel) or a name.
"""

from __future__ import annotations

import errno
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .encoded import LARGEST_BYTES, Archive, printable
from .packed import Sample
from .tree import DatasetError

IMAGE, LABEL = "image", "label"
KEPT = 3
"""Row groups held decoded: what several threads read in order is in one or two."""


@dataclass(frozen=True, slots=True)
class Row:
    """An encoded image in a row of a Parquet file. Any number of threads may read it."""

    archive: Archive
    group: int
    row: int  # in its group

    @property
    def path(self) -> Path:
        return self.archive.path

    def read_bytes(self, first: int | None = None) -> bytes:
        """All bytes, or the `first` of them. Raises OSError; ESTALE where the file is no longer what it was."""
        value = _groups.get(self.archive, self.group)[self.row]
        if value is None:
            raise OSError(errno.EINVAL, "the row holds no bytes: embed the images, as datasets.table.embed_table_storage does")
        if first is None and len(value) > LARGEST_BYTES:
            raise OSError(
                errno.EFBIG, f"{len(value)} bytes, more than the {LARGEST_BYTES} of the largest image we read"
            )
        return bytes(value[:first])

    def size_bytes(self) -> int:
        """Of the whole file: that of a row is not known before it is read."""
        return self.archive.size_bytes


class _Groups:
    """The images of the row groups read last, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Archive, int], Any] = OrderedDict()

    def get(self, archive: Archive, group: int) -> Sequence[memoryview | None]:
        key = archive, group
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = _read_group(archive, group)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            found: Sequence[memoryview | None] = self._kept[key]
            return found


_groups = _Groups()


def _read_group(archive: Archive, group: int) -> list[memoryview | None]:
    pyarrow = _pyarrow()
    found = archive.path.stat()
    if (found.st_size, found.st_mtime_ns) != (archive.size_bytes, archive.modified_ns):
        raise OSError(errno.ESTALE, "the Parquet file was changed")
    try:
        with pyarrow.parquet.ParquetFile(archive.path) as file:
            column = file.read_row_group(group, columns=[_bytes_column(file.schema_arrow)[0]])[IMAGE]
    except pyarrow.ArrowException as error:
        raise OSError(errno.EINVAL, f"a damaged row group of the Parquet file ({_first_line(error)})") from None
    values: list[memoryview | None] = []
    for chunk in column.chunks:
        own = chunk.field("bytes") if pyarrow.types.is_struct(chunk.type) else chunk
        values += [None if not value.is_valid else memoryview(value.as_buffer()) for value in own]
    return values


def samples(path: Path) -> Iterator[Sample]:
    """The rows of a file in their order, without their images. Raises DatasetError."""
    pyarrow = _pyarrow()
    try:
        archive = Archive(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
        with pyarrow.parquet.ParquetFile(path) as file:
            _, path_column = _bytes_column(file.schema_arrow)
            if LABEL not in file.schema_arrow.names:
                raise DatasetError(
                    f"{path}: columns {', '.join(file.schema_arrow.names)}, expected {IMAGE} and {LABEL}"
                )
            columns = [LABEL, *([path_column] if path_column else [])]
            number = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                names = [row["path"] for row in table[IMAGE].to_pylist()] if path_column else [None] * len(table)
                for row, (name, label) in enumerate(zip(names, table[LABEL].to_pylist(), strict=True)):
                    if not (label is None or isinstance(label, (int, str))) or isinstance(label, bool):
                        raise DatasetError(f"{path}: row {number} has the label {label!r}, expected a number or a name")
                    known = printable(label) if isinstance(label, str) else None if label == -1 else label
                    yield Sample(printable(name or f"{path.stem}/{number:08d}"), known, Row(archive, group, row))
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet file that can be read ({_first_line(error)})") from None


def class_names(path: Path) -> tuple[str, ...]:
    """Of a ClassLabel, in the order of its numbers; none where the labels are something else. Raises DatasetError."""
    pyarrow = _pyarrow()
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        names = json.loads(metadata[b"huggingface"])["info"]["features"][LABEL]["names"]
        return tuple(printable(str(name)) for name in names)
    except (KeyError, TypeError, ValueError):
        return ()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet file that can be read ({_first_line(error)})") from None


def _bytes_column(schema: Any) -> tuple[str, str | None]:
    """(the column of the encoded images, that of their paths). Raises DatasetError."""
    types, index = _pyarrow().types, schema.get_field_index(IMAGE)
    kind = schema.field(index).type if index >= 0 else None
    if kind is not None and (types.is_binary(kind) or types.is_large_binary(kind)):
        return IMAGE, None
    if kind is not None and types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{IMAGE}.bytes", f"{IMAGE}.path" if kind.get_field_index("path") >= 0 else None
    raise DatasetError(
        f"columns {schema.names}, expected {IMAGE} (encoded bytes, or a struct that has them) and {LABEL}"
    )


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(f"Parquet needs pyarrow ({error}): pip install 'verydeep[evaluation]'") from None
    return pyarrow


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
