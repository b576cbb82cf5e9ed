"""Labels in a file of their own, and ILSVRC-2012 as Kaggle has it: every form of a row, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from image_folders import fill, names

from infer.data.dataset import DatasetError, has_validation, open_dataset

WNIDS = ("n01440764", "n02012849", "n03126707")


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,cat\nb.jpg,ant\nsub/c.png,cat\n",
        "﻿name,label\r\na.jpg,cat\r\nb.jpg,ant\r\nsub/c.png,cat\r\n",
        "label,filename\ncat,a.jpg\nant,b.jpg\ncat,sub/c.png\n",
        "cat,a.jpg\nant,b.jpg\ncat,c.png\n",
        "a cat\nb ant\nc cat\n",
        "a.jpg\tcat\t0\t3\nb.jpg\tant\t1\t2\nc.png\tcat\t5\t6\n",
        "id;score;category\na;1;cat\nb;2;ant\nc;3;cat\n",
        '"a.jpg","cat"\n\n"./b.jpg","ant"\n"val/sub/c.png","cat"\n',
    ],
)
def test_every_form_of_a_row(text: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "a.jpg", "b.jpg", "sub/c.png", "x.txt")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    dataset = open_dataset(root, labels=tmp_path / "labels.csv")
    assert names(dataset) == [("a.jpg", "cat"), ("b.jpg", "ant"), ("sub/c.png", "cat")]
    assert dataset.classes == ("ant", "cat") and not dataset.numbered
    assert dataset.left_out == {".txt": 1}
    assert dataset.remarks[0].startswith(f"labels by {tmp_path / 'labels.csv'}")


def test_numbers_are_the_models_own_and_classes_without_images_are_known(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "val.txt").write_text("a.jpg 2\nb.jpg 0\nc.jpg -1\n")
    dataset = open_dataset(root, labels=tmp_path / "val.txt")
    assert [item.label for item in dataset.items] == [2, 0, -1] and dataset.numbered
    (tmp_path / "names.csv").write_text("a,x\nb,y\nc,x\nd,w\n")
    dataset = open_dataset(root, labels=tmp_path / "names.csv")
    assert dataset.classes == ("w", "x", "y")
    assert "1 of its 4 rows are of no image here" in dataset.remarks[0]


def test_images_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "one/1.jpg", "two/1.jpg")
    (tmp_path / "labels.csv").write_text("one/1.jpg,cat\ntwo/1.jpg,ant\n")
    assert names(open_dataset(root, labels=tmp_path / "labels.csv")) == [("one/1.jpg", "cat"), ("two/1.jpg", "ant")]
    (tmp_path / "labels.csv").write_text("1.jpg,cat\n")
    with pytest.raises(DatasetError, match=r"no label for 2 of 2 images \(one/1\.jpg"):
        open_dataset(root, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1 has no two columns"),
        ("a.jpg,cat\nb.jpg\n", "row 2 has no two columns"),
        ("a.jpg,cat\n", r"no label for 1 of 2 images \(b\.jpg \.\.\.\): expected a row IMAGE,LABEL for each"),
        ("a.jpg,cat\na.jpg,ant\nb.jpg,ant\n", "a.jpg is 'cat' and 'ant', expected one label"),
        (b"a.jpg,\xff\xfe\n", "not text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_lists_that_are_refused(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    root, path = fill(tmp_path / "d", "a.jpg", "b.jpg"), tmp_path / "labels.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(root, labels=path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def kaggle(root: Path) -> dict[str, str]:
    """The challenge's folders and lists; returns the class of each validation image."""
    of_image = {f"ILSVRC2012_val_{number:08d}": WNIDS[number * 2 % 3] for number in range(1, 10)}
    fill(root, *(f"ILSVRC/Data/CLS-LOC/val/{name}.JPEG" for name in of_image))
    fill(root, *(f"ILSVRC/Data/CLS-LOC/train/{wnid}/{wnid}_1.JPEG" for wnid in WNIDS))
    fill(root, "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG")
    rows = [f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8 " for name, wnid in of_image.items()]
    random.Random(0).shuffle(rows)
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} word {wnid}, other\n" for wnid in WNIDS))
    return of_image


@pytest.mark.parametrize("place", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_folders_are_read_from_any_of_them(place: str, tmp_path: Path) -> None:
    of_image = kaggle(tmp_path)
    root = tmp_path / place
    dataset = open_dataset(root)
    assert {Path(item.name).stem: dataset.classes[item.label] for item in dataset.items} == of_image
    assert dataset.classes == WNIDS
    assert dataset.class_names == tuple(f"word {wnid}, other" for wnid in WNIDS)
    training = open_dataset(root, "train")
    assert [training.classes[item.label] for item in training.items] == list(WNIDS)
    assert training.class_names == dataset.class_names
    assert has_validation(root)


def test_kaggles_validation_images_alone_need_their_list(tmp_path: Path) -> None:
    kaggle(tmp_path)
    alone = tmp_path / "ILSVRC/Data/CLS-LOC/val"
    assert len(open_dataset(alone).items) == 9
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(DatasetError, match=r"9 images in no class folder, and no labels: .* LOC_val_solution\.csv"):
        open_dataset(alone)


def test_a_label_of_many_digits(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "a.jpg")
    (tmp_path / "l.csv").write_text(f"a.jpg,{'9' * 5000}\n")
    with pytest.raises(DatasetError, match="a label of 5000 digits, expected the number of a class"):
        open_dataset(root, labels=tmp_path / "l.csv")
