"""The class of a model for each class of a data set: by name, else by number or place, which is said; or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset
from infer.data.folder import composed, printable
from infer.data.imagenet import WNID, words_of_wnids
from infer.spec import ModelSpec, placeholder_classes

from ..errors import RunError

UNKNOWN = -1
"""The class of a model for a folder without images that it does not know."""
BY_ORDER = "--classes-by-order"
SHOWN = 3


class ClassMatch(NamedTuple):
    """The model's class of each class of the data set, i32 [classes]; remark: how, where it was not by its name."""

    label_of: NDArray[np.int32]
    remark: str = ""


def match_classes(dataset: Dataset, spec: ModelSpec, *, by_order: bool = False) -> ClassMatch:
    """Matches classes by name and, where names say nothing, by what they are known to mean.

    by_order: where no names agree, by position. Raises RunError where the model does not know classes that have images.
    """
    known, own = _Known(dataset), _names(spec.classes)
    found = known.in_names(own)
    if found is not None:
        return ClassMatch(found, _say_renumbered(dataset, spec, found))

    # words say as much as names where each is of one class
    for names, said in ((known.classes, "names"), (_names(dataset.class_names), "words")):
        for others in (own, _names(spec.class_names)):
            found = known.in_names(others, names)
            if found is not None:
                return ClassMatch(found, f"{spec.name}: classes are matched by the {said} that it has for them")

    nameless = spec.classes == placeholder_classes(len(spec.classes))
    numbers = [int(name) for name in known.classes if name.isdecimal() and name.isascii() and len(name) < 10]
    is_numbers = len(numbers) == len(known.classes)
    if by_order:
        return _match_by_order(known, spec, numbers if is_numbers and not dataset.numbered else ())
    if dataset.numbered and (is_numbers or nameless):
        return _match_own_numbers(known, spec, is_numbers)
    if is_numbers:
        return _match_numbers(numbers, known, spec, nameless)
    if nameless:
        return _match_nameless(known, spec)
    return _match_words(known, spec)


class _Known:
    """The names of a data set's classes in NFC, and which of them have images."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.classes = dataset, _names(dataset.classes)
        empty = set(dataset.empty_classes)
        self.used = [place for place, name in enumerate(dataset.classes) if name not in empty]

    def in_names(self, names: Sequence[str], own: Sequence[str] | None = None) -> NDArray[np.int32] | None:
        """The place of each class in `names`, None unless all that have images are there, once.

        own: what the data set calls its classes, where it is not by their names.
        """
        own = self.classes if own is None else own
        times, others = Counter(names), Counter(own)
        place = {name: number for number, name in enumerate(names) if times[name] == 1}
        if not names or not self.used:
            return None
        if any(own[number] not in place for number in self.used):
            return None
        if own is not self.classes and any(others[own[number]] > 1 for number in self.used):
            return None
        return np.array([place.get(name, UNKNOWN) for name in own], np.int32)

    def in_order(self, count: int, key: Sequence[object] = ()) -> NDArray[np.int32] | None:
        """The place of each class in sorted order, of all or of those with images, as many as `count`; else None."""
        key = key or (range(len(self.classes)) if self.dataset.numbered else self.classes)
        for members in (list(range(len(self.classes))), self.used):
            if len(members) == count:
                found = np.full(len(self.classes), UNKNOWN, np.int32)
                found[sorted(members, key=lambda place: (key[place], place))] = np.arange(count)
                return found
        return None

    def some(self, places: Sequence[int]) -> str:
        """A few of the classes at these places."""
        return ", ".join(self.classes[place] for place in places[:SHOWN]) + (" ..." if len(places) > SHOWN else "")


def _match_by_order(known: _Known, spec: ModelSpec, numbers: Sequence[int]) -> ClassMatch:
    count, own = len(spec.classes), _names(spec.classes)
    found = known.in_order(count, numbers)
    if found is None:
        raise RunError(
            f"{BY_ORDER}: the data set has {len(known.used)} classes with images, {spec.name} has {count}: expected as "
            "many"
        )

    # a name that both have says that the orders differ
    names = set(own)
    moved = [p for p in known.used if known.classes[p] in names and known.classes[p] != own[found[p]]]
    if moved:
        raise RunError(
            f"{BY_ORDER}: {known.classes[moved[0]]} would be taken for {own[found[moved[0]]]}, but {spec.name} has a "
            "class of that name at another place: the orders differ, so give the folders the model's names"
        )
    first = known.used[0]
    return ClassMatch(
        found,
        f"{BY_ORDER}: the data set's classes are {spec.name}'s by their places ({known.classes[first]} is "
        f"{spec.classes[found[first]]} ...), whatever they are called",
    )


def _match_own_numbers(known: _Known, spec: ModelSpec, bare: bool) -> ClassMatch:
    """Labels that are numbers by themselves, as in shards: they are the model's own."""
    count, own = len(known.classes), len(spec.classes)
    if bare and count > own:
        raise RunError(
            f"{spec.name} knows {own} classes, but the data set has labels up to {count - 1}: expected 0 to {own - 1}, "
            "use a model of the same classes"
        )
    if not bare and count != own:
        raise RunError(_say_other_count(known, spec))
    return ClassMatch(
        np.arange(count, dtype=np.int32),
        f"{spec.name}: the data set's labels are numbers, taken as those of the model's classes "
        f"(0 is {spec.classes[0]} ...)",
    )


def _match_numbers(numbers: list[int], known: _Known, spec: ModelSpec, nameless: bool) -> ClassMatch:
    """Folders called 0, 1, 2 ...: indices of the classes of a model that does not call its classes so."""
    count = len(spec.classes)
    own_numbers = all(name.isdecimal() for name in spec.classes)
    if sorted(numbers) == list(range(count)) and not own_numbers:
        called = "has no names for its classes" if nameless else f"calls them otherwise ({spec.classes[0]} ...)"
        return ClassMatch(
            np.array(numbers, np.int32),
            f"{spec.name}: the data set's classes are called 0 to {count - 1}, taken as indices of the model's "
            f"classes; it {called}",
        )

    lacking = sorted(set(range(count)) - set(numbers))
    beyond = sorted(number for number in numbers if number >= count)
    where = "they are other names"
    if beyond or lacking:
        where = f"{beyond[0]} is beyond" if beyond else f"{lacking[0]} is missing"
    wanted = f"{spec.classes[0]} ..." if own_numbers else f"or all of 0 to {count - 1}, which would be indices"
    raise RunError(
        f"the data set's classes are called {known.some(range(len(numbers)))}, {spec.name} has {count} classes: "
        f"{where}, so these numbers are not indices of its classes; expected its names ({wanted})"
        + (f", or {BY_ORDER} to take them by their places" if len(known.used) == count else "")
    )


def _match_nameless(known: _Known, spec: ModelSpec) -> ClassMatch:
    """A model imported without names of classes: it is taken to have them in sorted order, as all published nets do."""
    found = known.in_order(len(spec.classes))
    if found is None:
        raise RunError(_say_other_count(known, spec))
    return ClassMatch(
        found,
        f"{spec.name} has no names for its {len(spec.classes)} classes: the data set's are taken in sorted order "
        f"({known.some([int(np.flatnonzero(found == 0)[0])])} is the first); import it with --classes to be sure",
    )


def _match_words(known: _Known, spec: ModelSpec) -> ClassMatch:
    """WNIDs against words, where WordNet's words agree at every place; all else is refused, each for its reason."""
    own, count = _names(spec.classes), len(spec.classes)
    order, names = known.in_order(count), set(own)
    missing = [place for place in known.used if known.classes[place] not in names]

    if order is not None:
        differing = [place for place in known.used if not _is_alike(known.classes[place], own[order[place]])]
        if not differing:
            place = known.used[0]
            return ClassMatch(
                order,
                f"{spec.name}: the one has WNIDs, the other words ({known.classes[place]}, {own[order[place]]} ...): "
                "taken by their places, where WordNet's words agree in all of them",
            )
        place = differing[0]
        raise RunError(
            f"the data set has as many classes as {spec.name}, {count}, but {len(missing)} are called otherwise: the "
            f"first is {known.classes[place]!r} where the model has {own[order[place]]!r}"
            f"{_alike(known, own, missing)}; give the folders the model's names, or {BY_ORDER} takes them by their "
            "places"
        )
    if len(missing) < len(known.used):
        raise RunError(
            f"{spec.name} knows {count} classes ({own[0]} ... {own[-1]}), but {len(missing)} of the data set's "
            f"{len(known.used)} are none of them ({known.some(missing)}){_alike(known, own, missing)}: expected only "
            "classes that it knows, so put other folders elsewhere"
        )
    raise RunError(
        f"{spec.name} knows {count} classes ({own[0]} ... {own[-1]}), but the data set has {len(missing)} of "
        f"{len(known.used)} others ({known.some(missing)}){_alike(known, own, missing)}: use the data the model was "
        "trained for"
    )


def _say_other_count(known: _Known, spec: ModelSpec) -> str:
    return (
        f"{spec.name} knows {len(spec.classes)} classes ({spec.classes[0]} ... {spec.classes[-1]}) but no names for "
        f"them, and the data set has {len(known.used)} ({known.some(known.used)}): expected as many, or a model "
        "imported with --classes"
    )


def _say_renumbered(dataset: Dataset, spec: ModelSpec, label_of: NDArray[np.int32]) -> str:
    """A line where numbers are names: classes 0, 1, 10, 11, 2 ... of a model that was trained on folders."""
    moved = np.flatnonzero(label_of != np.arange(len(label_of)))
    if not dataset.numbered or not len(moved):
        return ""
    name, place = dataset.classes[moved[0]], label_of[moved[0]]
    return f"{spec.name}: label {name} is the class that it calls so, though its index is {place}"


def _alike(known: _Known, own: Sequence[str], missing: Sequence[int]) -> str:
    """Says what makes a name another one, where hardly anything does."""
    plain = {_plain(name): name for name in own}
    for place in missing:
        name = known.classes[place]
        if _plain(name) in plain:
            return f"; {name!r} and {plain[_plain(name)]!r} differ in capitals, spaces or signs alone"
    return ""


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _is_alike(one: str, other: str) -> bool:
    """True for the same name, or a WNID and a word that WordNet has for it."""
    words = words_of_wnids()
    for wnid, name in ((one, other), (other, one)):
        if WNID.fullmatch(wnid) and not WNID.fullmatch(name) and _share_words(words.get(wnid, ""), name):
            return True
    return one == other


def _share_words(one: str, other: str) -> bool:
    """True where two texts have a word in common; the hub calls the second `crane` crane2."""
    first, second = (
        {word.strip(",.()0123456789").casefold() for word in text.replace("_", " ").split()} for text in (one, other)
    )
    return bool((first & second) - {""})


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """Names as they are compared: composed (NFC), and escaped as those of files are."""
    return tuple(name if "\\" in name else printable(composed(name)) for name in names)
