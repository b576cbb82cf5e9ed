"""What one run owns: a lock on what it writes, processes that end with it, and files that it may remove.

The lock is a record lock of POSIX (fcntl.lockf) on a file of its own. It belongs to a process, not to a descriptor: no
child inherits it, and the system takes it back when the process ends, however it ends. So whatever is left of a killed
run, a worker or the lock's file, keeps nobody out. The file names the holder for whoever comes second, and goes at the
end, so that a folder holds the same files with and without it. This file knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import Refused, one_line

LOCK = ".verydeep.lock"
"""Name of the lock in a folder; of a file it is .NAME and this."""
PARENT = "VERYDEEP_PARENT"
"""Variable of the environment by which a command of ours tells the one it starts its process id."""
TAKEN = (errno.EACCES, errno.EAGAIN)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""How lockf says that another process holds the lock, and how a file system says that it has none (fcntl(2))."""
SECONDS_ALONE = 0.25
"""Longest time that a worker outlives its parent."""

_held: set[Path] = set()  # by this process, whom its own locks would not keep out


class Owned(Refused):
    """A folder or file that another run writes; one line."""


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keeps every other run out of a folder, which is made where it is not there. Raises Owned and OSError."""
    with _locked(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def own_file(path: Path) -> Iterator[None]:
    """Keeps every other run from writing a file, or a folder that comes whole. Raises Owned and OSError."""
    with _locked(path.with_name(f".{path.name}{LOCK}"), path):
        yield


def is_empty(folder: Path) -> bool:
    """True for a folder with nothing in it, or only its lock."""
    return all(path.name == LOCK for path in folder.iterdir())


@contextlib.contextmanager
def _locked(lock: Path, what: Path) -> Iterator[None]:
    """Holds the lock that keeps others from `what`; a folder that is made for it goes if it stays empty."""
    made = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    known = lock.resolve()
    if known in _held:
        raise Owned(f"{what}: this process writes there already: use another place")

    descriptor = _take(lock, what)
    _held.add(known)
    try:
        os.ftruncate(descriptor, 0)
        words = shlex.join(sys.orig_argv)[:500]
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} ({words})".encode(), 0)
        yield
    finally:
        _held.remove(known)
        lock.unlink(missing_ok=True)  # while it is held: who waits for this file sees that it is gone
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):
                lock.parent.rmdir()


def _take(lock: Path, what: Path) -> int:
    """A descriptor of the lock, which this process now holds, unless there are no locks."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = one_line(os.pread(descriptor, 1000, 0).decode("utf-8", "replace")) or "another process"
            if error.errno in WITHOUT_LOCKS:
                print(f"{what}: no locks on this file system, so let no other run write there", file=sys.stderr)
                return descriptor
            os.close(descriptor)
            if error.errno not in TAKEN:
                raise
            raise Owned(f"{what}: {holder} writes there: wait until it has ended, or use another place") from None

        # the one who held it before may have removed the file since it was opened
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)


def end_with_parent(parent: int | None = None) -> None:
    """Ends this process soon after the one that started it, however that ends.

    parent: the process id; by default of the process that multiprocessing started this one from. The id is looked at
    again and again: the end of a pipe would not be seen, where other children hold it too.
    """
    if parent is None:
        started_by = multiprocessing.parent_process()
        if started_by is None or started_by.pid is None:
            return
        parent = started_by.pid
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_ALONE)
    os._exit(1)


def check_ours(folder: Path, names: re.Pattern[str], error: type[Refused]) -> list[Path]:
    """The files in a folder, all of which have `names`, as paths below it. Raises `error` for anything else there.

    What is there is a user's, unless its name says that it is ours, so no folder is removed before this was asked.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise error(f"{folder}: expected a folder of ours: move it away, or use another place")

    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    for path in files:
        if path.is_symlink() or names.fullmatch(path.relative_to(folder).as_posix()) is None:
            raise error(f"{path}: is not of ours, and {folder} would be removed: move it away, or use another place")
    return files


def remove_ours(folder: Path, names: re.Pattern[str], error: type[Refused]) -> None:
    """Removes a folder if it is there, file by file. Raises `error`, and removes nothing, as `check_ours` does."""
    files = check_ours(folder, names, error)
    for path in sorted(files, key=lambda path: (-len(path.parts), path)):  # what it is known by comes last
        path.unlink()
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    for path in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        path.rmdir()
    if folder.exists():
        folder.rmdir()
