"""Proposals that others made: CSV, and the MATLAB files of R-CNN."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from infer.boxes.proposed import ProposalsError
from infer.data.detection.lists import say_some
from infer.data.folder import printable
from infer.errors import one_line
from infer.files import refuse_pointer
from infer.processes.bounded import how_ended

COLUMNS = ("image", "xmin", "ymin", "xmax", "ymax", "score")
FORM = "expected rows image,xmin,ymin,xmax,ymax or with a score behind"
MAT_BYTES, MAT_MEMORY_BYTES, MAT_SECONDS = 1 << 31, 1 << 33, 600
"""Bytes of a MATLAB file at most, of the memory that reading it may take, and the time; VOC 2007's have 100 MB."""


class Proposals(NamedTuple):
    """Boxes f64 [N, 4] of one image with their scores f64 [N], the best first."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def read_file_proposals(path: Path) -> dict[str, Proposals]:
    """Proposals by the name of their image, of a .csv, or a .mat as R-CNN's. Raises ProposalsError.

    A .mat has the cell arrays `images` (names without an ending) and `boxes` (ymin, xmin, ymax, xmax, from 1), each
    image's best first. A CSV without scores has each image's best first, too.
    """
    refuse_pointer(path, ProposalsError)
    if not path.is_file():
        raise ProposalsError(f"{path}: no such file, expected proposals as .csv, or .mat as R-CNN's")
    if path.suffix.lower() == ".mat":
        return _read_matlab(path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    raise ProposalsError(f"{path}: expected proposals as .csv, or .mat as R-CNN's")


class Matched(NamedTuple):
    """The proposals of each image of a data set, None where a file has none; notes: what it lacks, and has besides."""

    proposals: list[Proposals | None]
    notes: list[str]


def match_images(found: Mapping[str, Proposals], names: Sequence[str], source: Path) -> Matched:
    """Matches images by their names, last parts of them or these without an ending.

    Raises ProposalsError where no image has any, a name is of several images, or an image has several names.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        last = name.rpartition("/")[2]
        for key in {name, last, name.rpartition(".")[0] or name, last.rpartition(".")[0] or last}:
            places[key] = place if key not in places else -1

    matched: list[Proposals | None] = [None] * len(names)
    key_of: dict[int, str] = {}
    others = []
    for key, proposals in found.items():
        own = places.get(key)
        if own == -1:
            raise ProposalsError(
                f"{source}: {printable(key)} is the name of several images: expected names with folders"
            )
        if own is None:
            others.append(key)
            continue
        if own in key_of:
            both = f"{printable(key_of[own])} and {printable(key)}"
            raise ProposalsError(f"{source}: has {names[own]} under two names, {both}: expected one")
        matched[own], key_of[own] = proposals, key
    if not any(one is not None for one in matched):
        shown = printable(next(iter(found), "none"))
        raise ProposalsError(f"{source}: no proposals of these images (it has {shown}), expected names like {names[0]}")

    notes = []
    without = [name for place, name in enumerate(names) if place not in key_of]
    if without:
        notes.append(f"{source}: lacks {len(without)} of {len(names)} images ({say_some(without)}): no proposals there")
    if others:
        notes.append(
            f"{source}: {len(others)} of its {len(found)} images are none of these ({say_some(others)}), left out"
        )
    return Matched(matched, notes)


def _read_csv(path: Path) -> dict[str, Proposals]:
    rows: dict[str, list[list[float]]] = {}
    width = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and tuple(map(str.lower, cells)) in (COLUMNS, COLUMNS[:-1])):
                    continue
                width = width or len(cells)
                values = _numbers(cells[1:])
                if values is None or len(cells) not in (5, 6) or len(cells) != width:
                    raise ProposalsError(f"{path}: row {number} is {one_line(','.join(cells))[:80]!r}, {FORM}")
                rows.setdefault(cells[0], []).append(values)
    except UnicodeDecodeError:
        raise ProposalsError(f"{path}: not text in UTF-8, {FORM}") from None
    except csv.Error as error:
        raise ProposalsError(f"{path}: not a table ({error}), {FORM}") from None
    except OSError as error:
        raise ProposalsError(f"{path}: cannot be read ({error.strerror}), {FORM}") from None
    if not rows:
        raise ProposalsError(f"{path}: has no rows, {FORM}")
    return {name: _proposals(path, name, np.array(values)) for name, values in rows.items()}


def _numbers(cells: Iterable[str]) -> list[float] | None:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _proposals(path: Path, name: str, values: NDArray[np.float64]) -> Proposals:
    """The proposals of an image from [N, 4 or 5]; without scores the first is the best. Raises ProposalsError."""
    boxes = values[:, :4]
    wrong = np.flatnonzero(~np.isfinite(values).all(1) | (boxes[:, :2] > boxes[:, 2:]).any(1))
    if len(wrong):
        said = ",".join(f"{edge:g}" for edge in boxes[wrong[0]])
        raise ProposalsError(f"{path}: a box of {printable(name)[:80]} is {said}, expected xmin,ymin,xmax,ymax")
    if values.shape[1] == 4:
        return Proposals(boxes, -np.arange(1.0, len(boxes) + 1))
    order = np.argsort(-values[:, 4], kind="stable")
    return Proposals(boxes[order], values[order, 4])


_READER = """
import json, sys
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
    try:
        content = scipy.io.loadmat(sys.argv[3], variable_names=["images", "boxes"])
    except NotImplementedError:
        sys.exit("a file of MATLAB 7.3: load it there and save it again with -v7")
    missing = [name for name in ("images", "boxes") if name not in content]
    if missing:
        sys.exit("has no " + " and no ".join(missing))
    names = [str(np.asarray(name).ravel()[0]) for name in content["images"].ravel()]
    boxes = [np.asarray(own, np.float64) for own in content["boxes"].ravel()]
    if len(names) != len(boxes):
        sys.exit(f"{len(names)} images, but boxes of {len(boxes)}")
    for name, own in zip(names, boxes):
        if own.size and (own.ndim != 2 or own.shape[1] != 4):
            sys.exit(f"the boxes of {name} are {own.shape}, not N x 4: ymin, xmin, ymax, xmax")
    sys.stdout.write(json.dumps([names, [len(own) for own in boxes]]) + "\\n")
    sys.stdout.flush()
    for own in boxes:
        sys.stdout.buffer.write(own.astype("<f8").tobytes())
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""A program that reads a .mat: a line of JSON, [names, numbers of boxes], then the boxes as f64."""


def _read_matlab(path: Path) -> dict[str, Proposals]:
    """Reads a .mat by a process of its own: scipy reads such files in compiled code, which makes arrays of the sizes
    that it is told. Raises ProposalsError."""
    if path.stat().st_size > MAT_BYTES:
        raise ProposalsError(f"{path}: {path.stat().st_size} bytes, expected at most {MAT_BYTES}")
    given = [json.dumps(sys.path), str(MAT_MEMORY_BYTES), str(path)]
    try:
        done = subprocess.run([sys.executable, "-I", "-c", _READER, *given], capture_output=True, timeout=MAT_SECONDS)
    except subprocess.TimeoutExpired:
        raise ProposalsError(f"{path}: reading it took more than {MAT_SECONDS} s") from None
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace").strip())[-200:]
        said = f"reading it {how_ended(done.returncode)}" if done.returncode < 0 else said
        raise ProposalsError(f"{path}: not proposals as R-CNN's ({said}), expected the cell arrays images and boxes")

    head, _, data = done.stdout.partition(b"\n")
    names, counts = msgspec.json.decode(head, type=tuple[list[str], list[int]])
    twice, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise ProposalsError(f"{path}: has {printable(twice)[:80]} {times} times, expected each image once")
    every = np.frombuffer(data, "<f8").reshape(-1, 4)[:, [1, 0, 3, 2]].astype(np.float64)
    parts = np.split(every, np.cumsum(counts)[:-1]) if counts else []
    return {name: _proposals(path, name, own) for name, own in zip(names, parts, strict=True)}
