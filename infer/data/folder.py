"""Encoded images where they lie, in files or in tar archives, and the folders that hold them. It decodes nothing.

A tar archive is read in place, as the folder that it would unpack to. This is the one rule of what is an image: all
listings, of data sets, of `infer FOLDER` and of `--calibrate`, are `Folder.walk`.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import Refused, one_line
from .tar import TarError, list_members

SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),  # all of them JPEG
    *(".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of images, in any case."""
LITTER = {
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb"),  # Synology, QNAP
    "lost+found",  # of file systems
}
"""Names that systems leave by themselves, in lower case; beside hidden names, which begin with a dot."""
LARGEST_BYTES = 1 << 28
"""Bytes of the largest encoded image that is read into memory; 256 MiB, fifteen times the largest of ILSVRC-2012."""

NO_FILE = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class OwnFault(OSError):
    """A file that can be read as little tomorrow: it is no file, too large, or a part of an archive that is not there.

    All other failures to read are not the image's own: of a disk, a network, a permission, a limit.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, reason)


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

        Raises OwnFault for what is no regular file, which could wait for ever, and for what is too large to be an
        image; OSError where it cannot be read now, ESTALE where an archive is no longer what it was.
        """
        part = self.part
        if part is not None and part.problem:
            raise OwnFault(part.problem)

        found = self.path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise OwnFault(os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OwnFault(f"is {NO_FILE.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file")
        size = found.st_size if part is None else part.size_bytes
        if first is None and size > LARGEST_BYTES:
            raise OwnFault(f"{size} bytes, more than the {LARGEST_BYTES} of the largest image we read")

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


class Sample(NamedTuple):
    """An image of a shard; its label is a class's number or name, None where it has none."""

    name: str
    label: int | str | None
    file: Stored


def is_image_name(name: str) -> bool:
    """True for an image's ending, whatever the file holds."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_litter(name: str) -> bool:
    """True for hidden names and what systems leave by themselves, which is passed over without a word."""
    return name.startswith(".") or name.casefold() in LITTER


def ending_of(name: str) -> str:
    """The ending of a file's name, in lower case, as one harmless word."""
    return printable(os.path.splitext(name)[1].lower()) or NO_ENDING


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): a Mac's file names are decomposed, and look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A file's name as one harmless line of UTF-8; other characters, and backslashes, are escaped as Python would."""
    return one_line(name.replace("\\", "\\\\"))


TAR = ".tar"
NO_ENDING = "without an ending"
LOOP = "link to a folder above"


class DatasetError(Refused):
    """A folder or an archive that is not a data set we read; one line that says what was expected."""


class Listing(NamedTuple):
    """Images anywhere below a folder, by their paths below it with forward slashes, in the order of these.

    left_out: how many other files there are of each ending.
    """

    images: list[tuple[str, File]]
    left_out: Counter[str]


@dataclass(frozen=True, slots=True)
class Folder:
    """Files and folders in a folder, by name, without litter. `folders` are listed when they are asked for.

    A folder whose name ends like an image's is no folder but an image that cannot be read.
    """

    path: Path  # for messages
    files: dict[str, File] = field(default_factory=dict)
    folders: dict[str, Path | Folder] = field(default_factory=dict)
    identity: tuple[int, int] | None = None  # device and number of a folder of the file system

    def holds(self, name: str) -> bool:
        """True where there is a folder of this name, or an archive that stands for it."""
        return name in self.folders or name + TAR in self.files

    def folder(self, name: str) -> Folder:
        """The folder of this name or, where there is none, the archive of this name. Raises DatasetError."""
        inside = self.folders.get(name)
        if isinstance(inside, Folder):
            return inside
        if inside is not None:
            return _list(inside)
        return _open_archive(self.files[name + TAR], self.path / (name + TAR))

    def classes(self) -> list[str]:
        """The names of its folders or, where it has none, of its archives; sorted, composed or decomposed alike."""
        names = list(self.folders) or [name.removesuffix(TAR) for name in self.files if name.endswith(TAR)]
        return sorted(names, key=lambda name: (composed(name), name))

    def images(self) -> Mapping[str, File]:
        """Its own files that are called like images, in the order of their names."""
        return {name: self.files[name] for name in sorted(self.files) if is_image_name(name)}

    def left_out(self) -> Counter[str]:
        """Counts its own files that are no images, by their endings."""
        return Counter(ending_of(name) for name in self.files if not is_image_name(name))

    def walk(self, above: tuple[Folder, ...] = ()) -> Listing:
        """Lists the images in it and in all folders below it; a link to it or to one `above` ends there.

        Raises DatasetError.
        """
        images, left_out = list(self.images().items()), self.left_out()
        here = (*above, self)
        for name in self.folders:
            inside = self.folder(name)
            if any(inside.is_same(one) for one in here):
                left_out[LOOP] += 1
                continue
            own, others = inside.walk(here)
            images += [(f"{name}/{path}", file) for path, file in own]
            left_out += others

        if self.folders:
            images.sort(key=lambda image: image[0].split("/"))
        return Listing(images, left_out)

    def is_same(self, other: Folder) -> bool:
        """True where both are one folder of the file system, by whatever links; members of archives never are."""
        return self.identity is not None and self.identity == other.identity


def open_folder(path: Path) -> Folder:
    """A folder or tar archive. Raises DatasetError."""
    if path.is_dir():
        return _list(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such folder")
    return _open_archive(File(path), path)


def _list(path: Path) -> Folder:
    found = path.stat()
    listed = Folder(path, identity=(found.st_dev, found.st_ino))
    with os.scandir(path) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if entry.is_dir() and not is_image_name(entry.name):
                listed.folders[entry.name] = Path(entry.path)
            else:
                listed.files[entry.name] = File(Path(entry.path))
    return listed


def _open_archive(file: File, shown: Path) -> Folder:
    """The content of an archive; where that is one folder called as the archive is, the content of the folder."""
    path = file.path.resolve()
    top = Folder(shown)
    try:
        with path.open("rb") as opened:
            found = os.fstat(opened.fileno())
            whole = file.part or Part(Archive(path, found.st_size, found.st_mtime_ns), 0, found.st_size)
            for member in list_members(opened, whole.offset, whole.size_bytes):
                *above, name = member.path.parts or ("",)
                if any(map(is_litter, member.path.parts)) or any(map(is_image_name, above)):
                    continue
                is_file = not member.is_folder or is_image_name(name)

                # Archives need not list the folders that their files lie in.
                folder = top
                for part in above if is_file else member.path.parts:
                    inside = folder.folders.setdefault(part, Folder(folder.path / part))
                    assert isinstance(inside, Folder)
                    folder = inside
                if is_file:
                    part_of = Part(whole.archive, member.offset, member.size_bytes, member.problem)
                    folder.files[name] = File(path, part_of)
    except TarError as error:
        raise DatasetError(f"{shown}: {error}") from None

    only = top.folders.get(shown.name.removesuffix(TAR))
    return only if isinstance(only, Folder) and not top.files and len(top.folders) == 1 else top
