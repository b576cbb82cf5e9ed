"""One rule of what is an image, what is litter and what is left out, in folders and archives; what --limit takes."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest
from image_folders import fill, names

from infer.data.dataset import DatasetError, has_validation, list_images, open_dataset
from infer.data.spread import spread

ENDINGS = [
    "jpg",
    "JPEG",
    "jpe",
    "jfif",
    "Jif",
    "pjpeg",
    "mpo",
    "png",
    "PNG",
    "webp",
    "bmp",
    "dib",
    "ppm",
    "pgm",
    "pbm",
    "pnm",
    "tif",
    "TIFF",
    "gif",
]


@pytest.mark.parametrize("packed", [False, True])
def test_all_endings_and_folders_below_a_class_count_and_the_rest_is_counted(packed: bool, tmp_path: Path) -> None:
    root = fill(tmp_path / "d", *(f"ant/{number:02d}.{ending}" for number, ending in enumerate(ENDINGS)))
    fill(root, "bee/images/1.jpg", "bee/images/deep/2.png", "bee/0.jpg", "bee/movie.mov", "bee/images/a.txt")
    fill(root, "ant/b.TXT", "notes.md", "loose.jpg", "bee/README", "bee/inside.tar", "dog.tar")
    if packed:
        with tarfile.open(tmp_path / "d.tar", "w") as archive:
            archive.add(root, "d")
        root = tmp_path / "d.tar"
    dataset = open_dataset(root)
    assert dataset.classes == ("ant", "bee")
    assert names(dataset)[-3:] == [("bee/0.jpg", "bee"), ("bee/images/1.jpg", "bee"), ("bee/images/deep/2.png", "bee")]
    assert len(dataset.items) == len(ENDINGS) + 3
    assert [item.read_bytes() for item in dataset.items[-2:]] == [b"bee/images/1.jpg", b"bee/images/deep/2.png"]
    left_out = {".txt": 2, ".tar": 2, ".mov": 1, ".md": 1, "without an ending": 1, ".jpg in no class folder": 1}
    assert dataset.left_out == left_out
    assert dataset.notes == [
        f"{root}: left out: 2 .tar, 2 .txt, 1 .jpg in no class folder, 1 .md, 1 .mov, 1 without an ending"
    ]


def test_litter_is_passed_over_without_a_word(tmp_path: Path) -> None:
    root = fill(tmp_path, "ant/1.jpg", "ant/.2.jpg", "ant/._1.jpg", "ant/Thumbs.db", "ant/desktop.ini", ".x/1.jpg")
    fill(root, "__MACOSX/ant/._1.jpg", "__MACOSX/2.jpg", "@eaDir/1.jpg", "ant/@eaDir/1.jpg", "lost+found/1.jpg")
    fill(root, "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg", "ant/.ipynb_checkpoints/1.jpg")
    dataset = open_dataset(root)
    assert names(dataset) == [("ant/1.jpg", "ant")]
    assert dataset.classes == ("ant",)
    assert dataset.notes == []


def test_folders_without_images_are_said(tmp_path: Path) -> None:
    root = fill(tmp_path, "ant/1.jpg", "bee/notes.txt")
    (root / "aardvark").mkdir()
    dataset = open_dataset(root)
    assert dataset.empty_classes == ("aardvark", "bee")
    assert dataset.notes == [f"{root}: 2 folders without images (aardvark, bee)", f"{root}: left out: 1 .txt"]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    root = fill(tmp_path, "ant/1.jpg", "bee/2.jpg", "other/3.jpg")
    (root / "ant" / "up").symlink_to(root)
    (root / "ant" / "self").symlink_to(root / "ant")
    (root / "bee" / "aside").symlink_to(root / "other")
    dataset = open_dataset(root)
    assert [item.name for item in dataset.items] == ["ant/1.jpg", "bee/2.jpg", "bee/aside/3.jpg", "other/3.jpg"]
    assert dataset.left_out == {"link to a folder above": 2}
    (root / "ant" / "up").unlink()
    assert len(list_images(root).images) == 4


def test_a_folder_of_a_split_has_any_of_its_names(tmp_path: Path) -> None:
    root = fill(tmp_path / "a", "Train/ant/1.jpg", "validation/ant/2.jpg", "test/ant/3.jpg")
    assert names(open_dataset(root)) == [("validation/ant/2.jpg", "ant")]
    assert names(open_dataset(root, "train")) == [("Train/ant/1.jpg", "ant")]
    assert has_validation(root)
    alone = fill(tmp_path / "b", "train/ant/1.jpg")
    with pytest.raises(DatasetError, match="no val folder beside train: expected val/CLASS, or name one of these"):
        open_dataset(alone)
    tested = fill(tmp_path / "c", "train/ant/1.jpg", "test/ant/1.jpg")
    assert names(open_dataset(tested)) == [("test/ant/1.jpg", "ant")]
    assert not has_validation(tested)
    vehicles = fill(tmp_path / "d", "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert open_dataset(vehicles, "train").classes == open_dataset(vehicles).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (("notes.txt",), r"nor class folders found, nor any image; left out: 1 \.txt"),
        (("ant/a.heic", "bee/b.heic"), r"no val images found .*; left out: 2 \.heic"),
        (("1.jpg", "2.jpg"), r"2 images in no class folder, and no labels: expected CLASS/IMAGE, --labels FILE\.csv"),
    ],
)
def test_no_image_at_all_is_refused_for_its_reason(content: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(fill(tmp_path, *content))
    assert "\n" not in str(caught.value)


def test_any_folder_is_listed_by_the_same_rule(tmp_path: Path) -> None:
    root = fill(tmp_path / "d", "1.jpg", "b/2.JFIF", "b/c/3.pgm", "b/x.txt", "@eaDir/1.jpg", ".h/1.jpg", "b c/4.gif")
    found = list_images(root)
    assert [path for path, _ in found.images] == ["1.jpg", "b/2.JFIF", "b/c/3.pgm", "b c/4.gif"]
    assert found.left_out == Counter({".txt": 1})
    with pytest.raises(DatasetError, match=r"no images below it; left out: 1 \.txt"):
        list_images(fill(tmp_path / "none", "x.txt"))


def test_a_few_are_spread_over_all_groups() -> None:
    assert spread([0] * 10, 5) == [0, 2, 4, 6, 8]
    assert spread([0] * 6 + [1] * 3 + [2], 3) == [0, 6, 9]
    assert spread([0] * 6 + [1] * 3 + [2], 2) == [0, 6]
    labels = [3] * 600 + [1] * 30 + [0] * 20 + [2] * 5
    few = spread(labels, 200)
    counts = Counter(labels[place] for place in few)
    assert few == sorted(set(few)) and len(few) == 200
    assert counts.keys() == {0, 1, 2, 3} and counts[2] >= 1
    assert all(abs(counts[label] - 200 * labels.count(label) / len(labels)) < 1 for label in counts)
    assert spread(labels, 655) == list(range(655)) == spread(labels, 1000)
    assert {labels[place] for place in spread(labels, 4)} == {0, 1, 2, 3}
