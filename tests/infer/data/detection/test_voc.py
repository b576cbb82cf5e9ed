"""infer/data/detection/voc.py: the devkit's folders, `difficult` objects, several years; a line for each damage."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from infer.data.annotations import Box
from infer.data.detection import Object, open_detection
from infer.data.folder import DatasetError

IMAGES = {"000005": ("chair", "dog"), "000007": ("dog",), "000009": ()}


def xml(*names: str, difficult: str = "0") -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult if place else 0}</difficult><bndbox><xmin>{place + 1}</xmin>"
        f"<ymin>2</ymin><xmax>{place + 4}</xmax><ymax>6.5</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></part></object>"
        for place, name in enumerate(names)
    )
    return f"<annotation><size><width>12</width><height>10</height></size>{objects}</annotation>"


def make_voc(
    root: Path, year: int = 2007, prefix: str = "", splits: tuple[str, ...] = ("train", "val", "test")
) -> Path:
    voc = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    encoded = io.BytesIO()
    Image.new("RGB", (12, 10)).save(encoded, "JPEG")
    for split in splits:
        names = [f"{prefix}{split}_{name}" for name in IMAGES]
        (voc / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for label in ("chair", "dog"):
            lines = [f"{name} {1 if label in IMAGES[name[-6:]] else -1:2d}\n" for name in names]
            (voc / f"ImageSets/Main/{label}_{split}.txt").write_text("".join(lines))
        for name in names:
            (voc / f"JPEGImages/{name}.jpg").write_bytes(encoded.getvalue())
            (voc / f"Annotations/{name}.xml").write_text(xml(*IMAGES[name[-6:]], difficult="1"))
    return voc


def refused(root: Path, split: str = "val") -> str:
    with pytest.raises(DatasetError) as caught:
        open_detection(root, split)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


def test_objects_and_what_is_difficult(tmp_path: Path) -> None:
    voc = make_voc(tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", voc):
        data = open_detection(root, "val")
        assert (data.kind, data.classes, data.class_names) == ("voc", ("chair", "dog"), ("chair", "dog"))
        names = [item.name.rpartition("/")[2] for item in data.items]
        assert names == ["val_000005.jpg", "val_000007.jpg", "val_000009.jpg"]
        chair, second = Object(0, Box(1, 2, 4, 6.5)), Object(1, Box(2, 2, 5, 6.5), ignored=True)
        assert data.objects == ((chair, second), (Object(1, Box(1, 2, 4, 6.5)),), ())
        assert data.sizes_px == ((10, 12),) * 3
        assert (data.not_counted, data.listed, data.broken, data.notes) == (frozenset(), None, (), ())
        assert all((root / item.name).read_bytes() == item.read_bytes() for item in data.items)


def test_both_years_are_taken_where_both_have_the_split(tmp_path: Path) -> None:
    make_voc(tmp_path)
    make_voc(tmp_path, 2012, "2012_", ("train", "val"))
    data = open_detection(tmp_path, "train")
    assert len(data.items) == 6
    assert data.notes == ("images of VOCdevkit/VOC2007, VOCdevkit/VOC2012",)
    assert open_detection(tmp_path, "test").notes == ("images of VOCdevkit/VOC2007",)


def test_a_test_set_without_xmls_and_one_with_some(tmp_path: Path) -> None:
    voc = make_voc(tmp_path)
    (voc / "Annotations/test_000005.xml").unlink()
    data = open_detection(voc, "test")
    assert (len(data.items), data.notes) == (2, ("1 images of test without an XML, left out",))
    for path in (voc / "Annotations").glob("test_*"):
        path.unlink()
    data = open_detection(voc, "test")
    assert (len(data.items), any(data.objects), data.notes) == (3, False, ("no annotations of these images",))


def test_classes_without_lists_are_those_of_all_xmls(tmp_path: Path) -> None:
    voc = make_voc(tmp_path)
    for path in (voc / "ImageSets/Main").glob("*_*.txt"):
        path.unlink()
    (voc / "Annotations/train_000009.xml").write_text(xml("cat"))
    assert open_detection(voc, "val").classes == ("cat", "chair", "dog")


def test_damage_has_one_line(tmp_path: Path) -> None:
    voc = make_voc(tmp_path)
    (voc / "Annotations/val_000005.xml").write_text(xml("unicorn"))
    assert open_detection(voc, "val").broken == (
        "val_000005.xml: an object is named 'unicorn', expected one of the 2 classes, like chair",
    )
    (voc / "Annotations/val_000005.xml").unlink()
    assert "Annotations: no XML for 1 of 3 images (val_000005), expected one for each" in refused(voc)
    (voc / "JPEGImages/val_000007.jpg").unlink()
    assert "ImageSets/Main/val.txt: 1 of 3 images are not in" in refused(voc)
    (voc / "ImageSets/Main/val.txt").write_text("000005 yes\n")
    assert "val.txt: line 1 is '000005 yes', expected the name of an image" in refused(voc)
    (voc / "ImageSets/Main/val.txt").write_text("\n")
    assert "val.txt: empty" in refused(voc)
    (voc / "ImageSets/Main/val.txt").unlink()
    assert "no ImageSets/Main/val.txt, there is test.txt, train.txt" in refused(voc)
