"""What the page says, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from infer.data.annotations import Box
from infer.spec import Size

from ...published.detection import PublishedDetection
from ..intervals import Mean
from ..metric import Curve, Rule

MarkKind = Literal["right", "wrong", "missed"]


@dataclass(frozen=True, slots=True)
class SystemValues:
    """One system, a net or several whose posteriors are averaged, on all images.

    counts: summed over classes, as Mistakes.counts has them; difference: to the first system, in points.
    """

    name: str
    nets: int
    mean: Mean
    counts: Mapping[str, int]
    difference: Mean | None = None


@dataclass(frozen=True, slots=True)
class ClassValues:
    """A class of the system that is shown in detail; ap: 0 to 1, nan without an object that counts."""

    name: str
    words: str
    objects: int
    ap: float
    curve: Curve
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """A box on a picture, in the image's own pixels; text: the class, its score, what is wrong with it."""

    kind: MarkKind
    box: Box
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """An image: a small JPEG of it, and its own size, which the marks are in."""

    name: str
    jpeg: bytes
    size_px: Size
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class PageValues:
    """A page. The first of the systems is shown in detail.

    published: the paper's rows that stand beside, where the data set is ILSVRC's detection task.
    facts: what a reader needs to judge or repeat it, in order: data set, models, proposals, versions, seconds.
    """

    title: str
    rule: Rule
    rule_in_words: str
    images: int
    objects: int
    not_counted: int
    systems: Sequence[SystemValues]
    classes: Sequence[ClassValues]
    pictures: Sequence[Picture]
    published: Sequence[PublishedDetection]
    remarks: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
