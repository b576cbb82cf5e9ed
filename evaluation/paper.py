"""What the papers report, as data: validation errors in percent on ILSVRC-2012 with the table each comes from.

VGG: arXiv 1409.1556v6, Tables 3 to 6. GoogLeNet: arXiv 1409.4842, Table 3 (top-5 only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infer.spec import ModelSpec

Train = int | tuple[int, int]
JITTER = (256, 512)
Q3 = (256, 384, 512)


class PaperRow(NamedTuple):
    """One result: nets (several when fused), S of each, protocol, Q set, errors in percent."""

    nets: tuple[str, ...]
    train_short_px: Train
    protocol: str
    scales: tuple[int, ...]
    top1_error_percent: float | None
    top5_error_percent: float
    source: str


def _vgg(table: int, protocol: str, rows: Sequence[tuple[str, Train, tuple[int, ...], float, float]]) -> list[PaperRow]:
    source = f"VGG Table {table}"
    return [PaperRow(tuple(nets.split("+")), s, protocol, q, top1, top5, source) for nets, s, q, top1, top5 in rows]


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
            ("E", JITTER, Q3, 24.8, 7.5),
        ],
    ),
    *_vgg(5, "multicrop", [("D", JITTER, Q3, 24.6, 7.5), ("E", JITTER, Q3, 24.6, 7.4)]),
    *_vgg(5, "multicrop+dense", [("D", JITTER, Q3, 24.4, 7.2), ("E", JITTER, Q3, 24.4, 7.1)]),
    *_vgg(6, "dense", [("D+E", JITTER, Q3, 24.0, 7.1)]),
    *_vgg(6, "multicrop", [("D+E", JITTER, Q3, 23.9, 7.2)]),
    *_vgg(6, "multicrop+dense", [("D+E", JITTER, Q3, 23.7, 6.8)]),
    PaperRow(("googlenet",), 256, "center", (256,), None, 10.07, "GoogLeNet Table 3"),
    PaperRow(("googlenet",), 256, "ten-crop", (256,), None, 9.15, "GoogLeNet Table 3"),
    PaperRow(("googlenet",), 256, "googlenet-144", (256, 288, 320, 352), None, 7.89, "GoogLeNet Table 3"),
)


def is_papers_own(spec: ModelSpec) -> bool:
    """Whether a net has the paper's widths, crop and number of classes, and was not trained in another way.

    torchvision and timm trained VGG on random crops of varying area, so no S of the paper is theirs.
    """
    fc_width = 1024 if spec.net == "googlenet" else 4096
    size = (spec.width, spec.fc_width, spec.crop_px, len(spec.classes))
    theirs = spec.source.get("importer") == "export.from_torchvision"
    return any(spec.net in row.nets for row in ROWS) and size == (1.0, fc_width, 224, 1000) and not theirs


def find(specs: Sequence[ModelSpec], protocol: str, scales: Sequence[int]) -> PaperRow | None:
    """The paper's result for these nets (one, or several fused) under a protocol, or None."""
    if not all(is_papers_own(spec) for spec in specs):
        return None
    nets = tuple(sorted(spec.net for spec in specs))
    for row in ROWS:
        wanted = (row.nets, row.protocol, row.scales)
        same_training = all(spec.net == "googlenet" or spec.train_short_px == row.train_short_px for spec in specs)
        if (nets, protocol, tuple(scales)) == wanted and same_training:
            return row
    return None
