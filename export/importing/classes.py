"""Class names for the importers: `--classes FILE`, since weights files do not name the outputs of a net."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from infer.errors import Refused
from infer.spec import placeholder_classes

MAX_BYTES = 10_000_000
WNID = re.compile(r"(n\d{8})(?:[ \t]+(.*))?")


class ClassesError(Refused):
    """A file that does not name the classes; one line."""


def read_classes(path: Path | None, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes, class_names) of a net with `count` outputs; class_names may be ().

    One class a line, in the order of the outputs: a WNID, a WNID and words as in Caffe's synset_words.txt
    ("n01440764 tench, Tinca tinca"), or any other name, which is the whole line. Without a file, placeholders.
    Raises ClassesError.
    """
    if path is None:
        return placeholder_classes(count), ()

    lines = _lines(path)
    if len(lines) != count:
        raise ClassesError(f"{path}: {len(lines)} classes, expected {count}, one a line, as many as the net's outputs")
    if "" in lines:
        raise ClassesError(f"{path}: line {lines.index('') + 1} is empty, expected one class a line")

    matches = [WNID.fullmatch(line) for line in lines]
    classes = tuple(match[1] if match else line for match, line in zip(matches, lines, strict=True))
    words = [(match and match[2]) or name for match, name in zip(matches, classes, strict=True)]
    name, times = Counter(classes).most_common(1)[0]
    if times > 1:
        raise ClassesError(f"{path}: class {name!r} stands there {times} times, expected every class once")
    return classes, tuple(words) if any(match and match[2] for match in matches) else ()


def _lines(path: Path) -> list[str]:
    """The lines without space around them, nor empty ones at the end."""
    if not path.is_file():
        raise ClassesError(f"{path}: no such file, expected class names, one a line")

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ClassesError(f"{path}: {path.stat().st_size} bytes, expected class names, one a line")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise ClassesError(f"{path}: cannot be read ({error.strerror}), expected class names, one a line") from None

    if "\0" in text:
        raise ClassesError(f"{path}: not text in UTF-8, expected class names, one a line")
    text = text.rstrip()
    return [line.strip() for line in text.split("\n")] if text else []
