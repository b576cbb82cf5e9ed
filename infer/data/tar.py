"""Members of a tar archive and where they lie, so that files can be read without unpacking. Nothing is ever extracted.

By hand, because a file is read by its offset, from any thread, and no library tells offsets that can be trusted.
Python's tarfile reads the headers and every answer of it is checked: it was made to unpack what can be unpacked, and
stops without a word at a damaged header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from ..errors import Refused
from ..files import POINTER, is_pointer

MOST_MEMBERS = 2_000_000
"""Members of one archive at most; all of ILSVRC-2012 has 1,431,167 images."""
MOST_HEADER_BYTES = 1 << 20
LONGEST_NAME = 4096
BLOCK = tarfile.BLOCKSIZE

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}


class TarError(Refused):
    """Not a whole tar archive that can be read in place; a phrase to stand after its name."""


class TarMember(NamedTuple):
    """A member by its path in the archive, and where its bytes are; with a `problem` it has none."""

    path: PurePosixPath
    offset: int
    size_bytes: int
    problem: str = ""
    is_folder: bool = False


def list_members(file: BinaryIO, start: int, size_bytes: int) -> Iterator[TarMember]:
    """The members of the archive that lies at `start` of an open file, in their order; offsets are the file's.

    Raises TarError where it is not one, is compressed, damaged or incomplete, or names something outside of itself.
    """
    file.seek(start)
    beginning = file.read(min(BLOCK, size_bytes))
    if is_pointer(beginning):
        raise TarError(f"is {POINTER}")
    for magic, tool in COMPRESSED.items():
        if beginning.startswith(magic):
            raise TarError(f"is compressed, so nothing in it can be reached alone: unpack it, at least by {tool}")

    window = _Window(file, start, size_bytes)
    if size_bytes < BLOCK or (beginning == bytes(BLOCK) and window.read(2 * BLOCK) != bytes(2 * BLOCK)):
        raise TarError("is not a tar archive")
    window.seek(0)
    try:
        archive = tarfile.TarFile(fileobj=cast(BinaryIO, window), encoding="utf-8", errors="surrogateescape")
    except Exception as error:  # its parsers raise what they like
        raise TarError(f"is not a tar archive ({_said(error)})") from None

    end, count, seen = 0, 0, set[PurePosixPath]()
    while True:
        try:
            info = archive.next()
        except Exception as error:
            raise TarError(f"is damaged or incomplete at byte {end} ({_said(error)})") from None
        if info is None:
            break
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all

        # tarfile reads on where a header lies or the archive ends: places and sizes must follow from each other.
        member = _member(info, start)
        if archive.offset <= end or archive.offset > size_bytes:
            raise TarError(f"is incomplete: it ends within {info.name!r}; copy or download it again")
        if info.size < 0 or (
            not member.problem and archive.offset != info.offset_data + -(-info.size // BLOCK) * BLOCK
        ):
            raise TarError(f"is damaged: the size of {info.name!r} is not what its headers say")
        end = archive.offset

        if not member.is_folder:
            if member.path in seen:
                raise TarError(f"holds {info.name!r} twice: unpack it and pack it again")
            seen.add(member.path)
        count += 1
        if count > MOST_MEMBERS:
            raise TarError(f"has more than {MOST_MEMBERS} members: no data set that we know")
        yield member

    window.seek(archive.offset)
    if window.read(BLOCK) != bytes(BLOCK):
        raise TarError(f"is damaged or incomplete at byte {archive.offset}: copy or download it again")


def _member(info: tarfile.TarInfo, start: int) -> TarMember:
    if len(info.name) > LONGEST_NAME:
        raise TarError(f"has a member with a name of {len(info.name)} characters, more than {LONGEST_NAME}")

    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        raise TarError(f"names {info.name!r}, which is not inside of it: pack it with relative names")

    if info.issparse():
        return TarMember(path, 0, 0, "is stored sparse in the archive: pack it again without --sparse")
    if info.isreg():
        return TarMember(path, start + info.offset_data, info.size)
    problem = f"is {KINDS.get(info.type, 'something else')} in the archive, not a file"
    return TarMember(path, 0, 0, problem, is_folder=info.isdir())


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Window:
    """A stretch of a file that tarfile takes for a file. It reads headers only, so nothing large is ever asked for."""

    def __init__(self, file: BinaryIO, start: int, size_bytes: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size_bytes, 0

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> None:
        self._place = place

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MOST_HEADER_BYTES:
            raise TarError(f"a header of {count} bytes")
        self._file.seek(self._start + self._place)
        data = self._file.read(max(0, min(count, self._size - self._place)))
        self._place += len(data)
        return data
