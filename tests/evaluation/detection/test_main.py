"""evaluation.detection as a user runs it: posteriors, resuming, fusion of stored posteriors, and odd input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from detection_sets import row, write_proposals
from helpers import WNIDS, Checkpoints

from evaluation.detection import classify
from evaluation.detection.__main__ import main
from evaluation.detection.table import read_regions
from export.to_onnx import export_onnx
from infer.boxes.proposed import SCHEMA, read_proposals
from infer.data import own_parquet
from infer.data.detection import open_detection
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.pixels.regions import make_picture, plan_regions
from trainer.checkpoint import load
from trainer.torch_engine import TorchEngine

CLASSES = (*WNIDS, "background")
OneLine = Callable[[], str]


@pytest.fixture(scope="module")
def nets(slim_checkpoint: Checkpoints) -> tuple[Path, Path]:
    """Two nets of regions with random weights, as checkpoints."""
    return (
        slim_checkpoint("A", classes=CLASSES, name="one"),
        slim_checkpoint("A", seed=1, classes=CLASSES, name="two"),
    )


@pytest.fixture(scope="module")
def models(nets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    for path in nets:
        export_onnx(load(path), folder / f"{load(path).spec.name}.onnx")
    return folder / "one.onnx", folder / "two.onnx"


@pytest.fixture(scope="module")
def proposals(scenes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_proposals(scenes_dir, "val", tmp_path_factory.mktemp("proposals") / "val.parquet", near=2, anywhere=4)


def words(scenes: Path, proposals: Path, out: Path, *engines: Path, more: tuple[str, ...] = ()) -> list[str]:
    engine = [word for path in engines for word in ("--engine", str(path))]
    return [*engine, "--data", str(scenes), "--proposals", str(proposals), "--out", str(out), "--least", "0", *more]


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def whole(
    scenes_dir: Path, proposals: Path, models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run of both nets."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(words(scenes_dir, proposals, out, *models)) == 0
    return out


def test_posteriors_are_those_of_torch(whole: Path, scenes_dir: Path, proposals: Path, nets: tuple[Path, Path]) -> None:
    """By the checkpoint itself, view by view: 1e-5 apart at most."""
    data, engines = open_detection(scenes_dir, "val"), [TorchEngine.open(path) for path in nets]
    rows = list(zip(data.items, read_proposals(proposals), read_regions(whole / "regions.parquet"), strict=True))
    for item, proposed, found in rows:
        assert (found.image, found.status) == (item.name, "ok") and np.array_equal(found.boxes, proposed.boxes)
        image = decode(item.read_bytes(), name=item.name)
        assert found.size_px == image.shape[:2]
        for engine, posterior in zip(engines, found.posteriors, strict=True):
            plan = plan_regions(proposed.boxes.astype(float), found.size_px, engine.spec)
            right = engine.run(engine.load([make_picture(image, engine.spec)]), [plan])["posterior"]
            assert np.abs(right - posterior).max() < 1e-5


def test_the_report(whole: Path, models: tuple[Path, Path], scenes_dir: Path) -> None:
    """A row for each net and one for both, whose posteriors are the mean; a picture of what it is of."""
    found = report(whole)
    assert found["kind"] == "detection" and found["rule"] == "ilsvrc"
    assert [row["system"] for row in found["results"]] == ["one", "two", "one + two"]
    assert all(0 <= row["map_percent"] <= 100 for row in found["results"])
    assert "ensemble_gain" in found["results"][0] and "ensemble_gain" not in found["results"][2]
    text = (whole / "report.md").read_text()
    assert "one + two" in text and "overlap of min(0.5" in text
    assert not (whole / "unfinished-regions").exists()


def test_two_nets_of_one_name(
    scenes_dir: Path, proposals: Path, slim_checkpoint: Checkpoints, whole: Path, tmp_path: Path
) -> None:
    """Nets of one recipe, which differ in their seeds, are an ensemble as nets of two names are."""
    models = []
    for seed in (0, 1):
        models.append(tmp_path / f"{seed}.onnx")
        export_onnx(load(slim_checkpoint("A", seed=seed, classes=CLASSES, name="same")), models[-1])
    assert main(words(scenes_dir, proposals, tmp_path / "out", *models)) == 0
    found, right = report(tmp_path / "out")["results"], report(whole)["results"]
    assert [one["system"] for one in found] == ["same (1)", "same (2)", "same (1) + same (2)"]
    assert [one["map_percent"] for one in found] == [one["map_percent"] for one in right]


def test_the_papers_table_stands_beside(
    whole: Path, scenes_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table 4 beside an ensemble where the data are the paper's, in the terminal and in each report; else nowhere."""
    stored = ["--regions", str(whole / "regions.parquet"), "--data", str(scenes_dir), "--least", "0"]
    monkeypatch.setattr(
        "evaluation.detection.write.is_det", lambda kind, classes: (kind, classes) == ("ilsvrc-det", 10)
    )
    assert main([*stored, "--out", str(tmp_path / "a")]) == 0
    said, found = capsys.readouterr().out, report(tmp_path / "a")
    for text in (said, (tmp_path / "a" / "report.md").read_text(), (tmp_path / "a" / "report.html").read_text()):
        assert "GoogLeNet Table 4" in text and "43.9" in text
    (row,) = [line.split("|")[1:-1] for line in said.splitlines() if "here: " in line]
    assert [cell.strip() for cell in row] == ["here: one + two", "", "2", f"{found['results'][2]['map_percent']:.2f}"]
    assert [row["mean_percent"] for row in found["published"]] == [22.6, 40.5, 40.7, 43.9]
    assert main([*stored, "--out", str(tmp_path / "b"), "--rule", "voc"]) == 0
    assert "Table 4" not in capsys.readouterr().out and report(tmp_path / "b")["published"] == []
    assert report(whole)["published"] == []


def test_fusing_stored_posteriors_is_the_same(
    whole: Path, scenes_dir: Path, proposals: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    for name, model in zip(("a", "b"), models, strict=True):
        assert main(words(scenes_dir, proposals, tmp_path / name, model)) == 0
    stored = [word for name in ("a", "b") for word in ("--regions", str(tmp_path / name / "regions.parquet"))]
    assert main([*stored, "--data", str(scenes_dir), "--out", str(tmp_path / "fused"), "--least", "0"]) == 0
    assert report(tmp_path / "fused")["results"] == report(whole)["results"]
    assert (tmp_path / "fused" / "detections.parquet").read_bytes() == (whole / "detections.parquet").read_bytes()


def test_a_run_that_died_ends_with_the_same_bytes(
    whole: Path,
    scenes_dir: Path,
    proposals: Path,
    models: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_line: OneLine,
) -> None:
    monkeypatch.setattr(classify, "SHARD_IMAGES", 2)
    out = tmp_path / "out"
    count = 0
    begin = classify.RegionMaker.begin

    def begin_or_die(self: Any, samples: Any, images: Any) -> Any:
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return begin(self, samples, images)

    command = words(scenes_dir, proposals, out, *models)
    from evaluation.detection import table

    monkeypatch.setattr(table, "SHARD_IMAGES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(classify.RegionMaker, "begin", begin_or_die)
        assert main(command) == 130
    one_line()
    assert main(command) == 1
    assert "go on with it by --resume" in one_line()
    assert main([*command, "--resume", "--mirror"]) == 1
    assert "the mirrored changed from False to True" in one_line()
    assert main([*command, "--resume"]) == 0
    for name in ("regions.parquet", "detections.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_mirrors_are_averaged(
    whole: Path, scenes_dir: Path, proposals: Path, nets: tuple[Path, Path], models: tuple[Path, Path], tmp_path: Path
) -> None:
    assert main(words(scenes_dir, proposals, tmp_path, models[0], more=("--mirror", "--limit", "1"))) == 0
    (found,) = read_regions(tmp_path / "regions.parquet")
    engine = OnnxEngine(models[0])
    (item,) = open_detection(scenes_dir, "val", limit=1).items
    plan = plan_regions(found.boxes.astype(float), found.size_px, engine.spec, mirrored=True)
    picture = make_picture(decode(item.read_bytes(), name=item.name), engine.spec)
    both = engine.run(engine.load([picture]), [plan])["posterior"].reshape(-1, 2, 11)
    assert np.allclose(found.posteriors[0], both.mean(1), atol=1e-6)


def test_odd_proposals(
    scenes_dir: Path, proposals: Path, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No proposal, some outside the image, of an image of another size, a status, 10,000; an image that is no image."""
    data = shutil.copytree(scenes_dir, tmp_path / "data")
    known = list(read_proposals(proposals))
    sizes = [one.size_px for one in known]
    rng = np.random.default_rng(0)
    low = rng.uniform(1, 40, (2000, 2))
    many = np.concatenate([low, low + rng.uniform(5, 60, (2000, 2))], 1)
    rows = [
        row(known[0].image, sizes[0], []),
        row(known[1].image, sizes[1], [[1, 1, 30, 30], [-50, 1, -2, 9], [9000, 1, 9100, 9], [-9, -9, 20, 20]]),
        row(known[2].image, (7, 7), [[1, 1, 5, 5]]),
        row(known[3].image, sizes[3], [], status="cannot be read"),
        row(known[4].image, sizes[4], many),
        row(known[5].image, sizes[5], [[1, 1, 9, 9]]),
    ]
    own_parquet.write([pa.Table.from_pylist(rows, SCHEMA)], tmp_path / "odd.parquet", 10)
    items = open_detection(data, "val").items
    items[5].path.write_bytes(b"no image")
    assert main(words(data, tmp_path / "odd.parquet", tmp_path / "out", models[0], more=("--least", "0.05"))) == 0
    said = capsys.readouterr().err
    found = {one.image: one for one in read_regions(tmp_path / "out" / "regions.parquet")}
    counts = [len(found[one.image].boxes) for one in known[:6]]
    assert counts == [0, 2, 0, 0, 2000, 0]
    assert "2 of 4 proposals lie outside the image: left out" in said
    assert "its proposals are of an image of 7x7 px, not" in said
    assert "no proposals: cannot be read" in said
    assert f"lacks {len(items) - 6} of {len(items)} images" in said
    statuses = {row["image"]: row["why"] for row in report(tmp_path / "out")["not_seen"]}
    assert len(statuses) == len(items) - 3 and known[5].image in statuses


def test_answers_that_are_not_finite_are_said(
    scenes_dir: Path, proposals: Path, nets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one net that overflows beside a sound one."""
    checkpoint = load(nets[0])
    weights = {name: own * 1e12 if name.endswith("weight") else own for name, own in checkpoint.weights.items()}
    loud = dataclasses.replace(checkpoint, weights=weights, spec=dataclasses.replace(checkpoint.spec, name="loud"))
    export_onnx(loud, tmp_path / "loud.onnx")
    export_onnx(load(nets[1]), tmp_path / "two.onnx")
    assert main(words(scenes_dir, proposals, tmp_path / "out", tmp_path / "loud.onnx", tmp_path / "two.onnx")) == 0
    said, (one, two, both) = capsys.readouterr().out, report(tmp_path / "out")["results"]
    assert [row["not_finite_regions"] for row in (one, two, both)] == [one["regions"], 0, one["regions"]]
    for name in ("loud", "loud + two"):
        line = f"{name}: its answers to {one['regions']} of {one['regions']} regions are not finite"
        assert line in said and line in (tmp_path / "out" / "report.md").read_text()
    assert "\ntwo: its answers" not in said


def test_classes_by_order_are_refused_where_names_say_otherwise(
    scenes_dir: Path, proposals: Path, slim_checkpoint: Checkpoints, tmp_path: Path, one_line: OneLine
) -> None:
    other = slim_checkpoint("A", classes=(*reversed(WNIDS), "background"), name="reversed")
    assert main(words(scenes_dir, proposals, tmp_path / "a", other, more=("--classes-by-order",))) == 1
    assert f"{WNIDS[0]} would be taken for {WNIDS[-1]}, but the net has a class of that name at another" in one_line()
    named = slim_checkpoint("A", classes=(*(f"x{n}" for n in range(10)), "background"), name="named")
    assert main(words(scenes_dir, proposals, tmp_path / "b", named, more=("--classes-by-order",))) == 0


def test_posteriors_of_another_run_are_not_replaced(
    whole: Path, scenes_dir: Path, proposals: Path, models: tuple[Path, Path], tmp_path: Path, one_line: OneLine
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    before = (out / "regions.parquet").read_bytes()
    assert main(words(scenes_dir, proposals, out, models[0])) == 1
    assert "posteriors of another run (of other nets), which would be lost: use another --out" in one_line()
    assert main(words(scenes_dir, proposals, out, *models, more=("--mirror",))) == 1
    assert "(of other mirrored), which would be lost" in one_line()
    assert (out / "regions.parquet").read_bytes() == before
    assert main(words(scenes_dir, proposals, out, *models)) == 0
    assert (out / "regions.parquet").read_bytes() == before


def test_images_are_turned_alike_for_proposals_and_nets(
    scenes_dir: Path,
    proposals: Path,
    models: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An image that is upside down has the same size."""
    rows = [row(one.image, one.size_px, one.boxes) for one in read_proposals(proposals)]
    schema = SCHEMA.with_metadata({"exif": "ignore"})
    own_parquet.write([pa.Table.from_pylist(rows, schema)], tmp_path / "p.parquet", 10)
    command = words(scenes_dir, tmp_path / "p.parquet", tmp_path / "out", models[0])
    assert main([*command, "--exif", "apply"]) == 1
    assert "proposals by --exif ignore, but the images would be seen by --exif apply" in capsys.readouterr().err
    assert main(command) == 0
    assert "turned as EXIF says" not in capsys.readouterr().err

    turned = words(scenes_dir, proposals, tmp_path / "turned", models[1], more=("--exif", "apply"))
    assert main(turned) == 0
    assert "in pixels of the images as they are stored, but images are turned as EXIF" in capsys.readouterr().err
    stored = [word for name in ("out", "turned") for word in ("--regions", str(tmp_path / name / "regions.parquet"))]
    assert main([*stored, "--data", str(scenes_dir), "--out", str(tmp_path / "fused")]) == 1
    assert "of images seen by --exif apply, " in capsys.readouterr().err


def test_what_cannot_be_measured(
    whole: Path,
    scenes_dir: Path,
    proposals: Path,
    models: tuple[Path, Path],
    slim_checkpoint: Checkpoints,
    tmp_path: Path,
    one_line: OneLine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    classifier = slim_checkpoint("A")
    assert main(words(scenes_dir, proposals, tmp_path / "a", classifier)) == 1
    assert "its last class is 'n99000009', expected 'background'" in one_line()
    others = slim_checkpoint("A", classes=(*(f"x{n}" for n in range(10)), "background"), name="others")
    assert main(words(scenes_dir, proposals, tmp_path / "b", others)) == 1
    assert "the net's classes are not those of" in one_line()
    assert main(words(scenes_dir, tmp_path / "none.parquet", tmp_path / "c", models[0])) == 1
    assert "no such file, expected a table of proposals" in one_line()
    train = write_proposals(scenes_dir, "train", tmp_path / "train.parquet", near=0)
    assert main(words(scenes_dir, train, tmp_path / "d", models[0])) == 1
    assert "expected proposals of this data set and split" in one_line()
    regions = ["--regions", str(whole / "regions.parquet"), "--data", str(scenes_dir), "--out", str(tmp_path / "e")]
    assert main([*regions, "--limit", "2"]) == 1
    assert "but the data set has 2" in capsys.readouterr().err.splitlines()[-1]
    for wrong in ([], ["--proposals", "p"]):
        with pytest.raises(SystemExit, match="2"):
            main([*regions[2:], *wrong])
        assert "expected --engine NET with --proposals FILE" in one_line()
