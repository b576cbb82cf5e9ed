"""evaluation/paper.py against numbers typed anew from the papers, and what may stand beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import full_spec, slim_spec

from evaluation.paper import lines_beside, main
from evaluation.published.papers import OTHERS_ROWS, PAPER_ROWS, EvaluatedNet, find_paper_row
from evaluation.published.released import RELEASED_ROWS
from export.torchvision.nets import THEIRS
from infer.spec import ModelSpec
from infer.views import PROTOCOLS

Train = int | tuple[int, int]
JITTER = (256, 512)
Q4 = (256, 288, 320, 352)
Q_OF: dict[Train, tuple[int, ...]] = {256: (224, 256, 288), 384: (352, 384, 416), JITTER: (256, 384, 512)}

TABLE_3 = """
A      256        256  29.6  10.4
A-LRN  256        256  29.7  10.5
B      256        256  28.7   9.9
C      256        256  28.1   9.4
C      384        384  28.1   9.3
C      [256;512]  384  27.3   8.8
D      256        256  27.0   8.8
D      384        384  26.8   8.7
D      [256;512]  384  25.6   8.1
E      256        256  27.3   9.0
E      384        384  26.9   8.7
E      [256;512]  384  25.5   8.0
"""
TABLE_4 = """
B      256        224,256,288  28.2  9.6
C      256        224,256,288  27.7  9.2
C      384        352,384,416  27.8  9.2
C      [256;512]  256,384,512  26.3  8.2
D      256        224,256,288  26.6  8.6
D      384        352,384,416  26.5  8.6
D      [256;512]  256,384,512  24.8  7.5
E      256        224,256,288  26.9  8.7
E      384        352,384,416  26.7  8.6
E      [256;512]  256,384,512  24.8  7.5
"""
TABLE_5 = [  # S in [256;512], Q of 256, 384, 512
    ("D", "dense", 24.8, 7.5),
    ("D", "multicrop", 24.6, 7.5),
    ("D", "multicrop+dense", 24.4, 7.2),
    ("E", "dense", 24.8, 7.5),
    ("E", "multicrop", 24.6, 7.4),
    ("E", "multicrop+dense", 24.4, 7.1),
]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def parsed(table: str) -> list[tuple[ModelSpec, tuple[int, ...], float, float]]:
    rows = []
    for line in table.strip().splitlines():
        net, s, q, top1, top5 = line.split()
        train: Train = JITTER if s.startswith("[") else int(s)
        rows.append((full_spec(net, train_short_px=train), tuple(numbers(q)), float(top1), float(top5)))
    return rows


@pytest.mark.parametrize(("number", "table"), [(3, TABLE_3), (4, TABLE_4)])
def test_tables_3_and_4(number: int, table: str) -> None:
    for spec, scales, top1, top5 in parsed(table):
        row = find_paper_row([EvaluatedNet(spec, "dense", scales)])
        assert row is not None
        assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, f"VGG Table {number}")
    assert sum(row.source == f"VGG Table {number}" for row in PAPER_ROWS) == len(parsed(table))


def test_table_5() -> None:
    for net, protocol, top1, top5 in TABLE_5:
        row = find_paper_row([EvaluatedNet(full_spec(net, train_short_px=JITTER), protocol, (256, 384, 512))])
        assert row is not None
        assert (row.top1_error_percent, row.top5_error_percent) == (top1, top5)
        assert row.source == ("VGG Table 4" if protocol == "dense" else "VGG Table 5")  # the first that has it
    assert sum(row.source == "VGG Table 5" for row in PAPER_ROWS) == len(TABLE_5)


@pytest.mark.parametrize(
    ("protocol", "top1", "top5", "test_top5"),
    [("dense", 24.0, 7.1, 7.0), ("multicrop", 23.9, 7.2, None), ("multicrop+dense", 23.7, 6.8, 6.8)],
)
def test_d_and_e_fused(protocol: str, top1: float, top5: float, test_top5: float | None) -> None:
    d, e = (EvaluatedNet(full_spec(net, train_short_px=JITTER), protocol, (256, 384, 512)) for net in "DE")
    row = find_paper_row([e, d])
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.source) == (top1, top5, "VGG Table 6")
    assert row.test_top5_error_percent == test_top5
    assert find_paper_row([e, d._replace(spec=full_spec("D", train_short_px=384))]) is None
    assert find_paper_row([e, e]) is None


def test_members_by_different_protocols_are_no_row() -> None:
    d, e = (EvaluatedNet(full_spec(net, train_short_px=JITTER), "dense", (256, 384, 512)) for net in "DE")
    assert find_paper_row([d, e]) is not None
    assert find_paper_row([d._replace(protocol="multicrop"), e]) is None
    assert find_paper_row([d, e._replace(protocol="multicrop+dense")]) is None


SEVEN: list[tuple[str, Train]] = [
    *[("D", 256), ("D", 384), ("D", JITTER), ("C", 256), ("C", 384), ("E", 256), ("E", 384)]
]


def test_the_submission_of_seven_nets_in_any_order() -> None:
    entries = [EvaluatedNet(full_spec(net, train_short_px=s), "dense", Q_OF[s]) for net, s in SEVEN]
    row = find_paper_row(entries[::-1])
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent, row.test_top5_error_percent) == (24.7, 7.5, 7.3)
    assert find_paper_row(entries[:6]) is None
    of_another = [one._replace(scales=other.scales) for one, other in zip(entries, entries[::-1], strict=True)]
    assert find_paper_row(of_another) is None
    assert find_paper_row([one._replace(protocol="multicrop") for one in entries]) is None


def test_googlenets_table_3() -> None:
    for protocol, scales, one, seven in (
        ("center", (256,), 10.07, 8.09),
        ("ten-crop", (256,), 9.15, 7.62),
        ("googlenet-144", Q4, 7.89, 6.67),
    ):
        entries = [EvaluatedNet(full_spec("googlenet"), protocol, scales)] * 7
        found = [find_paper_row(entries[:count]) for count in (1, 7)]
        assert [row and (row.top1_error_percent, row.top5_error_percent) for row in found] == [
            (None, one),
            (None, seven),
        ]
        assert found[1] is not None and found[1].label == f"7 x googlenet, {protocol}"
        assert find_paper_row(entries[:6]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0.5},
        {"fc_width": 1024},
        {"classes": tuple(f"n{i:08d}" for i in range(10))},
        {"train_short_px": 384},
        {"source": {"importer": "export.from_torchvision"}},  # trained in another way
    ],
)
def test_other_nets_have_no_paper_row(changes: dict[str, object]) -> None:
    assert find_paper_row([EvaluatedNet(full_spec("D"), "dense", (256,))]) is not None
    imported = full_spec("D", source={"importer": "export.from_caffe"})
    assert find_paper_row([EvaluatedNet(imported, "dense", (256,))]) is not None
    assert find_paper_row([EvaluatedNet(full_spec("D", **changes), "dense", (256,))]) is None


def test_slim_nets_other_scales_and_protocols_have_no_paper_row() -> None:
    assert find_paper_row([EvaluatedNet(slim_spec("D"), "dense", (72, 96, 120))]) is None
    assert find_paper_row([EvaluatedNet(slim_spec(net), "dense", (72, 96, 120)) for net in "DA"]) is None
    assert find_paper_row([EvaluatedNet(full_spec("D"), "dense", (255,))]) is None
    assert find_paper_row([EvaluatedNet(full_spec("D"), "center", (256,))]) is None
    assert find_paper_row([EvaluatedNet(full_spec("D", train_short_px=JITTER), "dense", (384, 256, 512))]) is None
    assert find_paper_row([EvaluatedNet(full_spec("googlenet-tv"), "center", (256,))]) is None


def test_rows_are_plausible_and_stand_once_in_a_table() -> None:
    keys = [(row.source, row.label) for row in PAPER_ROWS]
    assert len(set(keys)) == len(keys)
    errors = [(row.top1_error_percent, row.top5_error_percent) for row in PAPER_ROWS]
    same = {row.label: own for row, own in zip(PAPER_ROWS, errors, strict=True)}
    # a result in two tables has one value
    assert all(own == same[row.label] for row, own in zip(PAPER_ROWS, errors, strict=True))
    assert all(row.protocol in PROTOCOLS for row in PAPER_ROWS)
    for row in (*PAPER_ROWS, *RELEASED_ROWS, *OTHERS_ROWS):
        top1, top5 = row.top1_error_percent, row.top5_error_percent
        assert top1 is None or top5 is None or top5 + 15 < top1 < top5 + 25


def test_table_7_has_the_fifteen_methods() -> None:
    methods = [row for row in (*PAPER_ROWS, *OTHERS_ROWS) if row.source == "VGG Table 7"]
    assert len(methods) == 15
    ours = [(row.top1_error_percent, row.top5_error_percent, row.test_top5_error_percent) for row in methods[:3]]
    assert ours == [(23.7, 6.8, 6.8), (24.4, 7.1, 7.0), (24.7, 7.5, 7.3)]


def test_the_ledger_against_accuracies_typed_anew() -> None:
    said = {}
    for row in RELEASED_ROWS:
        said[row.label.split(" (")[0], row.source] = (row.top1_error_percent, row.top5_error_percent)
    for weights, source, top1, top5 in (
        ("torchvision vgg11", "torchvision, models", 69.020, 88.628),
        ("torchvision vgg16", "torchvision, models", 71.592, 90.382),
        ("torchvision vgg16_bn", "torchvision, models", 73.360, 91.516),
        ("torchvision googlenet", "torchvision, models", 69.778, 89.530),
        ("torchvision vgg19", "timm, results-imagenet.csv", 72.400, 90.878),
        ("torchvision vgg13_bn", "timm, results-imagenet.csv", 71.560, 90.372),
        ("BVLC GoogLeNet", "BVLC, bvlc_googlenet", 68.7, 88.9),
        ("slim Inception V1", "TF-slim, README", 69.8, 89.6),
    ):
        assert said[weights, source] == pytest.approx((100 - top1, 100 - top5), abs=1e-9)
    origins = {row.origin for row in RELEASED_ROWS if row.label.startswith("torchvision")}
    assert origins == {*THEIRS.values(), *(f"{name}_bn" for name in THEIRS.values() if name != "googlenet")}


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    headings = [f"VGG Table {number}" for number in range(3, 8)] + ["GoogLeNet Table 3", "GoogLeNet Table 2"]
    assert re.findall(r"^\| (\S+ Table \d)", said, re.MULTILINE) == headings
    assert "| Krizhevsky et al. (1 net)" in said
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(PAPER_ROWS) + len(OTHERS_ROWS)
    assert rows[0] == {
        "source": "VGG Table 3",
        "label": "A/256/256, dense",
        "top1_error_percent": 29.6,
        "top5_error_percent": 10.4,
        "test_top5_error_percent": None,
        "ours": [],
    }
    assert main(["--released"]) == 0
    said = capsys.readouterr().out
    assert "| torchvision googlenet (googlenet-tv), center at 256, bilinear, antialiased | 30.222" in said
    assert main(["--released", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(RELEASED_ROWS)


OURS = {
    "model": "e",
    "net": "E",
    "origin": None,
    "runtime": "torch-fp32",
    "protocol": "dense",
    "scales": [256, 384, 512],
    "pooling": "scores",
    "images": 50_000,
    "top1_error_percent": 25.0,
    "top5_error_percent": 7.625,
    "top1_interval95_percent": [24.6, 25.4],
    "top5_interval95_percent": [7.4, 7.9],
    "paper": {
        "top1_error_percent": 24.8,
        "top5_error_percent": 7.5,
        "source": "VGG Table 4",
        "label": "E/[256;512]/256,384,512, dense",
        "top1_difference_percent": 0.2,
        "top1_inside_interval95": True,
        "top5_difference_percent": 0.125,
        "top5_inside_interval95": True,
    },
    "engine_seconds": 1.0,
    "wall_seconds": 2.0,
}


def report_of(*results: Any, is_ilsvrc2012_val: bool = True) -> dict[str, Any]:
    images = {"images": 50_000, "unreadable": 0, "unreadable_images": {}}
    return {
        "dataset": {"id": "0" * 16, "is_ilsvrc2012_val": is_ilsvrc2012_val, **images},
        "results": results,
        "remarks": [],
        "environment": {"command": "python -m x", "commit": "abc", "python": "3", "machine": "m", "packages": {}},
    }


def write_report(out: Path, *results: dict[str, Any], is_ilsvrc2012_val: bool = True) -> str:
    out.mkdir(exist_ok=True)
    (out / "report.json").write_text(json.dumps(report_of(*results, is_ilsvrc2012_val=is_ilsvrc2012_val)))
    return str(out)


def test_our_results_stand_beside_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_report(tmp_path / "one", OURS, {**OURS, "pooling": "posteriors", "top5_error_percent": 7.5})
    other = write_report(tmp_path / "other", {**OURS, "runtime": "onnxruntime-fp32"})
    assert main([one, other, "--json"]) == 0
    beside = {row["source"]: row["ours"] for row in json.loads(capsys.readouterr().out) if row["ours"]}
    assert beside.keys() == {"VGG Table 4", "VGG Table 5"}  # which both have it
    assert beside["VGG Table 4"] == beside["VGG Table 5"]
    assert [(one["runtime"], one["pooling"]) for one in beside["VGG Table 4"]] == [
        ("torch-fp32", "scores"),
        ("torch-fp32", "posteriors"),
        ("onnxruntime-fp32", "scores"),
    ]
    assert beside["VGG Table 4"][0] == {
        "model": "e",
        "runtime": "torch-fp32",
        "pooling": "scores",
        "top1_error_percent": 25.0,
        "top5_error_percent": 7.625,
        "top1_difference_percent": 0.2,
        "top1_inside_interval95": True,
        "top5_difference_percent": 0.125,
        "top5_inside_interval95": True,
    }
    assert main([other]) == 0
    assert "| e 25.00 / 7.62: +0.20 / +0.12, inside / inside (onnxruntime-fp32, scores) |" in capsys.readouterr().out


def test_our_results_stand_beside_released_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    center = {**OURS, "net": "D", "protocol": "center", "scales": [256], "paper": None}

    def weights_beside(**changes: Any) -> set[str]:
        assert main([write_report(tmp_path, {**center, **changes}), "--released", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        return {row["label"].split(" (")[0] for row in rows if row["ours"]}

    theirs = {"torchvision vgg16", "torchvision vgg16_bn"}
    assert weights_beside() == {"Oxford VGG-16", *theirs}  # trained here
    assert weights_beside(origin="export.from_caffe") == {"Oxford VGG-16"}
    assert weights_beside(origin="vgg16_bn") == {"torchvision vgg16_bn"}
    assert weights_beside(net="googlenet", origin="export.from_caffe") == {"BVLC GoogLeNet", "Princeton GoogLeNet"}
    for changes in ({"net": None}, {"origin": "export.from_onnx"}, {"protocol": "ten-crop", "net": "A"}):
        assert weights_beside(**changes) == set()
    assert weights_beside(scales=[224], origin="export.from_caffe") == {"Oxford VGG-16"}  # what a mistake costs


def test_results_that_stand_beside_nothing_are_said(tmp_path: Path, one_line: Callable[[], str]) -> None:
    out = write_report(tmp_path, OURS, is_ilsvrc2012_val=False)
    for more in ([], ["--released"]):
        assert main([out, *more]) == 0
        assert one_line() == f"{out}: no result for any of these rows: all are of whole nets on ILSVRC-2012"


def test_no_row_without_ours_has_any() -> None:
    assert not any(line.ours for line in lines_beside(RELEASED_ROWS, []))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory, expected the OUT folder of an evaluation.ilsvrc run"),
        ("", "not a report of evaluation.ilsvrc (DecodeError: Input data was truncated)"),
        ("[]", "not a report of evaluation.ilsvrc (ValidationError: Expected `object`, got `array`"),
        ("{}", "not a report of evaluation.ilsvrc (ValidationError: Object missing required field `dataset`)"),
        (json.dumps(report_of({})), "missing required field `model` - at `$.results[0]`"),
        (json.dumps(report_of(OURS, 3)), "Expected `object`, got `int` - at `$.results[1]`"),
        (json.dumps({**report_of(OURS), "dataset": {}}), "missing required field `id` - at `$.dataset`"),
        (json.dumps(report_of({**OURS, "paper": 3})), "got `int` - at `$.results[0].paper`"),
        (json.dumps(report_of({**OURS, "top5_interval95_percent": [1]})), "`$.results[0].top5_interval95_percent`"),
        (json.dumps(report_of({**OURS, "scales": "all"})), "got `str` - at `$.results[0].scales`"),
        ("[" * 100_000, "not a report of evaluation.ilsvrc (ValidationError: Expected `object`, got `array`)"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--released"]])
def test_folders_without_a_report(
    content: str | None, said: str, more: list[str], tmp_path: Path, one_line: Callable[[], str]
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main([str(tmp_path), *more]) == 1
    line = one_line()
    assert line.startswith(f"{tmp_path / 'report.json'}: ")
    assert said in line
