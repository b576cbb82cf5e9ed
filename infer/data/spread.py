"""A few images of many, spread over all classes: what `--limit N` takes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any


def spread(groups: Sequence[Any], count: int) -> list[int]:
    """The places of `count` members, evenly spaced over their groups, sorted; always the same.

    groups: the group of each member, a number or a name. Every group has one member at least where there are enough,
    and beyond that as many as its share says; its own are evenly spaced in it. With fewer than groups, evenly spaced
    groups have one each.
    """
    places: dict[Any, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    own = [places[group] for group in sorted(places)]
    if count < len(own):
        return sorted(own[number * len(own) // count][0] for number in range(count))

    # the next one goes where most are waiting for each that is taken (Sainte-Laguë's divisors)
    taken = [1] * len(own)
    waiting = [(-len(members) / 3, number) for number, members in enumerate(own) if len(members) > 1]
    heapq.heapify(waiting)
    for _ in range(min(count, len(groups)) - len(own)):
        _, number = heapq.heappop(waiting)
        taken[number] += 1
        if taken[number] < len(own[number]):
            heapq.heappush(waiting, (-len(own[number]) / (2 * taken[number] + 1), number))

    chosen = []
    for members, few in zip(own, taken, strict=True):
        chosen += [members[number * len(members) // few] for number in range(few)]
    return sorted(chosen)


def say_part(few: Sequence[Any], every: Sequence[Any]) -> str:
    """`200 of 655 images, all 5 classes`, of the classes of the images taken and of all; -1 and None are no class."""
    seen, there = (len(set(classes) - {-1, None}) for classes in (few, every))
    of_classes = f", all {there} classes" if seen == there else f", {seen} of {there} classes"
    return f"{len(few)} of {len(every)} images{of_classes if there else ''}"
