"""infer/data/detection/coco.py: COCO's JSON, of which nothing is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.data.annotations import Box
from infer.data.detection import Object, open_detection
from infer.data.folder import DatasetError

Json = dict[str, Any]


def instances() -> Json:
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 42, "file_name": "000000000042.jpg", "width": 640, "height": 480, "license": 1},
            {"id": 7, "file_name": "000000000007.jpg", "width": 30, "height": 20},
            {"id": 99, "file_name": "000000000099.jpg", "width": 30, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 42, "category_id": 90, "bbox": [0, 0, 640, 480], "iscrowd": 1, "area": 3.5,
             "segmentation": {"counts": [1, 2], "size": [480, 640]}},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [3.25, 4.5, 10, 6], "iscrowd": 0, "area": 6},
            {"id": 3, "image_id": 42, "category_id": 18, "bbox": [9, 9, 2, 3]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }  # fmt: skip


def make_coco(root: Path, content: Json | bytes, split: str = "val", year: str = "2017") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / f"annotations/instances_{split}{year}.json").write_bytes(data)
    (root / f"{split}{year}").mkdir(exist_ok=True)
    for number in (7, 42, 99):
        (root / f"{split}{year}" / f"{number:012d}.jpg").write_bytes(b"image %d" % number)
    return root


def refused(root: Path, split: str = "val") -> str:
    with pytest.raises(DatasetError) as caught:
        open_detection(root, split)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


def test_images_by_name_classes_by_id_boxes_from_one(tmp_path: Path) -> None:
    data = open_detection(make_coco(tmp_path, instances()), "val")
    assert (data.kind, data.classes, data.class_names) == ("coco", *(("person", "dog", "toothbrush"),) * 2)
    assert [item.name for item in data.items] == [f"val2017/{number:012d}.jpg" for number in (7, 42, 99)]
    assert data.objects == (
        (Object(0, Box(4.25, 5.5, 13.25, 10.5)),),
        (Object(2, Box(1, 1, 640, 480), crowd=True), Object(1, Box(10, 10, 11, 12))),
        (),
    )
    assert data.sizes_px == ((20, 30), (480, 640), (20, 30))
    assert data.items[1].read_bytes() == b"image 42"
    assert (data.broken, data.notes) == ((), ())


def test_the_newest_year_that_has_images_is_taken(tmp_path: Path) -> None:
    make_coco(tmp_path, instances(), year="2014")
    make_coco(tmp_path, instances())
    assert open_detection(tmp_path, "val").items[0].name.startswith("val2017/")
    (tmp_path / "val2017").rename(tmp_path / "elsewhere")
    assert open_detection(tmp_path, "val").items[0].name.startswith("val2014/")
    assert "no annotations/instances_train2017.json with a folder train2017" in refused(tmp_path, "train")


def test_objects_without_area_or_outside_are_left_out_with_a_note(tmp_path: Path) -> None:
    content = instances()
    content["annotations"][1]["bbox"] = [3, 4, 0, 6]
    content["annotations"].append({"image_id": 7, "category_id": 1, "bbox": [31, 4, 5, 6]})
    data = open_detection(make_coco(tmp_path, content), "val")
    assert data.objects[0] == ()
    line = "2 objects outside the image or without area, left out (val2017/000000000007.jpg ...)"
    assert data.notes == (line,)


Change = Callable[[Json], object]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["images"][0].update(id="x"), "Expected `int`, got `str` - at `$.images[0].id`"),
        (lambda c: c["images"][1].update(id=42), "2 images have the id 42, expected one"),
        (lambda c: c["images"][1].update(file_name="000000000042.jpg"), "2 images have the file_name 000000000042.jpg"),
        (lambda c: c["images"][1].update(file_name="../../x.jpg"), "1 of 3 images are not in"),
        (lambda c: c["images"][1].update(width=0), "image 7 is 20x0 px, expected 1 to 1000000"),
        (lambda c: c["images"][1].update(height=2**62), "image 7 is 4611686018427387904x30 px"),
        (lambda c: c.update(images=[]), "no images, expected some"),
        (lambda c: c.pop("images"), "missing required field `images`"),
        (lambda c: c["annotations"][0].update(image_id=5), "annotation 0 is of the image 5, which is none of 3"),
        (lambda c: c["annotations"][2].update(category_id=2), "annotation 2 is of the category 2, which is none of 3"),
        (lambda c: c["annotations"][0].update(iscrowd=2), "annotation 0 has iscrowd 2, expected 0 or 1"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "Expected `array` of length 4"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 1e9]), "annotation 0 has the bbox"),
        (lambda c: c["annotations"][0].update(bbox=None), "Expected `array`, got `null`"),
        (lambda c: c["categories"].append({"id": 1, "name": "x"}), "2 categories of the id 1, expected one"),
        (lambda c: c["categories"].append({"id": 2, "name": "dog"}), "2 categories of the name dog, expected one"),
        (
            lambda c: c["images"][0].update(file_name=f"val2017/{c['images'][1]['file_name']}"),
            "2 images have the file_name 000000000007.jpg, expected one",
        ),
        (lambda c: c.update(categories=[]), "0 categories, expected 1 to"),
        (lambda c: c.update(annotations=[]), "no val image has an object"),
    ],
)
def test_lies_have_one_line(tmp_path: Path, change: Change, line: str) -> None:
    content = instances()
    change(content)
    assert line in refused(make_coco(tmp_path, content))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "not COCO's JSON of instances (Input data was truncated): copy or download it again"),
        (b"[" * 100_000, "not COCO's JSON of instances ("),
        (json.dumps(instances()).encode()[:-9], "not COCO's JSON of instances (Input data was truncated)"),
        (json.dumps(instances()).encode().replace(b"640, 480]", b"1e999, 480]"), "not COCO's JSON of instances ("),
        (json.dumps(instances()).encode().replace(b"640, 480]", b"NaN, 480]"), "not COCO's JSON of instances ("),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    ],
)
def test_damage_has_one_line(tmp_path: Path, data: bytes, line: str) -> None:
    assert line in refused(make_coco(tmp_path, data))


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    make_coco(tmp_path, instances())
    with (tmp_path / "annotations/instances_val2017.json").open("r+b") as file:
        file.truncate((1 << 30) + 1)
    assert "instances_val2017.json: 1073741825 bytes, expected at most 1073741824" in refused(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_the_bytes_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps(instances()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    root = make_coco(tmp_path, bytes(content))
    try:
        found = open_detection(root, "val")
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.items) == len(found.objects) == 3
