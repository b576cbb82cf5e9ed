"""Lists that say what is right: ReaL's labels and subsets of ImageNet's classes; which class of a model each one is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from infer.data.folder import composed, printable
from infer.data.imagenet import words_of_wnids
from infer.files import read_file
from infer.spec import placeholder_classes

from ..errors import ScoresError

MOST_BYTES = 1 << 24
"""Of a list; ReaL's real.json has 388,478."""
VAL_IMAGES, IMAGENET_CLASSES = 50_000, 1000
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")
"""A validation image's name, in whatever folder, with whatever ending."""
OBJECTS = ("imagenet-a", "imagenet-r", "objectnet")
"""Subsets whose lists lie beside this file, each with its source."""
SUBSETS = (*OBJECTS, "imagenet-sketch")

Objects = tuple[tuple[str, ...], ...]
"""What may be answered: each object as the classes that mean it, mostly one."""


def read_real(path: Path) -> list[list[int]]:
    """ReaL's labels (Beyer et al. 2020, arXiv 2006.07159): the right classes of each validation image, or none.

    They are indices of WNIDs in sorted order; the images are in the order of their numbers. Raises ScoresError.
    """
    said = f"{path}: not ReaL's labels (real.json of google-research/reassessed-imagenet)"
    try:
        found = msgspec.json.decode(read_file(path, MOST_BYTES, ScoresError), type=list[list[int]])
    except OSError as error:
        raise ScoresError(
            f"{path}: {error.strerror}, expected real.json of google-research/reassessed-imagenet"
        ) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ScoresError(f"{said}: {error}") from None

    if len(found) != VAL_IMAGES:
        raise ScoresError(f"{said}: {len(found)} lists, expected one for each of the {VAL_IMAGES} validation images")
    for number, classes in enumerate(found, start=1):
        if not all(0 <= place < IMAGENET_CLASSES for place in classes):
            raise ScoresError(f"{said}: list {number} is {classes}, expected classes from 0 to {IMAGENET_CLASSES - 1}")
    return found


def number_of(image: str) -> int | None:
    """The number of a validation image, from 1, by its name; None for any other name."""
    found = VAL_NAME.search(image.rpartition("/")[2])
    return int(found[1]) if found else None


def read_subset(name: str) -> Objects:
    """The objects of a subset that is built in, or of a file with a class on each line. Raises ScoresError.

    Classes on one line, with tabs between them, mean the same object: to answer any of them is right.
    """
    if name == "imagenet-sketch":  # its folders are all 1,000 WNIDs (Wang et al. 2019, arXiv 1905.13549)
        return tuple((wnid,) for wnid in words_of_wnids())

    path = Path(__file__).with_name(f"{name}.txt") if name in OBJECTS else Path(name)
    try:
        text = read_file(path, MOST_BYTES, ScoresError).decode("utf-8-sig")
    except OSError as error:
        raise ScoresError(
            f"--subset {name}: {error.strerror}, expected {', '.join(SUBSETS)}, or a file with a class on each line"
        ) from None
    except UnicodeDecodeError:
        raise ScoresError(f"--subset {name}: not text in UTF-8, expected a class on each line") from None

    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    objects = tuple(tuple(word for word in line.split("\t") if word) for line in lines)
    every = [word for own in objects for word in own]
    twice = next((word for word, count in Counter(every).items() if count > 1), None)
    if twice is not None or not every:
        said = f"{printable(twice)[:80]} is there twice" if twice is not None else "no class in it"
        raise ScoresError(f"--subset {name}: {said}, expected each class once")
    return objects


def find_classes(names: Sequence[str], spec: Mapping[str, object], said: str) -> list[int]:
    """The place of each class in a model, by its names or words; of a nameless model by ImageNet's sorted WNIDs.

    spec: a score table's. said: where the names are from. Raises ScoresError for a class that the model does not know.
    """
    own = tuple(map(str, _listed(spec, "classes")))
    known = [tuple(map(composed, own)), tuple(composed(str(words)) for words in _listed(spec, "class_names"))]
    if is_nameless(own):
        known = [tuple(words_of_wnids())]

    # a word that two classes have, as crane, says neither
    wanted = [composed(name) for name in names]
    lacking = wanted
    for classes in known:
        times = Counter(classes)
        place = {name: number for number, name in enumerate(classes) if times[name] == 1}
        others = [name for name in wanted if name not in place]
        if not others:
            return [place[name] for name in wanted]
        lacking = min(lacking, others, key=len)

    raise ScoresError(
        f"{said}: {len(lacking)} of {len(wanted)} classes ({printable(lacking[0])[:80]} ...) are none of the "
        f"{len(own)} of {spec['name']} ({own[0]} ...): expected its own names, each of one class, or a "
        "model of these classes"
    )


def is_nameless(classes: Sequence[str]) -> bool:
    """True for a model of 1,000 classes without names, which are taken to be ImageNet's in order, as in evaluation."""
    return tuple(classes) == placeholder_classes(IMAGENET_CLASSES)


def _listed(spec: Mapping[str, object], key: str) -> Sequence[object]:
    found = spec.get(key, ())
    return found if isinstance(found, list) else ()
