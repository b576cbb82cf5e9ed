"""Parquet files of images as Hugging Face's `datasets` writes them, read a row group at a time.

Columns: `image`, a struct of `bytes` and `path` or the bytes themselves, and `label`, a number (named in the schema's
metadata where it is a ClassLabel) or a name. pyarrow reads; places are kept by hand, because any image is read by its
row, from any thread, and `datasets` would unpack or convert the files first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .folder import LARGEST_BYTES, Archive, DatasetError, Sample, printable

IMAGE, LABEL = "image", "label"
KEPT_BYTES = 1 << 28
"""Bytes of row groups held decoded, besides the one read last. Threads that read in order are in one or two of them, of
some 10 MB each as `datasets` writes them."""
LARGEST_GROUP_BYTES = 1 << 30
"""Bytes of the largest row group, which is read as a whole, into five times as much memory."""


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """An encoded image in a row of a Parquet file. Any number of threads may read it."""

    archive: Archive
    group: int
    row: int  # in its group

    @property
    def path(self) -> Path:
        return self.archive.path

    def read_bytes(self, first: int | None = None) -> bytes:
        """The image's bytes, or the `first` of them. Raises OSError; ESTALE where the file is no longer what it was."""
        value = _groups.get(self.archive, self.group)[self.row]
        if value is None:
            raise OSError(
                errno.EINVAL, "the row holds no bytes: embed the images, as datasets.table.embed_table_storage does"
            )
        if first is None and len(value) > LARGEST_BYTES:
            raise OSError(
                errno.EFBIG, f"{len(value)} bytes, more than the {LARGEST_BYTES} of the largest image we read"
            )
        return bytes(value[:first])

    def size_bytes(self) -> int:
        """Bytes of the whole file: a row's are not known before it is read."""
        return self.archive.size_bytes


class _Group(NamedTuple):
    """The images of a row group, by rows."""

    values: Sequence[memoryview | None]
    size_bytes: int


class _Groups:
    """The images of the row groups read last, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Archive, int], _Group] = OrderedDict()

    def get(self, archive: Archive, group: int) -> Sequence[memoryview | None]:
        key = archive, group
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = _read_group(archive, group)
                while len(self._kept) > 1 and sum(kept.size_bytes for kept in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            return self._kept[key].values


_groups = _Groups()


def _read_group(archive: Archive, group: int) -> _Group:
    """The images of a row group. Raises OSError."""
    pyarrow = _pyarrow()
    found = archive.path.stat()
    if (found.st_size, found.st_mtime_ns) != (archive.size_bytes, archive.modified_ns):
        raise OSError(errno.ESTALE, "the Parquet file was changed")

    try:
        with pyarrow.parquet.ParquetFile(archive.path) as file:
            column = file.read_row_group(group, columns=[_columns(file.schema_arrow)[0]])[IMAGE]
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(errno.EINVAL, f"a damaged row group of the Parquet file ({_one_line(error)})") from None

    values: list[memoryview | None] = []
    for chunk in column.chunks:
        own = chunk.field("bytes") if pyarrow.types.is_struct(chunk.type) else chunk
        values += [None if not value.is_valid else memoryview(value.as_buffer()) for value in own]
    return _Group(values, column.nbytes)


def read_samples(path: Path) -> Iterator[Sample]:
    """The rows of a file in their order, without their images. Raises DatasetError."""
    with _opened(path) as file:
        archive = Archive(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
        try:
            _, path_column = _columns(file.schema_arrow)
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from None

        number = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if size > LARGEST_GROUP_BYTES:
                raise DatasetError(
                    f"{path}: a row group of {size} bytes, more than {LARGEST_GROUP_BYTES}, and it is read as a whole: "
                    "write it again with row_group_size=100"
                )

            table = file.read_row_group(group, columns=[LABEL, *([path_column] if path_column else [])])
            images = table[IMAGE].to_pylist() if path_column else [None] * len(table)
            for row, (image, label) in enumerate(zip(images, table[LABEL].to_pylist(), strict=True)):
                if not (label is None or isinstance(label, (int, str))) or isinstance(label, bool):
                    raise DatasetError(
                        f"{path}: row {number} has a label of type {type(label).__name__}, expected a number or a name"
                    )

                known = printable(label) if isinstance(label, str) else None if label == -1 else label
                name = (image or {}).get("path") or f"{path.stem}/{number:08d}"
                yield Sample(printable(name), known, ParquetImage(archive, group, row))
                number += 1


def class_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of the files' ClassLabel, in the order of its numbers; none where the labels are something else.

    Raises DatasetError, also where files call their classes differently: their numbers mean other things.
    """
    first, *others = map(_class_names, paths)
    for path, names in zip(paths[1:], others, strict=True):
        if names != first:
            raise DatasetError(
                f"{path}: its {len(names)} classes ({', '.join(names[:3])} ...) are not the {len(first)} of "
                f"{paths[0].name} ({', '.join(first[:3])} ...), so their numbers mean other things: use files of one "
                "data set"
            )
    return first


def _class_names(path: Path) -> tuple[str, ...]:
    with _opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][LABEL]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(map(printable, names)) if isinstance(names, list) and all(isinstance(n, str) for n in names) else ()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A ParquetFile. Raises DatasetError, also for what goes wrong while it is read."""
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet file that can be read ({_one_line(error)})") from None


def _columns(schema: Any) -> tuple[str, str | None]:
    """(column of the encoded images, column of their paths). Raises DatasetError, a phrase without the file."""
    types = _pyarrow().types
    kinds = {field.name: field.type for field in schema}
    kind = kinds.get(IMAGE)

    if kind is not None and LABEL in kinds:
        if types.is_binary(kind) or types.is_large_binary(kind):
            return IMAGE, None
        inside = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
        path = inside.get("path")
        if "bytes" in inside:
            is_text = path is not None and (types.is_string(path) or types.is_large_string(path))
            return f"{IMAGE}.bytes", f"{IMAGE}.path" if is_text else None

    shown = ", ".join(printable(f"{name} ({type_})") for name, type_ in kinds.items())
    raise DatasetError(f"columns {shown}, expected {IMAGE} (encoded bytes, or a struct that has them) and {LABEL}")


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(f"Parquet needs pyarrow ({error}): pip install 'verydeep[evaluation]'") from None
    return pyarrow


def _one_line(error: Exception) -> str:
    return printable(str(error).strip().split("\n")[0])
