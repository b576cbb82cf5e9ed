"""Files that are whole or not there, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import Refused


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; it takes its place on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
"""How a Git LFS pointer begins (git-lfs, docs/spec.md, and its name before 2014): text in place of a large file."""


def is_pointer(start: bytes) -> bool:
    """True where a file that begins so is a pointer which Git left in place of the file."""
    return start.startswith(POINTERS)


def refuse_pointer(start: bytes, error: type[Refused], name: str = "") -> None:
    """Raises `error` where a file that begins so is a Git LFS pointer; `name` is put before, where it is given."""
    if is_pointer(start):
        raise error(f"{f'{name}: ' if name else ''}a git-lfs pointer, not the file: git lfs pull")


def refuse_pointer_file(path: Path, error: type[Refused], *, named: bool = True) -> None:
    """`refuse_pointer` of a file; one that cannot be read is left to its reader."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        refuse_pointer(file.read(64), error, str(path) if named else "")
