"""The papers' results as data: errors in percent on ILSVRC-2012, each with the table that it comes from.

VGG: arXiv 1409.1556v6, Tables 3 to 10. GoogLeNet: arXiv 1409.4842, Tables 2 and 3 (top-5 only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Percent = float | None
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
    origin: the weights' origin as their importer writes it into a model (see beside.origin_of); None for the papers'.
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

PAPER_ROWS = (
    *_vgg(
        3,
        "dense",
        [
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
        ],
    ),
    *_vgg(
        4,
        "dense",
        [
            ("B", 256, (224, 256, 288), 28.2, 9.6),
            ("C", 256, (224, 256, 288), 27.7, 9.2),
            ("C", 384, (352, 384, 416), 27.8, 9.2),
            ("C", JITTER, Q3, 26.3, 8.2),
            ("D", 256, (224, 256, 288), 26.6, 8.6),
            ("D", 384, (352, 384, 416), 26.5, 8.6),
            ("D", JITTER, Q3, 24.8, 7.5),
            ("E", 256, (224, 256, 288), 26.9, 8.7),
            ("E", 384, (352, 384, 416), 26.7, 8.6),
        ],
    ),
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


class PaperBoxRow(NamedTuple):
    """A result of VGG's appendix A: localisation errors in percent on the validation and the test set.

    kind: one box for all classes (SCR) or one for each class (PCR).
    fine_tuned: "all" layers, or the "first two FC" ones.
    protocol: one of evaluation.localization; "dense" with the top-5 classes of the best classification system.
    """

    members: Nets
    kind: str
    fine_tuned: str
    protocol: str
    error_percent: float
    test_error_percent: float | None
    source: str

    @property
    def label(self) -> str:
        return f"{' + '.join(map(str, self.members))}, {self.kind}, {self.fine_tuned} fine-tuned, {self.protocol}"


class OthersBoxRow(NamedTuple):
    """A result of others on localisation; errors in percent."""

    method: str
    error_percent: float | None
    test_error_percent: float | None
    source: str


D384 = PaperNet("D", 384, (384,))
LOCALIZATION = (
    PaperBoxRow((D384,), "SCR", "first two FC", "given-class", 36.4, None, "VGG Table 8"),
    PaperBoxRow((D384,), "PCR", "first two FC", "given-class", 34.3, None, "VGG Table 8"),
    PaperBoxRow((D384,), "PCR", "all", "given-class", 33.1, None, "VGG Table 8"),
    PaperBoxRow((PaperNet("D", 256, (256,)),), "PCR", "all", "dense", 29.5, None, "VGG Table 9"),
    PaperBoxRow((D384,), "PCR", "all", "dense", 28.2, 26.7, "VGG Table 9"),
    PaperBoxRow((PaperNet("D", 384, (352, 384)),), "PCR", "all", "dense", 27.5, None, "VGG Table 9"),
    PaperBoxRow(
        (PaperNet("D", 256, (256,)), PaperNet("D", 384, (352, 384))), "PCR", "all", "dense", 26.9, 25.3, "VGG Table 9"
    ),
)
"""Results of Tables 8 and 9. Table 8: errors for the given class by the central crop; its scale is not named and taken
to be S."""

LOCALIZATION_LITERATURE = (
    OthersBoxRow("VGG", 26.9, 25.3, "VGG Table 10"),
    OthersBoxRow("GoogLeNet", None, 26.7, "VGG Table 10"),
    OthersBoxRow("OverFeat", 30.0, 29.9, "VGG Table 10"),
    OthersBoxRow("Krizhevsky et al.", None, 34.2, "VGG Table 10"),
)
