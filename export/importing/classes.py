"""Class names for the importers: `--classes FILE`, since weights files do not name the outputs of a net.

People keep them in many forms: a class a line, Keras' JSON, a Python dict, a CSV, Hugging Face's config.json. Each is
read as the values in the order of the outputs; a value is a WNID, a name, or both.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infer.data.imagenet import words_of_wnids
from infer.errors import Refused
from infer.files import read_file
from infer.spec import placeholder_classes

MAX_BYTES = 10_000_000
MAX_LITERAL_BYTES = 1_000_000
"""Bytes of a Python dict, which takes its parser a hundred times as much; ImageNet's has 40,000."""
WNID = re.compile(r"(n\d{8})(?:[ \t,;:]+(.*))?")
NUMBERED = re.compile(r"(\d{1,7})[ \t]*[,;: \t][ \t]*(.+)")
IMAGENET = "imagenet-1k"
"""The list that `--classes` knows without a file."""

Classes = tuple[tuple[str, ...], tuple[str, ...]]


class ClassesError(Refused):
    """A file that does not name the classes; one line."""


def read_classes(path: Path | None, count: int) -> Classes:
    """(classes, class_names) of a net with `count` outputs; class_names may be ().

    In the order of the outputs a class is a WNID, a WNID and words as in Caffe's synset_words.txt ("n01440764 tench,
    Tinca tinca"), or any other name. Without a file, placeholders; `imagenet-1k` is built in. Raises ClassesError.
    """
    if path is None:
        return placeholder_classes(count), ()

    built_in = str(path) == IMAGENET
    entries = (
        [f"{wnid} {words}" for wnid, words in words_of_wnids().items()] if built_in else _entries(path, _text(path))
    )
    if len(entries) != count:
        raise ClassesError(
            f"{path}: {len(entries)} classes, expected {count}, one a line, as many as the net's outputs"
        )
    if "" in entries:
        raise ClassesError(f"{path}: line {entries.index('') + 1} is empty, expected one class a line")

    matches = [WNID.fullmatch(entry) for entry in entries]
    classes = [match[1] if match else entry for match, entry in zip(matches, entries, strict=True)]
    words = [(match and match[2]) or name for match, name in zip(matches, classes, strict=True)]
    unique = _unique(path, classes)
    has_words = any(match and match[2] for match in matches) or unique != classes
    return tuple(unique), tuple(words) if has_words else ()


def described(path: Path | None, count: int, classes: Sequence[str]) -> str:
    """The line that an import says of its classes; where nobody named them, what is assumed."""
    if path is not None:
        return f"{count} classes"
    offer = "--classes FILE names them"
    if count == 1000:
        offer = f"taken to be ImageNet's, in the order of sorted WNIDs: --classes {IMAGENET} names them so"
    return f"{count} classes called {classes[0]} ... ({offer})"


def _unique(path: Path, classes: Sequence[str]) -> list[str]:
    """The classes, where some have one name (ImageNet's two cranes) with their place. A WNID stands there once."""
    counts = Counter(classes)
    twice = next((name for name, times in counts.items() if times > 1 and WNID.fullmatch(name)), None)
    if twice is not None:
        raise ClassesError(f"{path}: class {twice!r} stands there {counts[twice]} times, expected every class once")
    return [name if counts[name] == 1 else f"{name} (output {place})" for place, name in enumerate(classes)]


# Forms of a list


def _entries(path: Path, text: str) -> list[str]:
    """The values of a file in the order of the outputs, each "WNID words", "WNID" or a name. Raises ClassesError."""
    start = text.lstrip()[:1]
    if start in ("{", "["):
        return _values(path, _parsed(path, text))
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table(path, text)
    text = text.rstrip()
    lines = [line.strip() for line in text.split("\n")] if text else []

    # each with its output before it
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        pairs = [match.groups() for match in numbered if match]
        ordered = _by_number(pairs, lambda pair: pair[0], lambda pair: pair[1])
        return ordered or lines
    return lines


def _parsed(path: Path, text: str) -> Any:
    """JSON, or a Python literal: {0: 'tench, Tinca tinca', ...}."""
    expected = "expected a JSON list or object, or a Python dict, of classes"
    try:
        return json.loads(text)
    except RecursionError:
        raise ClassesError(f"{path}: nested too deeply, {expected}") from None
    except ValueError as error:
        failure = str(error)

    if len(text) > MAX_LITERAL_BYTES:
        raise ClassesError(f"{path}: not JSON ({failure}), {expected}")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ClassesError(f"{path}: neither JSON ({failure}) nor a Python literal, {expected}") from None


def _values(path: Path, content: Any) -> list[str]:
    """The values of a list, of an object by output (Keras', Hugging Face's id2label), or by name (class_to_idx)."""
    if isinstance(content, dict):
        for key in ("id2label", "label2id", "class_to_idx", "classes", "class_names", "names", "labels"):
            if isinstance(content.get(key), dict | list):
                content = content[key]
                break
    if isinstance(content, list | tuple):
        return [_entry(path, value) for value in content]
    if not isinstance(content, dict):
        raise ClassesError(f"{path}: holds a {type(content).__name__}, expected a list or an object of classes")

    # by output, or by name
    by_output = _by_number(content.items(), lambda pair: pair[0], lambda pair: pair[1])
    by_name = _by_number(content.items(), lambda pair: pair[1], lambda pair: pair[0])
    pairs = by_output if by_output is not None else by_name
    if pairs is None:
        raise ClassesError(f"{path}: expected outputs from 0 on as keys, or as values, of its object, each once")
    return [_entry(path, value) for value in pairs]


def _by_number(items: Any, number: Callable[[Any], Any], value: Callable[[Any], Any]) -> list[Any] | None:
    """Values in the order of their numbers, which are 0, 1, 2 ...; None where they are not."""
    found: dict[int, Any] = {}
    for item in items:
        written = number(item)
        if isinstance(written, bool) or not re.fullmatch(r"\d{1,7}", str(written).strip()):
            return None
        found[int(written)] = value(item)
    if len(found) != len(items) or set(found) != set(range(len(found))):
        return None
    return [found[place] for place in range(len(found))]


def _entry(path: Path, value: Any) -> str:
    """A class as a line: "tench", or ["n01440764", "tench"] as Keras has it."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):
        wnid = next((part for part in value if WNID.fullmatch(part)), "")
        rest = ", ".join(" ".join(part.split()) for part in value if part != wnid)
        return f"{wnid} {rest}".strip()
    raise ClassesError(f"{path}: {str(value)[:40]!r} is no class, expected a name, or a WNID and a name")


def _table(path: Path, text: str) -> list[str]:
    """A CSV, with or without a header: a column of outputs puts its rows in order, the others are WNID and name."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in text.split("\n")[0] else ","
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise ClassesError(f"{path}: not a CSV of classes ({error})") from None
    rows = [row for row in rows if any(row)]
    width = max(map(len, rows), default=0)
    if any(len(row) != width for row in rows):
        uneven = next(place for place, row in enumerate(rows, 1) if len(row) != len(rows[0]))
        raise ClassesError(f"{path}: row {uneven} has {len(rows[uneven - 1])} columns, the first has {len(rows[0])}")

    # without its header
    header: list[str] = []
    if rows and _is_header(rows):
        header, rows = rows[0], rows[1:]
    columns = list(zip(*rows, strict=True)) if rows else []

    # rows in the order of the outputs
    numbers = next((i for i, column in enumerate(columns) if _by_number(column, str, str) is not None), None)
    if numbers is not None and width > 1:
        rows.sort(key=lambda row: int(row[numbers]))
    wnids = next((i for i, column in enumerate(columns) if all(map(WNID.fullmatch, column))), None)
    names = [i for i in range(width) if i not in (numbers, wnids)] if width > 1 else [] if wnids == 0 else [0]
    named = [i for i in names if header and header[i].lower() in NAMES]
    if len(names) > 1 and len(named) != 1:
        raise ClassesError(f"{path}: {len(names)} columns may be the names, expected one (called name, or class)")
    chosen = [i for i in (wnids, *(named or names)) if i is not None]
    return [" ".join(row[i] for i in chosen).strip() for row in rows]


NAMES = ("name", "names", "class", "label", "words", "class_name", "category")


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """True where the first row is of another kind than the rest: no number above numbers, no WNID above WNIDs."""
    first, rest = rows[0], rows[1:]
    if any(cell.lower() in (*NAMES, "index", "id", "idx", "wnid", "synset", "output") for cell in first):
        return True
    for place, cell in enumerate(first):
        column = [row[place] for row in rest]
        for kind in (r"\d+", WNID.pattern):
            if column and all(re.fullmatch(kind, one) for one in column) and not re.fullmatch(kind, cell):
                return True
    return False


def _text(path: Path) -> str:
    """The file's text. Raises ClassesError."""
    if not path.exists() or path.is_dir():
        raise ClassesError(f"{path}: no such file, expected class names, one a line, or {IMAGENET}")

    try:
        text = read_file(path, MAX_BYTES, ClassesError).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise ClassesError(f"{path}: cannot be read ({error.strerror}), expected class names, one a line") from None

    if "\0" in text:
        raise ClassesError(f"{path}: not text in UTF-8, expected class names, one a line")
    return text
