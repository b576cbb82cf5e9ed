"""Parquet files of images as Hugging Face's `datasets` writes them, read a row group at a time.

Columns: `image`, a struct of `bytes` and `path` or the bytes themselves, and `label`, a number (named in the schema's
metadata where it is a ClassLabel) or a name; or other names that data sets have for these (IMAGES, LABELS). pyarrow
reads; places are kept by hand, because any image is read by its row, from any thread, and `datasets` would unpack or
convert the files first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files import refuse_pointer
from .folder import LARGEST_BYTES, Archive, DatasetError, OwnFault, Sample, composed, printable
from .footer import Group, read_groups

IMAGES = ("image", "img", "picture", "photo", "pixels", "jpg", "jpeg", "png", "webp", "image_bytes")
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "category", "class_label", "y")
"""Names of the columns, the first that is there counts: of the hub's data sets, CIFAR has img, and fine_label or label.
"""
KEPT_BYTES = 1 << 28
"""Bytes of row groups held decoded, besides the one read last. Threads that read in order are in one or two of them, of
some 10 MB each as `datasets` writes them."""
LARGEST_GROUP_BYTES = 1 << 30
"""Bytes of the largest row group, whose images are held as a whole."""
BATCH_BYTES, BATCH_ROWS = 1 << 26, 256
"""What is asked of pyarrow at once, since a value that stands once in a file may be the value of many rows."""
EXPANSION = 2
"""A row group's images take at most so many times the bytes that it declares, and BATCH_BYTES: more are copies."""
ROW_BYTES, FEW_ROWS = 8, 10_000
"""A file has at most FEW_ROWS rows and one more for each ROW_BYTES: no image is smaller, but a run of copies is."""
LONGEST_TEXT = 4096
"""Characters of the longest label or path."""


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """An encoded image in a row of a Parquet file. Any number of threads may read it."""

    archive: Archive
    group: int
    row: int  # in its group
    column: str = IMAGES[0]

    @property
    def path(self) -> Path:
        return self.archive.path

    def read_bytes(self, first: int | None = None) -> bytes:
        """The image's bytes, or the `first` of them. Raises OwnFault, OSError; ESTALE where the file has changed."""
        value = _groups.get(self.archive, self.group, self.column)[self.row]
        if value is None:
            raise OwnFault("the row holds no bytes: embed the images, as datasets.table.embed_table_storage does")
        if first is None and len(value) > LARGEST_BYTES:
            raise OwnFault(f"{len(value)} bytes, more than the {LARGEST_BYTES} of the largest image we read")
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
        self._kept: OrderedDict[tuple[Archive, int, str], _Group] = OrderedDict()

    def get(self, archive: Archive, group: int, column: str) -> Sequence[memoryview | None]:
        key = archive, group, column
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = _read_group(archive, group, column)
                while len(self._kept) > 1 and sum(kept.size_bytes for kept in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            return self._kept[key].values


_groups = _Groups()


def _read_group(archive: Archive, group: int, column: str) -> _Group:
    """The images of a row group. Raises OSError."""
    pyarrow = _pyarrow()
    found = archive.path.stat()
    if (found.st_size, found.st_mtime_ns) != (archive.size_bytes, archive.modified_ns):
        raise OSError(errno.ESTALE, "the Parquet file was changed")

    values: list[memoryview | None] = []
    size_bytes = 0
    try:
        with pyarrow.parquet.ParquetFile(archive.path) as file:
            is_struct = pyarrow.types.is_struct(file.schema_arrow.field(column).type)
            own = f"{column}.bytes" if is_struct else column
            most = EXPANSION * _groups_of(archive)[group].declared_bytes(own) + BATCH_BYTES
            for batch in _batches(archive, file, group, [own]):
                size_bytes += batch.nbytes
                if size_bytes > min(most, LARGEST_GROUP_BYTES + BATCH_BYTES):
                    raise OSError(
                        errno.EINVAL, f"a row group of the Parquet file that unpacks to {size_bytes} bytes and more"
                    )
                images = batch.column(0)
                images = images.field("bytes") if is_struct else images
                values += [None if not value.is_valid else memoryview(value.as_buffer()) for value in images]
    except (pyarrow.ArrowException, LookupError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(errno.EINVAL, f"a damaged row group of the Parquet file ({_one_line(error)})") from None
    return _Group(values, size_bytes)


def _batches(archive: Archive, file: Any, group: int, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of a row group, so small that no value which is there once can be there too often."""
    largest = max(_groups_of(archive)[group].declared_bytes(column) for column in columns)
    rows = min(max(1, BATCH_BYTES // max(largest, 1)), BATCH_ROWS)
    yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=list(columns))


@functools.lru_cache(maxsize=64)
def _groups_of(archive: Archive) -> list[Group]:
    """What the row groups of a file declare. Raises OSError and ValueError."""
    return read_groups(archive.path)


class Columns(NamedTuple):
    """Names of the columns of encoded images and of labels; path: within the image's, where it has one."""

    image: str
    label: str
    path: str | None = None


def choose_columns(path: Path, asked: Mapping[str, str]) -> tuple[Columns, tuple[str, ...]]:
    """(the columns of a file, lines to be said where their names are not image and label).

    asked: names of `image` and `label`. Raises DatasetError.
    """
    with _opened(path) as file:
        try:
            chosen = _choose(file.schema_arrow, asked)
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from None
    if (chosen.image, chosen.label) == (IMAGES[0], LABELS[0]) or asked:
        return chosen, ()
    others = [name for name in file.schema_arrow.names if name not in (chosen.image, chosen.label)]
    other = f", other columns: {printable(', '.join(others))}" if others else ""
    said = f"columns {printable(chosen.image)} and {printable(chosen.label)}{other} (--columns image=NAME,label=NAME)"
    return chosen, (said,)


def _choose(schema: Any, asked: Mapping[str, str]) -> Columns:
    """Raises DatasetError, a phrase without the file."""
    kinds = {field.name: field.type for field in schema}
    shown = ", ".join(printable(f"{name} ({type_})") for name, type_ in kinds.items())
    image = asked.get("image") or next((name for name in IMAGES if name in kinds), "")
    label = asked.get("label") or next((name for name in LABELS if name in kinds), "")
    absent = [name for name in (image, label) if name not in kinds]

    if not absent:
        types = _pyarrow().types
        kind = kinds[image]
        if types.is_binary(kind) or types.is_large_binary(kind):
            return Columns(image, label)
        inside = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
        if "bytes" in inside:
            own = inside.get("path")
            is_text = own is not None and (types.is_string(own) or types.is_large_string(own))
            return Columns(image, label, f"{image}.path" if is_text else None)

    raise DatasetError(
        f"columns {shown}, expected {image or IMAGES[0]} (encoded bytes, or a struct that has them) and "
        f"{label or LABELS[0]}, or --columns image=NAME,label=NAME"
    )


def read_samples(path: Path, columns: Columns) -> Iterator[Sample]:
    """The rows of a file in their order, without their images. Raises DatasetError."""
    with _opened(path) as file:
        archive = Archive(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
        try:
            asked = {"image": columns.image, "label": columns.label}
            image_column, label_column, path_column = _choose(file.schema_arrow, asked)
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from None

        number = 0
        most_rows = FEW_ROWS + archive.size_bytes // ROW_BYTES
        for group in range(file.num_row_groups):
            size = _groups_of(archive)[group].uncompressed_bytes
            if size > LARGEST_GROUP_BYTES:
                raise DatasetError(
                    f"{path}: a row group of {size} bytes, more than {LARGEST_GROUP_BYTES}, and it is read as a whole: "
                    "write it again with row_group_size=100"
                )

            # rows are counted as they come: what the metadata says of them need not be so
            row = 0
            for batch in _batches(archive, file, group, [label_column, *([path_column] if path_column else [])]):
                labels = batch[label_column].to_pylist()
                paths = batch[image_column].field("path").to_pylist() if path_column else [None] * len(labels)
                for image_path, label in zip(paths, labels, strict=True):
                    if number == most_rows:
                        raise DatasetError(
                            f"{path}: more than {most_rows} rows in {archive.size_bytes} bytes: no images are so small"
                        )
                    name = _text(image_path or f"{path.stem}/{number:08d}", f"{path}: row {number} has a path")
                    known = _known(label, f"{path}: row {number} has a label")
                    yield Sample(printable(name), known, ParquetImage(archive, group, row, image_column))
                    row, number = row + 1, number + 1


def _known(label: object, what: str) -> int | str | None:
    """The label in a row, None where it says that there is none. Raises DatasetError, which begins with `what`."""
    if not (label is None or isinstance(label, (int, str))) or isinstance(label, bool):
        raise DatasetError(f"{what} of type {type(label).__name__}, expected a number or a name")
    return printable(composed(_text(label, what))) if isinstance(label, str) else None if label == -1 else label


def _text(text: str, what: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise DatasetError(f"{what} of {len(text)} characters, expected at most {LONGEST_TEXT}")
    return text


def class_names(paths: Sequence[Path], columns: Columns) -> tuple[str, ...]:
    """Names of the files' ClassLabel, in the order of its numbers; none where the labels are something else.

    Raises DatasetError, also where files call their classes differently: their numbers mean other things.
    """
    first, *others = (_class_names(path, columns.label) for path in paths)
    for path, names in zip(paths[1:], others, strict=True):
        if names != first:
            raise DatasetError(
                f"{path}: its {len(names)} classes ({', '.join(names[:3])} ...) are not the {len(first)} of "
                f"{paths[0].name} ({', '.join(first[:3])} ...), so their numbers mean other things: use files of one "
                "data set"
            )
    return first


def _class_names(path: Path, label: str) -> tuple[str, ...]:
    with _opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(printable(composed(name)) for name in names)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A ParquetFile. Raises DatasetError, also for what goes wrong while it is read."""
    pyarrow = _pyarrow()
    refuse_pointer(path, DatasetError)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, ValueError, LookupError, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet file that can be read ({_one_line(error)})") from None


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(f"Parquet needs pyarrow ({error}): pip install 'verydeep[evaluation]'") from None
    return pyarrow


def _one_line(error: Exception) -> str:
    return printable(str(error).strip().split("\n")[0])
