"""Files that are whole or not there, on the disk too; small files that are no more than files; digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import Refused

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full, of a user's share of it, and of a limit on the size of files (ulimit -f)."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; it takes its place on success and is removed on failure.

    After a loss of power there is what was there before, or all of what was written: the content is on the disk before
    the name is, and the name before this ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with naming(path):
            yield unfinished
            sync(unfinished)
            os.replace(unfinished, path)
            sync(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the name of the file to an error of writing it for want of room, which does not say it of itself."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EROFS):  # a file system without it
            raise
    finally:
        os.close(descriptor)


def read_file(path: Path, most: int, error: type[Refused], *, within: Path | None = None) -> bytes:
    """The bytes of a small file that stands beside others, or that was named. Raises `error` and OSError.

    Refused, without waiting for anything: what is no regular file (a pipe, a device, a folder), more than `most` bytes,
    a pointer of Git LFS, and, where the folder came from others, a link that leads out of `within`.
    """
    if within is not None and not path.resolve().is_relative_to(within.resolve()):
        raise error(f"{path}: a link that leads out of {within}, expected the file itself")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is no regular file, expected one of at most {most} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            data = b"" if status.st_size > most else file.read()
    finally:
        os.close(descriptor)

    if max(status.st_size, len(data)) > most:
        raise error(f"{path}: {max(status.st_size, len(data))} bytes, expected at most {most}")
    if is_pointer(data):
        raise error(f"{path}: {POINTER}")
    return data


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_sha256(paths: Sequence[Path]) -> str:
    """Identifies what files in this order hold: the SHA-256 of a single one, or of the digests of several."""
    digests = [file_sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
"""How a Git LFS pointer begins (git-lfs, docs/spec.md, and its name before 2014): text in place of a large file."""
POINTER = "a git-lfs pointer, not the file: git lfs pull"


def is_pointer(start: bytes) -> bool:
    """True where a file that begins so is a pointer, which Git leaves in place of a file that it did not fetch."""
    return start.startswith(POINTERS)


def refuse_pointer(path: Path, error: type[Refused]) -> None:
    """Raises `error` for a Git LFS pointer. What cannot be read, or is a pipe, is left to its reader."""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(64)
            if is_pointer(start):
                raise error(f"{path}: {POINTER}")
