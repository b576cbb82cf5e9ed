"""trainer/data/box_targets.py: targets written out, the round trip through infer.boxes, and XMLs with their defects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import slim_spec
from PIL import Image

from infer.boxes.finding import window_boxes
from infer.data.annotations import Box
from infer.data.dataset import TRAIN, DatasetError, open_dataset
from infer.pixels.decode import decode
from infer.views import plan_views
from trainer.data.augment import Augmentation, Placement
from trainer.data.batches import Centers, Crops
from trainer.data.box_targets import BoxTargets, with_boxes
from trainer.data.examples import open_examples


def placed(left: float, top: float, right: float, bottom: float, *, mirrored: bool = False) -> Placement:
    return Placement((100, 200), left, top, right, bottom, Image.Resampling.BICUBIC, mirrored)


def target(*boxes: Box, at: Placement, size_px: tuple[int, int] | None = (100, 200)) -> list[float]:
    row: list[float] = BoxTargets([7], [size_px], [boxes])(0, at).tolist()
    return row


WHOLE = Box(51, 21, 90, 80)  # pixels 50 to 90 across and 20 to 80 down, counted from 0


def test_a_box_in_units_of_the_crop_from_its_middle() -> None:
    assert target(WHOLE, at=placed(40, 0, 140, 100)) == pytest.approx([1, 7, 0.3 - 0.5, 0.0, 0.4, 0.6])
    assert target(WHOLE, at=placed(40, 0, 140, 100, mirrored=True)) == pytest.approx([1, 7, 0.2, 0.0, 0.4, 0.6])
    assert target(WHOLE, at=placed(50, 20, 100, 70)) == pytest.approx([1, 7, 0.4 - 0.5, 0.6 - 0.5, 0.8, 1.2])


def test_the_xmls_own_size_is_what_coordinates_are_relative_to() -> None:
    half = Box(26, 11, 45, 40)
    assert target(half, at=placed(40, 0, 140, 100), size_px=(50, 100)) == pytest.approx([1, 7, -0.2, 0.0, 0.4, 0.6])
    assert target(WHOLE, at=placed(40, 0, 140, 100), size_px=None) == pytest.approx([1, 7, -0.2, 0.0, 0.4, 0.6])


@pytest.mark.parametrize(("left", "weight"), [(69.9, 1), (70, 1), (70.1, 0), (90, 0), (120, 0)])
def test_half_of_the_box_must_be_in_the_crop(left: float, weight: float) -> None:
    assert target(WHOLE, at=placed(left, 0, left + 100, 100))[0] == weight


def test_of_several_boxes_the_one_that_is_seen_most() -> None:
    small, hidden = Box(101, 41, 110, 50), Box(1, 1, 60, 100)
    at = placed(50, 0, 150, 100)
    assert target(small, WHOLE, at=at) == target(WHOLE, small, at=at) == target(WHOLE, at=at)
    assert target(hidden, small, at=at)[0] == 0  # a sixth of the first is seen, which is more than all of the second
    assert target(Box(300, 300, 310, 310), at=at) == [0, 7, 0, 0, 0, 0]  # outside of the image


def test_what_is_learned_is_what_is_read(miniature_dir: Path) -> None:
    """The target of the central crop, given to infer.boxes as a box net's answer, is the annotated box."""
    spec = slim_spec("A")
    dataset, targets = with_boxes(open_dataset(miniature_dir, "train"), "train")
    centers = Centers(dataset, spec, targets)
    for index in range(12):
        answer = centers[index]
        assert answer is not None and isinstance(answer[1], torch.Tensor)
        size = decode(dataset.items[index].read_bytes()).shape[:2]
        view = plan_views(spec, "center", size).views[0]
        box_map = answer[1][2:].numpy().astype(np.float32).reshape(4, 1, 1)
        (found,) = window_boxes(box_map, view, size, spec)[0]
        (box,) = targets.boxes[index]
        assert found.tolist() == pytest.approx([box.xmin - 1, box.ymin - 1, box.xmax, box.ymax], abs=1e-3)


def test_random_crops_show_their_boxes(miniature_dir: Path) -> None:
    """The digit is the only thing whose pixels differ from the canvas; a box at the wrong place would not hold it."""
    dataset, targets = with_boxes(open_dataset(miniature_dir, "train"), "train")
    augmentation = Augmentation(64, (72, 90), True, 0.0, "bicubic")
    crops = Crops(dataset, augmentation, seed=0, epoch=0, target=targets)
    inside, outside = [], []
    for index in range(len(crops)):
        pixels, _, found, _ = crops[index]
        assert isinstance(found, torch.Tensor)
        if found[0]:
            x, y, width, height = ((found[2:] + torch.tensor([0.5, 0.5, 0, 0])) * 64).tolist()
            ys, xs = np.mgrid[0:64, 0:64] + 0.5
            held = (abs(xs - x) < width / 2) & (abs(ys - y) < height / 2)
            grey = pixels.numpy().astype(float).mean(2)
            background = np.median(grey[~held]) if (~held).any() else np.median(grey)
            inside.append(np.abs(grey - background)[held].mean())
            outside.append(np.abs(grey - background)[~held].mean() if (~held).any() else 0.0)
    assert len(inside) > 40
    assert np.mean(inside) > 2 * np.mean(outside)


def test_images_without_boxes_are_left_out(miniature_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset(miniature_copy, "train")
    xmls = sorted((miniature_copy / "ILSVRC2012_bbox_train_v2").rglob("*.xml"))
    xmls[0].unlink()
    kept, targets = with_boxes(dataset, "train")
    assert len(kept.items) == len(targets.boxes) == len(dataset.items) - 1
    assert xmls[0].stem not in {Path(item.name).stem for item in kept.items}
    xmls[1].write_text("<annotation>")
    assert len(with_boxes(dataset, "train")[0].items) == len(dataset.items) - 2
    assert re.search(rf"{xmls[1].name}: not XML .*: its image is left out\n$", capsys.readouterr().err)
    for xml in xmls[1:]:
        xml.write_text("<annotation></annotation>")
    with pytest.raises(DatasetError, match=r"no box for any of 64 images, expected XMLs of their names"):
        with_boxes(dataset, "train")


def test_class_folders_have_the_boxes_of_their_split(miniature_copy: Path, tmp_path: Path) -> None:
    for split, images in (("train", TRAIN), ("val", "")):
        dataset = open_dataset(miniature_copy, "train" if images else "val")
        for item in dataset.items:
            folder = tmp_path / split / dataset.classes[item.label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / item.path.name).write_bytes(item.read_bytes())
    for boxes in ("ILSVRC2012_bbox_train_v2", "ILSVRC2012_bbox_val_v3"):
        (miniature_copy / boxes).rename(tmp_path / boxes)
    training, others = open_examples(tmp_path, "box-scr")
    assert others is not None
    assert (len(training.dataset.items), len(others.dataset.items)) == (64, 24)


def test_no_boxes_at_all(tmp_path: Path) -> None:
    (tmp_path / TRAIN / "n00000001").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / TRAIN / "n00000001" / "a.png")
    with pytest.raises(DatasetError, match="ILSVRC2012_bbox_train_v2: no such folder, expected the bounding boxes"):
        with_boxes(open_dataset(tmp_path, "train"), "train")
