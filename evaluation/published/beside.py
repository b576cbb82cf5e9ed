"""Which published row a result may stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from infer.spec import ModelSpec

from .papers import ROWS, Member, PaperRow

Percent = float | None


Interval = tuple[float, float] | None


class Entry(NamedTuple):
    """A net with the protocol and scales it was tested by."""

    spec: ModelSpec
    protocol: str
    scales: tuple[int, ...]


def is_papers_size(spec: ModelSpec) -> bool:
    """Whether a net has the paper's widths, crop and number of classes."""
    fc_width = 1024 if spec.net.startswith("googlenet") else 4096
    return (spec.width, spec.fc_width, spec.crop_px, len(spec.classes)) == (1.0, fc_width, 224, 1000)


def is_papers_own(spec: ModelSpec) -> bool:
    """Whether a net has the paper's layers and sizes, and was not trained in another way.

    torchvision and timm trained VGG on random crops of varying area, so no S of the paper is theirs.
    """
    theirs = spec.source.get("importer") == "export.from_torchvision"
    known = any(member.net == spec.net for row in ROWS for member in row.members)
    return known and is_papers_size(spec) and not theirs


def origin(spec: ModelSpec) -> str | None:
    """Where imported weights are from, as the ledger has it: `vgg16`, `export.from_caffe`; None if trained here."""
    found = spec.source.get("origin", spec.source.get("importer"))
    return None if found is None else str(found)


def find(entries: Sequence[Entry]) -> PaperRow | None:
    """The paper's result for these nets (one, or several fused, in any order), or None."""
    if not all(is_papers_own(one.spec) for one in entries) or len({one.protocol for one in entries}) != 1:
        return None
    # GoogLeNet's paper tells nothing of S
    members = [
        Member(one.spec.net, 256 if one.spec.net == "googlenet" else one.spec.train_short_px, one.scales)
        for one in entries
    ]
    for row in ROWS:
        if row.protocol == entries[0].protocol and sorted(row.members, key=repr) == sorted(members, key=repr):
            return row
    return None


def difference(ours: Sequence[Percent], interval95: Sequence[Interval], theirs: Sequence[Percent]) -> dict[str, Any]:
    """For top-1 and top-5: ours - theirs in percent, and whether theirs lies in our interval; None where unknown."""
    found: dict[str, Any] = {}
    for k, percent, interval, number in zip((1, 5), ours, interval95, theirs, strict=True):
        delta = inside = None
        if percent is not None and interval is not None and number is not None:
            delta, inside = round(percent - number, 3), interval[0] <= number <= interval[1]
        found |= {f"top{k}_difference_percent": delta, f"top{k}_inside_interval95": inside}
    return found


def say_difference(found: dict[str, Any]) -> str:
    """`+0.12 / -0.30, inside / outside`"""
    signed = [found[f"top{k}_difference_percent"] for k in (1, 5)]
    inside = [{True: "inside", False: "outside", None: "-"}[found[f"top{k}_inside_interval95"]] for k in (1, 5)]
    return f"{' / '.join('-' if one is None else f'{one:+.2f}' for one in signed)}, {' / '.join(inside)}"
