"""The sizes that a Parquet file declares, read from its footer before any of them is believed.

pyarrow has them, too, but its Python classes end the whole process by an exception of C++ where a footer contradicts
itself: one flipped bit in a column's statistics is enough (seen with 25.0). The footer is a struct of Thrift's compact
protocol (thrift-compact-protocol.md of apache/thrift), FileMetaData of parquet.thrift (apache/parquet-format).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

BYTE_ARRAY = 6
"""Physical type of texts and bytes."""
MAGIC = b"PAR1"
DEEPEST = 16
"""Structs and lists within each other; a footer has seven."""

Fields = dict[int, Any]
"""A struct's values by the numbers of its fields."""


class Column(NamedTuple):
    """A column in a row group. path: its name, with those of the structs that it is in; kind: its physical type."""

    path: str
    kind: int
    values: int
    uncompressed_bytes: int


class Group(NamedTuple):
    """A row group."""

    rows: int
    uncompressed_bytes: int
    columns: tuple[Column, ...]

    def declared_bytes(self, path: str) -> int:
        """Bytes of a column; of the whole group where it is not there."""
        return next(
            (column.uncompressed_bytes for column in self.columns if column.path == path), self.uncompressed_bytes
        )


def read_groups(path: Path) -> list[Group]:
    """The row groups of a file. Raises ValueError for a footer that cannot be read, OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != MAGIC or length > size - 8:
            raise ValueError("no Parquet file, or the footer is damaged")
        file.seek(size - 8 - length)
        data = file.read(length)

    try:
        return [_group(fields) for fields in _Compact(data).struct(0)[4]]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the footer is damaged ({type(error).__name__})") from None


def _group(fields: Fields) -> Group:
    """A RowGroup: columns 1, total_byte_size 2, num_rows 3."""
    return Group(_count(fields[3]), _count(fields[2]), tuple(_column(chunk[3]) for chunk in fields[1]))


def _column(fields: Fields) -> Column:
    """A ColumnMetaData: type 1, path_in_schema 3, num_values 5, total_uncompressed_size 6."""
    path = ".".join(part.decode("utf-8", "replace") for part in fields[3])
    return Column(path, _count(fields[1]), _count(fields[5]), _count(fields[6]))


def _count(value: Any) -> int:
    """A number from 0 on. Raises TypeError for what is none, as where a bit of a field's head is flipped."""
    if type(value) is not int or value < 0:
        raise TypeError
    return value


class _Compact:
    """Values of the compact protocol, one after the other. Raises ValueError and IndexError for what is none."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def struct(self, depth: int) -> Fields:
        fields: Fields = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        """A value of a type but bool, which a struct has in the head of its field."""
        if depth > DEEPEST:
            raise ValueError("the footer is damaged (too deep)")
        if kind in (1, 2, 3):  # within a list a bool is a byte, too
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(self._possible(count))]
        if kind == 11:
            count = self._possible(self._varint())
            kinds = self._byte() if count else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(count)]
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"the footer is damaged (a value of type {kind})")

    def _possible(self, count: int) -> int:
        """A number of values, each of which takes a byte at least."""
        if count > len(self.data) - self.place:
            raise ValueError("the footer is damaged (more values than bytes)")
        return count

    def _bytes(self, count: int) -> bytes:
        start, self.place = self.place, self.place + self._possible(count)
        return self.data[start : self.place]

    def _byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def _number(self) -> int:
        """A number with its sign, which is in the lowest bit."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise ValueError("the footer is damaged (a number of more than ten bytes)")
