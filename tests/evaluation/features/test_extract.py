"""python -m evaluation.features extract: beside plain torch, whatever the order and the threads, and gone on with; the
unchanged commands over small data sets in VOC's and Caltech's formats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from feature_sets import CLASSES, caltech, tinted, voc
from helpers import encode, network_input, noise, random_net, slim_spec
from numpy.typing import NDArray
from PIL import Image

from evaluation.errors import RunError
from evaluation.features import table as feature_table
from evaluation.features.__main__ import main
from evaluation.features.collection import Collection
from evaluation.features.extract import FeatureMaker, Settings, box_in, descriptor
from evaluation.features.readers import open_folders
from evaluation.run import loop
from evaluation.run.loop import make_shards
from infer.open import open_engine
from infer.spec import ModelSpec
from infer.views import rescaled_px

Exported = Callable[..., Path]
OneLine = Callable[[], str]


def plain_torch(pixels: NDArray[np.uint8], spec: ModelSpec, scales: Sequence[int]) -> NDArray[np.float64]:
    """Penultimate activations of the image at each scale, mean over positions, then over image and mirror: f64
    [scales, width]. Pillow rescales."""
    net = random_net(spec)
    rows = []
    for q in scales:
        height, width = rescaled_px((pixels.shape[0], pixels.shape[1]), q, spec.preprocessing.long_side_rounding)
        rescaled = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            x = network_input(rescaled, spec)
            both = [net.penultimate(view).mean((2, 3))[0].double().numpy() for view in (x, x.flip(3))]
        rows.append((both[0] + both[1]) / 2)
    return np.stack(rows)


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.sqrt((x**2).sum())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of several sizes in three classes; the engine of A admits all of them."""
    root = tmp_path_factory.mktemp("folders")
    for i, size in enumerate([(64, 64), (100, 90), (77, 131), (90, 90), (120, 64), (65, 99), (80, 80)]):
        (root / "abc"[i % 3]).mkdir(exist_ok=True)
        (root / "abc"[i % 3] / f"{i}.png").write_bytes(encode(noise(size, i), "PNG"))
    return root


def features_of(
    engine: Path, collection: Collection, settings: Settings, **options: Any
) -> dict[str, NDArray[np.float32]]:
    maker = FeatureMaker(settings, False, [open_engine(engine)])
    rows = [row for shard in make_shards(maker, collection.pictures, **options) for row in shard.rows]
    assert all(row.features is not None for row in rows)
    return {row.image: row.features for row in rows if row.features is not None}


@pytest.mark.parametrize(("net", "scales"), [("A", (72, 96)), ("googlenet", (96, 120))])
def test_features_are_those_of_plain_torch(exported: Exported, folders: Path, net: str, scales: Any) -> None:
    spec, collection = slim_spec(net), open_folders(folders)
    found = {combine: features_of(exported(net), collection, Settings(scales, combine)) for combine in COMBINE}
    for picture in collection.pictures:
        name = picture.item.name
        of_scales = plain_torch(np.asarray(Image.open(picture.item.path)), spec, scales)
        assert np.linalg.norm(of_scales) > 0.1
        np.testing.assert_allclose(found["average"][name], unit(of_scales.mean(0)), atol=2e-6)
        np.testing.assert_allclose(found["stack"][name], unit(of_scales.ravel()), atol=2e-6)


COMBINE: tuple[Any, ...] = ("average", "stack")


def test_a_descriptor_by_hand() -> None:
    """Two scales, a view and its mirror each, of two activations."""
    views = np.array([[3, 0], [3, 8], [0, 1], [0, 1]], np.float32)  # means (3, 4) and (0, 1)
    scales = (72, 96)
    for combine, normalise, expected in (
        ("average", "descriptor", [1.5, 2.5]),
        ("stack", "descriptor", [3, 4, 0, 1]),
        ("average", "scale", [0.3, 0.9]),
        ("stack", "scale", [0.6, 0.8, 0, 1]),
    ):
        found = descriptor(views, Settings(scales, combine, normalise))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, unit(np.array(expected, float)), rtol=1e-7)
    assert not descriptor(np.zeros((4, 2), np.float32), Settings(scales)).any()


def test_neither_order_nor_threads_nor_parts_change_a_bit(
    exported: Exported, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, settings = open_folders(folders), Settings((72, 96))
    expected = features_of(exported("A"), collection, settings)
    backwards = Collection(collection.kind, collection.classes, collection.pictures[::-1])
    others = [features_of(exported("A"), backwards, settings, decoders=3)]
    monkeypatch.setattr(feature_table, "PART", 2)
    others.append(features_of(exported("A"), collection, settings, decoders=2))
    for found in others:
        assert {name: row.tobytes() for name, row in found.items()} == {k: v.tobytes() for k, v in expected.items()}


def test_images_are_read_as_they_are_needed(exported: Exported, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = loop.read_image
    monkeypatch.setattr(feature_table, "PART", 1)
    monkeypatch.setattr(loop, "read_image", lambda item, **options: [read.append(item.name), real(item, **options)][1])
    shards = make_shards(
        FeatureMaker(Settings((72,)), False, [open_engine(exported("A"))]), open_folders(folders).pictures
    )
    next(shards)
    assert len(read) < 4
    shards.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((-5, -5, 20, 20), (0, 0, 15, 15)),  # reaches beyond the image
        ((10, 40, 60, 10), (10, 30, 60, 30)),  # a narrow one is widened about its centre
        ((10, 0, 60, 10), (10, 0, 60, 30)),  # and shifted into the image
        ((40, 5, 9, 90), (22, 5, 45, 90)),
        ((200, 10, 20, 20), (200, 10, 0, 0)),
    ],
)
def test_boxes_in_an_image_of_100x100(box: Any, expected: Any) -> None:
    assert box_in(box, (100, 100)) == expected


def command(engines: Sequence[Path], data: Path, out: Path, *more: str, scales: str = "72") -> list[str]:
    named = [word for engine in engines for word in ("--engine", str(engine))]
    return ["extract", *named, "--data", str(data), "--scales", scales, "-o", str(out), *more]


def report(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    capsys.readouterr()
    assert main(["svm", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


NOT_OF_20 = "the paper's rows are not shown: they are of 20 classes, this data set has 2"


def test_voc_from_end_to_end(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = voc(tmp_path / "VOCdevkit" / "VOC2007"), tmp_path / "f.parquet"
    assert main(command([exported("A"), exported("B")], root, out, "--combine", "stack", scales="72,96")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{out}: 36 rows of 128 features, voc2007, 2 classes"
    assert printed[1].startswith("36 images in ") and "wall / engine = " in printed[1]
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(out).metadata.items()}
    assert [spec["name"] for spec in json.loads(metadata["specs"])] == ["slim-a", "slim-b"]
    assert (metadata["scales"], metadata["combine"], metadata["kind"]) == ("72,96", "stack", "voc2007")
    assert metadata["engine_sha256"].split(",") == [open_engine(exported(net)).sha256 for net in "AB"]
    assert len(metadata["dataset_id"]) == 16
    found = report(capsys, out)
    assert (found["tested"], found["train_images"], found["test_images"]) == ("test", 24, 12)
    assert found["map_11_point_percent"] == found["map_all_point_percent"] == 100  # colours are easily told
    assert set(found["ap_all_point_percent"]) == set(CLASSES)
    assert (found["paper"], found["paper_not_shown"]) == ([], NOT_OF_20)  # VOC2007 by its folder alone
    assert main(["svm", str(out), "--test", "val"]) == 0
    text = capsys.readouterr().out
    assert "| slim-a + slim-b, 11-point (val)" in text and "VGG Table 11" not in text and NOT_OF_20 in text
    assert "12 images train, 12 of val test" in text


def test_voc_without_test_labels_writes_what_its_server_takes(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_line: OneLine
) -> None:
    out = tmp_path / "f.parquet"
    assert main(command([exported("A")], voc(tmp_path / "VOC2012", server=True), out)) == 0
    assert report(capsys, out)["tested"] == "val"
    assert main(["svm", str(out), "--test", "test"]) == 1
    assert "have no labels, which VOC's server keeps: write the files that it takes by --results" in one_line()
    assert main(["svm", str(out), "--results", str(tmp_path / "results")]) == 0
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [f"comp2_cls_test_{c}.txt" for c in CLASSES]
    lines = [line.split() for line in (tmp_path / "results" / "comp2_cls_test_bus.txt").read_text().splitlines()]
    scores = {name: float(score) for name, score in lines}
    assert len(scores) == 12
    assert all((score > 0) == (int(name) % 2 == 1) for name, score in scores.items() if int(name) % 12)


def test_action_stacks_image_and_box(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "VOC2012")
    tables = {}
    for regions in ("image", "box", "image+box"):
        out = tmp_path / f"{regions}.parquet"
        assert main(command([exported("A")], root, out, "--kind", "voc-action", "--regions", regions)) == 0
        tables[regions] = feature_table.read([out])
    assert tables["image"].images[:3] == ("000001/1", "000001/3", "000002/1")
    stacked = np.concatenate([tables["image"].features, tables["box"].features], 1)
    assert np.array_equal(tables["image+box"].features, stacked)
    assert np.array_equal(feature_table.read([tmp_path / "image.parquet", tmp_path / "box.parquet"]).features, stacked)
    decoded = np.asarray(Image.open(root / "JPEGImages" / "000001.jpg"))
    for row, person in enumerate((decoded[10:70, 4:44], decoded[30:70, 60:90])):
        crop = unit(plain_torch(np.ascontiguousarray(person), slim_spec("A"), (72,))[0])
        np.testing.assert_allclose(tables["box"].features[row], crop, atol=2e-6)
    found = report(capsys, tmp_path / "image+box.parquet")
    assert found["kind"] == "voc-action" and found["test_images"] == 24
    assert found["map_all_point_percent"] == 100


def test_caltech_from_end_to_end(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.parquet"
    assert main(command([exported("A")], caltech(tmp_path, "101_ObjectCategories", 9), out)) == 0
    found = report(capsys, out, "--train-images", "5", "--test-images", "3")
    assert (found["kind"], found["classes"], found["train_images_per_class"]) == ("caltech-101", 3, 5)
    assert [split["seed"] for split in found["splits"]] == [0, 1, 2]
    assert [(split["train_images"], split["test_images"]) for split in found["splits"]] == [(15, 9)] * 3
    assert (found["mean_class_recall_percent"], found["std_percent"]) == (100, 0)
    assert main(["svm", str(out)]) == 1
    assert "BACKGROUND_Google has 9 images: with 30 to train none is left to test" in capsys.readouterr().err


def test_class_folders_from_end_to_end(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_line: OneLine
) -> None:
    for split, count in (("train", 8), ("val", 4)):
        shutil.move(caltech(tmp_path / split, "101_ObjectCategories", count), tmp_path / "data" / split)
    damaged = tmp_path / "data" / "val" / "ant" / "image_0000.jpg"
    damaged.write_bytes(damaged.read_bytes()[:700])
    out = tmp_path / "f.parquet"
    assert main(command([exported("A")], tmp_path / "data", out)) == 0
    assert one_line().count("val/ant/image_0000.jpg: ") == 1
    found = report(capsys, out)
    assert list(found["without_features"]) == ["val/ant/image_0000.jpg"]
    assert (found["tested"], found["test_images"]) == ("val", 12)
    assert found["top1_error_percent"] == pytest.approx(100 / 12)  # the damaged one is wrong
    low, high = found["top1_interval95_percent"]
    assert low < 100 / 12 < high
    assert main(["svm", str(out)]) == 0
    assert "1 images have no features" in capsys.readouterr().out


def test_a_run_that_ends_early_is_gone_on_with(
    exported: Exported, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.setattr(feature_table, "PART", 3)
    whole, out = tmp_path / "whole.parquet", tmp_path / "f.parquet"
    assert main(command([exported("A")], folders, whole)) == 0
    real, added = feature_table.UnfinishedTable.add, list[int]()

    def add(table: Any, shard: Any) -> None:
        if len(added) == 2:
            raise RunError("killed")
        added.append(shard.first)
        real(table, shard)

    monkeypatch.setattr(feature_table.UnfinishedTable, "add", add)
    assert main(command([exported("A")], folders, out)) == 1
    assert (one_line(), added, out.exists()) == ("killed", [0, 3], False)
    monkeypatch.setattr(feature_table.UnfinishedTable, "add", real)
    assert main(command([exported("A")], folders, out)) == 1
    assert "holds a run that did not end: go on with it by --resume" in one_line()
    assert main(command([exported("A")], folders, out, "--resume", "--combine", "stack")) == 1
    assert "--resume: combine changed since the run in" in one_line()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_table.UnfinishedTable, "add", interrupt)
    assert main(command([exported("A")], folders, out, "--resume")) == 130
    assert one_line() == f"interrupted: what is done is kept in {out}.parts, go on by --resume"
    monkeypatch.setattr(feature_table.UnfinishedTable, "add", real)
    assert main(command([exported("A")], folders, out, "--resume")) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "f.parquet.parts").exists()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--scales", "32"], 2, "scale 32 px is below the crop of 64 px"),
        (["--scales", "72,72"], 2, "scales must be different"),
        (["--regions", "box"], 2, "--regions box needs boxes, which folders has not: use --kind voc-action"),
        (["--kind", "voc"], 1, "no ImageSets folder there"),
        (["--engine", "gone.onnx"], 1, "gone.onnx: no such file"),
    ],
)
def test_bad_input_of_extract_is_one_line(
    exported: Exported, folders: Path, tmp_path: Path, one_line: OneLine, more: list[str], status: int, message: str
) -> None:
    argv = [*command([exported("A")], folders, tmp_path / "f.parquet"), *more]
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
    else:
        assert main(argv) == 1
    assert message in one_line()
    assert not list(tmp_path.iterdir())


def test_an_engine_without_features_and_strictness(
    single: Path, exported: Exported, folders: Path, tmp_path: Path, one_line: OneLine
) -> None:
    assert main(command([single], folders, tmp_path / "f.parquet")) == 1
    assert "slim-a has no output 'features'" in one_line()
    assert main(command([exported("A")], folders, tmp_path / "g.parquet", "--strict")) == 0
    data = Path(shutil.copytree(folders, tmp_path / "data"))
    (data / "a" / "9.png").write_bytes(encode(tinted(0, 0)[:4], "PNG"))  # 4x100 px
    assert main(command([exported("A")], data, tmp_path / "h.parquet", "--strict")) == 1
    assert "a/9.png: image 4x100 px" in one_line()
    # nothing was done: neither is it in the way, nor does it bind the next run
    assert main(command([exported("A")], data, tmp_path / "h.parquet", "--resume", scales="96")) == 0
    assert "a/9.png: image 4x100 px" in one_line()


def test_named_images_of_both_sets_are_taken(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a/1.png", "a/2.png", "b/3.png"):
            path = tmp_path / "d" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    (tmp_path / "few.txt").write_text("train/a/2.png\nval/b/3.png\ntrain/b/3.png\n")
    pictures = open_folders(tmp_path / "d", only=tmp_path / "few.txt").pictures
    assert [picture.item.name for picture in pictures] == ["train/a/2.png", "train/b/3.png", "val/b/3.png"]
