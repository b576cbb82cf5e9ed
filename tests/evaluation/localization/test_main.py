"""python -m evaluation.localization from end to end: box nets with known maps, on the miniature."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_nvimgcodec
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from image_folders import keep_first
from localization_runs import given_class, only, report

from evaluation.errors import ScoresError
from evaluation.localization.__main__ import main
from evaluation.localization.table import read_located
from evaluation.scores import table as tables
from infer.data.dataset import open_dataset
from infer.data.known_images import KnownImages, image_number, with_trained_on
from infer.spec import ModelSpec

Exported = Callable[..., Path]


def run(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "evaluation.localization", *arguments, "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.processes
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    which: signal.Signals, dense: list[str], tmp_path: Path, one_line: Any
) -> None:
    dense = [*dense, "--limit", "16"]
    assert main([*dense, "--out", str(tmp_path / "whole")]) == 0
    assert "16 of 24 images, all 8 classes" in one_line()
    out = tmp_path / "out"
    process = run(dense, out)
    while not list((out / "unfinished-boxes").glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    if which == signal.SIGINT:
        assert process.returncode == 130 and re.fullmatch(
            r".*: 16 of 24 images, .*\ninterrupted: \d+ of 16 images are kept in .*\n", said
        )
    assert not (out / "boxes").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "unfinished-boxes").glob("*.parquet")}
    assert len(done) == 1
    assert main([*dense, "--out", str(out)]) == 1
    assert re.search(r"unfinished-boxes holds 8 of 16 images of a run that did not end: go on with it by", one_line())
    assert main([*dense, "--out", str(out), "--merge-at", "1", "--resume"]) == 1
    assert "--resume: the merging changed from overlap at 0.75 to overlap at 1 since the run in" in one_line()
    assert {path: path.stat().st_mtime_ns for path in (out / "unfinished-boxes").glob("*.parquet")} == done
    assert main([*dense, "--out", str(out), "--resume"]) == 0
    assert only(out).read_bytes() == only(tmp_path / "whole").read_bytes()
    resumed, whole = (report(path) for path in (out, tmp_path / "whole"))
    assert without_seconds(resumed["results"]) == without_seconds(whole["results"])
    assert resumed["dataset"] == whole["dataset"]


def test_tables_name_the_decoder_where_it_is_not_the_usual(
    dense: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nvimgcodec.install(monkeypatch)
    for name, options in (("usual", []), ("gpu", ["--decoder", "nvjpeg"])):
        assert main([*dense, "--limit", "8", *options, "--out", str(tmp_path / name)]) == 0
    usual, gpu = (pq.read_schema(only(tmp_path / name)).metadata for name in ("usual", "gpu"))
    assert b"decoder" not in usual
    assert gpu[b"decoder"] == b"nvjpeg"
    assert "decoded by nvjpeg (--decoder)" in capsys.readouterr().err


def without_seconds(content: Any) -> Any:
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in content]


def usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--boxes", "other.onnx"], "given-class is of one box net and the images' own classes: one --boxes"),
        (["--scores", "s.parquet"], "given-class is of one box net and the images' own classes: one --boxes"),
        (["--scales", "72,96"], "given-class looks at one central crop: expected one scale"),
        (["--scales", "72", "--scales", "96"], "--scales 2 times for 1 --boxes: expected one or as many"),
        (["--scales", "60"], "scale 60 px is below the crop of 64 px that scr needs"),
        (["--merge-at", "nan"], "--merge-at: expected a number of 0 or more, got nan"),
        (["--limit", "0"], "argument --limit: expected a positive whole number, got '0'"),
        (["--protocol", "dense"], "dense rates boxes by a classifier: expected --engine CLASSIFIER.onnx"),
    ],
)
def test_usage_errors(more: list[str], said: str, nets: dict[str, Path], miniature_dir: Path, one_line: Any) -> None:
    usage_error(given_class(nets, miniature_dir, *more))
    assert said in one_line()


def test_engines_that_cannot_take_part(
    nets: dict[str, Path],
    miniature_dir: Path,
    single: Path,
    slim_checkpoint: Exported,
    tmp_path: Path,
    one_line: Any,
) -> None:
    common = ["--data", str(miniature_dir), "--protocol", "dense", "--out", str(tmp_path / "out")]
    boxes, classifier = ["--boxes", str(nets["scr"])], ["--engine", str(nets["cls"])]
    for arguments, said in (
        ([*boxes, "--engine", str(single)], r"no output 'score_map', .*: export it again, python -m .* score_map$"),
        (
            ["--boxes", str(nets["cls"]), *classifier],
            r"is a classifier, which has no box_map: expected a box net, of a recipe like vgg-d-loc-pcr$",
        ),
        (["--boxes", str(slim_checkpoint("A")), *classifier], r"a checkpoint is not an engine: run python -m export"),
        (["--boxes", str(tmp_path / "none.onnx"), *classifier], r"none.onnx: no such file"),
    ):
        assert main([*arguments, *common]) == 1
        assert re.search(said, one_line())
    assert not (tmp_path / "out").exists()


def test_tables_of_other_rules_and_classes_lie_side_by_side(dense: list[str], scored: Path, tmp_path: Path) -> None:
    fused = tmp_path / "fused.parquet"
    tables.write((tables.fuse(parts, "two-nets") for parts in tables.in_step([scored, scored])), fused)
    for more in ([], ["--merge-at", "0.5"], ["--match", "literal"], ["--scores", str(fused)]):
        assert main([*dense, *more, "--out", str(tmp_path)]) == 0
    rules = ("overlap-0.75.top5-slim-a", "overlap-0.5.top5-slim-a", "literal-0.25.top5-slim-a")
    names = {path.name for path in (tmp_path / "boxes").iterdir()}
    common = "scr+pcr.onnxruntime-fp32.dense.q96+72-80.slim-a"
    assert names == {f"{common}.{rule}.parquet" for rule in (*rules, "overlap-0.75.top5-two-nets")}
    assert [row["classes_of"] for row in report(tmp_path)["results"]] == [None, "two-nets"]


def test_images_that_no_engine_sees(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is damaged, one too long: both are wrong and named, and stop nothing but a strict run."""
    from PIL import Image

    val = miniature_copy / "ILSVRC2012_img_val"
    (val / "ILSVRC2012_val_00000002.JPEG").write_bytes(b"no image")
    Image.fromarray(np.zeros((70, 1400, 3), np.uint8)).save(val / "ILSVRC2012_val_00000006.JPEG")
    arguments = [
        "--boxes",
        str(nets["scr"]),
        "--engine",
        str(nets["cls"]),
        "--data",
        str(keep_first(miniature_copy, 8)),
    ]
    arguments += ["--protocol", "dense", "--scales", "72"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "ILSVRC2012_val_00000006.JPEG: image 70x1400 px at Q=72 needs a view of" in capsys.readouterr().err
    found = report(tmp_path / "out")
    assert list(found["dataset"]["unreadable_images"]) == [
        f"ILSVRC2012_img_val/ILSVRC2012_val_{number:08d}.JPEG" for number in (2, 6)
    ]
    rows = list(read_located(only(tmp_path / "out")))
    assert [row.status == "ok" for row in rows] == [True, False, True, True, True, False, True, True]
    assert rows[5].status == "out of range" and rows[5].size_px == (70, 1400) and rows[5].given is None
    assert found["results"][0]["images"] == 8
    assert main([*arguments, "--strict", "--out", str(tmp_path / "strict")]) == 1
    assert "(--strict stops at the first unreadable image)" in capsys.readouterr().err


def test_images_that_an_engine_was_trained_on_are_said(
    nets: dict[str, Path], miniature_dir: Path, tmp_path: Path, one_line: Any
) -> None:
    numbers = [image_number(item.read_bytes()) for item in open_dataset(miniature_dir).items[:5]]
    model = onnx.load(nets["scr"])
    said = {entry.key: entry.value for entry in model.metadata_props}
    spec = with_trained_on(ModelSpec.from_json(said["spec"]), KnownImages().with_more(numbers))
    onnx.helper.set_model_props(model, {**said, "spec": spec.to_json()})
    onnx.save(model, tmp_path / "scr.onnx")

    arguments = [*given_class({"scr": tmp_path / "scr.onnx"}, miniature_dir), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    line = f"{spec.name} was trained on 5 of these 24 images: its error on them says little"
    assert one_line() == line and report(tmp_path / "out")["remarks"] == [line]


def test_images_none_of_which_an_engine_sees_have_no_result(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for path in sorted((miniature_copy / "ILSVRC2012_img_val").iterdir())[:8]:
        Image.fromarray(np.zeros((70, 1400, 3), np.uint8)).save(path)
    arguments = ["--boxes", str(nets["scr"]), "--engine", str(nets["cls"]), "--protocol", "dense", "--scales", "72"]
    arguments += ["--data", str(keep_first(miniature_copy, 8)), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "8 of 8 images are beyond the engines' range, none was seen: there is no result"
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_report_of_another_command_is_not_lost(
    nets: dict[str, Path], miniature_dir: Path, tmp_path: Path, one_line: Any
) -> None:
    (tmp_path / "report.json").write_text('{"results": []}')
    assert main(given_class(nets, miniature_dir, "--out", str(tmp_path))) == 1
    assert "report.json: a report of another command, which would be lost: use another --out" in one_line()


def test_a_file_that_is_no_table_of_boxes(scored: Path, tmp_path: Path) -> None:
    none = tmp_path / "none.parquet"
    for path, said in ((scored, r"not a table of boxes of evaluation\.localization \("), (none, "no such file")):
        with pytest.raises(ScoresError, match=said):
            list(read_located(path))
