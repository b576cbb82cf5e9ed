"""trainer/miniature/detection.py and scenes.py: the shape of ILSVRC's detection task, the same bytes, honest boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.io
from conftest import TRAIN_SCENES, VAL_SCENES
from sklearn.datasets import load_digits

from infer.data.annotations import Box
from infer.pixels.decode import read
from trainer.miniature import DEVKIT_ORDER, WNIDS, detection, scenes
from trainer.miniature import __main__ as command
from trainer.miniature.scenes import Digit

EDGES = ("xmin", "ymin", "xmax", "ymax")


def digests(root: Path) -> dict[str, str]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def objects_of(path: Path) -> list[tuple[str, Box]]:
    """(WNID, box) of an XML."""
    found = ElementTree.parse(path).findall("object")
    return [
        (one.findtext("name", ""), Box(*(float(one.findtext(f"bndbox/{edge}", "")) for edge in EDGES))) for one in found
    ]


def image_of(root: Path, xml: Path) -> Path:
    """The image that an XML is for."""
    return root / xml.relative_to(root).as_posix().replace("_bbox", "").replace(".xml", ".JPEG")


def list_of(root: Path, name: str) -> list[str]:
    return (root / "ILSVRC2014_devkit/data/det_lists" / f"{name}.txt").read_text().splitlines()


def test_same_seed_same_bytes_and_another_seed_other_images(scenes_dir: Path, tmp_path: Path) -> None:
    first = digests(scenes_dir)
    detection.make(tmp_path / "again", train_scenes=TRAIN_SCENES, val_scenes=VAL_SCENES)
    assert digests(tmp_path / "again") == first
    detection.make(tmp_path / "other", seed=1, train_scenes=TRAIN_SCENES, val_scenes=VAL_SCENES)
    other = digests(tmp_path / "other")
    val = [name for name in first if name.startswith("ILSVRC2013_DET_val/")]
    assert len(val) == VAL_SCENES
    assert all(other[name] != first[name] for name in val)


def test_each_xml_has_its_image_and_states_its_size_but_for_one_of_each_set(scenes_dir: Path) -> None:
    xmls = sorted(scenes_dir.rglob("*.xml"))
    assert len(xmls) == TRAIN_SCENES + VAL_SCENES
    enlarged = []
    for xml in xmls:
        root = ElementTree.parse(xml).getroot()
        height, width = read(image_of(scenes_dir, xml)).shape[:2]
        assert root.findtext("filename") == xml.stem
        stated = tuple(int(root.findtext(f"size/{tag}", "")) for tag in ("height", "width"))
        if stated != (height, width):
            assert stated == (2 * height, 2 * width)
            enlarged.append(xml.stem)
    assert enlarged == [detection.val_name(17), "ILSVRC2014_train_00000017"]
    extras = sorted((scenes_dir / "ILSVRC2014_DET_train/ILSVRC2013_DET_train_extra0").iterdir())
    assert [path.name for path in extras] == ["ILSVRC2013_train_00000001.JPEG", "ILSVRC2013_train_00000002.JPEG"]


def test_every_box_is_tight_around_light_ink_and_of_a_size_that_regions_can_show(scenes_dir: Path) -> None:
    count = 0
    for xml in sorted((scenes_dir / "ILSVRC2013_DET_bbox_val").iterdir()):
        if xml.stem == detection.val_name(detection.ENLARGED):
            continue
        image = read(image_of(scenes_dir, xml)).mean(2)
        found = objects_of(xml)
        assert len(found) <= 6
        for wnid, box in found:
            assert wnid in WNIDS
            xmin, ymin, xmax, ymax = map(int, box)
            assert 1 < xmin < xmax < image.shape[1]
            assert 1 < ymin < ymax < image.shape[0]
            high = ymax - ymin + 1
            assert 22 <= high <= 110
            assert high * 214 / image.shape[1] >= 20
            inside = image[ymin - 1 : ymax, xmin - 1 : xmax] > 130  # ground and clutter are darker
            assert inside.any(0).mean() > 0.85
            assert inside.any(1).mean() > 0.85
            assert all(edge.any() for edge in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]))
            count += 1
        if not found:
            assert (image > 130).mean() < 0.002
    assert count > VAL_SCENES


def test_digits_overlap_a_little_at_most() -> None:
    bunch = load_digits()
    some = [Digit(bunch.images[number], int(bunch.target[number])) for number in range(6)]
    covered = []
    for seed in range(40):
        boxes = [box for _, box in scenes.draw_scene(some, np.random.default_rng(seed)).digits]
        pairs = [(one, other) for one in boxes for other in boxes if one is not other]
        covered += [scenes._covered(one, other) for one, other in pairs]
    assert max(covered) <= scenes.OVERLAP
    assert sum(part > 0 for part in covered) > 10


def test_no_digit_is_in_both_sets_and_those_of_validation_are_the_classification_miniatures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[bytes]] = {True: set(), False: set()}
    draw = scenes.draw_scene
    calls: list[int] = []

    def observe(digits: tuple[Digit, ...], rng: np.random.Generator) -> scenes.Scene:
        calls.append(len(digits))
        seen[len(calls) > 130 + 6] |= {one.image.tobytes() + bytes([one.digit]) for one in digits}
        return draw(digits, rng)

    monkeypatch.setattr(detection, "draw_scene", observe)
    assert detection.make(tmp_path / "m", train_scenes=130, val_scenes=100) == (136, 100)
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))[:400]
    val = {bunch.images[index].tobytes() + bytes([bunch.target[index]]) for index in order}
    assert seen[True] <= val
    assert not seen[False] & val
    assert set(calls) == set(range(7))


def test_lists_say_what_the_images_show(scenes_dir: Path) -> None:
    """pos: all of a class are annotated; part: one is not; neg: there is none; one-digit images are of their class."""
    boxes = scenes_dir / "ILSVRC2014_DET_bbox_train"
    parts = []
    for place, digit in enumerate(DEVKIT_ORDER, start=1):
        for name in list_of(scenes_dir, f"train_pos_{place}"):
            assert WNIDS[digit] in [wnid for wnid, _ in objects_of(boxes / f"{name}.xml")]
        for name in list_of(scenes_dir, f"train_part_{place}"):
            assert WNIDS[digit] in [wnid for wnid, _ in objects_of(boxes / f"{name}.xml")]
            parts.append(name)
        negatives = list_of(scenes_dir, f"train_neg_{place}")
        for name in negatives:
            if "/" in name:
                assert WNIDS[digit] not in [wnid for wnid, _ in objects_of(boxes / f"{name}.xml")]
        assert [name for name in negatives if "/" not in name] == [f"ILSVRC2013_train_0000000{n}" for n in (1, 2)]
    assert len(parts) == 2
    assert len(sorted((scenes_dir / "ILSVRC2014_DET_train").glob("n*/*.JPEG"))) == TRAIN_SCENES // 10


def test_devkit_has_meta_list_and_blacklist(scenes_dir: Path) -> None:
    data = scenes_dir / "ILSVRC2014_devkit/data"
    synsets = scipy.io.loadmat(data / "meta_det.mat", squeeze_me=True)["synsets"]
    assert list(synsets.dtype.names) == ["ILSVRC2014_DET_ID", "WNID", "name", "description", "children"]
    assert synsets["WNID"][:10].tolist() == [WNIDS[digit] for digit in DEVKIT_ORDER]
    assert len(synsets) == 12

    names = sorted(path.stem for path in (scenes_dir / "ILSVRC2013_DET_val").iterdir())
    assert list_of(scenes_dir, "val") == [f"{name} {index}" for index, name in enumerate(names, start=1)]
    for line in (data / "ILSVRC2014_det_validation_blacklist.txt").read_text().splitlines():
        index, wnid = line.split()
        xml = scenes_dir / "ILSVRC2013_DET_bbox_val" / f"{names[int(index) - 1]}.xml"
        assert wnid in [found for found, _ in objects_of(xml)]


def test_command_makes_either_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []
    make: Callable[..., tuple[int, int]] = lambda directory, *, seed: made.append(directory) or (630, 200)  # noqa: E731
    monkeypatch.setitem(command.MAKE, "detection", make)
    assert command.main([str(tmp_path / "m"), "--task", "detection"]) == 0
    assert made == [tmp_path / "m"]
    assert capsys.readouterr().out == f"{tmp_path / 'm'}: 630 training images, 200 validation images, 10 classes\n"


def test_what_a_killed_run_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its files are known as ours, those of the devkit, too."""
    calls: list[int] = []
    write = detection._write_val_lists

    def interrupted(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        calls.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detection, "_write_val_lists", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detection.make(tmp_path / "m", train_scenes=20, val_scenes=8)
    assert (tmp_path / "m.unfinished").is_dir()
    assert detection.make(tmp_path / "m", train_scenes=20, val_scenes=8) == (21, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
