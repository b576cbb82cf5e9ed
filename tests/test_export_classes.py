"""Class names from a file, or placeholders."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.classes import ClassesError, read_classes
from infer.spec import placeholder_classes


def test_what_lines_mean(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n\n")
    assert read_classes(path, 2) == (("n01440764", "n01443537"), ("tench, Tinca tinca", "goldfish"))
    path.write_text("n01440764\r\nn01443537\r\n")
    assert read_classes(path, 2) == (("n01440764", "n01443537"), ())
    path.write_text("tabby cat\nÖrn\n")
    assert read_classes(path, 2) == (("tabby cat", "Örn"), ())
    assert read_classes(None, 3) == (placeholder_classes(3), ()) == (("class_0000", "class_0001", "class_0002"), ())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cat\ndog\n", "2 lines, but the model has 3 classes"),
        (b"cat\ndog\ncat\n", "'cat' is named twice"),
        (b"n01440764 a\nn01440764 b\nn01443537 c", "'n01440764' is named twice"),
        (b"\xff\xfe\x00", "not a text file, expected 3 class names"),
        (b"x\n" * 6_000_000, "12000000 bytes, expected a list of 3 class names"),
    ],
)
def test_lists_that_do_not_fit(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ClassesError, match=said):
        read_classes(tmp_path / "names.txt", 3)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClassesError, match=r"none\.txt: cannot be read \(No such file or directory\)"):
        read_classes(tmp_path / "none.txt", 3)
