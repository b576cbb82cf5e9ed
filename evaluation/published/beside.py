"""The published row that a result may stand beside, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from infer.spec import ModelSpec

from .papers import PAPER_ROWS, PaperNet, Percent, PublishedRow

Interval = tuple[float, float] | None


class EvaluatedNet(NamedTuple):
    """A net with the protocol and the scales that it was evaluated by."""

    spec: ModelSpec
    protocol: str
    scales: tuple[int, ...]


def is_papers_size(spec: ModelSpec) -> bool:
    """True for a net with the paper's widths, crop and number of classes."""
    fc_width = 1024 if spec.net.startswith("googlenet") else 4096
    return (spec.width, spec.fc_width, spec.crop_px, len(spec.classes)) == (1.0, fc_width, 224, 1000)


def is_papers_own(spec: ModelSpec) -> bool:
    """True for a net with the paper's layers and sizes that was not trained in another way.

    torchvision and timm trained VGG on random crops of varying area, so no S of the paper is theirs.
    """
    theirs = spec.source.get("importer") == "export.from_torchvision"
    known = any(net.net == spec.net for row in PAPER_ROWS for net in row.nets)
    return known and is_papers_size(spec) and not theirs


def origin_of(spec: ModelSpec) -> str | None:
    """Origin of imported weights, as the rows of released.py have it: `vgg16`, `export.from_caffe`; None if trained
    here."""
    found = spec.source.get("origin", spec.source.get("importer"))
    return None if found is None else str(found)


def find_paper_row(evaluated: Sequence[EvaluatedNet]) -> PublishedRow | None:
    """The paper's result for these nets (one, or several fused, in any order), or None."""
    if not all(is_papers_own(one.spec) for one in evaluated) or len({one.protocol for one in evaluated}) != 1:
        return None

    nets = []
    for spec, _, scales in evaluated:
        train_short_px = 256 if spec.net == "googlenet" else spec.train_short_px  # GoogLeNet's paper tells nothing of S
        nets.append(PaperNet(spec.net, train_short_px, scales))

    for row in PAPER_ROWS:
        if row.protocol == evaluated[0].protocol and sorted(row.nets, key=repr) == sorted(nets, key=repr):
            return row
    return None


@dataclass(frozen=True, slots=True)
class Beside:
    """A published row beside a result of ours, named as in report.json.

    Differences are ours - theirs in percent; `inside` says that theirs lies in our interval. None where unknown.
    """

    top1_error_percent: Percent
    top5_error_percent: Percent
    source: str
    label: str
    top1_difference_percent: Percent
    top1_inside_interval95: bool | None
    top5_difference_percent: Percent
    top5_inside_interval95: bool | None

    def __str__(self) -> str:
        """`24.8 / 7.5 (VGG Table 4): +0.12 / -0.30, inside / outside`"""
        numbers = (self.top1_error_percent, self.top5_error_percent)
        theirs = " / ".join("-" if number is None else str(number) for number in numbers)
        return f"{theirs} ({self.source}): {self.difference}"

    @property
    def difference(self) -> str:
        """`+0.12 / -0.30, inside / outside`"""
        differences = (self.top1_difference_percent, self.top5_difference_percent)
        signed = " / ".join("-" if one is None else f"{one:+.2f}" for one in differences)
        words = {True: "inside", False: "outside", None: "-"}
        return f"{signed}, {words[self.top1_inside_interval95]} / {words[self.top5_inside_interval95]}"


def put_beside(row: PublishedRow, percents: Sequence[Percent], intervals95: Sequence[Interval]) -> Beside:
    """The row beside our top-1 and top-5 errors in percent and their intervals."""
    return Beside(
        row.top1_error_percent,
        row.top5_error_percent,
        row.source,
        row.label,
        *_difference(percents[0], intervals95[0], row.top1_error_percent),
        *_difference(percents[1], intervals95[1], row.top5_error_percent),
    )


def _difference(ours: Percent, interval95: Interval, theirs: Percent) -> tuple[Percent, bool | None]:
    """(ours - theirs, theirs is in our interval)."""
    if ours is None or interval95 is None or theirs is None:
        return None, None
    return round(ours - theirs, 3), interval95[0] <= theirs <= interval95[1]
