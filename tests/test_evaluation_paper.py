"""evaluation/paper.py against numbers typed anew from the papers, and when they may stand beside a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import full_spec, slim_spec

from evaluation.paper import find, main
from evaluation.paper_tables import LITERATURE, ROWS

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
    row = find([full_spec(net, train_short_px=train)], protocol, [scales])
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, source)


@pytest.mark.parametrize(
    ("protocol", "top1", "top5"), [("dense", 24.0, 7.1), ("multicrop", 23.9, 7.2), ("multicrop+dense", 23.7, 6.8)]
)
def test_d_and_e_fused(protocol: str, top1: float, top5: float) -> None:
    specs = [full_spec(net, train_short_px=JITTER) for net in "ED"]
    row = find(specs, protocol, [(256, 384, 512)] * 2)
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, "VGG Table 6")
    assert find([specs[0], full_spec("D", train_short_px=384)], protocol, [(256, 384, 512)] * 2) is None
    assert find([specs[0], specs[0]], protocol, [(256, 384, 512)] * 2) is None


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
    assert find([full_spec("D")], "dense", [(256,)]) is not None
    assert find([full_spec("D", **changes)], "dense", [(256,)]) is None


def test_slim_nets_other_scales_and_protocols_have_no_paper_row() -> None:
    assert find([slim_spec("D")], "dense", [(72, 96, 120)]) is None
    assert find([slim_spec("D"), slim_spec("A")], "dense", [(72, 96, 120)] * 2) is None
    assert find([full_spec("D")], "dense", [(255,)]) is None
    assert find([full_spec("D")], "center", [(256,)]) is None
    assert find([full_spec("D", train_short_px=JITTER)], "dense", [(384, 256, 512)]) is None


def test_no_row_stands_twice() -> None:
    keys = [(row.source, row.label) for row in ROWS]
    assert len(set(keys)) == len(keys)
    assert len([row for row in ROWS if row.source == "VGG Table 3"]) == 12
    assert len([row for row in ROWS if row.source == "VGG Table 4"]) == 10
    assert all(row.top1_error_percent is None or row.top1_error_percent > row.top5_error_percent for row in ROWS)


SEVEN = [("D", 256), ("D", 384), ("D", JITTER), ("C", 256), ("C", 384), ("E", 256), ("E", 384)]
Q_OF = {256: (224, 256, 288), 384: (352, 384, 416), JITTER: (256, 384, 512)}


def test_the_submission_of_seven_nets_in_any_order() -> None:
    specs = [full_spec(net, train_short_px=s) for net, s in SEVEN]
    scales = [Q_OF[s] for _, s in SEVEN]
    row = find(specs[::-1], "dense", scales[::-1])
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.test_top5_error_percent) == (24.7, 7.5, 7.3)
    assert find(specs[:6], "dense", scales[:6]) is None
    assert find(specs, "dense", scales[::-1]) is None  # each at the scales of another
    assert find(specs, "multicrop", scales) is None


def test_googlenets_seven() -> None:
    specs = [full_spec("googlenet")] * 7
    for protocol, scales, top5 in (
        ("center", (256,), 8.09),
        ("ten-crop", (256,), 7.62),
        ("googlenet-144", (256, 288, 320, 352), 6.67),
    ):
        row = find(specs, protocol, [scales] * 7)
        assert row is not None and row.top5_error_percent == top5
        assert row.label == f"7 x googlenet, {protocol}"
        assert find(specs[:6], protocol, [scales] * 6) is None


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for heading in ("VGG Table 3", "VGG Table 4", "VGG Table 5", "VGG Table 6", "VGG Table 7", "GoogLeNet Table 3"):
        assert f"| {heading}" in said
    assert "| Krizhevsky et al. (1 net)" in said
    assert main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(ROWS) + len(LITERATURE)
    assert main(["--released"]) == 0
    said = capsys.readouterr().out
    assert "torchvision googlenet (googlenet-tv), center at 256" in said
    assert "30.222" in said  # 100 - 69.778


def test_our_results_stand_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str], one_line: Any) -> None:
    row = next(row for row in ROWS if row.label == "E/[256;512]/256,384,512, dense")
    ours = {
        "model": "e",
        "net": "E",
        "runtime": "torch-fp32",
        "protocol": "dense",
        "scales": [256, 384, 512],
        "pooling": "scores",
        "images": 50_000,
        "top1_error_percent": 25.0,
        "top5_error_percent": 7.625,
        "paper": {"source": row.source, "label": row.label},
    }
    center = {**ours, "net": "E", "protocol": "center", "scales": [256], "paper": None}
    (tmp_path / "report.json").write_text(json.dumps({"results": [ours, center]}))
    assert main([str(tmp_path), "--json"]) == 0
    beside = [found for found in json.loads(capsys.readouterr().out) if found["ours"]]
    assert [(found["label"], found["ours"]["top5_error_percent"]) for found in beside] == [(row.label, 7.625)]
    assert main([str(tmp_path)]) == 0
    assert "25.00 / 7.62 (e, torch-fp32, scores, 50000 images)" in capsys.readouterr().out
    assert main([str(tmp_path), "--released", "--json"]) == 0
    beside = [found for found in json.loads(capsys.readouterr().out) if found["ours"]]
    assert {found["source"] for found in beside} >= {"TF-slim", "Keras applications, repository README"}
    assert main([str(tmp_path / "none")]) == 1
    assert "expected the OUT folder of an evaluation, with its report.json" in one_line()


def test_nets_trained_in_another_way_have_no_number_of_the_papers() -> None:
    theirs = full_spec("D", source={"importer": "export.from_torchvision"})
    oxford = full_spec("D", source={"importer": "export.from_caffe"})
    assert find([theirs], "dense", [(256,)]) is None
    assert find([oxford], "dense", [(256,)]) is not None
