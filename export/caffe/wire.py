"""A bound on what a caffemodel becomes as messages, before it is read: two bytes can say an empty layer of 130.

Only the wire format is looked at (protobuf.dev/programming-guides/encoding): keys, and lengths.
"""

from __future__ import annotations

from infer.errors import Refused

MAX_FIELDS = 100_000
"""A GoogLeNet with its auxiliary heads has 4,000."""

Nested = dict[int, "Nested"]
NESTED: Nested = {2: {6: {7: {}}}, 100: {7: {7: {}}}}
"""By field number, layers or layer { blobs { shape } }: what there can be many of in few bytes."""

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


class WireError(Refused):
    """Not a message of protobuf, only a part of one, or one of more fields than any net has."""


def check_wire(data: bytes) -> None:
    """Raises WireError unless `data` is a NetParameter of at most MAX_FIELDS fields in layers, blobs and shapes."""
    fields = 0
    waiting = [(0, len(data), NESTED)]
    while waiting:
        at, end, nested = waiting.pop()
        while at < end:
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            fields += 1
            size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(kind, 0)
            if kind in (VARINT, LENGTH):
                value, at = _varint(data, at)
                size = value if kind == LENGTH else 0
            elif not size:
                raise WireError(f"a field of wire type {kind}")

            if at + size > end:
                raise WireError("ends within a field")
            if number in nested and kind == LENGTH:
                waiting.append((at, at + size, nested[number]))
            elif not nested:
                fields += size  # of a shape each byte may be a number
            if fields > MAX_FIELDS:
                raise WireError(f"more than {MAX_FIELDS} fields")
            at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, place behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise WireError("not a number")
