"""evaluation/detection/page_values.py: the page of a run has the numbers that were measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from evaluation.detection.page_values import PICTURES, page_values, sum_counts
from evaluation.detection.report.page import write_page
from evaluation.detection.score import ImageFound, Measured, System, measure
from infer.boxes.detecting import Detections
from infer.data.detection import DetectionData, boxes_in, open_detection
from infer.data.folder import File
from infer.pixels.decode import decode


def system(data: DetectionData, name: str, share: float) -> System:
    """Finds about this share of the objects, exactly, and names the others by another class."""
    rng = np.random.default_rng(len(name))
    images = []
    for item, objects, stated in zip(data.items, data.objects, data.sizes_px, strict=True):
        size = decode(item.read_bytes()).shape[:2]
        own = boxes_in(objects, stated, size)
        labels = [one.label if rng.random() < share else (one.label + 1) % 10 for one in own]
        found = Detections(
            np.array(labels, np.int32),
            rng.random(len(own)).astype(np.float32),
            np.array([one.box for one in own], np.float32).reshape(-1, 4),
        )
        images.append(ImageFound(item.name, "ok", "", size, found))
    return System(name, tuple(name.split(" + ")), images, 100)


@pytest.fixture(scope="module")
def run(scenes_dir: Path) -> tuple[DetectionData, list[Measured]]:
    data = open_detection(scenes_dir, "val")
    return data, [measure(system(data, name, share), data, "ilsvrc") for name, share in (("a", 0.5), ("a + b", 0.9))]


def test_the_ensemble_is_first_and_in_detail(run: tuple[DetectionData, list[Measured]], tmp_path: Path) -> None:
    data, measured = run
    facts, remarks = {"proposals": "selective search"}, ["a remark"]
    values = page_values(
        data,
        measured,
        "ilsvrc",
        "a rule",
        title="t",
        exif="ignore",
        facts=facts,
        remarks=remarks,
        published=(),
        command="c",
    )
    assert [one.name for one in values.systems] == ["a + b", "a"]
    assert [one.nets for one in values.systems] == [2, 1]
    assert [one.mean for one in values.systems] == [measured[1].mean, measured[0].mean]
    assert values.systems[0].difference is None
    difference = values.systems[1].difference
    assert difference is not None
    assert difference.percent == pytest.approx(measured[0].mean.percent - measured[1].mean.percent)
    assert difference.percent < -20

    shown = measured[1]
    assert [one.ap for one in values.classes] == pytest.approx(shown.precisions.aps.tolist(), nan_ok=True)
    assert [(one.name, one.words) for one in values.classes] == list(zip(data.classes, data.class_names, strict=True))
    assert values.objects == sum(one.objects for one in values.classes) == shown.precisions.objects.sum()
    counts = sum_counts(shown.mistakes)
    assert values.systems[0].counts == counts
    assert (
        counts["right"] + sum(counts[kind] for kind in ("duplicate", "other class", "place", "background"))
        <= values.objects
    )
    assert counts["other class"] > 10
    assert (values.images, values.not_counted, values.published) == (len(data.items), 3, ())
    assert values.facts == {"data set": f"{data.listing_digest} (ilsvrc-det, val)", **facts}

    assert len(values.pictures) == PICTURES
    names = {item.name: item for item in data.items}
    for picture in values.pictures:
        assert picture.size_px == decode(names[picture.name].read_bytes()).shape[:2]
        height, width = picture.size_px
        assert all(1 <= mark.box.xmin <= mark.box.xmax <= width for mark in picture.marks)
        assert all(1 <= mark.box.ymin <= mark.box.ymax <= height for mark in picture.marks)
    write_page(values, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_an_image_that_is_gone_has_no_picture(run: tuple[DetectionData, list[Measured]], tmp_path: Path) -> None:
    data, measured = run
    gone = [dataclasses.replace(item, file=File(tmp_path / "nowhere.JPEG")) for item in data.items]
    values = page_values(
        dataclasses.replace(data, items=gone), measured[:1], "ilsvrc", "", title="t", exif="ignore", facts={},
        remarks=(), published=(), command="",
    )  # fmt: skip
    assert values.pictures == []
    assert [one.name for one in values.systems] == ["a"]
