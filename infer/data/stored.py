"""Encoded images where they lie, and their names: a file of its own or a part of a tar archive. It decodes nothing."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
LARGEST_BYTES = 1 << 28
"""Bytes of the largest encoded image that is read into memory; 256 MiB, fifteen times the largest of ILSVRC-2012."""

NO_FILE = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's control and formatting characters, line ends, and the surrogates that stand for bytes that are no UTF-8."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive as it was when its members were listed."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Part:
    """The place of a member's bytes in its archive, or why it has none."""

    archive: Archive
    offset: int
    size_bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file of its own, or (`path` is then the archive's) a part of an archive. Any number of threads may read it."""

    path: Path
    part: Part | None = None

    def read_bytes(self, first: int | None = None) -> bytes:
        """The file's bytes, or the `first` of them.

        Raises OSError, also for what is no regular file, which could wait for ever, and for what is too large to be an
        image; ESTALE where an archive is no longer what it was.
        """
        part = self.part
        if part is not None and part.problem:
            raise OSError(errno.EINVAL, part.problem)

        found = self.path.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a folder has an error of its own
            raise OSError(errno.EINVAL, f"is {NO_FILE.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file")
        size = found.st_size if part is None else part.size_bytes
        if first is None and size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, f"{size} bytes, more than the {LARGEST_BYTES} of the largest image we read")

        with self.path.open("rb") as file:
            if part is None:
                return file.read(-1 if first is None else first)
            now = os.fstat(file.fileno())
            file.seek(part.offset)
            data = file.read(part.size_bytes if first is None else min(first, part.size_bytes))
        if (now.st_size, now.st_mtime_ns) != (part.archive.size_bytes, part.archive.modified_ns):
            raise OSError(errno.ESTALE, "the archive was changed")
        return data

    def size_bytes(self) -> int:
        """Bytes of the file; 0 where there are none to be read."""
        if self.part is not None:
            return self.part.size_bytes
        try:
            found = self.path.stat()
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0


class Stored(Protocol):
    """An encoded image inside of something larger."""

    @property
    def path(self) -> Path: ...

    def read_bytes(self, first: int | None = None) -> bytes: ...

    def size_bytes(self) -> int: ...


def is_image_name(name: str) -> bool:
    """True for an image's ending, whatever the file holds."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def printable(name: str) -> str:
    """A file's name as one harmless line of UTF-8; other characters, and backslashes, are escaped as Python would."""
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(
        c.encode("unicode_escape").decode() if c == "\\" or unicodedata.category(c) in ESCAPED else c for c in name
    )
