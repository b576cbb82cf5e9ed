"""Names of a foreign model's classes, which weights files do not hold: one a line, `WNID` or `WNID words`."""

from __future__ import annotations

from pathlib import Path

from infer.spec import placeholder_classes

MOST_BYTES = 10_000_000
"""Of a list of names; 21,841 WNIDs with words take 1 MB."""


class ClassesError(ValueError):
    """A list of classes that does not fit the model; one line."""


def read_classes(path: Path | None, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes, class_names) of a model with `count` outputs, in their order; without a file, placeholders.

    A first word like n01440764 is the class and what follows its name (Caffe's synset_words.txt); any other line is a
    class by itself. Raises ClassesError for a wrong number of lines, a class named twice, or a file that is no text.
    """
    if path is None:
        return placeholder_classes(count), ()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ClassesError(f"{path}: {path.stat().st_size} bytes, expected a list of {count} class names")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ClassesError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ClassesError(f"{path}: not a text file, expected {count} class names, one a line") from None
    if len(lines) != count:
        raise ClassesError(f"{path}: {len(lines)} lines, but the model has {count} classes: name one a line")
    words = [line.split(maxsplit=1) for line in lines]
    by_wnid = all(_is_wnid(first[0]) for first in words)
    classes = tuple(first[0] for first in words) if by_wnid else tuple(lines)
    twice = next((name for name in classes if classes.count(name) > 1), None) if len(set(classes)) < count else None
    if twice is not None:
        raise ClassesError(f"{path}: {twice!r} is named twice: classes must differ from each other")
    has_words = by_wnid and all(len(first) == 2 for first in words)
    return classes, tuple(first[1] for first in words) if has_words else ()


def _is_wnid(word: str) -> bool:
    return len(word) == 9 and word[0] == "n" and word[1:].isdecimal()
