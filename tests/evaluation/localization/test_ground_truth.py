"""evaluation/localization/ground_truth.py: boxes that are missing, packed or broken, and the blacklist."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from localization_runs import BOXES, IMAGES, given_class, hits, only, report

from evaluation.localization.__main__ import main
from evaluation.localization.ground_truth import read_ground_truth
from evaluation.localization.table import read_located
from evaluation.text import cell
from infer.data.annotations import parse_annotation
from infer.data.dataset import open_dataset
from infer.data.folder import DatasetError


def test_boxes_that_are_missing(nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any) -> None:
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    folder = miniature_copy / BOXES
    few = {item.name for item in open_dataset(miniature_copy, limit=3).items}
    lost = next(item.path.stem for item in open_dataset(miniature_copy).items if item.name not in few)
    (folder / "val" / f"{lost}.xml").unlink()
    assert main(arguments) == 1
    assert f"no XML for 1 of 24 images ({lost}.xml ...): expected the bounding boxes" in one_line()
    assert main([*arguments, "--limit", "3"]) == 0
    assert "3 of 24 images, 3 of 8 classes" in one_line()
    folder.rename(tmp_path / "away")
    assert main(arguments) == 1
    assert f"{folder}: no such folder, expected the bounding boxes there or in {BOXES}.tar" in one_line()
    assert main([*arguments, "--annotations", str(tmp_path / "nowhere")]) == 1
    assert one_line().endswith("nowhere: no such folder")


def test_boxes_in_a_tar_wherever_it_is(nets: dict[str, Path], miniature_copy: Path, tmp_path: Path) -> None:
    """Beside the images, also where these are an archive, named, or with all else in one archive."""
    root, images = miniature_copy, "ILSVRC2012_img_val"

    def pack(folder: Path, archive: Path) -> Path:
        with tarfile.open(archive, "w") as opened:
            opened.add(folder, folder.name)
        return archive

    def error(name: str, data: Path, *more: str) -> float:
        assert main(given_class(nets, data, *more, "--limit", "8", "--out", str(tmp_path / name))) == 0
        return float(report(tmp_path / name)["results"][0]["localization_error_percent"])

    number = open_dataset(root, limit=8).items[1].path.stem[-8:].lstrip("0") + "\n"
    (root / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt").write_text(number)
    errors = [error("folder", root)]
    errors.append(error("whole", pack(root, tmp_path / "miniature.tar")))
    pack(root / BOXES, root / f"{BOXES}.tar")
    shutil.rmtree(root / BOXES)
    errors.append(error("beside", root))
    errors.append(error("images", pack(root / images, root / f"{images}.tar")))
    away = (root / f"{BOXES}.tar").rename(tmp_path / "boxes.tar")
    errors.append(error("named", root, "--annotations", str(away)))
    assert errors == [errors[0]] * 5 and errors[0] < 100
    names = ("folder", "whole", "beside", "images", "named")
    assert [report(tmp_path / name)["dataset"]["blacklisted"] for name in names] == [1] * 5


def test_broken_boxes_are_named_and_left_out(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, data in ((2, b"<annotation>"), (5, b"<annotation><object><name>x</name></object></annotation>")):
        (miniature_copy / BOXES / "val" / f"ILSVRC2012_val_{number:08d}.xml").write_bytes(data)
    assert main(given_class(nets, miniature_copy, "--out", str(tmp_path))) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"ILSVRC2012_val_00000002.xml: not XML \(.*\): not counted", lines[0])
    assert lines[1] == "ILSVRC2012_val_00000005.xml: <bndbox/xmin> is '', expected a number: not counted"
    found = report(tmp_path)
    assert found["results"][0]["images"] == IMAGES - 2
    assert len(found["dataset"]["broken_annotations"]) == 2
    markdown = (tmp_path / "report.md").read_text()
    assert cell(lines[1].removesuffix(": not counted")) in markdown and " <bndbox" not in markdown


@pytest.mark.parametrize("where", ["devkit", "option"])
def test_blacklisted_images_do_not_count(
    where: str, nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    """Nor need they have boxes. The list of the detection task is another."""
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    assert main(arguments) == 0
    before = report(tmp_path / "out")["results"][0]
    rows = list(read_located(only(tmp_path / "out")))
    data = miniature_copy / "ILSVRC2012_devkit_t12" / "data"
    (data / "ILSVRC2014_det_validation_blacklist.txt").write_text("9\n")
    if where == "option":
        arguments += ["--blacklist", str(tmp_path / "list.txt")]
    path = tmp_path / "list.txt" if where == "option" else data / "ILSVRC2014_clsloc_validation_blacklist.txt"
    path.write_text("3\n17\n24\n")
    (miniature_copy / BOXES / "val" / "ILSVRC2012_val_00000017.xml").unlink()
    assert main(arguments) == 0
    after = report(tmp_path / "out")
    assert (before["images"], after["results"][0]["images"], after["dataset"]["blacklisted"]) == (24, 21, 3)
    truths = [(miniature_copy / BOXES / "val" / f"{Path(row.image).stem}.xml") for row in rows]
    wrong = sum(
        not hits(row.given.box, parse_annotation(truth.read_bytes()).objects[0][1])
        for number, (row, truth) in enumerate(zip(rows, truths, strict=True), start=1)
        if number not in (3, 17, 24) and row.given is not None
    )
    assert after["results"][0]["localization_error_percent"] == pytest.approx(100 * wrong / 21)
    path.write_text("3\nseventeen\n")
    assert main(arguments) == 1
    assert one_line().endswith(f"{path.name}: 'seventeen' is not the number of an image, expected one on each line")


def in_class_folders(root: Path, out: Path) -> Path:
    """The validation images as torchvision's users have them, val/WNID/NAME, the boxes and the devkit beside."""
    dataset = open_dataset(root, "val")
    for item in dataset.items:
        folder = out / "val" / dataset.classes[item.label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.path, folder / item.path.name)
    for name in (BOXES, "ILSVRC2012_devkit_t12"):
        shutil.copytree(root / name, out / name)
    return out


def test_the_blacklist_has_the_numbers_of_names_wherever_they_lie(miniature_copy: Path, tmp_path: Path) -> None:
    root = in_class_folders(miniature_copy, tmp_path / "folders")
    devkit = root / "ILSVRC2012_devkit_t12"
    (tmp_path / "list.txt").write_text("3\n17\n")
    (devkit / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt").write_text("3\n17\n")
    for packed in (False, True):
        if packed:  # as it is distributed
            with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
                archive.add(devkit, devkit.name)
            shutil.rmtree(devkit)
        for data in (root, root / "val"):
            dataset = open_dataset(data, "val")
            boxes = miniature_copy / BOXES
            truth = read_ground_truth(dataset, boxes, None if data == root else tmp_path / "list.txt")
            left_out = {item.path.stem for item, one in zip(dataset.items, truth.truths, strict=True) if one is None}
            assert left_out == {"ILSVRC2012_val_00000003", "ILSVRC2012_val_00000017"}


def test_other_names_have_the_numbers_of_their_order(miniature_copy: Path, tmp_path: Path) -> None:
    root = in_class_folders(miniature_copy, tmp_path / "folders")
    for path in [*root.glob("val/*/*"), *root.glob(f"{BOXES}/val/*")]:
        path.rename(path.with_name(path.name.replace("ILSVRC2012_val_000000", "photo")))
    (tmp_path / "list.txt").write_text("3\n17\n")
    dataset = open_dataset(root, "val")
    truth = read_ground_truth(dataset, None, tmp_path / "list.txt")
    left_out = {item.path.stem for item, one in zip(dataset.items, truth.truths, strict=True) if one is None}
    assert left_out == {"photo03", "photo17"} and truth.blacklisted == 2

    part = open_dataset(root, "val", limit=12)  # whose third image is another
    with pytest.raises(DatasetError, match="by their places among all of them, and --limit takes a part"):
        read_ground_truth(part, None, tmp_path / "list.txt")


def test_images_without_a_box_of_their_class_are_said(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    """They count as wrong; where none has one nothing is run."""
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    xmls = sorted((miniature_copy / BOXES / "val").glob("*.xml"))
    foreign = re.sub("<name>.*</name>", "<name>n12345678</name>", xmls[4].read_text())
    for xml, text in zip(xmls[:2], ("<annotation></annotation>", foreign), strict=True):
        xml.write_text(text)
    assert main(arguments) == 0
    said = "2 images have no box of their class, so that whatever was found counts as wrong"
    assert one_line() == said
    found = report(tmp_path / "out")
    assert (found["results"][0]["images"], found["remarks"]) == (IMAGES, [said])
    for xml in xmls:
        xml.write_text(foreign)
    assert main([*arguments[:-1], str(tmp_path / "none")]) == 1
    assert "no object is of its image's class, expected names like 'n99000000' in the XMLs" in one_line()
    for xml in xmls:
        xml.write_text("<annotation>")
    assert main([*arguments[:-1], str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
