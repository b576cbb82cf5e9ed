"""VGG's results with features and linear SVMs, as data: Tables 11 and 12 of appendix B (arXiv 1409.1556v6)."""

from __future__ import annotations

from typing import NamedTuple

from .feature_data import Kind


class PaperRow(NamedTuple):
    """One result in percent: mAP, or mean class recall with its standard deviation over splits."""

    method: str
    kind: Kind
    percent: float
    std_percent: float | None
    source: str


def _table_11(
    method: str,
    voc2007: float | None,
    voc2012: float | None,
    caltech101: tuple[float, float] | None,
    caltech256: tuple[float, float] | None,
) -> list[PaperRow]:
    """The cells of a row that are not empty."""
    cells: tuple[tuple[Kind, float | None, float | None], ...] = (
        ("voc2007", voc2007, None),
        ("voc2012", voc2012, None),
        ("caltech-101", *(caltech101 or (None, None))),
        ("caltech-256", *(caltech256 or (None, None))),
    )
    return [PaperRow(method, kind, value, std, "VGG Table 11") for kind, value, std in cells if value is not None]


def _table_12(method: str, percent: float) -> PaperRow:
    return PaperRow(method, "voc-action", percent, None, "VGG Table 12")


ROWS = (
    *_table_11("Zeiler & Fergus", None, 79.0, (86.5, 0.5), (74.2, 0.3)),
    *_table_11("Chatfield et al.", 82.4, 83.2, (88.4, 0.6), (77.6, 0.1)),
    *_table_11("He et al.", 82.4, None, (93.4, 0.5), None),
    *_table_11("Wei et al.", 81.5, 81.7, None, None),
    *_table_11("Wei et al., pre-trained on 2000 classes", 85.2, 90.3, None, None),
    *_table_11("VGG net D", 89.3, 89.0, (91.8, 1.0), (85.0, 0.2)),
    *_table_11("VGG net E", 89.3, 89.0, (92.3, 0.5), (85.1, 0.3)),
    *_table_11("VGG nets D and E", 89.7, 89.3, (92.7, 0.5), (86.2, 0.3)),
    _table_12("Oquab et al., pre-trained on 1512 classes", 70.2),
    _table_12("Gkioxari et al.", 73.6),
    _table_12("Hoai", 76.3),
    _table_12("VGG nets D and E, image only", 79.2),
    _table_12("VGG nets D and E, image and box", 84.0),
)
"""In the order of the tables."""
