"""An ONNX model as a file: what it says of itself, the files of its weights, and its check graph.

ONNX Runtime tells the first only when it has loaded all weights, and the second not at all. The onnx library is not
needed to run a model, so the file is walked here; the weights in it are passed over.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from .engine import EngineError
from .files import file_sha256, refuse_pointer
from .spec import ModelSpec, SpecError

CHECK = ".check.onnx"
"""What takes the place of .onnx in the name of a model's check graph (export/model/precision.py)."""
CHECK_OF = "check_of"
"""Key in a check graph's metadata: SHA-256 of the .onnx file that it was made of; both share the weights beside it."""
INT8 = "int8"
"""Key in the metadata of an INT8 model that export/int8/ made: how, as JSON. Those that others quantised have none."""
MOST_SAID_BYTES = 1 << 26
"""The longest value in a model's metadata that is read."""

METADATA = 14
"""The field of ModelProto with what a model says of itself, a key (1) and a value (2) each (onnx.proto)."""
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""The fields of ONNX's messages by which external data is reached, by number (onnx.proto)."""


def check_file(path: Path) -> Path | None:
    """The check graph beside an FP16 or INT8 model; None where there is none.

    Raises EngineError for that of another model.
    """
    check = path.with_suffix(CHECK)
    if not check.is_file() or _precision(path) not in ("fp16", "int8"):
        return None
    refuse_pointer(check, EngineError)
    if metadata(check).get(CHECK_OF) != file_sha256(path):
        raise EngineError(
            f"{check}: was not made of {path.name} as it is now: run python -m export.to_check {path}, or remove it"
        )
    return check


def _precision(path: Path) -> str | None:
    """A model's precision by its spec; None where its runtime will say what is wrong with it."""
    try:
        return ModelSpec.from_json(metadata(path).get("spec", "")).precision
    except (EngineError, SpecError):
        return None


def is_quantised(path: Path) -> bool:
    """True for an INT8 model that export/int8/ made, whose graph has QuantizeLinear and DequantizeLinear."""
    try:
        said = metadata(path)
    except EngineError:  # its runtime will say what is wrong with it
        return False
    return INT8 in said and CHECK_OF not in said


def metadata(path: Path) -> dict[str, str]:
    """What a model says of itself. Raises EngineError."""
    said = {}
    with _reading(path) as data:
        for number, first, last in _fields(data, 0, len(data)):
            if number == METADATA and last - first <= MOST_SAID_BYTES:
                entry = {key: data[begin:stop].decode() for key, begin, stop in _fields(data, first, last)}
                said[entry.get(1, "")] = entry.get(2, "")
    return said


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX model that hold weights of it. Raises EngineError for one that is not there.

    A link is followed as ONNX Runtime does, see export.model.file.
    """
    with _reading(path) as data:
        locations = sorted(set(_locations(data, 0, len(data), "ModelProto")))

    found = []
    for location in locations:
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise EngineError(f"{path}: its weights are in {location!r}, expected a file beside the model")
        homes = (path.parent, path.resolve().parent)
        file_there = next((home / location for home in homes if (home / location).is_file()), None)
        if file_there is None:
            raise EngineError(f"{path}: its weights are in {location!r}, which is not there: keep it beside the model")
        found.append(file_there)
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a model; an error of walking them is one of the file. Raises EngineError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (ValueError, IndexError, RecursionError) as error:
        raise EngineError(f"{path}: not an ONNX model that can be read ({error})") from None


def _locations(data: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    """The files named in external data of a message, between these places."""
    for number, first, last in _fields(data, start, end):
        inner = FIELDS[message].get(number)
        if inner == "StringStringEntryProto":
            entry = {key: data[begin:stop] for key, begin, stop in _fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry[2].decode()
        elif inner is not None:
            yield from _locations(data, first, last, inner)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first, last) of the fields with a length, in a message of protobuf (protobuf.dev, Encoding)."""
    place = start
    while place < end:
        key, place = _varint(data, place)
        wire = key & 7
        if wire == 2:
            size, place = _varint(data, place)
            if place + size > end:
                raise ValueError("a field is longer than what it is in")
            yield key >> 3, place, place + size
            place += size
        elif wire == 0:
            _, place = _varint(data, place)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while shift < 70:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")
