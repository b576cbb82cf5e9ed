"""Shards of data sets, WebDataset's or Parquet's: where those of a split are, and what their labels mean."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .folder import TAR, DatasetError, Sample, is_litter

Split = Literal["train", "val"]

PARQUET = ".parquet"
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
"""Words in the names of shards and folders that say their split; the first that is there counts."""
BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}|\{([^{}]*,[^{}]*)\}")
MOST_SHARDS, MOST_BRACES = 1_000_000, 20
MOST_CLASSES = 100_000
"""Classes that are known by their numbers; the whole of ImageNet has 21,841."""
WNID = re.compile(r"n\d{8}")


class Labels(NamedTuple):
    """Labels of a packed data set and the classes that they stand for.

    numbered: labels are numbers in the order of the model's own classes; `classes` are then the data set's names for
    them, if any, or the numbers.
    """

    labels: list[int]
    classes: tuple[str, ...]
    numbered: bool


def find_shards(root: Path, split: Split) -> list[Path]:
    """The shards of a split below a folder, in a file, or of a pattern ({000..049}, {a,b}, *).

    There are none where `root` is something else. Raises DatasetError for a pattern that no file matches.
    """
    if root.is_file():
        return [root] if root.suffix in (PARQUET, TAR) else []

    if root.is_dir():
        for folder in (*(root / word for word in SPLITS[split]), root, root / "data"):
            if not folder.is_dir():
                continue
            names = sorted(p for p in folder.iterdir() if not is_litter(p.name))
            for suffix in (PARQUET, TAR):
                found = [path for path in names if path.suffix == suffix and path.is_file()]
                if found:
                    return _of_split(found, split)
        return []

    pattern = str(root)
    if not any(character in pattern for character in "{*?["):
        return []
    if pattern.count("{") > MOST_BRACES:
        raise DatasetError(f"{pattern[:80]} ...: {pattern.count('{')} braces, expected at most {MOST_BRACES}")
    paths: list[Path] = []
    for each in _expand(pattern):  # the first that is absent ends it: a pattern may stand for any number of names
        found = [Path(path) for path in sorted(glob.glob(each)) or [each]]
        absent = next((path for path in found if not path.is_file()), None)
        if absent is not None:
            raise DatasetError(f"{root}: no such file as {absent}: expected shards like data/val-{{000..049}}.tar")
        paths += found
        if len(paths) > MOST_SHARDS:
            raise DatasetError(f"{pattern}: more than {MOST_SHARDS} shards")
    return paths


def _of_split(paths: list[Path], split: Split) -> list[Path]:
    """Shards whose names say the split, or all where no name says any."""
    words = [set(re.split(r"[-_.]", path.name.lower())) for path in paths]
    for word in SPLITS[split]:
        own = [path for path, own_words in zip(paths, words, strict=True) if word in own_words]
        if own:
            return own
    said = any(word in own for own in words for every in SPLITS.values() for word in every)
    return [] if said else paths


def _expand(pattern: str) -> Iterator[str]:
    """Braces as a shell expands them. Raises DatasetError for more than MOST_SHARDS files."""
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is None and int(last) - int(first) >= MOST_SHARDS:
        raise DatasetError(f"{pattern}: more than {MOST_SHARDS} shards")
    choices = words.split(",") if words else (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])


def label_samples(
    samples: Sequence[Sample], root: Path, names: Sequence[str] = (), words: Sequence[str] = ()
) -> Labels:
    """Labels of all samples: numbers as they are, names as their place in sorted order.

    `names`, if any, are the data set's own for its numbers. Where they are WNIDs, by which every model means the same,
    the numbers are not the model's. `words` are labels that are names, of no sample perhaps. Raises DatasetError where
    there are numbers and names, or a number without a class.
    """
    kinds = {type(sample.label) for sample in samples if sample.label is not None}
    if len(kinds) > 1:
        one = next(sample for sample in samples if isinstance(sample.label, str))
        raise DatasetError(
            f"{root}: labels are numbers and names (e.g. {one.label!r} of {one.name}), expected one kind"
        )

    if kinds == {str}:
        found = {str(sample.label) for sample in samples if sample.label is not None}
        classes = tuple(sorted(found.union(words)))
        index: dict[int | str | None, int] = {name: number for number, name in enumerate(classes)}
        return Labels([index.get(sample.label, -1) for sample in samples], classes, numbered=False)

    numbers = [-1 if sample.label is None else int(sample.label) for sample in samples]
    count = len(names) or min(max([*numbers, 0]) + 1, MOST_CLASSES)
    for sample, number in zip(samples, numbers, strict=True):
        if not -1 <= number < count:
            raise DatasetError(
                f"{root}: label {str(number)[:20]} of {sample.name}, expected 0 to {count - 1}, or -1 for unknown"
            )
    numbered = not (names and all(map(WNID.fullmatch, names)))
    return Labels(numbers, tuple(names) or tuple(map(str, range(count))), numbered)
