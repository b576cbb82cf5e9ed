"""WebDataset's shards: tar archives whose members of one key (their path up to the first dot of its last part) make a
sample, as `n01440764/0001.jpg` and `n01440764/0001.cls`. Read in place, by offset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .encoded import SUFFIXES, Archive, File, Part, printable
from .packed import Sample
from .tar import Member, TarError, members
from .tree import DatasetError

LABELS = ("cls", "json")
"""Endings of members that hold a label: ASCII number or name; JSON object with "label" or "cls"."""
LARGEST_LABEL_BYTES = 1 << 20
LOOKED_AT = 64
"""Members by which an archive is told from one that stands for a folder."""


def is_webdataset(path: Path) -> bool:
    """Whether one of the first samples of a tar has an image and a label under one key."""
    try:
        with path.open("rb") as file:
            looked = [member for member, _ in zip(_members(file), range(LOOKED_AT), strict=False)]
    except (TarError, OSError):
        return False
    return any(_image(own) and _label(own) for _, own in _by_key(looked))


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard that have an image, in their order. Raises DatasetError."""
    archive_path = path.resolve()
    try:
        with archive_path.open("rb") as file:
            found = os.fstat(file.fileno())
            archive = Archive(archive_path, found.st_size, found.st_mtime_ns)
            for key, own in _by_key(list(_members(file))):
                image, label = _image(own), _label(own)
                if image is None:
                    continue
                if label is None:
                    raise DatasetError(
                        f"{path}: {printable(key)} has no label, expected {key}.cls (a class's number or name) or a "
                        f'"label" in {key}.json'
                    )
                part = Part(archive, image.offset, image.size_bytes, image.problem)
                yield Sample(printable(str(image.path)), _read_label(file, label, path), File(archive_path, part))
    except TarError as error:
        raise DatasetError(f"{path}: {error}") from None


def _members(file: BinaryIO) -> Iterator[Member]:
    size = os.fstat(file.fileno()).st_size
    return (
        member for member in members(file, 0, size) if not member.is_folder and not member.path.name.startswith(".")
    )


def _by_key(found: list[Member]) -> Iterator[tuple[str, list[Member]]]:
    """Neighbours of one key; a writer of shards puts them together."""
    for key, own in groupby(found, lambda member: str(member.path.parent / _split(member.path)[0])):
        yield key, list(own)


def _split(path: PurePosixPath) -> tuple[str, str]:
    """(key, ending) of a member's name: parted at the first dot."""
    key, _, ending = path.name.partition(".")
    return key, ending.lower()


def _image(own: list[Member]) -> Member | None:
    return next((member for member in own if f".{_split(member.path)[1]}" in SUFFIXES), None)


def _label(own: list[Member]) -> Member | None:
    endings = {_split(member.path)[1]: member for member in own}
    return next((endings[ending] for ending in LABELS if ending in endings), None)


def _read_label(file: BinaryIO, member: Member, shard: Path) -> int | str | None:
    name = f"{shard}: {printable(str(member.path))}"
    if member.size_bytes > LARGEST_LABEL_BYTES or member.problem:
        raise DatasetError(f"{name}: {member.problem or f'{member.size_bytes} bytes'}, expected a label")
    file.seek(member.offset)
    data = file.read(member.size_bytes)
    try:
        if _split(member.path)[1] == "cls":
            return _number_or_name(data.decode().strip())
        content = json.loads(data)
        found = next(content[key] for key in ("label", "cls") if key in content)
    except (ValueError, TypeError, StopIteration):
        raise DatasetError(f'{name}: expected a number or a name, or JSON with a "label"') from None
    if found is None or (isinstance(found, (int, str)) and not isinstance(found, bool)):
        return _number_or_name(found) if isinstance(found, str) else found
    raise DatasetError(f"{name}: a label {found!r}, expected a number or a name")


def _number_or_name(text: str) -> int | str:
    if not text:
        raise ValueError
    return int(text) if text.lstrip("-").isdecimal() and text.isascii() else printable(text)
