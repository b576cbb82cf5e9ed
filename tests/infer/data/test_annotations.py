"""infer/data/annotations.py: ILSVRC's boxes with every defect that they are known for, and what is no box at all."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from infer.data.annotations import (
    LARGEST_BYTES,
    Annotation,
    AnnotationError,
    Box,
    boxes_beside,
    boxes_of,
    class_of,
    find_annotations,
    fractions,
    in_frame,
    parse_annotation,
    read_annotation,
)
from infer.data.folder import DatasetError, File, open_folder
from trainer import miniature

DEERHOUND, CRANE, OTHER_CRANE = "n02092002", "n02012849", "n03126707"
CLASSES = (CRANE, DEERHOUND, OTHER_CRANE)
NAMES = ("crane", "Scottish deerhound, deerhound", "crane")


def box_xml(xmin: Any, ymin: Any, xmax: Any, ymax: Any, name: str = DEERHOUND) -> str:
    edges = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in (("xmin", xmin), ("ymin", ymin), ("xmax", xmax), ("ymax", ymax))
        if value is not None
    )
    return f"<object><name>{name}</name><pose>Unspecified</pose><bndbox>{edges}</bndbox></object>"


def xml(*objects: str, size: str = "<size><width>500</width><height>375</height><depth>3</depth></size>") -> bytes:
    return f"<annotation><filename>%s</filename>{size}{''.join(objects)}</annotation>".encode()


def boxes(data: bytes) -> list[Box]:
    return [box for _, box in parse_annotation(data).objects]


def test_the_boxes_that_the_miniature_writes(tmp_path: Path) -> None:
    miniature.make(tmp_path / "mini", train_digits=2, val_digits=3)
    found = find_annotations(open_folder(tmp_path / "mini" / "ILSVRC2012_bbox_val_v3"))
    assert sorted(found) == [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]
    for name, file in found.items():
        annotation = read_annotation(file, name)
        ((wnid, box),) = annotation.objects
        assert wnid in miniature.WNIDS
        assert annotation.size_px is not None
        assert 1 <= box.xmin < box.xmax <= annotation.size_px[1] and 1 <= box.ymin < box.ymax <= annotation.size_px[0]
    assert (
        len(find_annotations(open_folder(tmp_path / "mini" / "ILSVRC2012_bbox_train_v2"))) == 8
    )  # in folders of their classes


def test_several_boxes_in_their_order() -> None:
    data = xml(box_xml(1, 2, 30, 40), box_xml(5, 6, 7, 8, CRANE))
    objects = ((DEERHOUND, Box(1, 2, 30, 40)), (CRANE, Box(5, 6, 7, 8)))
    assert parse_annotation(data) == Annotation((375, 500), objects, (False, False))


def test_an_image_without_objects() -> None:
    assert parse_annotation(xml()).objects == ()


@pytest.mark.parametrize("root", ["annotations", "{http://x}annotation"])
def test_another_root_is_no_image_without_objects(root: str) -> None:
    tag, space = root.rpartition("}")[2], ' xmlns="http://x"' * ("}" in root)
    data = xml(box_xml(1, 2, 30, 40)).replace(b"<annotation>", f"<{tag}{space}>".encode())
    with pytest.raises(AnnotationError, match=re.escape(f"begins with <{root}>, expected <annotation>")):
        parse_annotation(data.replace(b"</annotation>", f"</{tag}>".encode()))


@pytest.mark.parametrize(
    ("said", "expected"), [("1", True), (" True ", True), ("yes", True), ("0", False), ("false", False), ("", False)]
)
def test_what_is_difficult(said: str, expected: bool) -> None:
    data = xml(box_xml(1, 2, 3, 4).replace("<pose>", f"<difficult>{said}</difficult><pose>"))
    assert parse_annotation(data).difficult == (expected,)


def test_floats_stay_and_reversed_edges_change_places() -> None:
    assert boxes(xml(box_xml("12.75", " 3 ", "1e2", "44.5"))) == [Box(12.75, 3, 100, 44.5)]
    assert boxes(xml(box_xml(30, 2, 1, 40), box_xml(1, 40, 30, 2))) == [Box(1, 2, 30, 40)] * 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("<size><width>500.0</width><height>375</height></size>", (375, 500)),
        ("", None),
        ("<size><width>0</width><height>0</height></size>", None),
        ("<size><width>wide</width><height>3</height></size>", None),
        ("<size><width>inf</width><height>3</height></size>", None),
    ],
)
def test_the_size_that_an_xml_names(size: str, expected: Any) -> None:
    assert parse_annotation(xml(size=size)).size_px == expected


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(1, 1, 200, 100), (0, 0, 1, 1)),
        (Box(51, 26, 100, 50), (0.25, 0.25, 0.5, 0.5)),
        (Box(1, 1, 1, 1), (0, 0, 0.005, 0.01)),  # one pixel
        (Box(-20, 51, 100, 999), (0, 0.5, 0.5, 1)),  # beyond two edges
        (Box(201, 1, 220, 10), None),  # outside
        (Box(1, -9, 20, 0), None),
    ],
)
def test_fractions_end_at_the_edges(box: Box, expected: Any) -> None:
    assert fractions(box, (100, 200)) == expected


def test_the_same_box_in_another_frame() -> None:
    assert in_frame(Box(51, 26, 100, 50), (100, 200), (200, 200)) == Box(51, 51, 100, 100)
    box = Box(3, 4, 50, 60)
    assert fractions(in_frame(box, (100, 200), (375, 500)), (375, 500)) == pytest.approx(fractions(box, (100, 200)))


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        (CRANE, 1, 0),  # its own, whatever the image is
        ("n99999999", 1, -1),  # a WNID of no class is not the image's
        ("Scottish_deerhound", 0, 1),  # words of one class
        ("deerhound", 0, 1),
        ("crane", 2, 2),  # of two: the image's own
        ("something_else", 1, 1),
        ("", 1, 1),
    ],
)
def test_whose_an_object_is(name: str, label: int, expected: int) -> None:
    assert class_of(CLASSES, NAMES)(name, label) == expected


@pytest.mark.parametrize(("name", "expected"), [("cat", 0), ("Dog", 1), ("person", -1), ("", -1), ("n12345678", -1)])
def test_where_classes_are_words_other_words_are_of_no_class(name: str, expected: int) -> None:
    """As in VOC's XMLs, where an image has objects of several classes."""
    assert class_of(("cat", "dog"), ("cat", "dog"))(name, 1) == expected


def test_only_the_boxes_of_the_images_class() -> None:
    found = parse_annotation(
        xml(box_xml(1, 1, 2, 2), box_xml(3, 3, 4, 4, CRANE), box_xml(5, 5, 6, 6, "Scottish_deerhound"))
    )
    assert boxes_of(found, 1, class_of(CLASSES, NAMES)) == (Box(1, 1, 2, 2), Box(5, 5, 6, 6))


BOMB = '<!DOCTYPE a [<!ENTITY x "aaaaaaaaaa"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (xml(box_xml(1, None, 3, 4)), "<bndbox/ymin> is '', expected a number"),
        (xml(box_xml(1, "two", 3, 4)), "<bndbox/ymin> is 'two', expected a number"),
        (xml(box_xml(1, "nan", 3, 4)), "<bndbox/ymin> is 'nan', expected a number"),
        (xml(box_xml(1, "inf", 3, 4)), "<bndbox/ymin> is 'inf', expected a number"),
        (xml("<object><name>x</name></object>"), "<bndbox/xmin> is '', expected a number"),
        (xml()[:-5], r"not XML \("),
        (b"", r"not XML \(no element found"),
        (b"\xff\xd8\xff\xe0", r"not XML \("),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', r"not XML \(unknown encoding"),
        (BOMB.encode(), "declares a DOCTYPE, which no annotation needs"),
        (BOMB.encode("utf-16"), "declares a DOCTYPE"),
        (b'<?xml version="1.0" encoding="cp1252"?>' + BOMB.encode(), "declares a DOCTYPE"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a DOCTYPE"),
    ],
)
def test_a_broken_xml_is_one_line(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=f"^x.xml: {said}") as caught:
        read_annotation(File(path), "x.xml")
    assert "\n" not in str(caught.value)


def test_an_xml_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"^a.xml: cannot be read \(No such file or directory\)"):
        read_annotation(File(tmp_path / "a.xml"), "a.xml")
    path = tmp_path / "large.xml"
    path.write_bytes(b" " * (LARGEST_BYTES + 1))
    with pytest.raises(AnnotationError, match=r"^large.xml: more than 1048576 bytes"):
        read_annotation(File(path), "large.xml")


def test_a_tar_is_the_folder_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "boxes" / "val"
    folder.mkdir(parents=True)
    (folder / "a.xml").write_bytes(xml(box_xml(1, 2, 3, 4)))
    (folder / "b.XML").write_bytes(xml())
    (folder / "readme.txt").write_text("no box")
    with tarfile.open(tmp_path / "boxes.tar", "w") as archive:
        archive.add(tmp_path / "boxes", "boxes")
    found = [find_annotations(open_folder(path)) for path in (tmp_path / "boxes", tmp_path / "boxes.tar")]
    assert sorted(found[0]) == sorted(found[1]) == ["a", "b"]
    read = [read_annotation(files["a"], "a") for files in found]
    assert read[0] == read[1] == parse_annotation(xml(box_xml(1, 2, 3, 4)))


def test_two_of_a_name_and_none(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "boxes" / folder).mkdir(parents=True)
        (tmp_path / "boxes" / folder / "a.xml").write_bytes(xml())
    with pytest.raises(DatasetError, match=r"boxes: a.xml is there twice"):
        find_annotations(open_folder(tmp_path / "boxes"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: no XML files"):
        find_annotations(open_folder(tmp_path / "empty"))


def test_where_the_boxes_lie(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"bbox: no such folder, expected the bounding boxes there or in bbox.tar"):
        boxes_beside(open_folder(tmp_path), "bbox")
    (tmp_path / "bbox.tgz").touch()
    with pytest.raises(DatasetError, match=r"bbox.tgz: is compressed, .*: gunzip it"):
        boxes_beside(open_folder(tmp_path), "bbox")
    (tmp_path / "bbox").mkdir()
    (tmp_path / "bbox" / "a.xml").write_bytes(xml())
    with tarfile.open(tmp_path / "bbox.tar", "w") as archive:
        archive.add(tmp_path / "bbox", "bbox")
    assert set(boxes_beside(open_folder(tmp_path), "bbox").files) == {"a.xml"}
    shutil.rmtree(tmp_path / "bbox")
    assert set(boxes_beside(open_folder(tmp_path), "bbox").files) == {"a.xml"}


def test_what_voc_calls_difficult() -> None:
    objects = [box_xml(1, 2, 3, 4).replace("<pose>", f"{tag}<pose>") for tag in ("<difficult>1</difficult>", "", "0")]
    assert parse_annotation(xml(*objects)).difficult == (True, False, False)
