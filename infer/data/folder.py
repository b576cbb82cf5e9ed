"""Folders, and tar archives read in place as the folders that they would unpack to. Hidden names are passed over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Refused
from .stored import Archive, File, Part, is_image_name
from .tar import TarError, list_members

TAR = ".tar"


class DatasetError(Refused):
    """A folder or an archive that is not a data set we read; one line that says what was expected."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Files and folders in a folder, by name. `folders` are listed when they are asked for.

    A folder whose name ends like an image's is no folder but an image that cannot be read.
    """

    path: Path  # for messages
    files: dict[str, File] = field(default_factory=dict)
    folders: dict[str, Path | Folder] = field(default_factory=dict)

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
        """The names of its folders or, where it has none, of its archives; sorted."""
        return sorted(self.folders) or sorted(name.removesuffix(TAR) for name in self.files if name.endswith(TAR))

    def images(self) -> Mapping[str, File]:
        """Its files that are called like images, in the order of their names."""
        return {name: self.files[name] for name in sorted(self.files) if is_image_name(name)}


def open_folder(path: Path) -> Folder:
    """A folder or tar archive. Raises DatasetError."""
    if path.is_dir():
        return _list(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such folder")
    return _open_archive(File(path), path)


def _list(path: Path) -> Folder:
    listed = Folder(path)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
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
                if any(part.startswith(".") for part in member.path.parts) or any(map(is_image_name, above)):
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
