"""Lists of images as ILSVRC and VOC have them: a name on each line, often with a number behind it.

Their sizes are bounded, since they are what a stranger may have sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...files import POINTER, is_pointer
from ..folder import DatasetError, File, Folder, is_image_name, printable

MOST_BYTES = 1 << 26
"""Bytes of a list at most; the longest of ILSVRC, of negative images, has 3 million."""
SHOWN = 3
"""Names that a line shows of many."""


def enter(folder: Folder, *names: str) -> Folder | None:
    """The folder below, or the archive that stands for it; None where there is none. Raises DatasetError."""
    for name in names:
        if not folder.holds(name):
            return None
        folder = folder.folder(name)
    return folder


def images_below(folder: Folder, prefix: str) -> dict[str, tuple[str, File]]:
    """(name, file) of each image by its name without folders and ending; archives in it stand for folders.

    Raises DatasetError where two have the same name.
    """
    found: dict[str, tuple[str, File]] = {}
    waiting = [(folder, prefix)]
    seen: list[Folder] = []

    while waiting:
        inside, path = waiting.pop()
        if any(inside.is_same(one) for one in seen):  # a link to a folder above
            continue
        seen += [inside] * (inside.identity is not None)
        archives = {name[:-4] for name in inside.files if name.endswith(".tar")} - set(inside.folders)
        waiting += [(inside.folder(name), f"{path}/{name}") for name in (*inside.folders, *sorted(archives))]

        for name, file in inside.files.items():
            if not is_image_name(name):
                continue
            stem, full = name.rpartition(".")[0], f"{path}/{printable(name)}"
            if stem in found:
                raise DatasetError(f"{folder.path}: {full} and {found[stem][0]} have one name, expected one image each")
            found[stem] = (full, file)
    return found


def read_bytes(file: File, shown: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file of a data set. Raises DatasetError."""
    try:
        if file.size_bytes() > most:
            raise DatasetError(f"{shown}: {file.size_bytes()} bytes, expected at most {most}")
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{shown}: cannot be read ({error.strerror})") from None
    if is_pointer(content):
        raise DatasetError(f"{shown}: {POINTER}")
    return content


def read_rows(file: File, shown: Path, pattern: re.Pattern[str], expected: str) -> list[tuple[str, ...]]:
    """The groups that `pattern` finds in each line that is not blank. Raises DatasetError naming the first other."""
    try:
        text = read_bytes(file, shown).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{shown}: not text in UTF-8, expected {expected} on each line") from None

    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        matched = pattern.fullmatch(line.strip())
        if matched is None:
            raise DatasetError(f"{shown}: line {number} is {line.strip()[:60]!r}, expected {expected}")
        rows.append(matched.groups())
    return rows


def check_there(names: Sequence[str], images: Mapping[str, object], shown: Path, folder: Path) -> None:
    """Raises DatasetError where a list names images that are not in a folder, or one twice."""
    absent = [name for name in names if name not in images]
    if absent:
        raise DatasetError(
            f"{shown}: {len(absent)} of {len(names)} images are not in {folder} ({say_some(absent)}): unpack all "
            "archives of images there"
        )
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DatasetError(f"{shown}: {printable(twice)[:60]} is there twice, expected each image once")


def say_some(names: Sequence[str]) -> str:
    """A few names of many."""
    return ", ".join(printable(name)[:60] for name in names[:SHOWN]) + " ..." * (len(names) > SHOWN)
