"""WebDataset's shards: tar archives in which members of one key make a sample, read in place.

A key is a member's path up to the first dot of its last part: `n01440764/0001.jpg` and `n01440764/0001.cls` are one
sample. By hand, because the library reads shards from beginning to end, and here any image is read by its offset.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from .folder import NO_ENDING, SUFFIXES, Archive, DatasetError, File, Part, Sample, composed, is_litter, printable
from .label_file import MOST_DIGITS
from .tar import TarError, TarMember, list_members

LABELS = (".cls", ".json")
"""Endings of members that hold a label: ASCII number or name; JSON object with "label" or "cls"."""
OF_SAMPLES = (*LABELS, ".txt")
"""Endings of a sample's other members, by which a shard is known, labelled or not."""
LARGEST_LABEL_BYTES = 1 << 20
LOOKED_AT = 20_000
"""Members that are looked at to tell a shard from an archive that stands for a folder."""


def is_webdataset(path: Path) -> bool:
    """True where one of the first keys of a tar has an image and another member of a sample."""
    images, others = set(), set()  # keys

    try:
        with path.open("rb") as file:
            for key, ending, _ in islice(_members(file), LOOKED_AT):
                if ending.endswith(SUFFIXES):
                    images.add(key)
                elif ending.endswith(OF_SAMPLES):
                    others.add(key)
                if key in images and key in others:
                    return True
    except (TarError, OSError):
        pass
    return False


def read_samples(path: Path, left_out: Counter[str]) -> Iterator[Sample]:
    """The samples of a shard, in their order; counts in `left_out` members that are of none, by their endings.

    Raises DatasetError, also for a sample without an image or a label.
    """
    archive_path = path.resolve()
    try:
        with archive_path.open("rb") as file:
            found = os.fstat(file.fileno())
            archive = Archive(archive_path, found.st_size, found.st_mtime_ns)

            for key, own in _by_key(file).items():
                shown = printable(key)
                image = _image(own, f"{path}: {shown}")
                label = next((own[ending] for ending in LABELS if ending in own), None)
                if image is None:
                    if label is not None:
                        raise DatasetError(f"{path}: {shown} has a label but no image, expected one like {shown}.jpg")
                    left_out.update(printable(ending) or NO_ENDING for ending in own)
                    continue
                if label is None:
                    raise DatasetError(
                        f"{path}: {shown} has no label, expected {shown}.cls (a class's number or name) or a "
                        f'"label" in {shown}.json'
                    )

                part = Part(archive, image.offset, image.size_bytes, image.problem)
                yield Sample(printable(str(image.path)), _read_label(file, label, path), File(archive_path, part))
    except TarError as error:
        raise DatasetError(f"{path}: {error}") from None


def _members(file: BinaryIO) -> Iterator[tuple[str, str, TarMember]]:
    """(key, ending, member) of every file in a tar. Hidden names are passed over. Raises TarError."""
    for member in list_members(file, 0, os.fstat(file.fileno()).st_size):
        path = str(member.path)
        if not member.is_folder and not any(map(is_litter, member.path.parts)):
            dot = path.find(".", path.rfind("/") + 1)
            yield (path, "", member) if dot < 0 else (path[:dot], path[dot:].lower(), member)


def _by_key(file: BinaryIO) -> dict[str, dict[str, TarMember]]:
    """{key: {ending: member}}, neighbours or not. Raises TarError."""
    samples: dict[str, dict[str, TarMember]] = {}
    for key, ending, member in _members(file):
        if samples.setdefault(key, {}).setdefault(ending, member) is not member:
            raise TarError(f"holds {key + ending!r} twice but for capital letters")
    return samples


def _image(own: dict[str, TarMember], name: str) -> TarMember | None:
    """The image of a sample: KEY.jpg, or KEY.anything.jpg where there is no such. Raises DatasetError for several."""
    endings = [ending for ending in own if ending.endswith(SUFFIXES)]
    chosen = [ending for ending in endings if ending.count(".") == 1] or endings
    if len(chosen) > 1:
        raise DatasetError(f"{name} has {len(chosen)} images ({', '.join(map(printable, chosen))}), expected one")
    return own[chosen[0]] if chosen else None


def _read_label(file: BinaryIO, member: TarMember, shard: Path) -> int | str | None:
    """The label in a member; None where JSON says null. Raises DatasetError."""
    name = f"{shard}: {printable(str(member.path))}"
    if member.size_bytes > LARGEST_LABEL_BYTES or member.problem:
        raise DatasetError(f"{name}: {member.problem or f'{member.size_bytes} bytes'}, expected a label")

    file.seek(member.offset)
    data = file.read(member.size_bytes)
    try:
        if member.path.name.lower().endswith(".cls"):
            return _number_or_name(data.decode().strip())
        content = json.loads(data)
        found = next(content[key] for key in ("label", "cls") if key in content)
    except (ValueError, TypeError, StopIteration, RecursionError):
        raise DatasetError(f'{name}: expected a number or a name, or JSON with a "label"') from None

    if found is None or (isinstance(found, (int, str)) and not isinstance(found, bool)):
        return _number_or_name(found) if isinstance(found, str) else found
    raise DatasetError(f"{name}: a label of type {type(found).__name__}, expected a number or a name")


def _number_or_name(text: str) -> int | str:
    if not text:
        raise ValueError
    if text.removeprefix("-").isdecimal() and text.isascii():
        if len(text) > MOST_DIGITS:
            raise ValueError
        return int(text)
    return printable(composed(text))
