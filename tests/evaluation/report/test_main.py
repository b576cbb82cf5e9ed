"""report.html: what stands on it is what lies in OUT, and the same page is made again from it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import encode, make_scores
from report_runs import CLASSES, Page, scores_of, write_run

from evaluation.ilsvrc import main as evaluate
from evaluation.report.__main__ import main
from evaluation.report.page import compare_results, run_names
from evaluation.report.results import read_run
from evaluation.scores import table as tables
from evaluation.scores.comparison import compare
from evaluation.scores.metrics import BINS, details
from evaluation.scores.table import UNKNOWN_LABEL, Scores
from infer.spec import ModelSpec

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = tuple(f"{word}, digit" for word in WORDS)
NOT_KNOWN = "\N{EN DASH}"
OneLine = Callable[[], str]


def changed(out: Path, change: Callable[[Any], Any], name: str = "report.json") -> None:
    content = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps(change(content) or content))


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 32)


@pytest.fixture
def run_of_three(tmp_path: Path) -> Path:
    """FP32 and FP16 of one model, another model better than both; two images that cannot be read."""
    out = tmp_path / "out"
    one = scores_of(unreadable=2)
    noisy = one.posterior + np.random.default_rng(1).random(one.posterior.shape).astype(np.float32) * 0.05
    noisy[3] = noisy[3][::-1]  # in the first part
    half = dataclasses.replace(one, posterior=np.where(one.readable[:, None], noisy, 0))
    half = dataclasses.replace(half, metadata={**one.metadata, "runtime": "torch-fp16"})
    better = scores_of("two", right=0.9, seed=5, unreadable=2, protocol="dense", scales="72,96,120")
    write_run(out, [one, half, better], fused=False, names=NAMES, remarks=["the classes are in another order"])
    return out


def test_the_numbers_are_those_of_report_json(run_of_three: Path) -> None:
    report = json.loads((run_of_three / "report.json").read_text())
    page = Page(run_of_three / "report.html")
    rows = page.tables["results"][0][1:]
    assert len(rows) == len(report["results"]) == 3
    for row, result, ms in zip(rows, report["results"], ("20.0", "40.0", "80.0"), strict=True):
        low, high = result["top1_interval95_percent"]
        scales = ", ".join(map(str, result["scales"]))
        assert row[:2] == [f"{result['model']} {result['runtime']}", f"{result['protocol']} {scales}"]
        assert row[2] == f"{result['top1_error_percent']:.2f} [{low:.1f}, {high:.1f}]"
        assert row[4].startswith(f"{result['top5_error_percent']:.2f} [")
        assert row[5] == ms
    first = report["results"][0]
    low, high = first["top1_interval95_percent"]
    said = f"{first['top1_error_percent']:.2f} % 95 % interval [{low:.1f}, {high:.1f}]"
    assert f"top-1 error {said}" in page.text[""]  # of the first model by its most thorough protocol, not the lowest
    assert page.text[""].startswith("one, two on 120 images")
    assert "the classes are in another order" in page.text[""]
    assert "n = 120 images for every row" in page.text["results"]
    assert report["environment"]["command"] in page.text["environment"]
    assert page.text["unreadable"].endswith("2 of 120 images 118.jpg : cannot be decoded 119.jpg : cannot be decoded")


def test_the_table_of_the_headline_is_shown_in_detail(run_of_three: Path) -> None:
    page = Page(run_of_three / "report.html")
    scores = tables.read(run_of_three / "scores" / "one.torch-fp32.center.q88.scores.parquet")
    assert page.text["detail"].startswith("In detail one, torch-fp32, center at Q = 88. One of 3 score tables")
    answers = np.where(np.array(scores.statuses) == "ok", scores.posterior.argmax(1), -1)
    wrong = {
        name: (int((scores.labels == i).sum()), int((answers[scores.labels == i] != i).sum()))
        for i, name in enumerate(scores.classes)
    }
    shown = page.tables["detail"][0][1:]
    assert len(shown) == CLASSES
    for row in shown:
        name = row[0].split()[1]
        images, errors = wrong[name]
        assert row[0] == f"{WORDS['abcdefghij'.index(name)]} {name}"
        assert row[1:3] == [str(images), f"{100 * errors / images:.2f}"]
    assert [float(row[2]) for row in shown] == sorted((float(row[2]) for row in shown), reverse=True)
    calibration = details([scores]).expected_calibration_error_percent
    assert f"The expected calibration error, {calibration:.2f} %" in page.text["detail"]
    assert f"in {BINS} equal bins" in page.text["detail"]
    assert page.text["others"].count("top-1 error") == 4  # of two tables: in the summary and over the column
    assert page.tags.count("figure") == 3  # time, reliability, confusion: of one table alone


def test_the_mistakes_of_that_table_have_their_thumbnails(run_of_three: Path) -> None:
    page = Page(run_of_three / "report.html")
    index = json.loads((run_of_three / "mistakes" / "index.json").read_text())
    own = [each for each in index if (each["model"], each["runtime"]) == ("one", "torch-fp32")]
    assert len(own) == 3
    text = page.text["mistakes"]
    for each in own:
        assert f"answer {WORDS['abcdefghij'.index(each['answer'])]} {each['answer']}" in text
        assert f"{100 * each['probability']:.1f} %" in text
        assert each["image"] in text
    assert text.count("7 of 10") == 3
    assert text.count("Q = 88, 64\N{MULTIPLICATION SIGN}64 px: 90.0 % (true class 5.0 %)") == 3
    assert text.count("px, mirrored: 87.4 % (true class 5.0 %)") == 3
    images = [value for name, value in page.attributes if name == "href" and value.startswith("data:image/jpeg")]
    assert len(images) == 3
    boxes = re.findall(r'<rect( class="\w+")? x="([\d.]+)%"', (run_of_three / "report.html").read_text())
    expected = [("", "45.299"), (' class="second"', "22.222"), (' class="first"', "0.000")]  # 53, 26, 0 of 117 px
    assert boxes == expected * 3


@pytest.mark.parametrize("parts", ["whole", "in parts"])
def test_precisions_beside_each_other_as_compare_has_them(
    tmp_path: Path, run_of_three: Path, monkeypatch: pytest.MonkeyPatch, parts: str
) -> None:
    one, half = (
        tables.read(run_of_three / "scores" / f"one.torch-{p}.center.q88.scores.parquet") for p in ("fp32", "fp16")
    )
    expected = compare([one], [half])
    if parts == "in parts":
        small_parts(monkeypatch)
    run = read_run(run_of_three)
    found = compare_results(run, run.report.results[0], run, run.report.results[1])
    assert found == expected
    assert (found.images, found.same_pixels) == (118, 118)
    (row,) = Page(run_of_three / "report.html").tables["precision"][0][1:]
    errors, interval = expected.top1_error_percent, expected.top1_interval95_percent
    assert errors is not None and interval is not None
    assert row[4:] == [
        f"{errors[1] - errors[0]:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]",
        f"{expected.top1_mcnemar_p:.2g}",
        f"{expected.top1_agreement_percent:.2f}",
        f"{expected.largest_posterior_difference:.2g}",
        "118 of 118",
    ]


def test_it_is_made_again_with_the_same_bytes(
    run_of_three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = (run_of_three / "report.html").read_bytes()
    moved = tmp_path / "elsewhere"
    shutil.move(run_of_three, moved)
    (moved / "report.html").unlink()
    small_parts(monkeypatch)  # a table is counted in parts, however they are cut
    assert main([str(moved)]) == 0
    assert capsys.readouterr().out == f"{moved / 'report.html'}\n"
    assert (moved / "report.html").read_bytes() == written
    assert main([str(moved), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == written


def test_a_run_leaves_the_page_that_is_made_again(
    exported: Callable[..., Path], miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--engine", str(exported("A")), "--data", str(miniature_dir), "--protocol", "center,dense"]
    assert evaluate([*argv, "--limit", "6", "--out", str(tmp_path)]) == 0
    written = (tmp_path / "report.html").read_bytes()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == written
    page = Page(tmp_path / "report.html")
    report = json.loads((tmp_path / "report.json").read_text())
    shown = [float(row[-1]) for row in page.tables["results"][0][1:]]
    expected = [1000 * result["protocol_engine_seconds"] / 6 for result in report["results"]]
    assert shown == pytest.approx(expected, rel=0.005)
    assert page.text["mistakes"].count("views that agree") >= 1
    assert "python -m evaluation.ilsvrc --engine" in page.text["environment"]


def test_nothing_is_loaded_and_nothing_runs(run_of_three: Path) -> None:
    page = Page(run_of_three / "report.html")
    text = (run_of_three / "report.html").read_text()
    assert re.findall(r"https?://\S*", text) == []
    assert not {"iframe", "object", "embed"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)  # it sorts tables, and no other may run
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text and page.tags.count("script") == 1
    assert not re.search(r"innerHTML|eval|fetch|import|location|cookie", script)
    loaded = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert loaded and all(value.startswith(("#", "data:")) for value in loaded)
    assert re.findall(r"url\((?!#)", text) == [] and "@import" not in text
    assert len(text) < 3_000_000


def test_what_others_have_named_is_text(tmp_path: Path) -> None:
    """Names of images, classes and models, reasons and commands come from other people's folders."""
    hostile = "<img src=x onerror=alert(1)>&\"'$x_1$ 日本"
    scores = scores_of(unreadable=1)
    spec = json.loads(scores.metadata["spec"])
    spec |= {"name": "m<b>1", "classes": [f"{hostile}{i}" for i in range(CLASSES)]}
    scores = dataclasses.replace(
        scores,
        images=tuple(f"{hostile}{name}" for name in scores.images),
        statuses=(*scores.statuses[:-1], hostile),
        metadata={**scores.metadata, "spec": json.dumps(spec), "runtime": "torch-fp32"},
    )
    assert ModelSpec.from_json(scores.metadata["spec"]).classes == scores.classes
    out = tmp_path / "out"
    write_run(out, [scores], remarks=[hostile], names=[f"{hostile}{i}, words" for i in range(CLASSES)])
    page = Page(out / "report.html")
    assert "img" not in page.tags and "b" not in page.tags
    for section in ("", "detail", "mistakes", "unreadable"):
        assert hostile.replace("/", "/ ") in page.text[section], section


def test_sections_are_there_only_where_their_data_are(tmp_path: Path) -> None:
    write_run(tmp_path, [scores_of(right=1.0)], mistakes=0)
    page = Page(tmp_path / "report.html")
    assert set(page.tables) == {"results", "detail"}
    assert {"mistakes", "precision", "others", "unreadable"} & set(page.text) == set()
    assert page.tags.count("figure") == 1  # nothing is confused with anything, and time is of one point
    unlabelled = make_scores([[0.9, 0.1]], [UNKNOWN_LABEL])
    write_run(tmp_path / "u", [unlabelled], seconds=None, mistakes=0)
    page = Page(tmp_path / "u" / "report.html")
    assert set(page.tables) == {"results"} and "figure" not in page.tags
    assert page.tables["results"][0][1] == ["hand torch-fp32", "center 88", NOT_KNOWN, "9000"]


def test_the_paper_stands_beside(tmp_path: Path) -> None:
    beside = {
        "top1_error_percent": 24.8,
        "top5_error_percent": None,
        "source": "VGG Table 4",
        "label": "D",
        "top1_difference_percent": 0.1,
        "top5_difference_percent": None,
        "top1_inside_interval95": True,
        "top5_inside_interval95": None,
    }
    write_run(tmp_path, [scores_of(), scores_of("two", seed=1)])
    changed(tmp_path, lambda content: content["results"][0].update(paper=beside))
    assert main([str(tmp_path)]) == 0
    page = Page(tmp_path / "report.html")
    assert [row[-1] for row in page.tables["results"][0]] == [
        "paper",
        "24.8 / - (VGG Table 4): +0.10 / -, inside / -",
        "-",
    ]
    assert (tmp_path / "report.html").read_text().count('<line class="paper"') == 1


def test_time_of_several_protocols_is_not_guessed(tmp_path: Path) -> None:
    """Runs that were made before each protocol had its own."""
    write_run(tmp_path, [scores_of(), scores_of(seed=1, protocol="dense")], seconds=None, fused=True)
    page = Page(tmp_path / "report.html")
    assert [row[-1] for row in page.tables["results"][0][1:]] == [NOT_KNOWN, NOT_KNOWN, NOT_KNOWN]
    assert "cost" not in page.text
    write_run(tmp_path / "single", [scores_of()], seconds=None)
    assert Page(tmp_path / "single" / "report.html").tables["results"][0][1][-1] == "75.0"


def test_many_tables_stay_a_page(tmp_path: Path) -> None:
    """24 tables with mistakes: one is shown in full, so that the page stays small."""
    many = [scores_of(f"m{i}", seed=i, right=0.5 + i / 50) for i in range(24)]
    write_run(tmp_path, many, mistakes=8)
    page = Page(tmp_path / "report.html")
    assert page.text["others"].count("Most confident mistakes") == 23
    assert sum(value.startswith("data:image/jpeg") for _, value in page.attributes) <= 8
    assert len((tmp_path / "report.html").read_bytes()) < 1_000_000


def test_a_folder_of_damaged_images_stays_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, [scores_of(images=520, unreadable=503)], mistakes=0)
    text = Page(tmp_path / "report.html").text["unreadable"]
    assert "503 of 520 images" in text
    assert text.count("cannot be decoded") == 500
    assert text.endswith("and 3 more, which report.json names")


def test_runs_are_compared_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = scores_of(), scores_of(right=0.8, seed=3)
    write_run(tmp_path / "first", [first, scores_of("only", seed=4)])
    write_run(tmp_path / "second", [second], fused=True)
    other = scores_of(seed=9, dataset_id="fedcba9876543210")
    write_run(tmp_path / "third", [other], seconds=0.5)
    monkeypatch.chdir(tmp_path)
    assert main(["first", "second", "third"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    page = Page(tmp_path / "comparison.html")
    rows = page.tables["results"][0][1:]
    assert [row[0] for row in rows] == ["first", "first", "second", "second", "third"]
    expected = compare([first], [second])
    errors = expected.top1_error_percent
    assert errors is not None
    assert rows[2][-3] == f"{errors[1] - errors[0]:+.2f}"
    assert rows[2][-1] == f"{expected.top1_mcnemar_p:.2g}"
    assert [row[-3:] for row in rows[:2] + rows[3:]] == [[NOT_KNOWN] * 3] * 4  # the first; no such model; other images
    assert "Runs on different data sets" in page.text[""] and "top-1 error" not in page.text[""]
    text = (tmp_path / "comparison.html").read_text()
    assert ">second: one, torch-fp32</text>" in text and ">third: one, torch-fp32</text>" not in text
    assert "Of the runs on the first one" in page.text["cost"]
    assert all(f"--out {name}" in page.text["environment"] for name in ("first", "second", "third"))
    assert "detail" not in page.text
    assert not (tmp_path / "first" / "comparison.html").exists()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (["/r/one", "/r/two"], ["one", "two"]),
        (["/r/a/x/out", "/r/b/x/out"], ["a/x/out", "b/x/out"]),
        (["/r/a", "/r/a/b"], ["a", "a/b"]),
        (["out"], ["out"]),
    ],
)
def test_runs_are_named_by_what_differs(folders: list[str], names: list[str]) -> None:
    assert run_names([Path(folder) for folder in folders]) == names


def test_precisions_of_two_runs_and_scales_of_three(tmp_path: Path) -> None:
    for q in ("72", "96", "72,96,120"):
        write_run(tmp_path / q, [scores_of(scales=q, seed=len(q))])
    write_run(tmp_path / "half", [scores_of(scales="96", seed=2, runtime="torch-fp16")])
    page_path = tmp_path / "page.html"
    assert main([*(str(tmp_path / name) for name in ("72", "half", "72,96,120", "96")), "-o", str(page_path)]) == 0
    page = Page(page_path)
    assert [row[0] for row in page.tables["precision"][0][1:]] == ["one torch-fp32, torch-fp16"]
    assert page.tags.count("figure") == 2
    assert "Error against scale" in page.text["cost"]
    marks = re.findall(r">(72|96|72,96,120)</text>", page_path.read_text())
    assert marks == ["72", "96", "72,96,120"]


def test_a_check_graph_has_no_time(tmp_path: Path) -> None:
    """It computes in FP32, with casts, what a GPU computes in half; a plan's time is its own."""
    checked = {"runtime": "onnxruntime-fp16", "arithmetic": "fp16, rounded by one.check.onnx"}
    plan = {"runtime": "tensorrt-fp16", "arithmetic": "fp16"}
    report = write_run(tmp_path, [scores_of(**checked), scores_of("two", seed=1, **plan)])
    assert [one["arithmetic"] for one in report["results"]] == [checked["arithmetic"], "fp16"]
    assert all(one["engine_seconds"] for one in report["results"])
    page = Page(tmp_path / "report.html")
    header, *rows = page.tables["results"][0]
    assert [row[header.index("ms / image")] for row in rows] == ["\N{EN DASH}", "40.0"]
    assert "FP16 on a CPU is computed in FP32, and so is INT8 without its check graph" in page.text["results"]
    assert "engine time an image" not in page.text[""] and "cost" not in page.text

    write_run(tmp_path / "plans", [scores_of(**plan), scores_of("two", seed=1, **plan)])
    page = Page(tmp_path / "plans" / "report.html")
    assert "check graph" not in page.text["results"] and "Error against time" in page.text["cost"]


def speed_point(out: Path, **changes: Any) -> dict[str, Any]:
    """A point as infer.benchmark writes it, of the first result of a run."""
    report = json.loads((out / "report.json").read_text())
    result = report["results"][0]
    names = ("model", "runtime", "protocol", "scales", "pooling", "images", "top1_error_percent", "engine_sha256")
    point = {name: result[name] for name in names} | {"dataset_id": report["dataset"]["id"]}
    point |= {"batch": 8, "device": "a GPU", "decoder": "cpu", "workers": 2, "images_per_second": 123.0}
    return point | {"compute_images_per_second": 200.0, "latency_ms": {"p50": 9.0, "p90": 10.0, "p99": 11.0}} | changes


def test_points_of_speed_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, [scores_of()])
    page = Page(tmp_path / "report.html")
    assert "Error against speed" not in str(page.text)
    before = (tmp_path / "report.html").read_bytes()
    of_others = [speed_point(tmp_path, engine_sha256="0" * 64), speed_point(tmp_path, dataset_id="fedcba9876543210")]
    (tmp_path / "points.json").write_text(json.dumps(of_others))
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == before  # they are of a run that was here before

    points = [*of_others, speed_point(tmp_path), speed_point(tmp_path, batch=1, images_per_second=45.0)]
    (tmp_path / "points.json").write_text(json.dumps(points))
    assert main([str(tmp_path)]) == 0
    page = Page(tmp_path / "report.html")
    assert "overlapped, on a GPU. The number at a point is the batch" in page.text["cost"]
    drawn = (tmp_path / "report.html").read_text()
    assert ">one, torch-fp32</text>" in drawn and ">8</text>" in drawn and ">images per second (log)</text>" in drawn

    points.append(speed_point(tmp_path, device="another GPU", decoder="nvjpeg"))
    (tmp_path / "points.json").write_text(json.dumps(points))
    assert main([str(tmp_path)]) == 0
    drawn = (tmp_path / "report.html").read_text()
    assert ">one, torch-fp32 on a GPU</text>" in drawn and ">one, torch-fp32 on another GPU, nvjpeg</text>" in drawn


def test_points_of_several_runs_stand_in_one_figure(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, [scores_of(seed=seed)])
        (tmp_path / name / "points.json").write_text(json.dumps([speed_point(tmp_path / name)]))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "page.html")]) == 0
    drawn = (tmp_path / "page.html").read_text()
    assert ">a: one, torch-fp32</text>" in drawn and ">b: one, torch-fp32</text>" in drawn


@pytest.mark.parametrize(
    "content", ["[{}]", "{", '[{"engine_sha256": 1}]', pytest.param(None, id="rate"), pytest.param(0.0, id="no rate")]
)
def test_damaged_points_are_a_line(content: str | float | None, tmp_path: Path, one_line: Callable[[], str]) -> None:
    write_run(tmp_path, [scores_of()])
    if not isinstance(content, str):
        content = json.dumps([speed_point(tmp_path, images_per_second=content)])
    (tmp_path / "points.json").write_text(content)
    assert main([str(tmp_path)]) == 1
    assert one_line().startswith(f"{tmp_path}/points.json: not the points of infer.benchmark (")


def damage_report(out: Path) -> None:
    (out / "report.json").write_text('{"dataset": {')


def drop_report(out: Path) -> None:
    (out / "report.json").unlink()


def drop_net(out: Path) -> None:
    changed(out, lambda content: content["results"][0].pop("net") and None)


def no_images(out: Path) -> None:
    changed(out, lambda content: content["results"][0].update(images=0))


def half_a_paper(out: Path) -> None:
    changed(out, lambda content: content["results"][0].update(paper={"label": "x"}))


def drop_scores(out: Path) -> None:
    shutil.rmtree(out / "scores")


def damage_scores(out: Path) -> None:
    path = out / "scores" / "two.torch-fp32.dense.q72-96-120.scores.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def exchange_scores(out: Path) -> None:
    folder = out / "scores"
    shutil.copy(
        folder / "one.torch-fp32.center.q88.scores.parquet", folder / "one.torch-fp16.center.q88.scores.parquet"
    )
    path = folder / "two.torch-fp32.dense.q72-96-120.scores.parquet"
    shutil.copy(folder / "one.torch-fp32.center.q88.scores.parquet", path)


def edit_top5(out: Path) -> None:
    changed(out, lambda content: content["results"][1].update(top5_error_percent=0.5))


def negative_time(out: Path) -> None:
    changed(out, lambda content: content["results"][0].update(protocol_engine_seconds=-1.0))


def beyond_100(out: Path) -> None:
    changed(out, lambda content: content["results"][0].update(top1_interval95_percent=[-1.0, 101.0]))


def no_path(out: Path) -> None:
    changed(out, lambda content: content["results"][0].update(runtime="torch\0fp32"))


def other_data(out: Path) -> None:
    changed(out, lambda content: content["dataset"].update(id="0" * 16))


def drop_thumbnails(out: Path) -> None:
    for path in (out / "mistakes").glob("*.jpg"):
        path.unlink()


def damage_index(out: Path) -> None:
    changed(out, lambda content: content[0].pop("views") and None, "mistakes/index.json")


def steal_a_file(out: Path) -> None:
    changed(out, lambda content: content[0].update(thumbnail="../report.json"), "mistakes/index.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_report, r"report\.json: No such file or directory, expected the OUT folder of an evaluation\.ilsvrc run"),
        (damage_report, r"report\.json: not a report of evaluation\.ilsvrc \(DecodeError: Input data was trunc"),
        (drop_net, r"report\.json: not a report .* \(ValidationError: .* `net` - at `\$\.results\[0\]`\)"),
        (no_images, r"report\.json: not a report .* \(ValidationError: .* >= 1 - at `\$\.results\[0\]\.images`\)"),
        (negative_time, r"report\.json: not a report .* >= 0.0 - at `\$\.results\[0\]\.protocol_engine_seconds`\)"),
        (beyond_100, r"report\.json: not a report .* >= 0.0 - at `\$\.results\[0\]\.top1_interval95_percent\[0\]"),
        (no_path, r"report\.json: names the table 'scores/one\.torch\\x00fp32.*', expected one within its folder"),
        (half_a_paper, r"report\.json: not a report .* `top1_error_percent` - at `\$\.results\[0\]\.paper`\)"),
        (drop_scores, r"scores/.*\.parquet: no such file, expected a score table"),
        (damage_scores, r"two.*\.parquet: not a score table of evaluation\.ilsvrc"),
        (
            exchange_scores,
            r"fp16.*\.parquet: scores of torch-fp32, but report\.json is of torch-fp16: run the evaluation again",
        ),
        (edit_top5, r"\.parquet: its top-5 error is .* %, but report\.json has 0\.5 %: run the evaluation again"),
        (other_data, r"parquet: scores of data set 0123456789abcdef, but report\.json is of 0{16}: run the evaluation"),
        (drop_thumbnails, r"mistakes/.*\.jpg: no such file, but .*index\.json names it: run the evaluation again"),
        (damage_index, r"index\.json: not a report .* \(ValidationError: .* `views` - at `\$\[0\]`\)"),
        (steal_a_file, r"index\.json: not a report .*thumbnail '\.\./report\.json' is not a file beside it"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(
    run_of_three: Path, one_line: OneLine, damage: Callable[[Path], None], said: str
) -> None:
    before = (run_of_three / "report.html").read_bytes()
    damage(run_of_three)
    assert main([str(run_of_three)]) == 1
    assert re.search(said, one_line())
    assert (run_of_three / "report.html").read_bytes() == before


def test_a_folder_that_is_named_twice(run_of_three: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(run_of_three), f"{run_of_three}/../out"])
    assert "a folder is named twice" in one_line()


def test_a_table_is_read_in_parts(run_of_three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more rows at a time than a part has."""
    small_parts(monkeypatch)
    seen: list[int] = []
    parts = tables.parts

    def watched(path: Path) -> Any:
        for part in parts(path):
            seen.append(len(part.images))
            yield part

    def whole(path: Path) -> Scores:
        raise AssertionError(f"{path} was read whole")

    monkeypatch.setattr(tables, "parts", watched)
    monkeypatch.setattr(tables, "read", whole)
    assert main([str(run_of_three)]) == 0
    assert max(seen) == 32 and sum(seen) == 5 * 120  # three in detail, two beside each other


def linked(path: Path, secret: Path) -> None:
    path.unlink()
    path.symlink_to(secret)


@pytest.mark.parametrize("name", ["report.json", "mistakes/index.json", "mistakes/*.jpg", "scores/two*.parquet"])
def test_a_received_folder_reads_no_file_beside_it(
    name: str, run_of_three: Path, tmp_path: Path, one_line: OneLine
) -> None:
    """A link out of the folder is refused, even to what would do; a pipe is not waited for."""
    path = next(iter(sorted(run_of_three.glob(name))))
    shutil.copy(path, tmp_path / "secret")
    linked(path, tmp_path / "secret")
    (run_of_three / "report.html").unlink()
    assert main([str(run_of_three)]) == 1
    assert re.search(r"a link that leads out of|names the table .* expected one within its folder", one_line())
    if "scores" not in name:
        path.unlink()
        os.mkfifo(path)
        assert main([str(run_of_three)]) == 1
        assert one_line().startswith(f"{path}: is no regular file")
    assert not (run_of_three / "report.html").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SECRET", "is not an image we can decode, expected a thumbnail"),
        (b"", "is empty (0 bytes), expected a thumbnail"),
        (encode(np.zeros((8, 8, 3), np.uint8), "PNG"), "a PNG of 8x8 px, expected a thumbnail, a small JPEG"),
        (encode(np.zeros((2049, 2049, 3), np.uint8), "JPEG"), "a JPEG of 2049x2049 px, expected a thumbnail"),
        (b"\xff\xd8\xff" + bytes(1 << 20), "1048579 bytes, expected at most 1048576"),
    ],
    ids=["text", "empty", "PNG", "large", "long"],
)
def test_a_thumbnail_is_a_small_jpeg(data: bytes, said: str, run_of_three: Path, one_line: OneLine) -> None:
    path = next(iter(sorted(run_of_three.glob("mistakes/*.jpg"))))
    path.write_bytes(data)
    assert main([str(run_of_three)]) == 1
    assert one_line().startswith(f"{path}: {said}")


@pytest.mark.parametrize("field", ["model", "runtime", "protocol", "pooling"])
def test_a_result_names_no_table_elsewhere(field: str, run_of_three: Path, one_line: OneLine) -> None:
    changed(run_of_three, lambda content: content["results"][0].update({field: "../../x"}))
    assert main([str(run_of_three)]) == 1
    assert re.search(r"report\.json: names the table '.*\.\./\.\./x.*', expected one within its folder", one_line())
