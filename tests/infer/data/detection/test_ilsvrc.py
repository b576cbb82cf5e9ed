"""infer/data/detection/ilsvrc.py: both layouts of ILSVRC's detection task, and one line for each damage."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.io
from conftest import TRAIN_SCENES, VAL_SCENES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.data.annotations import Box
from infer.data.detection import DetectionData, Object, boxes_in, open_detection
from infer.data.detection.objects import NEGATIVE, PARTLY, POSITIVE, UNLISTED
from infer.data.folder import DatasetError
from infer.pixels.decode import read
from trainer.miniature import DEVKIT_ORDER, WNIDS, WORDS

VAL, VAL_BOXES = "ILSVRC2013_DET_val", "ILSVRC2013_DET_bbox_val"
TRAIN, TRAIN_BOXES = "ILSVRC2014_DET_train", "ILSVRC2014_DET_bbox_train"
DATA = Path("ILSVRC2014_devkit/data")
BLACKLIST = DATA / "ILSVRC2014_det_validation_blacklist.txt"


def stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def seen(data: DetectionData) -> list[object]:
    """All that does not depend on where the images lie."""
    names = [stem(item.name) for item in data.items]
    listed = None if data.listed is None else data.listed.tolist()
    return [data.classes, data.class_names, names, data.objects, data.sizes_px, data.not_counted, listed]


def as_kaggle(root: Path, target: Path) -> Path:
    """The same data set in the layout of 2015 and of Kaggle; lists of training have a label on each line."""
    top = target / "ILSVRC"
    for old, new in ((VAL, "Data/DET/val"), (VAL_BOXES, "Annotations/DET/val")):
        shutil.copytree(root / old, top / new)
    for old, new in ((TRAIN, "Data/DET/train"), (TRAIN_BOXES, "Annotations/DET/train")):
        shutil.copytree(root / old, top / new)
    lists = top / "ImageSets/DET"
    lists.mkdir(parents=True)
    shutil.copy(root / DATA / "det_lists/val.txt", lists)
    for number in range(1, 11):
        lines = []
        for kind, label in (("pos", 1), ("part", 0), ("neg", -1)):
            names = (root / DATA / f"det_lists/train_{kind}_{number}.txt").read_text().split()
            lines += [f"{name} {label}\n" for name in names]
        (lists / f"train_{number}.txt").write_text("".join(lines))
    data = top / "devkit/data"
    data.mkdir(parents=True)
    for name in ("meta_det.mat", BLACKLIST.name):
        shutil.copy(root / DATA / name, data / name.replace("2014", "2015"))
    return target


def pack(folder: Path) -> None:
    """A folder becomes the archive of its name."""
    with tarfile.open(folder.with_name(folder.name + ".tar"), "w") as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder)


def refused(root: Path, split: str = "val", **options: object) -> str:
    with pytest.raises(DatasetError) as caught:
        open_detection(root, split, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


def test_validation_has_the_objects_of_the_xmls_in_sorted_classes(scenes_dir: Path) -> None:
    data = open_detection(scenes_dir, "val")
    assert (data.kind, data.split, data.classes, data.class_names) == ("ilsvrc-det", "val", WNIDS, WORDS)
    assert len(data.items) == VAL_SCENES == len(data.objects) == len(data.sizes_px)
    assert (data.broken, data.notes, data.listed) == ((), (), None)
    names = [stem(item.name) for item in data.items]
    assert names == sorted(names)
    for item, objects, size_px in zip(data.items, data.objects, data.sizes_px, strict=True):
        root = ElementTree.parse(scenes_dir / VAL_BOXES / f"{stem(item.name)}.xml")
        expected = [
            (found.findtext("name"), *(float(found.findtext(f"bndbox/{edge}", "")) for edge in Box._fields))
            for found in root.iterfind("object")
        ]
        assert [(data.classes[one.label], *one.box) for one in objects] == expected
        assert size_px == tuple(int(root.findtext(f"size/{tag}", "")) for tag in ("height", "width"))
        assert item.label == -1
        assert item.read_bytes() == (scenes_dir / item.name).read_bytes()
    assert any(not objects for objects in data.objects)


def test_the_blacklist_is_by_index_and_class(scenes_dir: Path) -> None:
    data = open_detection(scenes_dir, "val")
    lines = (scenes_dir / BLACKLIST).read_text().splitlines()
    pairs = {(int(line.split()[0]) - 1, WNIDS.index(line.split()[1])) for line in lines}
    assert data.not_counted == pairs
    assert len(pairs) == 3
    assert all(label in [one.label for one in data.objects[place]] for place, label in pairs)


def test_training_has_what_the_lists_name(scenes_dir: Path) -> None:
    data = open_detection(scenes_dir, "train")
    assert len(data.items) == TRAIN_SCENES
    assert data.notes == ("2 images of train are in no list that was read, left out",)
    assert data.listed is not None
    assert data.listed.shape == (TRAIN_SCENES, 10)
    assert set(np.unique(data.listed)) == {UNLISTED, PARTLY, POSITIVE}
    assert (data.listed == PARTLY).sum() == 2
    for row, objects in zip(data.listed, data.objects, strict=True):
        assert set(np.flatnonzero(row >= PARTLY)) == {one.label for one in objects}

    # two more that show nothing, and what they and others do not show
    every = open_detection(scenes_dir, "train", negatives=True)
    assert len(every.items) == TRAIN_SCENES + 2
    assert every.listed is not None
    assert (every.listed[[not objects for objects in every.objects]] == NEGATIVE).all()
    iconic = [item.name.startswith(f"{TRAIN}/n99") for item in every.items]
    assert sum(iconic) == TRAIN_SCENES // 10
    assert ((every.listed == UNLISTED).sum(1) == np.where(iconic, 9, 0)).all()
    assert every.listing_digest != data.listing_digest


@pytest.mark.parametrize("split", ["train", "val"])
def test_kaggles_layout_is_the_same_data(scenes_dir: Path, tmp_path: Path, split: str) -> None:
    kaggle = as_kaggle(scenes_dir, tmp_path)
    expected = open_detection(scenes_dir, split, negatives=True)  # type: ignore[arg-type]
    for root in (kaggle, kaggle / "ILSVRC"):
        found = open_detection(root, split, negatives=True)  # type: ignore[arg-type]
        assert seen(found) == seen(expected)
        assert found.listing_digest == expected.listing_digest


@pytest.mark.parametrize("split", ["train", "val"])
def test_archives_stand_for_folders(scenes_copy: Path, split: str) -> None:
    """Also those of classes in the one of training images, as it comes."""
    expected = seen(open_detection(scenes_copy, split))  # type: ignore[arg-type]
    for folder in [path for path in (scenes_copy / TRAIN).iterdir() if path.is_dir()]:
        pack(folder)
    for name in (VAL, VAL_BOXES, TRAIN, TRAIN_BOXES, "ILSVRC2014_devkit"):
        pack(scenes_copy / name)
    found = open_detection(scenes_copy, split)  # type: ignore[arg-type]
    assert seen(found) == expected
    assert all(item.read_bytes() for item in found.items)


def test_without_a_devkit_the_classes_are_those_of_the_xmls(scenes_copy: Path) -> None:
    shutil.rmtree(scenes_copy / "ILSVRC2014_devkit")
    data = open_detection(scenes_copy, "val")
    assert data.classes == WNIDS
    assert data.notes == ("no devkit with data/meta_det.mat, so the classes are the 10 that the XMLs name",)
    assert (len(data.items), data.not_counted) == (VAL_SCENES, frozenset())
    train = open_detection(scenes_copy, "train")
    assert (train.classes, train.listed) == (WNIDS, None)
    assert len(train.items) == TRAIN_SCENES  # those with an XML


def test_a_test_set_has_no_objects(scenes_copy: Path) -> None:
    shutil.copytree(scenes_copy / VAL, scenes_copy / "ILSVRC2013_DET_test")
    data = open_detection(scenes_copy, "test")
    assert (len(data.items), data.classes) == (VAL_SCENES, WNIDS)
    assert not any(data.objects)
    assert data.items[0].name.startswith("ILSVRC2013_DET_test/")


def test_a_limit_takes_evenly_spaced_images_and_their_pairs(scenes_dir: Path) -> None:
    data, part = open_detection(scenes_dir, "val"), open_detection(scenes_dir, "val", limit=11)
    names = [item.name for item in data.items]
    places = [names.index(item.name) for item in part.items]
    assert places == list(range(0, VAL_SCENES, VAL_SCENES // 11))
    assert part.objects == tuple(data.objects[place] for place in places)
    expected = {(places.index(place), label) for place, label in data.not_counted if place in places}
    assert part.not_counted == expected
    assert part.notes == (f"11 of {VAL_SCENES} images",)
    assert open_detection(scenes_dir, "train", limit=5).listed.shape == (5, 10)  # type: ignore[union-attr]


def test_boxes_in_the_image_as_it_is(scenes_dir: Path) -> None:
    """One XML states twice its image's size: the boxes lie on the ink all the same."""
    data = open_detection(scenes_dir, "val")
    enlarged = 0
    for item, objects, size_px in zip(data.items, data.objects, data.sizes_px, strict=True):
        pixels = read(scenes_dir / item.name)
        moved = boxes_in(objects, size_px, pixels.shape[:2])
        assert len(moved) == len(objects)
        enlarged += size_px != pixels.shape[:2]
        for one in moved:
            xmin, ymin, xmax, ymax = (round(edge) for edge in one.box)
            inside = pixels[ymin - 1 : ymax, xmin - 1 : xmax].mean(2) > 130
            assert inside.any(0).mean() > 0.85
    assert enlarged == 1


def test_boxes_are_clipped_and_those_outside_go() -> None:
    one = Object(3, Box(-4, 2, 12, 30), ignored=True)
    assert boxes_in([one], None, (20, 10)) == (Object(3, Box(1, 2, 10, 20), ignored=True),)
    assert boxes_in([one], (20, 10), (20, 10)) == boxes_in([one], None, (20, 10))
    assert boxes_in([Object(0, Box(3, 5, 4, 8))], (20, 10), (40, 20)) == (Object(0, Box(5, 9, 8, 16)),)
    outside = [Box(11, 1, 15, 5), Box(-5, 1, 0, 5), Box(1, 21, 3, 25), Box(1, -9, 3, 0)]
    assert boxes_in([Object(0, box) for box in outside], None, (20, 10)) == ()
    assert len(boxes_in([Object(0, Box(10, 20, 10, 20))], None, (20, 10))) == 1  # one pixel


def first_xml(root: Path) -> Path:
    return min((root / VAL_BOXES).iterdir())


def test_images_whose_xml_cannot_be_used_are_named_and_left_out(scenes_copy: Path) -> None:
    xmls = sorted((scenes_copy / VAL_BOXES).iterdir())
    whole = open_detection(scenes_copy, "val")
    text = xmls[1].read_text()
    xmls[0].write_text("<annotation>")
    xmls[1].write_text(text.replace("n9900000", "n1234567"))
    xmls[2].write_text(text.replace("<xmin>", "<xmin>x"))
    data = open_detection(scenes_copy, "val")
    assert len(data.items) == VAL_SCENES - 3
    assert len(data.broken) == 3
    assert data.broken[0].startswith(f"{xmls[0].name}: not XML (")
    assert "an object is named 'n1234567" in data.broken[1]
    assert "expected the WNID of one of the 10 classes, like n99000000" in data.broken[1]
    assert data.broken[2].startswith(f"{xmls[2].name}: <bndbox/xmin> is 'x")
    # the blacklist still means the same images
    pairs = {(data.items[place].name, label) for place, label in data.not_counted}
    assert pairs == {(whole.items[place].name, label) for place, label in whole.not_counted}


def test_objects_outside_are_left_out_with_a_note(scenes_copy: Path) -> None:
    xml = next(path for path in sorted((scenes_copy / VAL_BOXES).iterdir()) if "<object>" in path.read_text())
    before = open_detection(scenes_copy, "val")
    outside = (
        "<object><name>n99000001</name><bndbox><xmin>{}</xmin><xmax>{}</xmax><ymin>5</ymin><ymax>9</ymax></bndbox>"
    )
    more = "".join(outside.format(*edges) + "</object>" for edges in ((9000, 9001), (-9, 0)))
    xml.write_text(xml.read_text().replace("</annotation>", f"{more}</annotation>"))
    data = open_detection(scenes_copy, "val")
    assert data.objects == before.objects
    assert data.notes == (f"2 objects outside the image or without area, left out ({xml.name} ...)",)


Damage = Callable[[Path], object]


def edit(path: Path | str, change: Callable[[str], str]) -> Damage:
    return lambda root: (root / path).write_text(change((root / path).read_text()))


def meta(**changes: int) -> Damage:
    def damage(root: Path) -> None:
        synsets = np.zeros(
            (changes["rows"], 1), dtype=[(name, object) for name in ("ILSVRC2014_DET_ID", "WNID", "name")]
        )
        for row in range(changes["rows"]):
            synsets[row, 0] = (row + 1, WNIDS[DEVKIT_ORDER[row % changes["distinct"]]], "x")
        scipy.io.savemat(root / DATA / "meta_det.mat", {"synsets": synsets})

    return damage


VAL_LIST, POS_LIST = DATA / "det_lists/val.txt", DATA / "det_lists/train_pos_1.txt"


@pytest.mark.parametrize(
    ("damage", "split", "line"),
    [
        (lambda root: first_xml(root).unlink(), "val", f"{VAL_BOXES}: no XML for 1 of 44 images (ILS"),
        (lambda root: shutil.rmtree(root / VAL_BOXES), "val", f"{VAL_BOXES}: no such folder, expected"),
        (lambda root: shutil.rmtree(root / VAL), "val", "no ILSVRC2014_DET_val or ILSVRC2013_DET_val"),
        (lambda root: min((root / VAL).iterdir()).unlink(), "val", "1 of 44 images are not in"),
        (lambda root: [path.unlink() for path in (root / VAL).iterdir()], "val", f"{VAL}: no images of val in it"),
        (edit(VAL_LIST, lambda text: text + "x\n"), "val", "line 45 is 'x', expected the name of an image and"),
        (edit(VAL_LIST, lambda text: ""), "val", "val.txt: empty, expected"),
        (edit(VAL_LIST, lambda text: text + text.split("\n")[0]), "val", "ILSVRC2012_val_00000003 is there twice"),
        (edit(POS_LIST, lambda text: text + "n1/n1_1 1\n"), "train", "'n1/n1_1 1', expected the name of an image"),
        (edit(POS_LIST, lambda text: text + "n1/n1_1\n"), "train", "1 of 41 images are not in"),
        (edit(BLACKLIST, lambda text: text + "n99000001 7\n"), "val", "'n99000001 7', expected an image's index and"),
        (edit(BLACKLIST, lambda text: text + "1 n99000011\n"), "val", "n99000011 is none of the 10 classes"),
        (edit(BLACKLIST, lambda text: text + "45 n99000001\n"), "val", "no image has the index 45"),
        (lambda root: (root / BLACKLIST).write_bytes(b"\xff\xfe\x00"), "val", "not text in UTF-8"),
        (lambda root: (root / DATA / "meta_det.mat").write_bytes(b"x" * 999), "val", "not the devkit's meta_det.mat ("),
        (lambda root: (root / DATA / "meta_det.mat").unlink(), "val", "meta_det.mat: no such file"),
        (meta(rows=9, distinct=9), "val", "meta_det.mat: 9 synsets with ids up to 10, which the lists are numbered by"),
        (meta(rows=10, distinct=9), "val", "no synsets with ids from 1, each once"),
    ],
)  # fmt: skip
def test_damage_has_one_line(scenes_copy: Path, damage: Damage, split: str, line: str) -> None:
    damage(scenes_copy)
    assert line in refused(scenes_copy, split)


def test_what_is_compressed_is_said(scenes_copy: Path) -> None:
    shutil.rmtree(scenes_copy / "ILSVRC2014_devkit")
    (scenes_copy / "ILSVRC2014_devkit.tgz").write_bytes(b"x")
    assert refused(scenes_copy) == "ILSVRC2014_devkit.tgz: is compressed, expected it unpacked: tar -xzf it"
    (scenes_copy / "ILSVRC2014_devkit.tgz").unlink()
    shutil.rmtree(scenes_copy / VAL_BOXES)
    (scenes_copy / f"{VAL_BOXES}.tgz").write_bytes(b"x")
    assert f"{VAL_BOXES}.tgz: is compressed" in refused(scenes_copy)


def test_nothing_of_detection(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert "no data set of detection: expected ILSVRC2013_DET_val" in refused(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_list_or_an_xml_is_refused_named_or_read(scenes_copy: Path, data: st.DataObject) -> None:
    path = scenes_copy / data.draw(st.sampled_from([VAL_LIST, BLACKLIST, first_xml(scenes_copy)]))
    whole = path.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(content)
        found = open_detection(scenes_copy, "val")
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.items) + len(found.broken) == VAL_SCENES
        assert all("\n" not in line for line in found.broken)
    finally:
        path.write_bytes(whole)
