"""evaluation/localization/report.py: the paper's tables, and which of our rows may stand beside them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import full_spec, slim_spec

from evaluation.localization.find_boxes import ScaledNet
from evaluation.localization.report import Counts, beside, format_paper, format_table, results_of
from evaluation.published.papers import LOCALIZATION, LOCALIZATION_LITERATURE
from evaluation.scores.metrics import error_rate

PAPER = """
8   D/384/384                  SCR  first two FC  given-class  36.4  -
8   D/384/384                  PCR  first two FC  given-class  34.3  -
8   D/384/384                  PCR  all           given-class  33.1  -
9   D/256/256                  PCR  all           dense        29.5  -
9   D/384/384                  PCR  all           dense        28.2  26.7
9   D/384/352,384              PCR  all           dense        27.5  -
9   D/256/256 + D/384/352,384  PCR  all           dense        26.9  25.3
"""


def test_the_papers_tables() -> None:
    """Typed anew from the paper; Table 10 has the best of Table 9 first."""
    typed = [re.split(r"  +", line) for line in PAPER.strip().splitlines()]
    rows = [
        [
            row.source.removeprefix("VGG Table "),
            " + ".join(map(str, row.members)),
            row.kind,
            row.fine_tuned,
            row.protocol,
            str(row.error_percent),
            str(row.test_error_percent or "-"),
        ]
        for row in LOCALIZATION
    ]
    assert rows == typed
    assert [(row.label, row.error_percent, row.test_error_percent) for row in LOCALIZATION_LITERATURE] == [
        ("VGG", 26.9, 25.3),
        ("GoogLeNet", None, 26.7),
        ("OverFeat", 30.0, 29.9),
        ("Krizhevsky et al.", None, 34.2),
    ]


def test_the_paper_stands_beside_what_it_measured() -> None:
    """Table 9 is of top-5 guesses, Table 8 of the given class at the central crop; neither of a part of the images."""
    described: dict[str, Any] = {
        "classifier": None,
        "runtime": "onnxruntime-fp32",
        "merging": None,
        "classes_of": "fused",
        "engine_seconds": 1.0,
        "wall_seconds": 2.0,
    }
    counts, nets = Counts(100, 40, 30, 10), [ScaledNet(full_spec("D", train_short_px=384), "PCR", (384,))]
    given, top5 = results_of(counts, nets, "dense", is_ilsvrc2012_val=True, **described)
    assert (given.paper, [row["source"] for row in top5.paper]) == ([], ["VGG Table 9"])
    assert (given.localization_error_percent, top5.localization_error_percent) == (40, 30)
    assert (given.classification_error_percent, top5.classification_error_percent) == (None, 10)
    assert (given.classes_of, top5.classes_of) == (None, "fused") and "top-5 of fused" in format_table([given, top5])
    (crop,) = results_of(counts, nets, "given-class", is_ilsvrc2012_val=True, **described)
    assert [row["source"] for row in crop.paper] == ["VGG Table 8"] * 2
    (line,) = [
        line for line in format_paper([crop, top5]).splitlines() if "D/384/384, PCR, all fine-tuned, dense" in line
    ]
    assert [cell.strip() for cell in line.split("|")[3:6]] == ["28.2", "26.7", "30.00 [21.9, 39.6]"]
    for part in results_of(counts, nets, "dense", is_ilsvrc2012_val=False, **described):
        assert part.paper == []


def test_what_may_stand_beside_the_paper() -> None:
    rate = error_rate(13_600, 48_238)  # 28.19 %

    def net(s: int, *scales: int, kind: str = "PCR", **changes: Any) -> ScaledNet:
        return ScaledNet(full_spec("D", train_short_px=s, **changes), kind, scales)

    (row,) = beside([net(384, 384)], "dense", rate)
    assert row["source"] == "VGG Table 9" and row["error_percent"] == 28.2 and row["inside_interval95"]
    assert row["difference_percent"] == pytest.approx(-0.006, abs=1e-3)
    both = [net(384, 352, 384), net(256, 256)]
    assert [row["error_percent"] for row in beside(both, "dense", rate)] == [26.9]
    assert [row["error_percent"] for row in beside([net(384, 384)], "given-class", rate)] == [34.3, 33.1]
    trained = net(384, 384, source={"fine_tuned": "all"})
    assert [row["error_percent"] for row in beside([trained], "given-class", rate)] == [33.1]
    assert beside([net(384, 384, kind="SCR")], "dense", rate) == []
    assert beside([net(384, 384, 416)], "dense", rate) == []
    assert beside([ScaledNet(slim_spec("D"), "PCR", (384,))], "dense", rate) == []
