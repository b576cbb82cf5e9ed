"""export.importing.classes.py: names of classes from a file, and files that are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.importing.classes import MAX_BYTES, ClassesError, read_classes


@pytest.mark.parametrize(
    ("text", "classes", "names"),
    [
        ("n01440764\nn01443537\n", ("n01440764", "n01443537"), ()),
        (
            "n01440764 tench, Tinca tinca\nn01443537\tgoldfish\n",
            ("n01440764", "n01443537"),
            ("tench, Tinca tinca", "goldfish"),
        ),
        ("\ufeffn01440764 tench\r\nn01443537 \r\n\r\n", ("n01440764", "n01443537"), ("tench", "n01443537")),
        ("background\nn01440764 tench", ("background", "n01440764"), ("background", "tench")),
        ("hot dog\nnot hot dog", ("hot dog", "not hot dog"), ()),
        ("n0144076 a\nn014407641 b", ("n0144076 a", "n014407641 b"), ()),  # no WNIDs
        ("naïve\n日本", ("naïve", "日本"), ()),
    ],
)
def test_a_class_a_line(text: str, classes: tuple[str, ...], names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, newline="", encoding="utf-8")
    assert read_classes(path, 2) == (classes, names)


def test_without_a_file_they_are_numbered() -> None:
    assert read_classes(None, 3) == (("class_0000", "class_0001", "class_0002"), ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\n", "3 classes, expected 2, one a line, as many as the net's outputs"),
        (b"\n", "0 classes, expected 2"),
        (b"n01440764 a\nn01440764 b\n", "class 'n01440764' stands there 2 times, expected every class once"),
        (b"\na\n", "line 1 is empty, expected one class a line"),
        (b"\xff\xfe\x00", "not text in UTF-8, expected class names, one a line"),
        (b"a\x00\nb", "not text in UTF-8"),
        (bytes(MAX_BYTES + 1), "10000001 bytes, expected class names"),
    ],
)
def test_files_that_name_no_classes(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ClassesError, match=re.escape(f"{path}: {message}")) as caught:
        read_classes(path, 2)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ClassesError, match=re.escape(f"{path}: no such file, expected class names, one a line")):
            read_classes(path, 2)
