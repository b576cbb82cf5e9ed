"""infer/data/dataset.py: labels of every layout against the bounding-box XML, ids, and what is no data set."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import TRAIN_DIGITS, VAL_DIGITS

from infer.data.dataset import (
    ILSVRC2012_FIRST_LABELS,
    TRAIN,
    VAL,
    Dataset,
    DatasetError,
    open_dataset,
)
from infer.data.devkit import DEVKIT, GROUND_TRUTH, META
from infer.data.folder import File, Folder
from trainer.miniature import DEVKIT_ORDER, RENDERINGS, WNIDS, WORDS


def wnid_in_xml(root: Path, split: str, name: str) -> str:
    """What the bounding box of an image says it shows."""
    stem = Path(name).stem
    folder = "ILSVRC2012_bbox_val_v3/val" if split == "val" else f"ILSVRC2012_bbox_train_v2/{stem.split('_')[0]}"
    found = ElementTree.parse(root / folder / f"{stem}.xml").findtext("object/name")
    assert found is not None
    return found


def labels_by_file(dataset: Dataset) -> dict[str, str]:
    return {Path(item.name).name: dataset.classes[item.label] for item in dataset.items}


def into_wnid_folders(root: Path) -> None:
    """The other common layout of the validation images: a folder for every class, as valprep.sh makes them."""
    for wnid in WNIDS:
        (root / VAL / wnid).mkdir()
    for path in sorted((root / VAL).glob("*.JPEG")):
        path.rename(root / VAL / wnid_in_xml(root, "val", path.name) / path.name)


def test_flat_validation_labels_come_through_meta_mat(miniature_dir: Path) -> None:
    dataset = open_dataset(miniature_dir)
    assert dataset.classes == WNIDS
    assert dataset.class_names == WORDS
    assert len(dataset.items) == VAL_DIGITS
    assert [item.name for item in dataset.items] == [
        f"{VAL}/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(VAL_DIGITS)
    ]
    for item in dataset.items:
        assert dataset.classes[item.label] == wnid_in_xml(miniature_dir, "val", item.name)
        assert item.path == miniature_dir / item.name
        assert item.read_bytes() == item.path.read_bytes()
    assert not dataset.is_ilsvrc2012_val
    ids = [int(line) for line in (miniature_dir / DEVKIT / "data" / GROUND_TRUTH).read_text().split()]
    assert [DEVKIT_ORDER[i - 1] for i in ids] == [item.label for item in dataset.items]
    assert [i - 1 for i in ids] != [item.label for item in dataset.items]  # devkit ids are no labels


def test_training_labels_are_the_folders(miniature_dir: Path) -> None:
    dataset = open_dataset(miniature_dir, "train")
    assert len(dataset.items) == TRAIN_DIGITS * RENDERINGS
    for item in dataset.items:
        assert dataset.classes[item.label] == item.path.parent.name == wnid_in_xml(miniature_dir, "train", item.name)


def test_validation_in_wnid_folders_gives_the_same_labels_order_and_id(miniature_copy: Path) -> None:
    flat = open_dataset(miniature_copy)
    before, id_before = labels_by_file(flat), flat.listing_digest
    into_wnid_folders(miniature_copy)
    dataset = open_dataset(miniature_copy)
    assert labels_by_file(dataset) == before
    assert [item.path.name for item in dataset.items] == sorted(before)
    assert dataset.classes == WNIDS
    assert dataset.class_names == WORDS
    assert dataset.listing_digest == id_before


@pytest.mark.parametrize("split_folders", [True, False])
def test_class_folders_with_and_without_train_and_val(
    miniature_copy: Path, tmp_path: Path, split_folders: bool
) -> None:
    before = labels_by_file(open_dataset(miniature_copy))
    into_wnid_folders(miniature_copy)
    root = tmp_path / "folders"
    shutil.copytree(miniature_copy / VAL, root / "val" if split_folders else root)
    if split_folders:
        shutil.copytree(miniature_copy / TRAIN, root / "train")
        assert len(open_dataset(root, "train").items) == TRAIN_DIGITS * RENDERINGS
    dataset = open_dataset(root)
    assert labels_by_file(dataset) == before
    assert dataset.class_names == dataset.classes
    assert dataset.items[0].name.startswith("val/" if split_folders else "n99")


def test_hidden_folders_and_other_files_are_no_images(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.PNG", "cat/notes.txt", "dog/3.webp", ".cache/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [(item.name, item.label) for item in dataset.items] == [
        ("cat/1.jpg", 0),
        ("cat/2.PNG", 0),
        ("dog/3.webp", 1),
    ]


def test_what_is_no_image_but_called_like_one_is_counted(miniature_copy: Path) -> None:
    """A pipe, a folder, a broken link in the place of an image: they have labels, and the others keep theirs."""
    before = open_dataset(miniature_copy)
    odd = [item.path for item in before.items[:3]]
    for path in odd:
        path.unlink()
    os.mkfifo(odd[0])
    odd[1].mkdir()
    odd[2].symlink_to("nowhere.JPEG")
    (miniature_copy / VAL / "._hidden.JPEG").write_bytes(b"of another system")
    dataset = open_dataset(miniature_copy)
    assert [(item.name, item.label) for item in dataset.items] == [(item.name, item.label) for item in before.items]
    assert [item.file.size_bytes() for item in dataset.items[:4]] == [
        0,
        0,
        0,
        odd[0].with_name("ILSVRC2012_val_00000004.JPEG").stat().st_size,
    ]
    assert re.fullmatch("[0-9a-f]{16}", dataset.listing_digest)
    for item in dataset.items[:3]:
        with pytest.raises(OSError, match=r"is a pipe|Is a directory|No such file"):
            item.read_bytes()


def test_names_of_several_lines_are_one_line(tmp_path: Path) -> None:
    for name in ("a\n/1\r.jpg", "b/\udcff.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name[-5:].encode(errors="replace"))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("a\\n", "b")
    assert [item.name for item in dataset.items] == ["a\\n/1\\r.jpg", "b/\\udcff.jpg"]
    assert [item.read_bytes() for item in dataset.items] == [b"\r.jpg", b"?.jpg"]
    assert dataset.listing_digest


def test_limit_is_spread_over_all_classes(miniature_dir: Path) -> None:
    whole, few = open_dataset(miniature_dir, "train"), open_dataset(miniature_dir, "train", limit=15)
    assert {item.label for item in few.items} == set(range(10))
    assert few.items == open_dataset(miniature_dir, "train", limit=15).items
    places = [whole.items.index(item) for item in few.items]
    assert places == sorted(places) and len(places) == 15
    assert few.classes == whole.classes
    assert few.listing_digest != whole.listing_digest
    assert few.remarks == ("15 of 64 images, all 10 classes",)
    assert open_dataset(miniature_dir, "train", limit=5).remarks == ("5 of 64 images, 5 of 10 classes",)
    assert open_dataset(miniature_dir, "train", limit=64).remarks == ()


def test_id_is_the_same_elsewhere_and_tells_changes(miniature_dir: Path, miniature_copy: Path) -> None:
    original = open_dataset(miniature_dir).listing_digest
    assert re.fullmatch("[0-9a-f]{16}", original)
    assert open_dataset(miniature_copy).listing_digest == original

    ground_truth = miniature_copy / DEVKIT / "data" / GROUND_TRUTH
    lines = ground_truth.read_text().split()
    other = [str(int(lines[0]) % 10 + 1), *lines[1:]]
    ground_truth.write_text("\n".join(other))
    assert open_dataset(miniature_copy).listing_digest != original

    ground_truth.write_text("\n".join(lines[:-1]))
    (miniature_copy / VAL / f"ILSVRC2012_val_{VAL_DIGITS:08d}.JPEG").unlink()
    without_last = open_dataset(miniature_copy).listing_digest
    assert without_last != original

    ground_truth.write_text("\n".join(lines[:-1]))
    first = miniature_copy / VAL / "ILSVRC2012_val_00000001.JPEG"
    first.write_bytes(first.read_bytes() + b"\0")
    assert open_dataset(miniature_copy).listing_digest not in (original, without_last)


def remove_devkit(root: Path) -> None:
    shutil.rmtree(root / DEVKIT)


def remove_ground_truth(root: Path) -> None:
    (root / DEVKIT / "data" / GROUND_TRUTH).unlink()


def remove_an_image(root: Path) -> None:
    next((root / VAL).glob("*.JPEG")).unlink()


def damage_meta(root: Path) -> None:
    (root / DEVKIT / "data" / META).write_bytes(b"MATLAB? no.")


def name_an_inner_node(root: Path) -> None:
    (root / DEVKIT / "data" / GROUND_TRUTH).write_text("11\n" * VAL_DIGITS)


def write_words_as_labels(root: Path) -> None:
    (root / DEVKIT / "data" / GROUND_TRUTH).write_text("seven\n" * VAL_DIGITS)


def remove_validation_images(root: Path) -> None:
    shutil.rmtree(root / VAL)


def empty_validation_folder(root: Path) -> None:
    remove_validation_images(root)
    (root / VAL).mkdir()
    (root / DEVKIT / "data" / GROUND_TRUTH).write_text("")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_devkit, rf"{META}: missing, and flat validation images have their labels there"),
        (remove_ground_truth, rf"{GROUND_TRUTH}: missing, and flat validation images"),
        (remove_an_image, rf"{VAL_DIGITS - 1} validation images, but {VAL_DIGITS} labels in {GROUND_TRUTH}"),
        (damage_meta, r"meta\.mat: not the devkit's meta\.mat"),
        (name_an_inner_node, r"11 is not the id of a leaf in meta\.mat"),
        (write_words_as_labels, r"'seven'.* is not the id of a leaf in meta\.mat"),
        (remove_validation_images, rf"no {VAL} folder"),
        (empty_validation_folder, r"no val images found \(endings \.jpeg, "),
    ],
)
def test_a_damaged_ilsvrc_folder_says_what_is_wrong(
    miniature_copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(miniature_copy)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(miniature_copy)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing: no such folder"):
        open_dataset(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="file: is not a tar archive"):
        open_dataset(tmp_path / "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match=f"neither ILSVRC-2012 \\({VAL}, {DEVKIT}\\) nor class folders found"):
        open_dataset(empty)
    (empty / "cat").mkdir()
    with pytest.raises(DatasetError, match="no val images found"):
        open_dataset(empty)


def test_training_images_alone_are_a_training_set(miniature_copy: Path) -> None:
    remove_validation_images(miniature_copy)
    remove_devkit(miniature_copy)
    dataset = open_dataset(miniature_copy, "train")
    assert len(dataset.items) == TRAIN_DIGITS * RENDERINGS
    assert dataset.class_names == dataset.classes


@pytest.mark.parametrize("place", ["val", ""])
def test_the_real_validation_set_is_known_in_class_folders_too(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """val/WNID/NAME, as torchvision's users have it: by 50,000 images and the labels of the first six names."""
    labels = [*ILSVRC2012_FIRST_LABELS, *[i % 1000 for i in range(50_000 - 6)]]

    def root(labels: list[int]) -> Folder:
        classes: dict[str, Path | Folder] = {f"n{label:08d}": Folder(Path(f"n{label:08d}")) for label in range(1000)}
        for number, label in enumerate(labels, start=1):
            name, folder = f"ILSVRC2012_val_{number:08d}.JPEG", classes[f"n{label:08d}"]
            assert isinstance(folder, Folder)
            folder.files[name] = File(Path(name))
        return Folder(Path("d"), {}, {"val": Folder(Path("d/val"), {}, classes)} if place else classes)

    for first, known in ((labels[0], True), (labels[0] + 1, False)):
        monkeypatch.setattr("infer.data.dataset.open_folder", lambda _, first=first: root([first, *labels[1:]]))
        assert open_dataset(Path("d")).is_ilsvrc2012_val is known
