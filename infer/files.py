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
POINTER = "a git-lfs pointer, not the file: git lfs pull"


def is_pointer(start: bytes) -> bool:
    """True where a file that begins so is a pointer, which Git leaves in place of a file that it did not fetch."""
    return start.startswith(POINTERS)


def refuse_pointer(path: Path, error: type[Refused]) -> None:
    """Raises `error` for a Git LFS pointer. A file that cannot be read is left to its reader."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if is_pointer(file.read(64)):
            raise error(f"{path}: {POINTER}")
