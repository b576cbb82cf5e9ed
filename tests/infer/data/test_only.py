"""infer/data/only.py: images chosen by a list of names, in every form of a name, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_folders import fill, names

from infer.data.dataset import VAL, DatasetError, open_dataset
from infer.data.only import read_names

BOTH = ("train/ant/1.jpg", "train/cat/2.jpg", "train/cat/3.jpg", "val/ant/4.jpg", "val/cat/5.jpg", "val/cat/6.jpg")


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "held-out.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "cat/2.jpg\nant/1.jpg\n",
        "cat/2.jpg\r\n\r\nant/1.jpg\r\n",
        "\ufeffcat/2.jpg\n  \nant/1.jpg",
        "val/cat/2.jpg\ntrain/ant/1.jpg\n",
        "./cat\\2.jpg\nant/1.jpg\ncat/2.jpg\n",
        "2.jpg\n1.jpg\n",
    ],
)
def test_every_form_of_a_name_takes_the_same_images(text: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "ant/1.jpg", "ant/7.jpg", "cat/2.jpg", "dog/3.jpg")
    dataset = open_dataset(root, only=listed(tmp_path, text))
    assert names(dataset) == [("ant/1.jpg", "ant"), ("cat/2.jpg", "cat")]
    assert dataset.classes == ("ant", "cat", "dog") and dataset.is_part
    assert dataset.notes == [f"{root}: 2 of 4 images, those of held-out.txt"]


def test_a_name_may_be_of_a_macs_form_and_keep_what_its_file_has(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "e\u0301/1.jpg", "a/b\\c.jpg", "a/2.jpg")
    every = [item.name for item in open_dataset(root).items]
    assert [item.name for item in open_dataset(root, only=listed(tmp_path, "\n".join(every[1:]))).items] == every[1:]
    mac = listed(tmp_path, "e\u0301/1.jpg")
    assert [item.name for item in open_dataset(root, only=mac).items] == ["\u00e9/1.jpg"]


def test_a_name_is_of_one_split_and_a_folder_is_a_whole_word(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", *BOTH)
    four = listed(tmp_path, "cat/5.jpg\n4.jpg\ncat/2.jpg\ntrain/ant/1.jpg\n")
    assert [item.name for item in open_dataset(root, only=four).items] == ["val/ant/4.jpg", "val/cat/5.jpg"]
    train = open_dataset(root, "train", only=four)
    assert [item.name for item in train.items] == ["train/ant/1.jpg", "train/cat/2.jpg"]
    assert train.remarks == ("2 of 3 images, those of held-out.txt, which names 2 of the other split, too",)
    with pytest.raises(DatasetError, match=r"1 of 1 names are of no image of .* \(at/5\.jpg\): expected"):
        open_dataset(root, only=listed(tmp_path, "at/5.jpg"))


def test_images_to_evaluate_may_be_those_held_out_of_training(tmp_path: Path) -> None:
    root, few = fill(tmp_path / "d", *BOTH), listed(tmp_path, "train/cat/3.jpg\n")
    assert [item.name for item in open_dataset(root, "named", only=few).items] == ["train/cat/3.jpg"]
    with pytest.raises(DatasetError, match=r"held-out\.txt: names no val image of .*, only 1 of the other split"):
        open_dataset(root, only=few)
    without = fill(tmp_path / "t", *BOTH[:3])
    assert [item.name for item in open_dataset(without, "named", only=few).items] == ["train/cat/3.jpg"]
    assert [item.name for item in open_dataset(root, "named").items] == list(BOTH[3:])


def test_a_limit_counts_within_the_list_and_the_whole_set_is_no_part(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", *(f"{kind}/{number}.jpg" for kind in ("ant", "cat") for number in range(5)))
    six = listed(tmp_path, "".join(f"{kind}/{number}.jpg\n" for kind in ("ant", "cat") for number in range(3)))
    dataset = open_dataset(root, only=six, limit=2)
    assert [item.name for item in dataset.items] == ["ant/0.jpg", "cat/0.jpg"]
    assert dataset.remarks == ("6 of 10 images, those of held-out.txt", "2 of 6 images, all 2 classes")
    every = listed(tmp_path, "".join(f"{item.name}\n" for item in open_dataset(root).items))
    assert not open_dataset(root, only=every).is_part
    assert open_dataset(root, only=every).listing_digest == open_dataset(root).listing_digest


def test_images_of_ilsvrcs_layout_and_of_shards_are_named_as_they_are_called(
    miniature_dir: Path, tmp_path: Path
) -> None:
    name = "ILSVRC2012_val_00000002.JPEG"
    every = open_dataset(miniature_dir)
    for text in (name, f"{VAL}/{name}", f"val/{VAL}/{name}"):
        dataset = open_dataset(miniature_dir, only=listed(tmp_path, text))
        assert list(dataset.items) == [every.items[1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"held-out\.txt: empty, expected a name of an image a line"),
        ("\ufeff\r\n \n", r"held-out\.txt: empty"),
        ("ant/1.jpg\nant/9.jpg\nno.jpg\n", r"2 of 3 names are of no image of .* \(ant/9\.jpg \.\.\.\)"),
        ("x/ant/1.jpg\n", r"1 of 1 names are of no image"),
        ("2.jpg\n", r"2\.jpg names 2 images \(ant/2\.jpg, cat/2\.jpg\): expected its folder, too"),
        ("ant/\x1b[31m.jpg", r"no image of .* \(ant/\\x1b\[31m\.jpg\)"),
    ],
)
def test_a_list_that_names_no_image_or_several_is_refused(text: str, message: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "ant/1.jpg", "ant/2.jpg", "cat/2.jpg")
    with pytest.raises(DatasetError, match=message):
        open_dataset(root, only=listed(tmp_path, text))


def test_a_list_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(DatasetError, match="not text in UTF-8"):
        read_names(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(DatasetError, match="no regular file"):
        read_names(tmp_path)
