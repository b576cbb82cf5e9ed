"""trainer/data/examples.py: what a run is tried on, in any data set; nobody trains without validation by accident."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from infer.data.dataset import DatasetError, open_dataset
from trainer.data.examples import open_examples


@pytest.fixture
def folders(miniature_dir: Path, tmp_path: Path) -> Path:
    """train/ and val/ with class folders; the validation images are some of those of training under other names."""
    dataset = open_dataset(miniature_dir, "train")
    for item in dataset.items:
        for split, name in (("train", item.path.name), ("val", f"other_{item.path.name}")):
            folder = tmp_path / "data" / split / dataset.classes[item.label]
            folder.mkdir(parents=True, exist_ok=True)
            if split == "train" or len(list(folder.iterdir())) < 2:
                (folder / name).write_bytes(item.read_bytes())
    return tmp_path / "data"


def shards(folders: Path, out: Path) -> Path:
    """WebDataset's shards whose keys are running numbers, which begin at 0 in both splits."""
    out.mkdir()
    for split in ("train", "val"):
        dataset = open_dataset(folders, split)  # type: ignore[arg-type]
        with tarfile.open(out / f"{split}-000000.tar", "w") as archive:
            for number, item in enumerate(dataset.items):
                for suffix, data in ((".jpg", item.read_bytes()), (".cls", str(item.label).encode())):
                    member = tarfile.TarInfo(f"{number:09d}{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return out


def counts(data: Path) -> tuple[int, int]:
    training, others = open_examples(data, "classify")
    return len(training.dataset.items), 0 if others is None else len(others.dataset.items)


def test_both_splits_in_every_container(folders: Path, miniature_dir: Path, tmp_path: Path) -> None:
    assert counts(miniature_dir) == (64, 24)
    assert counts(folders) == (64, 20)
    assert counts(shards(folders, tmp_path / "shards")) == (64, 20)


def test_without_validation_images_there_is_nothing_to_be_tried_on(
    folders: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    packed = shards(folders, tmp_path / "shards")
    assert counts(packed / "train-000000.tar") == (64, 0)
    (packed / "val-000000.tar").unlink()
    assert counts(packed) == (64, 0)
    assert counts(folders / "train") == (64, 0)
    shutil.rmtree(folders / "val")
    assert counts(folders) == (64, 0)
    shutil.copytree(miniature_dir / "ILSVRC2012_img_train", tmp_path / "alone" / "ILSVRC2012_img_train")
    assert counts(tmp_path / "alone") == (64, 0)


def test_a_class_without_validation_images_keeps_its_place(folders: Path) -> None:
    classes = sorted(path.name for path in (folders / "val").iterdir())
    shutil.rmtree(folders / "val" / classes[3])
    training, others = open_examples(folders, "classify")
    assert others is not None and others.dataset.classes == training.dataset.classes
    names = {others.dataset.classes[item.label] for item in others.dataset.items}
    assert names == {*classes} - {classes[3]}
    assert all(others.dataset.classes[item.label] in item.name for item in others.dataset.items)


def test_classes_that_are_not_trained(folders: Path) -> None:
    (folders / "val" / "zebra").mkdir()
    assert counts(folders) == (64, 20)  # an empty folder is no class
    shutil.copy(next((folders / "val").rglob("*.JPEG")), folders / "val" / "zebra")
    with pytest.raises(
        DatasetError, match=r"1 of 11 classes of the validation images are none to train on \(zebra \.\.\."
    ):
        open_examples(folders, "classify")


def test_a_folder_without_images_is_no_class_and_said(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_examples(folders, "classify")[0]
    (folders / "train" / "aardvark").mkdir()
    training, others = open_examples(folders, "classify")
    assert capsys.readouterr().err == f"{folders}: 1 folder without images (aardvark)\n"
    assert training.dataset.classes == before.dataset.classes and others is not None
    assert training.listing_digest == before.listing_digest

    # a net that was trained when it was a class goes on with it
    known = ("aardvark", *before.dataset.classes)
    training, others = open_examples(folders, "classify", known=known)
    assert training.dataset.classes == known and others is not None and others.dataset.classes == known
    assert "no image to train on of 1 of 11 classes (aardvark)" in capsys.readouterr().err


def test_limit_is_of_both_splits_and_of_all_classes(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, others = open_examples(folders, "classify", {"limit": 12})
    assert others is not None and (len(training.dataset.items), len(others.dataset.items)) == (12, 12)
    assert {item.label for item in training.dataset.items} == set(range(10))
    assert capsys.readouterr().err.splitlines() == [
        f"{folders}: 12 of 64 images, all 10 classes",
        f"{folders}: 12 of 20 images, all 10 classes",
    ]


def test_validation_images_that_are_broken_are_not_passed_over(miniature_copy: Path) -> None:
    next((miniature_copy / "ILSVRC2012_img_val").glob("*.JPEG")).unlink()
    with pytest.raises(DatasetError, match=r"23 validation images, but 24 labels in .*: one is incomplete"):
        open_examples(miniature_copy, "classify")


def test_a_listing_is_of_names_and_labels(folders: Path, miniature_dir: Path) -> None:
    """Wherever they lie."""
    (one, _), (other, _) = open_examples(folders, "classify"), open_examples(miniature_dir, "classify")
    assert one.listing_digest == other.listing_digest
    path = next((folders / "train").rglob("*.JPEG"))
    path.rename(path.with_name("another.JPEG"))
    assert open_examples(folders, "classify")[0].listing_digest != one.listing_digest
