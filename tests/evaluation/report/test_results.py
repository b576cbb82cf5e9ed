"""evaluation/report/results.py: when the paper stands beside a result, what is written of results without labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import full_spec, make_scores, summary_of

from evaluation.published.papers import SUBMISSION, Beside, EvaluatedNet
from evaluation.report.page import HTML, write_html
from evaluation.report.results import EvaluatedImages, Result, summarise, write_fusion
from evaluation.report.write import format_table, write_report
from evaluation.scores import table as tables
from evaluation.scores.table import UNKNOWN_LABEL, Scores, fuse

JITTER = (256, 512)
SCALES = {"protocol": "dense", "scales": "256,384,512"}


def scores_of(net: str, **metadata: str) -> Scores:
    spec = full_spec(net, train_short_px=JITTER, name=net.lower())
    scores = make_scores([[0.9, 0.1], [0.8, 0.2]], [0, 1], **{**SCALES, **metadata})
    return dataclasses.replace(scores, metadata={**scores.metadata, "spec": spec.to_json()})


def entry(net: str, protocol: str = "dense", scales: tuple[int, ...] = (256, 384, 512), **changes: Any) -> EvaluatedNet:
    return EvaluatedNet(full_spec(net, **{"train_short_px": JITTER, **changes}), protocol, scales)


def result_of(scores: Scores, nets: Sequence[EvaluatedNet], *, is_ilsvrc2012_val: bool) -> Result:
    return summary_of([scores]).result(nets, is_ilsvrc2012_val=is_ilsvrc2012_val)


def test_the_paper_stands_beside_its_own_nets_on_ilsvrc_only() -> None:
    d = entry("D")
    beside = result_of(scores_of("D"), [d], is_ilsvrc2012_val=True).paper
    assert beside == Beside(
        top1_error_percent=24.8,
        top5_error_percent=7.5,
        source="VGG Table 4",
        label="D/[256;512]/256,384,512, dense",
        top1_difference_percent=25.2,  # of two images, one is wrong
        top5_difference_percent=-7.5,
        top1_inside_interval95=True,
        top5_inside_interval95=True,
    )
    assert result_of(scores_of("D"), [d], is_ilsvrc2012_val=False).paper is None
    slim = entry("D", width=0.5)
    assert result_of(scores_of("D"), [slim], is_ilsvrc2012_val=True).paper is None


def test_a_fusion_has_the_papers_row_of_both_nets() -> None:
    fused = fuse([scores_of("D"), scores_of("E")])
    beside = result_of(fused, [entry("D"), entry("E")], is_ilsvrc2012_val=True).paper
    assert beside is not None
    assert (beside.top1_error_percent, beside.top5_error_percent, beside.source) == (24.0, 7.1, "VGG Table 6")


def test_a_fusion_over_different_scales_is_reported_without_the_paper() -> None:
    fused = fuse([scores_of("D"), scores_of("C", scales="224,256,288")])
    result = result_of(fused, [entry("D"), entry("C", scales=(224, 256, 288))], is_ilsvrc2012_val=True)
    assert result.paper is None
    assert result.top1_error_percent == 50


def test_multicrop_of_one_net_and_dense_of_another_is_no_row_of_the_paper() -> None:
    """Their common name is that of a protocol, multicrop+dense."""
    fused = fuse([scores_of("D", protocol="multicrop"), scores_of("E")])
    result = result_of(fused, [entry("D", "multicrop"), entry("E")], is_ilsvrc2012_val=True)
    assert result.protocol == "multicrop+dense"
    assert result.paper is None


@pytest.mark.parametrize(
    ("changes", "net", "origin"),
    [
        ({}, "D", None),
        ({"width": 0.5}, None, None),
        ({"source": {"importer": "export.from_torchvision", "origin": "vgg16_bn"}}, "D", "vgg16_bn"),
        ({"source": {"importer": "export.from_caffe", "caffemodel_sha256": "0"}}, "D", "export.from_caffe"),
    ],
)
def test_which_weights_a_result_is_of(changes: dict[str, Any], net: str | None, origin: str | None) -> None:
    result = result_of(scores_of("D"), [entry("D", **changes)], is_ilsvrc2012_val=False)
    assert (result.net, result.origin) == (net, origin)


def test_the_table_says_error_and_interval() -> None:
    result = result_of(scores_of("D"), [entry("D")], is_ilsvrc2012_val=True)
    row = format_table([result]).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "d",
        "torch-fp32",
        "dense",
        "256,384,512",
        "scores",
        "2",
        "50.00 [9.5, 90.5]",
        "0.00 [0.0, 65.8]",
        "24.8 / 7.5 (VGG Table 4): +25.20 / -7.50, inside / inside",
    ]


@pytest.mark.parametrize("status", ["ok", "is empty (0 bytes)"])
def test_a_report_of_unlabelled_images(tmp_path: Path, status: str) -> None:
    scores = make_scores([[0.9, 0.1]], [UNKNOWN_LABEL], (status,))
    result = result_of(scores, [], is_ilsvrc2012_val=False)
    unreadable = summary_of([scores]).unreadable
    dataset = EvaluatedImages("0" * 16, False, result.images, len(unreadable), unreadable)
    reported = write_report(tmp_path, dataset, [result], [], command="python -m x", commit="abc")
    write_html([reported], tmp_path / HTML)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["results"][0]["top1_error_percent"] is None
    assert content["results"][0]["top5_interval95_percent"] is None
    assert format_table([result]).count("unknown") == 1  # two classes have no top-5 error worth a word
    assert content["dataset"]["unreadable"] == (status != "ok")
    assert content["dataset"]["is_ilsvrc2012_val"] is False
    assert (f"- 0.jpg: {status}" in (tmp_path / "report.md").read_text()) == (status != "ok")
    assert content["environment"]["commit"] == "abc"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classes.csv",
        "report.html",
        "report.json",
        "report.md",
    ]


def test_a_paper_outside_of_our_interval_is_said() -> None:
    scores = make_scores([[0.9, 0.1]] * 1000, [0] * 1000, **SCALES)
    result = result_of(scores, [entry("D")], is_ilsvrc2012_val=True)
    assert result.paper is not None
    assert (result.paper.top1_inside_interval95, result.paper.top1_difference_percent) == (False, -24.8)
    assert "-24.80 / -7.50, outside / outside" in format_table([result])


def test_a_fusion_of_nets_each_at_its_own_scales_has_its_row() -> None:
    """The submission of seven nets."""
    seven = [entry(m.net, scales=m.scales, train_short_px=m.train_short_px) for m in SUBMISSION]
    tables = [scores_of("D", scales=",".join(map(str, member.scales))) for member in SUBMISSION]
    result = result_of(fuse(tables), seven, is_ilsvrc2012_val=True)
    assert result.paper is not None and result.paper.top1_error_percent == 24.7
    assert result.scales == (224, 256, 288, 352, 384, 416, 512)


def test_tables_and_their_fusions_are_summarised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = ("ok", "is empty (0 bytes)", "ok")
    one = make_scores([[0.9, 0.1], [0.0, 0.0], [0.4, 0.6]], [0, 1, 0], statuses, model="one")
    other = make_scores([[0.8, 0.2], [0.3, 0.7], [0.7, 0.3]], [0, 1, 0], model="other")
    paths = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    for path, scores in zip(paths, (one, other), strict=True):
        tables.write([scores], path)

    monkeypatch.setattr(tables, "ROW_GROUP", 2)
    read: list[Path] = []
    parts = tables.parts

    def watched(path: Path) -> Iterator[Scores]:
        read.append(path)
        return parts(path)

    monkeypatch.setattr(tables, "parts", watched)
    written = write_fusion(tmp_path, "both", paths)
    assert written == tmp_path / "fusions" / "both.torch-fp32.center.q88.scores.parquet"
    read.clear()
    *of_tables, fused = summarise([*paths, written])
    assert read == [*paths, written]
    assert [summary.images for summary in (*of_tables, fused)] == [3, 3, 3]
    errors = [summary.errors.rates()[0] for summary in (*of_tables, fused)]
    assert [rate and round(rate.percent) for rate in errors] == [67, 0, 33]
    assert [summary.unreadable for summary in of_tables] == [{"1.jpg": statuses[1]}, {}]
    assert fused.result([], is_ilsvrc2012_val=False).model == "both"
