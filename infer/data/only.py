"""Images chosen by a list of their names (`--only FILE`): a name on each line, as data sets call their images.

Knows names alone, neither files nor labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..files import read_file
from .folder import DatasetError, composed, printable
from .shards import SPLITS

MOST_BYTES = 1 << 28
"""The largest list that is read; the names of ILSVRC-2012's 1.28 million training images are 50 MB."""
SPLIT_FOLDERS = {word for words in SPLITS.values() for word in words} | {"ilsvrc2012_img_train", "ilsvrc2012_img_val"}
"""Folders of splits, in lower case, which a name may have in front though the data set lies below them."""


def read_names(path: Path) -> list[str]:
    """The names of a list, each once, without blank lines. Raises DatasetError."""
    try:
        text = read_file(path, MOST_BYTES, DatasetError).decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected a name of an image a line") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not text in UTF-8, expected a name of an image a line") from None

    names = list(dict.fromkeys(line for line in text.replace("\r", "\n").split("\n") if line.strip()))
    if not names:
        raise DatasetError(f"{path}: empty, expected a name of an image a line")
    return names


def find_places(names: Sequence[str], images: Sequence[str], source: Path) -> tuple[list[int], list[str]]:
    """(the places of the images that are named, in order; the names of none).

    An image is named by its own name, with or without folders in front of it: `dog/0012.jpg` and `0012.jpg` name
    `val/dog/0012.jpg`, `val/dog/0012.jpg` names `dog/0012.jpg`. Raises DatasetError for a name of several images.
    """
    place_of = {image: place for place, image in enumerate(images)}
    by_last_part: defaultdict[str, list[int]] | None = None  # made where a name is not the whole one
    found, absent = set(), []

    for name in names:
        spellings = list(dict.fromkeys((name, printable(composed(name.strip().replace("\\", "/").removeprefix("./"))))))
        place = next((place_of[each] for each in spellings if each in place_of), None)
        if place is None:
            if by_last_part is None:
                by_last_part = defaultdict(list)
                for number, image in enumerate(images):
                    by_last_part[image.rpartition("/")[2]].append(number)
            own = [each for word in spellings for each in by_last_part.get(word.rpartition("/")[2], ())]
            meant = sorted({each for word in spellings for each in own if _names(word, images[each])})
            if len(meant) > 1:
                there = ", ".join(images[each] for each in meant[:2])
                raise DatasetError(
                    f"{source}: {printable(name)[:200]} names {len(meant)} images ({there}): expected its folder, too"
                )
            place = meant[0] if meant else None

        if place is None:
            absent.append(name)
        else:
            found.add(place)
    return sorted(found), absent


def _names(word: str, image: str) -> bool:
    """True for an image's name without folders in front, or with that of a split."""
    if f"/{image}".endswith(f"/{word}"):
        return True
    before = word.removesuffix(f"/{image}")
    return before != word and all(part.lower() in SPLIT_FOLDERS for part in before.split("/"))
