"""The papers' results as data, each with the table that it comes from, and the row that a result may stand beside.

Errors are in percent on ILSVRC-2012.

VGG: arXiv 1409.1556v6, Tables 3 to 10. GoogLeNet: arXiv 1409.4842, Tables 2 and 3 (top-5 only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from infer.spec import ModelSpec

Percent = float | None
Interval = tuple[float, float] | None
TrainShort = int | tuple[int, int]
"""S in px, or the range that it was drawn from."""
JITTER = (256, 512)
Q3 = (256, 384, 512)
Q4 = (256, 288, 320, 352)


class PaperNet(NamedTuple):
    """A net with the S that it was trained at (None: not told) and the scales Q that it was tested at."""

    net: str
    train_short_px: TrainShort | None
    scales: tuple[int, ...]

    def __str__(self) -> str:
        s = self.train_short_px
        trained = f"[{s[0]};{s[1]}]" if isinstance(s, tuple) else str(s)
        return self.net if self.net == "googlenet" else f"{self.net}/{trained}/{','.join(map(str, self.scales))}"


Nets = tuple[PaperNet, ...]


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published result on classification: errors on the validation set, and on the test set where they are told.

    label: names the result within the tables of its source.
    nets: one net, or several that are fused. Empty for results of others, which are to be read, not measured against.
    origin: the weights' origin as their importer writes it into a model (see origin_of); None for the papers'.
    """

    label: str
    top1_error_percent: Percent
    top5_error_percent: Percent
    test_top5_error_percent: Percent
    source: str
    nets: Nets = ()
    protocol: str = ""
    origin: str | None = None


def _paper(nets: Nets, protocol: str, top1: Percent, top5: Percent, source: str, test: Percent = None) -> PublishedRow:
    """A row of the papers, labelled by its nets as Net/S/Q and its protocol."""
    counted = {str(net): nets.count(net) for net in nets}
    named = " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counted.items())
    return PublishedRow(f"{named}, {protocol}", top1, top5, test, source, nets, protocol)


def _vgg(
    table: int, protocol: str, rows: Sequence[tuple[str, TrainShort, tuple[int, ...], float, float]]
) -> list[PublishedRow]:
    source = f"VGG Table {table}"
    return [_paper((PaperNet(net, s, q),), protocol, top1, top5, source) for net, s, q, top1, top5 in rows]


def _googlenet(models: int, protocol: str, scales: tuple[int, ...], top5: float) -> PublishedRow:
    return _paper((PaperNet("googlenet", 256, scales),) * models, protocol, None, top5, "GoogLeNet Table 3")


SUBMISSION = (
    PaperNet("D", 256, (224, 256, 288)),
    PaperNet("D", 384, (352, 384, 416)),
    PaperNet("D", JITTER, Q3),
    PaperNet("C", 256, (224, 256, 288)),
    PaperNet("C", 384, (352, 384, 416)),
    PaperNet("E", 256, (224, 256, 288)),
    PaperNet("E", 384, (352, 384, 416)),
)
"""VGG's seven nets of ILSVRC-2014, in the order of Table 6; that jittered D was fine-tuned in its last layers only."""

PAIR = (PaperNet("D", JITTER, Q3), PaperNet("E", JITTER, Q3))

TABLE_3 = (
    ("A", 256, (256,), 29.6, 10.4),
    ("A-LRN", 256, (256,), 29.7, 10.5),
    ("B", 256, (256,), 28.7, 9.9),
    ("C", 256, (256,), 28.1, 9.4),
    ("C", 384, (384,), 28.1, 9.3),
    ("C", JITTER, (384,), 27.3, 8.8),
    ("D", 256, (256,), 27.0, 8.8),
    ("D", 384, (384,), 26.8, 8.7),
    ("D", JITTER, (384,), 25.6, 8.1),
    ("E", 256, (256,), 27.3, 9.0),
    ("E", 384, (384,), 26.9, 8.7),
    ("E", JITTER, (384,), 25.5, 8.0),
)
TABLE_4 = (
    ("B", 256, (224, 256, 288), 28.2, 9.6),
    ("C", 256, (224, 256, 288), 27.7, 9.2),
    ("C", 384, (352, 384, 416), 27.8, 9.2),
    ("C", JITTER, Q3, 26.3, 8.2),
    ("D", 256, (224, 256, 288), 26.6, 8.6),
    ("D", 384, (352, 384, 416), 26.5, 8.6),
    ("D", JITTER, Q3, 24.8, 7.5),
    ("E", 256, (224, 256, 288), 26.9, 8.7),
    ("E", 384, (352, 384, 416), 26.7, 8.6),
)
"""VGG's single nets at one scale, and at several: net, S, Q, top-1 and top-5 error."""

PAPER_ROWS = (
    *_vgg(3, "dense", TABLE_3),
    *_vgg(4, "dense", TABLE_4),
    _paper((PaperNet("E", JITTER, Q3),), "dense", 24.8, 7.5, "VGG Table 4", 7.3),  # on the test set: section 4.2
    *_vgg(5, "dense", [("D", JITTER, Q3, 24.8, 7.5), ("E", JITTER, Q3, 24.8, 7.5)]),
    *_vgg(5, "multicrop", [("D", JITTER, Q3, 24.6, 7.5), ("E", JITTER, Q3, 24.6, 7.4)]),
    *_vgg(5, "multicrop+dense", [("D", JITTER, Q3, 24.4, 7.2), ("E", JITTER, Q3, 24.4, 7.1)]),
    _paper(SUBMISSION, "dense", 24.7, 7.5, "VGG Table 6", 7.3),
    _paper(PAIR, "dense", 24.0, 7.1, "VGG Table 6", 7.0),
    _paper(PAIR, "multicrop", 23.9, 7.2, "VGG Table 6"),
    _paper(PAIR, "multicrop+dense", 23.7, 6.8, "VGG Table 6", 6.8),
    _paper(PAIR, "multicrop+dense", 23.7, 6.8, "VGG Table 7", 6.8),
    _paper((PaperNet("E", JITTER, Q3),), "multicrop+dense", 24.4, 7.1, "VGG Table 7", 7.0),  # "1 net": 7.1 is E's
    _paper(SUBMISSION, "dense", 24.7, 7.5, "VGG Table 7", 7.3),
    _googlenet(1, "center", (256,), 10.07),
    _googlenet(1, "ten-crop", (256,), 9.15),
    _googlenet(1, "googlenet-144", Q4, 7.89),
    _googlenet(7, "center", (256,), 8.09),
    _googlenet(7, "ten-crop", (256,), 7.62),
    _googlenet(7, "googlenet-144", Q4, 6.67),
)
"""The papers' own results. Of a result that stands in two tables the first row is the one that is found."""

OTHERS_ROWS = (
    PublishedRow("GoogLeNet (1 net)", None, 7.9, None, "VGG Table 7"),
    PublishedRow("GoogLeNet (7 nets)", None, 6.7, None, "VGG Table 7"),
    PublishedRow("MSRA (11 nets)", None, None, 8.1, "VGG Table 7"),
    PublishedRow("MSRA (1 net)", 27.9, 9.1, 9.1, "VGG Table 7"),
    PublishedRow("Clarifai (multiple nets)", None, None, 11.7, "VGG Table 7"),
    PublishedRow("Clarifai (1 net)", None, None, 12.5, "VGG Table 7"),
    PublishedRow("Zeiler & Fergus (6 nets)", 36.0, 14.7, 14.8, "VGG Table 7"),
    PublishedRow("Zeiler & Fergus (1 net)", 37.5, 16.0, 16.1, "VGG Table 7"),
    PublishedRow("OverFeat (7 nets)", 34.0, 13.2, 13.6, "VGG Table 7"),
    PublishedRow("OverFeat (1 net)", 35.7, 14.2, None, "VGG Table 7"),
    PublishedRow("Krizhevsky et al. (5 nets)", 38.1, 16.4, 16.4, "VGG Table 7"),
    PublishedRow("Krizhevsky et al. (1 net)", 40.7, 18.2, None, "VGG Table 7"),
    PublishedRow("SuperVision 2012", None, None, 16.4, "GoogLeNet Table 2"),
    PublishedRow("Clarifai 2013", None, None, 11.7, "GoogLeNet Table 2"),
    PublishedRow("MSRA 2014", None, None, 7.35, "GoogLeNet Table 2"),
    PublishedRow("VGG 2014", None, None, 7.32, "GoogLeNet Table 2"),
    PublishedRow("GoogLeNet 2014", None, 6.67, 6.67, "GoogLeNet Table 2"),
)
"""Results of others, or by a protocol that is not spelt out."""


class BoxRow(NamedTuple):
    """A result of VGG's appendix A or of others: localisation errors in percent on the validation and the test set.

    kind: one box for all classes (SCR) or one for each class (PCR).
    fine_tuned: "all" layers, or the "first two FC" ones.
    protocol: one of evaluation.localization; "dense" with the top-5 classes of the best classification system.
    """

    label: str
    error_percent: Percent
    test_error_percent: Percent
    source: str
    members: Nets = ()
    kind: str = ""
    fine_tuned: str = ""
    protocol: str = ""


def _boxes(
    table: int, members: Nets, kind: str, fine_tuned: str, protocol: str, error: Percent, test: Percent = None
) -> BoxRow:
    label = f"{' + '.join(map(str, members))}, {kind}, {fine_tuned} fine-tuned, {protocol}"
    return BoxRow(label, error, test, f"VGG Table {table}", members, kind, fine_tuned, protocol)


D256, D384, D384_TWO = PaperNet("D", 256, (256,)), PaperNet("D", 384, (384,)), PaperNet("D", 384, (352, 384))
LOCALIZATION = (
    _boxes(8, (D384,), "SCR", "first two FC", "given-class", 36.4),
    _boxes(8, (D384,), "PCR", "first two FC", "given-class", 34.3),
    _boxes(8, (D384,), "PCR", "all", "given-class", 33.1),
    _boxes(9, (D256,), "PCR", "all", "dense", 29.5),
    _boxes(9, (D384,), "PCR", "all", "dense", 28.2, 26.7),
    _boxes(9, (D384_TWO,), "PCR", "all", "dense", 27.5),
    _boxes(9, (D256, D384_TWO), "PCR", "all", "dense", 26.9, 25.3),
)
"""Results of Tables 8 and 9. Table 8: errors for the given class by the central crop; its scale is not named and taken
to be S."""

LOCALIZATION_LITERATURE = (
    BoxRow("VGG", 26.9, 25.3, "VGG Table 10"),
    BoxRow("GoogLeNet", None, 26.7, "VGG Table 10"),
    BoxRow("OverFeat", 30.0, 29.9, "VGG Table 10"),
    BoxRow("Krizhevsky et al.", None, 34.2, "VGG Table 10"),
)


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
        *difference(percents[0], intervals95[0], row.top1_error_percent),
        *difference(percents[1], intervals95[1], row.top5_error_percent),
    )


def difference(ours: Percent, interval95: Interval, theirs: Percent) -> tuple[Percent, bool | None]:
    """(ours - theirs, theirs is in our interval)."""
    if ours is None or interval95 is None or theirs is None:
        return None, None
    return round(ours - theirs, 3), interval95[0] <= theirs <= interval95[1]
