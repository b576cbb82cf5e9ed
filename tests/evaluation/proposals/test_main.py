"""The command of proposals: what it writes and says, whatever the number of processes, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from paths import ROOT

from evaluation.proposals.__main__ import main
from infer.boxes.proposed import read_proposals
from infer.data import own_parquet

IMAGES = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright rectangles on dark noise in COCO's shape; in each image the second object is a crowd."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, instances = [], []
    for number in range(IMAGES):
        pixels = rng.integers(20, 26, (60, 80, 3), np.uint8)
        x, y, width, height = (int(rng.integers(*ends)) for ends in ((2, 40), (2, 30), (16, 36), (14, 28)))
        pixels[y : y + height, x : x + width] += np.array(rng.integers(80, 220, 3), np.uint8)
        cv2.imwrite(str(folder / f"val2017/{number:03d}.png"), pixels)
        images.append({"id": number, "file_name": f"{number:03d}.png", "height": 60, "width": 80})
        known: dict[str, Any] = {"image_id": number, "category_id": 1}
        instances.append({**known, "id": 2 * number + 1, "bbox": [x, y, width, height], "iscrowd": 0})
        instances.append({**known, "id": 2 * number + 2, "bbox": [0, 0, 5, 5], "iscrowd": 1})
    content = {
        "images": images,
        "annotations": instances,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "p.parquet"
    assert main(["--data", str(data), "-o", str(path), "--jobs", "1"]) == 0
    return path


def test_every_object_is_covered_and_crowds_do_not_count(whole: Path) -> None:
    rows = list(read_proposals(whole))
    assert [row.image for row in rows] == [f"val2017/{number:03d}.png" for number in range(IMAGES)]
    assert {row.size_px for row in rows} == {(60, 80)} and {*rows[0].methods} == {"selective-search"}
    assert rows[0].scores.tolist() == [-1.0 - place for place in range(len(rows[0].boxes))]

    report = json.loads(whole.with_suffix(".json").read_text())
    assert report["objects"] == IMAGES and report["kind"] == "proposals" and report["unreadable_images"] == 0
    assert report["methods"]["selective-search"]["covered_percent"]["0.5"]["all"] == 100
    assert report["methods"]["random"]["proposals"] == report["methods"]["selective-search"]["proposals"]


@pytest.mark.processes
def test_processes_change_no_byte(data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(data), "-o", str(tmp_path / "p.parquet"), "--jobs", "2"]) == 0
    assert (tmp_path / "p.parquet").read_bytes() == whole.read_bytes()
    said = capsys.readouterr().out
    assert "| selective-search |" in said and f"{IMAGES} objects in {IMAGES} images" in said and "92 %" in said


@pytest.mark.processes
def test_a_run_that_was_killed_is_gone_on_with_to_the_same_bytes(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    command = [sys.executable, "-m", "evaluation.proposals", "--data", str(data), "-o", str(out), "--jobs", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shards = tmp_path / "p.parquet.shards"
    end = time.monotonic() + 120
    while not (shards.exists() and any(shards.glob("*.parquet"))) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1 and "go on with it by --resume" in again.stderr
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes() and not shards.exists()


def test_a_bad_image_has_a_line_and_its_object_is_not_covered(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("annotations", "val2017"):
        (tmp_path / name).mkdir()
        for path in (data / name).iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    (tmp_path / "val2017/003.png").unlink()
    (tmp_path / "val2017/003.png").write_bytes((data / "val2017/003.png").read_bytes()[:300])

    out = tmp_path / "p.parquet"
    assert main(["--data", str(tmp_path), "-o", str(out), "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if "003.png" in line] == [
        "val2017/003.png: truncated or damaged PNG"
    ]
    assert "95.00 [" in captured.out
    bad = list(read_proposals(out))[3]
    assert bad.size_px == (0, 0) and len(bad.boxes) == 0 and bad.status.startswith("val2017/003.png: ")


def test_boxes_of_a_file_are_taken_beside_those_that_are_found(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.csv").write_text("000.png,1,1,50,40\n001.png,2,2,9,9\n")
    options = ["--data", str(data), "--limit", "3", "--jobs", "1", "--read", str(tmp_path / "r.csv")]
    assert main([*options, "-o", str(tmp_path / "p.parquet")]) == 0
    rows = list(read_proposals(tmp_path / "p.parquet"))
    assert len(rows) == 3 and rows[0].boxes.tolist() == [[1, 1, 50, 40]] and rows[0].methods == ["file"]
    assert len(rows[2].boxes) == 0

    assert main([*options, "-o", str(tmp_path / "q.parquet"), "--method", "selective-search"]) == 0
    assert "| selective-search + file |" in capsys.readouterr().out
    assert {*next(read_proposals(tmp_path / "q.parquet")).methods} == {"selective-search", "file"}


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--method", "edge-boxes"], 2, "expected selective-search or multibox, or both with a comma"),
        (["--method", "multibox"], 2, "--method multibox and --multibox ENGINE.onnx go together"),
        (["--multibox", "m.onnx"], 2, "--method multibox and --multibox ENGINE.onnx go together"),
        (["--jobs", "2", "--device", "0"], 2, "--jobs is for processes on this CPU"),
        (["--superpixels", "0.1"], 2, "superpixels are multiplied by 0.5 to 1000, got 0.1"),
        (["--split", "train"], 1, "train"),
        (["--read", "none.csv"], 1, "none.csv: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, said: str
) -> None:
    try:
        code = main(["--data", str(data), "-o", str(tmp_path / "p.parquet"), *options])
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (status, 1) and said in lines[0]


def test_a_file_of_others_is_not_replaced(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.parquet").write_text("mine")
    assert main(["--data", str(data), "-o", str(tmp_path / "p.parquet")]) == 1
    assert "it is not replaced: remove it, or use another -o" in capsys.readouterr().err
    assert (tmp_path / "p.parquet").read_text() == "mine"


def test_tables_and_reports_of_others_are_not_replaced(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Posteriors of regions, which have boxes, too; and the .json that stands beside a table."""
    own_parquet.write([pa.table({"image": ["a"], "boxes": ["b"]})], tmp_path / "p.parquet", 1)
    before = (tmp_path / "p.parquet").read_bytes()
    assert main(["--data", str(data), "-o", str(tmp_path / "p.parquet")]) == 1
    assert "it is not replaced: remove it, or use another -o" in capsys.readouterr().err
    assert (tmp_path / "p.parquet").read_bytes() == before

    for content in ("no JSON", "[1]", '{"kind": "detection"}', "{}"):
        (tmp_path / "q.json").write_text(content)
        assert main(["--data", str(data), "-o", str(tmp_path / "q.parquet")]) == 1
        said = "q.json: not the report of a table of proposals; it is not replaced: remove it, or use another -o"
        assert said in capsys.readouterr().err
        assert (tmp_path / "q.json").read_text() == content

    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(data), "-o", str(tmp_path / "r.json")])
    assert "the .json beside the table would replace it: expected F.parquet" in capsys.readouterr().err


def test_what_a_file_lacks_or_has_beyond_images_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boxes that count from 0, or that are of larger images."""
    source, out = tmp_path / "r.csv", tmp_path / "p.parquet"
    source.write_text("000.png,0,1,50,40\n000.png,1,1,80.4,60\n001.png,2,2,160,9\nother.png,1,1,2,2\n")
    options = ["--data", str(data), "--jobs", "1", "--read", str(source), "-o", str(out)]
    assert main(options) == 0
    lines = capsys.readouterr().err.splitlines()
    some = "val2017/002.png, val2017/003.png, val2017/004.png ..."
    assert f"{source}: lacks {IMAGES - 2} of {IMAGES} images ({some}): no proposals there" in lines
    assert f"{source}: 1 of its 3 images are none of these (other.png), left out" in lines
    assert lines[-1] == (
        f"{source}: 2 of 3 boxes reach out of their images (0,1,50,40 in val2017/000.png, 60x80 px): expected "
        "xmin,ymin,xmax,ymax in pixels of the image, counted from 1"
    )
    source.write_text("000.png,1,1,50,40\n")
    assert main(options) == 0
    assert "reach out" not in capsys.readouterr().err
