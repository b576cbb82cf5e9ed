"""Labels of images in a file of their own (`--labels FILE.csv`): a name and a label in each row.

Comma, tab, semicolon or space; with a header or none. A name may have its folder and its ending or not. Knows nothing
of what a label means: a number stays one, everything else is a name.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import read_file
from .folder import LARGEST_BYTES, DatasetError, composed, printable

Label = int | str | None
NAMES = (
    *("image", "file", "filename", "file_name", "name", "image_name", "image_path", "filepath", "path", "img"),
    *("imageid", "image_id", "id"),
)
LABELS = (
    *("label", "labels", "class", "class_name", "wnid", "synset", "target", "category", "breed", "y"),
    *("class_id", "label_id", "predictionstring"),
)
"""Words of headers, in lower case, the more telling ones first."""
SOLUTION = "predictionstring"
"""Kaggle's: a WNID and boxes."""


MOST_DIGITS = 18
"""Digits of a label that is a number: those of 64 bits. Python converts no more than 4,300."""


class FoundLabels(NamedTuple):
    """The label of each image; words: all labels of the file that are names; remark: the rest of a line about it."""

    labels: list[Label]
    words: list[str]
    remark: str


def read_label_file(path: Path) -> list[list[str]]:
    """The rows of a file, without empty ones. Raises DatasetError."""
    try:
        text = read_file(path, LARGEST_BYTES, DatasetError).decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected rows like IMAGE,LABEL") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not text in UTF-8, expected rows like IMAGE,LABEL") from None

    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((one for one in "\t,;" if one in first), None)
    if separator is None:
        rows = [line.split() for line in text.splitlines()]
    else:
        try:
            rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
        except csv.Error as error:
            raise DatasetError(f"{path}: not a table ({error}), expected rows like IMAGE,LABEL") from None
    rows = [row for row in rows if any(row)]

    short = next((number for number, row in enumerate(rows, start=1) if len(row) < 2), None)
    if short is not None or not rows:
        raise DatasetError(f"{path}: row {short or 1} has no two columns, expected rows like IMAGE,LABEL")
    return rows


def label_paths(rows: Sequence[Sequence[str]], paths: Sequence[str], source: Path) -> FoundLabels:
    """The labels of images by their paths below a folder. Raises DatasetError where one has none, or two."""
    column = read_column(rows, paths, source)
    lacking = [path for path, label in zip(paths, column.values, strict=True) if label is None]
    if lacking:
        raise DatasetError(
            f"{source}: no label for {len(lacking)} of {len(paths)} images ({printable(lacking[0])} ...): expected a "
            "row IMAGE,LABEL for each"
        )

    found = [label for label in column.values if label is not None]
    words, remark = column.words, column.remark
    if all(_is_number(word) for word in words):
        longest = max(words, key=len, default="")
        if len(longest) > MOST_DIGITS:
            raise DatasetError(f"{source}: a label of {len(longest)} digits, expected the number of a class")
        return FoundLabels([None if label == "-1" else int(label) for label in found], [], remark)
    return FoundLabels([printable(composed(label)) or None for label in found], [printable(w) for w in words], remark)


class Column(NamedTuple):
    """What a file has for each image, None where nothing; words: all values of the file; remark: as of FoundLabels."""

    values: list[str | None]
    words: list[str]
    remark: str


def read_column(rows: Sequence[Sequence[str]], paths: Sequence[str], source: Path, name: str | None = None) -> Column:
    """A column of a file, for images by their paths below a folder; the labels, or the column of this name.

    Raises DatasetError where an image has two values, and where there is no such column.
    """
    known = {each for path in paths for each in _names(path)}
    name_column, value_column, header = _columns(rows, known)
    if name is not None:
        if name not in rows[0]:
            known_columns = ", ".join(map(printable, rows[0]))
            raise DatasetError(f"{source}: no column {name[:80]!r}, expected one of {known_columns[:500]}")
        value_column, header = rows[0].index(name), [field.lower() for field in rows[0]]
        if value_column == name_column:
            raise DatasetError(f"{source}: column {name!r} names the images, expected another one")
    if header:
        rows = rows[1:]

    # by the name as it stands in the row; by its last part where that is of one value
    values: dict[str, str] = {}
    by_last_part: dict[str, str | None] = {}
    solution = name is None and header[value_column : value_column + 1] == [SOLUTION]
    for row in rows:
        if len(row) <= max(name_column, value_column):
            raise DatasetError(
                f"{source}: {row[0][:80]!r} has {len(row)} columns, expected a label in {value_column + 1}"
            )
        value = _label(row[value_column], solution=solution)
        own, *last_part = _row_names(row[name_column])
        if values.setdefault(own, value) != value:
            raise DatasetError(
                f"{source}: {printable(own)[:200]} is {values[own][:80]!r} and {value[:80]!r}, expected one label"
            )
        for part in last_part:
            by_last_part[part] = value if by_last_part.get(part, value) == value else None

    # an image whose name is in several folders needs its folder in the list
    twice = Counter(_names(path)[-2] for path in paths)
    found = []
    for path in paths:
        names = _names(path)
        if "/" in path and twice[names[-2]] > 1:
            names = names[:2]
        found.append(next((one[each] for each in names for one in (values, by_last_part) if one.get(each)), None))

    words = sorted(set(values.values()) - {""})
    remark = f", columns {header[name_column]} and {header[value_column]}" if header and len(header) > 2 else ""
    unused = sum(not any(each in known for each in _row_names(row[name_column])) for row in rows)
    if unused:
        remark += f"; {unused} of its {len(rows)} rows are of no image here"
    return Column(found, words, remark)


def _columns(rows: Sequence[Sequence[str]], known: set[str]) -> tuple[int, int, list[str]]:
    """(column of names, column of labels, the header's words in lower case, none without a header)."""
    words = [field.lower() for field in rows[0]]
    is_header = not any(name in known for field in rows[0] for name in _row_names(field))
    if is_header and any(word in (*NAMES, *LABELS) for word in words):
        name = next((words.index(word) for word in NAMES if word in words), 0)
        label = next((words.index(word) for word in LABELS if word in words and words.index(word) != name), None)
        return name, (1 if name == 0 else 0) if label is None else label, words

    # labels may stand first
    hits = [sum(any(name in known for name in _row_names(row[column])) for row in rows[:100]) for column in (0, 1)]
    return (1, 0, []) if hits[1] > hits[0] else (0, 1, [])


def _row_names(field: str) -> list[str]:
    """The name in a row, and its last part."""
    name = composed(field.replace("\\", "/").removeprefix("./"))
    return list(dict.fromkeys((name, name.rpartition("/")[2])))


def _names(path: str) -> list[str]:
    """Names that a list may have for an image: its path, with and without its ending, then its last part."""
    path = composed(path)
    last = path.rpartition("/")[2]
    return [path, path.rpartition(".")[0], last, last.rpartition(".")[0]]


def _label(field: str, *, solution: bool) -> str:
    return (field.split() or [""])[0] if solution else field


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and word.isascii()
