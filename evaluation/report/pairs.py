"""Results of the same images two by two: differences with intervals, p-values adjusted for how many pairs there are.

A result is a place in a list of tables, None where it has none (a fusion of an earlier version). What is shown of it is
not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from ..scores.paired import LEVEL, Interval, Paired, WrongAnswers, holm, pair_answers

Places = tuple[int, int]
"""Places of two results."""
Tables = Sequence[WrongAnswers | None]


class Pair(msgspec.Struct, frozen=True):
    """Two results, by their places in the list of results; differences are the second's error minus the first's.

    holm_p: McNemar's p adjusted by Holm's method for all pairs of the family.
    """

    first: int
    second: int
    images: int  # with a label; one that a model could not score is wrong for it
    top1_only_wrong: tuple[int, int]  # images that only the first, only the second has wrong
    top1_difference_percent: float
    top1_interval95_percent: Interval
    top1_mcnemar_p: float
    top1_holm_p: float
    top5_only_wrong: tuple[int, int]
    top5_difference_percent: float
    top5_interval95_percent: Interval
    top5_mcnemar_p: float
    top5_holm_p: float

    @property
    def differs(self) -> bool:
        """True where the top-1 errors differ, by the adjusted p alone."""
        return self.top1_holm_p < LEVEL

    @property
    def in_words(self) -> str:
        """The verdict on A, the first, and B, the second."""
        if not self.differs:
            return "no difference shown"
        return f"{'B' if self.top1_difference_percent < 0 else 'A'} errs less"


def pairs_by_runtime(tables: Tables) -> list[Pair]:
    """All pairs of tables of the same images on one runtime: a family for each runtime."""
    families: dict[object, list[int]] = {}
    for place, table in enumerate(tables):
        if table is not None and table.head is not None:
            families.setdefault((table.head.metadata["runtime"], table.images), []).append(place)

    found: list[Pair] = []
    for own in families.values():
        found += _family(tables, [(one, other) for i, one in enumerate(own) for other in own[i + 1 :]])
    return found


def pairs_with_baseline(tables: Tables, baseline: Collection[int]) -> list[Pair]:
    """One family: each other table of the same images with the tables of the baseline that are most like it.

    That is the same protocol, scales and pooling before the same model, and this before the same runtime.
    """
    chosen: list[Places] = []
    for place, table in enumerate(tables):
        if table is None or place in baseline:
            continue
        likeness = {}
        for other in sorted(baseline):
            base = tables[other]
            if base is not None and base.images == table.images:
                likeness[other] = _likeness(base, table)
        most = max(likeness.values(), default=None)
        chosen += [(other, place) for other, like in likeness.items() if like == most]
    return _family(tables, chosen)


def _likeness(one: WrongAnswers, other: WrongAnswers) -> tuple[bool, bool, bool]:
    assert one.head is not None and other.head is not None
    first, second = one.head.metadata, other.head.metadata
    same_views = all(first[key] == second[key] for key in ("protocol", "scales", "pooling"))
    return same_views, one.head.model == other.head.model, first["runtime"] == second["runtime"]


def _family(tables: Tables, places: Sequence[Places]) -> list[Pair]:
    """These pairs, each adjusted for all of them; left out are those without an image that both could score."""
    counted: list[tuple[Places, tuple[Paired, Paired]]] = []
    for one, other in places:
        first, second = tables[one], tables[other]
        counts = pair_answers(first, second) if first is not None and second is not None else None
        if counts is not None:
            counted.append(((one, other), counts))

    top1_p, top5_p = ([counts[k].p for _, counts in counted] for k in (0, 1))
    found = []
    adjusted = zip(top1_p, holm(top1_p), top5_p, holm(top5_p), strict=True)
    for ((one, other), (top1, top5)), p in zip(counted, adjusted, strict=True):
        found.append(Pair(one, other, top1.images, *_numbers(top1), p[0], p[1], *_numbers(top5), p[2], p[3]))
    return found


def _numbers(pair: Paired) -> tuple[tuple[int, int], float, Interval]:
    return (pair.only_first_wrong, pair.only_second_wrong), pair.difference_percent, pair.interval95_percent


def by_p(pairs: Sequence[Pair]) -> list[Pair]:
    """The surest differences first; equal ones in the order of the results."""
    return sorted(pairs, key=lambda pair: (pair.top1_holm_p, pair.top1_mcnemar_p, pair.first, pair.second))
