"""Data sets as VOC and Caltech have them: what is read of them, and what is said of those that are damaged."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from feature_sets import CLASSES, caltech, voc
from helpers import encode, noise

from evaluation.features.readers import open_caltech, open_collection, open_folders
from evaluation.features.voc import open_action, open_classification
from infer.data.folder import DatasetError


def test_voc_has_the_sets_and_labels_of_its_files(tmp_path: Path) -> None:
    found = open_classification(voc(tmp_path / "VOC2007"))
    assert (found.kind, found.classes) == ("voc2007", CLASSES)
    examples = {picture.item.name: picture.examples[0] for picture in found.pictures}
    assert list(examples) == [f"JPEGImages/{i:06d}.jpg" for i in range(1, 37)]
    assert [one.split for one in examples.values()] == ["train", "val", "test"] * 12
    assert examples["JPEGImages/000001.jpg"].labels.tolist() == [1, -1]
    assert examples["JPEGImages/000012.jpg"].labels.tolist() == [0, 1]  # difficult
    assert all(picture.item.path.is_file() for picture in found.pictures)


def test_a_test_set_without_labels_is_read_all_the_same(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012", server=True)
    found = open_classification(root)
    assert found.kind == "voc2012"
    tested = [picture.examples[0] for picture in found.pictures if picture.examples[0].split == "test"]
    assert len(tested) == 12 and not any(one.labels.any() for one in tested)


def test_marks_of_other_systems_are_read(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2007")
    expected = open_classification(root)
    (root / "JPEGImages" / "000001.jpg").rename(root / "JPEGImages" / "000001.JPG")
    lines = root / "ImageSets" / "Main" / "bus_trainval.txt"
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    found = open_classification(root)
    names = [picture.item.name for picture in found.pictures]
    assert names == ["JPEGImages/000001.JPG", *(picture.item.name for picture in expected.pictures[1:])]
    assert names == [picture.examples[0].name for picture in found.pictures]


def test_voc_is_found_in_the_devkits_folder(tmp_path: Path) -> None:
    voc(tmp_path / "VOCdevkit" / "VOC2007")
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2007"):
        assert open_collection(root).kind == "voc2007"
    assert open_classification(voc(tmp_path / "VOC2010")).kind == "voc"
    shutil.rmtree(tmp_path / "VOC2010")
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(DatasetError, match=r"has VOC2007, VOC2012, expected one like VOCdevkit/VOC2007: name it"):
        open_classification(tmp_path)


def test_action_has_people_with_boxes(tmp_path: Path) -> None:
    found = open_action(voc(tmp_path / "VOC2012"))
    first = found.pictures[0]
    assert (found.kind, found.classes, first.item.name) == ("voc-action", CLASSES, "JPEGImages/000001.jpg")
    assert [(one.name, one.split, one.labels.tolist(), one.box) for one in first.examples] == [
        ("000001/1", "train", [1, -1], (10, 4, 60, 40)),
        ("000001/3", "train", [1, -1], (30, 60, 40, 30)),
    ]


def test_caltech_counts_clutter_and_passes_over_what_is_no_image(tmp_path: Path) -> None:
    root = caltech(tmp_path, "256_ObjectCategories", 2)
    (root / "001.ak47" / "RENAME2").write_text("a leftover of the original's")
    (root / "001.ak47" / "greg").mkdir()
    for path in (tmp_path, root):
        found = open_caltech(path)
        assert (found.kind, found.classes) == ("caltech-256", ("001.ak47", "002.bear", "257.clutter"))
        assert len(found.pictures) == 6
        assert open_collection(path).listing_digest == found.listing_digest


def test_the_listing_knows_labels_and_boxes(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012")
    listings = {open_action(root).listing_digest}
    xml = root / "Annotations" / "000001.xml"
    xml.write_text(xml.read_text().replace("<xmin>5</xmin>", "<xmin>6</xmin>"))
    listings.add(open_action(root).listing_digest)
    line = root / "ImageSets" / "Action" / "bus_trainval.txt"
    line.write_text(line.read_text().replace("000001 1 1", "000001 1 -1"))
    listings.add(open_action(root).listing_digest)
    assert len(listings) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("JPEGImages/000003.jpg", None), r"000003\.jpg: no such file, though ImageSets names it: unpack"),
        (("Annotations/000003.xml", None), r"000003\.xml: no such file, though ImageSets/Action names it"),
        (("Annotations/000003.xml", "<annotation><object>"), r"000003\.xml: not XML \("),
        (("Annotations/000003.xml", "<annotation/>"), r"000003\.xml: 0 objects, but ImageSets/Action names person 1"),
        (
            ("Annotations/000003.xml", "<annotation><object><bndbox/></object></annotation>"),
            r"000003\.xml: <bndbox/xmin> is '', expected a number",
        ),
        (("ImageSets/Action/cat_trainval.txt", "000001 1 yes\n"), r"line 1 is '000001 1 yes', expected IMAGE PERSON"),
        (("ImageSets/Action/cat_trainval.txt", "000001 1 -1\n"), r"no image of cat \(1\), so nothing can be learnt"),
        (("ImageSets/Action/cat_test.txt", "000001 1 -1\n"), r"cat_test\.txt: 000001 is in trainval too"),
        (("ImageSets/Action/cat_trainval.txt", b"\xff\xfe"), r"cat_trainval\.txt: cannot be read"),
    ],
)
def test_damaged_voc_is_one_line(tmp_path: Path, damage: tuple[str, str | bytes | None], message: str) -> None:
    root = voc(tmp_path / "VOC2012")
    path, content = root / damage[0], damage[1]
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message) as error:
        open_action(root)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_such_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no ImageSets folder there, expected one like VOCdevkit/VOC2007"):
        open_classification(tmp_path)
    with pytest.raises(DatasetError, match=r"no 101_ObjectCategories or 256_ObjectCategories there"):
        open_caltech(tmp_path)
    for name in ("101_ObjectCategories.tar.gz", "256_ObjectCategories.tgz"):
        packed = tmp_path / "packed" / name
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(b"a tar"))
        for path, kind in ((packed, "auto"), (packed.parent, "auto"), (packed.parent, "caltech")):
            with pytest.raises(DatasetError, match=rf"{name}: is compressed, .*gunzip"):
                open_collection(path, kind)
        packed.unlink()
    root = caltech(tmp_path, "101_ObjectCategories", 1)
    (root / "zebra").mkdir()
    with pytest.raises(DatasetError, match=r"101_ObjectCategories/zebra: a class without images"):
        open_caltech(tmp_path)
    (voc(tmp_path / "empty") / "ImageSets" / "Main").rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"empty/ImageSets/Main: no such folder"):
        open_classification(tmp_path / "empty")


def test_class_folders_with_and_without_sets(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(encode(noise((9, 9)), "PNG"))
    found = open_folders(tmp_path)
    one = [(picture.item.name, *picture.examples) for picture in found.pictures]
    assert [(name, e.split, e.labels.tolist()) for name, e in one] == [
        ("train/a/1.png", "train", [1, -1]),
        ("train/b/1.png", "train", [-1, 1]),
        ("val/a/1.png", "val", [1, -1]),
        ("val/b/1.png", "val", [-1, 1]),
    ]
    assert [p.examples[0].split for p in open_folders(tmp_path / "train").pictures] == ["", ""]
    assert np.array_equal(open_folders(tmp_path / "train").pictures[1].examples[0].labels, [-1, 1])
    (tmp_path / "val" / "c").mkdir()
    with pytest.raises(DatasetError, match=r"c is a class of only one of train \(2 classes\) and val \(3\)"):
        open_folders(tmp_path)


def test_some_of_a_collection_have_every_set_and_class(tmp_path: Path) -> None:
    for split, count in (("Train", 6), ("VAL", 3)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number}.png").write_bytes(encode(noise((9, 9)), "PNG"))

    found = open_collection(tmp_path, limit=6)  # two of each class to train on, one for validation
    assert [picture.item.name for picture in found.pictures] == [
        *("Train/a/0.png", "Train/a/3.png", "Train/b/0.png", "Train/b/3.png", "VAL/a/0.png", "VAL/b/0.png")
    ]
    assert found.notes == (f"{tmp_path}: 6 of 18 images, all 2 classes",)
    assert open_collection(tmp_path, limit=18).notes == ()


def test_a_list_of_labels_is_for_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for name in ("x", "y"):
        (tmp_path / "flat" / f"{name}.png").write_bytes(encode(noise((9, 9)), "PNG"))
    labels = tmp_path / "labels.csv"
    labels.write_text("x.png,cat\ny.png,dog\n")

    found = open_collection(tmp_path / "flat", labels=labels)
    assert [picture.examples[0].labels.tolist() for picture in found.pictures] == [[1, -1], [-1, 1]]
    assert found.notes == (f"{tmp_path / 'flat'}: labels by {labels}",)
    with pytest.raises(DatasetError, match=r"--labels is for folders and shards of images, a voc data set has its own"):
        open_collection(voc(tmp_path / "VOC2007"), labels=labels)
