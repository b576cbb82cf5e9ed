"""ILSVRC-2012's devkit: its synsets, and the labels of the validation images; of a folder, its .tar.gz, or a .tar.

The content of what a stranger may have sent: its sizes are bounded, and so is the memory that reading it takes.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import one_line
from ..files import POINTER, is_pointer
from ..processes.bounded import how_ended
from .folder import DatasetError, Folder
from .tar import TarError, list_members

DEVKIT = "ILSVRC2012_devkit_t12"
META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META_BYTES, META_MEMORY_BYTES = 1 << 24, 1 << 29
"""Bytes of meta.mat at most, whose original has 0.7 MB, and of the memory that reading it may take."""
META_SECONDS = 60
DEVKIT_BYTES = 64 << 20
"""Bytes of the devkit unpacked, at most; the original's .tar.gz has 2.5 MB."""


@dataclass(frozen=True, slots=True)
class Synsets:
    """WNID of each leaf's ILSVRC2012_ID, and words of each WNID."""

    wnid_of_id: dict[int, str]
    words: dict[str, str]


def read_synsets(root: Folder) -> Synsets:
    """Synsets of the devkit in a folder; none where there is no devkit. Raises DatasetError."""
    files = read_devkit(root, (META, GROUND_TRUTH).__contains__)
    return read_meta(files[META], root.path / DEVKIT / "data" / META) if META in files else Synsets({}, {})


def read_validation_ids(root: Folder) -> list[str]:
    """ILSVRC2012_ID of each validation image in the order of their names, as written.

    Raises DatasetError where the devkit is missing, or a part of it.
    """
    files = read_devkit(root, (META, GROUND_TRUTH).__contains__)
    for needed in (META, GROUND_TRUTH):
        if needed not in files:
            path = root.path / DEVKIT / "data" / needed
            raise DatasetError(f"{path}: missing, and flat validation images have their labels there")
    return files[GROUND_TRUTH].decode(errors="replace").split()


def read_devkit(root: Folder, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of data/ in the devkit whose names are `wanted`; none without a devkit. Raises DatasetError."""
    if root.holds(DEVKIT):
        devkit = root.folder(DEVKIT)
        files = devkit.folder("data").files if devkit.holds("data") else {}
        contents = {name: file.read_bytes() for name, file in files.items() if wanted(name)}
        for name, content in contents.items():
            if is_pointer(content):
                raise DatasetError(f"{files[name].path}: {POINTER}")
        return contents

    packed = root.files.get(f"{DEVKIT}.tar.gz")
    if packed is None:
        return {}
    path = root.path / f"{DEVKIT}.tar.gz"
    data = packed.read_bytes()
    if is_pointer(data):
        raise DatasetError(f"{path}: {POINTER}")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(DEVKIT_BYTES + 1)
        if len(content) > DEVKIT_BYTES:
            raise DatasetError(f"{path}: unpacks to more than {DEVKIT_BYTES} bytes, which no devkit does")

        found = {}
        for member in list_members(io.BytesIO(content), 0, len(content)):
            if not member.problem and member.path.parts[-2:-1] == ("data",) and wanted(member.path.name):
                found[member.path.name] = content[member.offset : member.offset + member.size_bytes]
        return found
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: damaged or incomplete ({error}): copy or download it again") from None
    except TarError as error:
        raise DatasetError(f"{path}: {error}") from None


_READER = """
import io, json, re, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy as np
import scipy.io
try:
    import resource
    pages = int(open("/proc/self/statm").read().split()[0])
    limit, hard = pages * resource.getpagesize() + int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
except (ImportError, OSError):
    pass
try:
    data = io.BytesIO(sys.stdin.buffer.read())
    rows = np.atleast_1d(scipy.io.loadmat(data, squeeze_me=True, struct_as_record=True)["synsets"])
    number = next(name for name in rows.dtype.names or () if re.fullmatch("ILSVRC[0-9]{4}_(DET_)?ID", name))
    if number.endswith("_DET_ID"):
        found = [[int(row[number]), str(row["WNID"]), str(row["name"])] for row in rows]
    else:
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        found = [[int(row[number]), str(row["WNID"]), str(row["words"])] for row in leaves]
    print(json.dumps(found))
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""A program that reads meta.mat from stdin and writes [id, WNID, words] of each leaf as JSON; of meta_det.mat all."""


def read_meta(content: bytes, path: Path) -> Synsets:
    """Synsets in meta.mat or meta_det.mat; `path` is its place, for errors. Raises DatasetError.

    Of the task of detection these are all 815 synsets that the devkit names, of which the first 200 are the classes.
    """
    if len(content) > META_BYTES:
        raise DatasetError(f"{path}: {len(content)} bytes, expected the devkit's {path.name} of at most {META_BYTES}")
    leaves, said = _leaves(content)
    if said:
        raise DatasetError(f"{path}: not the devkit's {path.name} ({said})")
    return Synsets({number: wnid for number, wnid, _ in leaves}, {wnid: words for _, wnid, words in leaves})


@functools.lru_cache(maxsize=4)
def _leaves(content: bytes) -> tuple[list[tuple[int, str, str]], str]:
    """([id, WNID, words] of each leaf, or why there are none), by a process of its own.

    scipy reads such files in compiled code, which unpacks what it finds, makes arrays of the sizes that it is told, and
    reads beyond its memory where a file is damaged.
    """
    command = [sys.executable, "-I", "-c", _READER, json.dumps(sys.path), str(META_MEMORY_BYTES)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=META_SECONDS)
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=list[tuple[int, str, str]]), ""
    except subprocess.TimeoutExpired:
        return [], f"reading it took more than {META_SECONDS} s"
    except msgspec.MsgspecError as error:
        return [], str(error)
    if done.returncode < 0:
        return [], f"reading it {how_ended(done.returncode)}"
    return [], one_line(done.stderr.decode(errors="replace").strip())[-200:]
