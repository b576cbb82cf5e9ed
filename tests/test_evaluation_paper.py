"""evaluation/paper.py against numbers typed anew from the papers, and when they may stand beside a result."""

from __future__ import annotations

import pytest
from helpers import full_spec, slim_spec

from evaluation.paper import ROWS, find

JITTER = (256, 512)

# net, S, protocol, Q, top-1, top-5, source
TYPED_ANEW = [
    ("A", 256, "dense", (256,), 29.6, 10.4, "VGG Table 3"),
    ("A-LRN", 256, "dense", (256,), 29.7, 10.5, "VGG Table 3"),
    ("B", 256, "dense", (256,), 28.7, 9.9, "VGG Table 3"),
    ("C", JITTER, "dense", (384,), 27.3, 8.8, "VGG Table 3"),
    ("D", JITTER, "dense", (384,), 25.6, 8.1, "VGG Table 3"),
    ("E", 384, "dense", (384,), 26.9, 8.7, "VGG Table 3"),
    ("E", JITTER, "dense", (384,), 25.5, 8.0, "VGG Table 3"),
    ("B", 256, "dense", (224, 256, 288), 28.2, 9.6, "VGG Table 4"),
    ("C", 384, "dense", (352, 384, 416), 27.8, 9.2, "VGG Table 4"),
    ("D", 256, "dense", (224, 256, 288), 26.6, 8.6, "VGG Table 4"),
    ("D", JITTER, "dense", (256, 384, 512), 24.8, 7.5, "VGG Table 4"),
    ("E", 384, "dense", (352, 384, 416), 26.7, 8.6, "VGG Table 4"),
    ("D", JITTER, "multicrop", (256, 384, 512), 24.6, 7.5, "VGG Table 5"),
    ("E", JITTER, "multicrop", (256, 384, 512), 24.6, 7.4, "VGG Table 5"),
    ("D", JITTER, "multicrop+dense", (256, 384, 512), 24.4, 7.2, "VGG Table 5"),
    ("E", JITTER, "multicrop+dense", (256, 384, 512), 24.4, 7.1, "VGG Table 5"),
    ("googlenet", 256, "googlenet-144", (256, 288, 320, 352), None, 7.89, "GoogLeNet Table 3"),
]


@pytest.mark.parametrize(("net", "train", "protocol", "scales", "top1", "top5", "source"), TYPED_ANEW)
def test_single_nets(
    net: str,
    train: int | tuple[int, int],
    protocol: str,
    scales: tuple[int, ...],
    top1: float | None,
    top5: float,
    source: str,
) -> None:
    row = find([full_spec(net, train_short_px=train)], protocol, scales)
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, source)


@pytest.mark.parametrize(
    ("protocol", "top1", "top5"), [("dense", 24.0, 7.1), ("multicrop", 23.9, 7.2), ("multicrop+dense", 23.7, 6.8)]
)
def test_d_and_e_fused(protocol: str, top1: float, top5: float) -> None:
    specs = [full_spec(net, train_short_px=JITTER) for net in "ED"]
    row = find(specs, protocol, (256, 384, 512))
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, "VGG Table 6")
    assert find([specs[0], full_spec("D", train_short_px=384)], protocol, (256, 384, 512)) is None
    assert find([specs[0], specs[0]], protocol, (256, 384, 512)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0.5},
        {"fc_width": 1024},
        {"classes": tuple(f"n{i:08d}" for i in range(10))},
        {"train_short_px": 384},
    ],
)
def test_other_nets_have_no_paper_row(changes: dict[str, object]) -> None:
    assert find([full_spec("D")], "dense", (256,)) is not None
    assert find([full_spec("D", **changes)], "dense", (256,)) is None


def test_slim_nets_other_scales_and_protocols_have_no_paper_row() -> None:
    assert find([slim_spec("D")], "dense", (72, 96, 120)) is None
    assert find([slim_spec("D"), slim_spec("A")], "dense", (72, 96, 120)) is None
    assert find([full_spec("D")], "dense", (255,)) is None
    assert find([full_spec("D")], "center", (256,)) is None
    assert find([full_spec("D", train_short_px=JITTER)], "dense", (384, 256, 512)) is None


def test_no_row_stands_twice() -> None:
    keys = [(row.nets, row.train_short_px, row.protocol, row.scales) for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert len([row for row in ROWS if row.source == "VGG Table 3"]) == 12
    assert len([row for row in ROWS if row.source == "VGG Table 4"]) == 10
    assert all(row.top1_error_percent is None or row.top1_error_percent > row.top5_error_percent for row in ROWS)


def test_nets_trained_in_another_way_have_no_number_of_the_papers() -> None:
    theirs = full_spec("D", source={"importer": "export.from_torchvision"})
    oxford = full_spec("D", source={"importer": "export.from_caffe"})
    assert find([theirs], "dense", (256,)) is None
    assert find([oxford], "dense", (256,)) is not None
