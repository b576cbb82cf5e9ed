"""What the papers report on classification, as data: errors in percent on ILSVRC-2012, with the table each comes from.

VGG: arXiv 1409.1556v6, Tables 3 to 7. GoogLeNet: arXiv 1409.4842, Tables 2 and 3 (top-5 only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Train = int | tuple[int, int]
JITTER = (256, 512)
Q3 = (256, 384, 512)


class Member(NamedTuple):
    """A net with the S it was trained at and the scales Q it is tested at."""

    net: str
    train_short_px: Train
    scales: tuple[int, ...]

    def __str__(self) -> str:
        s, q = self.train_short_px, self.scales
        trained = f"[{s[0]};{s[1]}]" if isinstance(s, tuple) else str(s)
        return self.net if self.net == "googlenet" else f"{self.net}/{trained}/{','.join(map(str, q))}"


class PaperRow(NamedTuple):
    """One result: its nets (several when fused), the protocol, and errors in percent, test errors where there are."""

    members: tuple[Member, ...]
    protocol: str
    top1_error_percent: float | None
    top5_error_percent: float
    source: str
    test_top5_error_percent: float | None = None

    @property
    def label(self) -> str:
        """Net/S/Q of each member: what tells rows of one table apart."""
        counted = {str(member): self.members.count(member) for member in self.members}
        nets = " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counted.items())
        return f"{nets}, {self.protocol}"


class Literature(NamedTuple):
    """A result of others, or by a protocol that is not spelt out: to be read, not to be measured against."""

    method: str
    top1_error_percent: float | None
    top5_error_percent: float | None
    test_top5_error_percent: float | None
    source: str


def _vgg(table: int, protocol: str, rows: Sequence[tuple[str, Train, tuple[int, ...], float, float]]) -> list[PaperRow]:
    source = f"VGG Table {table}"
    return [PaperRow((Member(net, s, q),), protocol, top1, top5, source) for net, s, q, top1, top5 in rows]


def _googlenet(models: int, protocol: str, scales: tuple[int, ...], top5: float) -> PaperRow:
    return PaperRow((Member("googlenet", 256, scales),) * models, protocol, None, top5, "GoogLeNet Table 3")


SUBMISSION = (
    Member("D", 256, (224, 256, 288)),
    Member("D", 384, (352, 384, 416)),
    Member("D", JITTER, Q3),
    Member("C", 256, (224, 256, 288)),
    Member("C", 384, (352, 384, 416)),
    Member("E", 256, (224, 256, 288)),
    Member("E", 384, (352, 384, 416)),
)
"""VGG's seven nets of ILSVRC-2014, in the order of Table 6; that jittered D was fine-tuned in its last layers only."""

PAIR = (Member("D", JITTER, Q3), Member("E", JITTER, Q3))

Q4 = (256, 288, 320, 352)

ROWS = (
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
    PaperRow((Member("E", JITTER, Q3),), "dense", 24.8, 7.5, "VGG Table 4", 7.3),  # on the test set: section 4.2
    *_vgg(5, "dense", [("D", JITTER, Q3, 24.8, 7.5), ("E", JITTER, Q3, 24.8, 7.5)]),
    *_vgg(5, "multicrop", [("D", JITTER, Q3, 24.6, 7.5), ("E", JITTER, Q3, 24.6, 7.4)]),
    *_vgg(5, "multicrop+dense", [("D", JITTER, Q3, 24.4, 7.2), ("E", JITTER, Q3, 24.4, 7.1)]),
    PaperRow(SUBMISSION, "dense", 24.7, 7.5, "VGG Table 6", 7.3),
    PaperRow(PAIR, "dense", 24.0, 7.1, "VGG Table 6", 7.0),
    PaperRow(PAIR, "multicrop", 23.9, 7.2, "VGG Table 6"),
    PaperRow(PAIR, "multicrop+dense", 23.7, 6.8, "VGG Table 6", 6.8),
    PaperRow(PAIR, "multicrop+dense", 23.7, 6.8, "VGG Table 7", 6.8),
    PaperRow((Member("E", JITTER, Q3),), "multicrop+dense", 24.4, 7.1, "VGG Table 7", 7.0),  # "1 net": 7.1 is E's
    PaperRow(SUBMISSION, "dense", 24.7, 7.5, "VGG Table 7", 7.3),
    _googlenet(1, "center", (256,), 10.07),
    _googlenet(1, "ten-crop", (256,), 9.15),
    _googlenet(1, "googlenet-144", Q4, 7.89),
    _googlenet(7, "center", (256,), 8.09),
    _googlenet(7, "ten-crop", (256,), 7.62),
    _googlenet(7, "googlenet-144", Q4, 6.67),
)
"""Where a result stands in two tables, the first is the one that is found."""

LITERATURE = (
    Literature("GoogLeNet (1 net)", None, 7.9, None, "VGG Table 7"),
    Literature("GoogLeNet (7 nets)", None, 6.7, None, "VGG Table 7"),
    Literature("MSRA (11 nets)", None, None, 8.1, "VGG Table 7"),
    Literature("MSRA (1 net)", 27.9, 9.1, 9.1, "VGG Table 7"),
    Literature("Clarifai (multiple nets)", None, None, 11.7, "VGG Table 7"),
    Literature("Clarifai (1 net)", None, None, 12.5, "VGG Table 7"),
    Literature("Zeiler & Fergus (6 nets)", 36.0, 14.7, 14.8, "VGG Table 7"),
    Literature("Zeiler & Fergus (1 net)", 37.5, 16.0, 16.1, "VGG Table 7"),
    Literature("OverFeat (7 nets)", 34.0, 13.2, 13.6, "VGG Table 7"),
    Literature("OverFeat (1 net)", 35.7, 14.2, None, "VGG Table 7"),
    Literature("Krizhevsky et al. (5 nets)", 38.1, 16.4, 16.4, "VGG Table 7"),
    Literature("Krizhevsky et al. (1 net)", 40.7, 18.2, None, "VGG Table 7"),
    Literature("SuperVision 2012", None, None, 16.4, "GoogLeNet Table 2"),
    Literature("Clarifai 2013", None, None, 11.7, "GoogLeNet Table 2"),
    Literature("MSRA 2014", None, None, 7.35, "GoogLeNet Table 2"),
    Literature("VGG 2014", None, None, 7.32, "GoogLeNet Table 2"),
    Literature("GoogLeNet 2014", None, 6.67, 6.67, "GoogLeNet Table 2"),
)


class Localization(NamedTuple):
    """A result of VGG's appendix A: box nets, with one box for all classes (SCR) or one for each (PCR), of which "all"
    layers were fine-tuned or the "first two FC" ones; localisation errors in percent on the validation and test set.

    protocol: of evaluation.localization; "dense" with the top-5 classes of the best classification system.
    """

    members: tuple[Member, ...]
    kind: str
    fine_tuned: str
    protocol: str
    error_percent: float
    test_error_percent: float | None
    source: str

    @property
    def label(self) -> str:
        return f"{' + '.join(map(str, self.members))}, {self.kind}, {self.fine_tuned} fine-tuned, {self.protocol}"


class LocalizationLiterature(NamedTuple):
    """A result of others on localisation; errors in percent."""

    method: str
    error_percent: float | None
    test_error_percent: float | None
    source: str


D384 = Member("D", 384, (384,))
LOCALIZATION = (
    Localization((D384,), "SCR", "first two FC", "given-class", 36.4, None, "VGG Table 8"),
    Localization((D384,), "PCR", "first two FC", "given-class", 34.3, None, "VGG Table 8"),
    Localization((D384,), "PCR", "all", "given-class", 33.1, None, "VGG Table 8"),
    Localization((Member("D", 256, (256,)),), "PCR", "all", "dense", 29.5, None, "VGG Table 9"),
    Localization((D384,), "PCR", "all", "dense", 28.2, 26.7, "VGG Table 9"),
    Localization((Member("D", 384, (352, 384)),), "PCR", "all", "dense", 27.5, None, "VGG Table 9"),
    Localization(
        (Member("D", 256, (256,)), Member("D", 384, (352, 384))), "PCR", "all", "dense", 26.9, 25.3, "VGG Table 9"
    ),
)
"""Table 8: errors for the given class by the central crop. Its scale is not named; taken to be S."""

LOCALIZATION_LITERATURE = (
    LocalizationLiterature("VGG", 26.9, 25.3, "VGG Table 10"),
    LocalizationLiterature("GoogLeNet", None, 26.7, "VGG Table 10"),
    LocalizationLiterature("OverFeat", 30.0, 29.9, "VGG Table 10"),
    LocalizationLiterature("Krizhevsky et al.", None, 34.2, "VGG Table 10"),
)
