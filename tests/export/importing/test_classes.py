"""export.importing.classes.py: names of classes from a file, and files that are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.importing.classes import MAX_BYTES, ClassesError, described, read_classes


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
        ("1 euro\n2 euro", ("1 euro", "2 euro"), ()),  # outputs are from 0 on
        ("n01440764, tench\nn01443537,goldfish", ("n01440764", "n01443537"), ("tench", "goldfish")),
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
        (bytes(MAX_BYTES + 1), "10000001 bytes, expected at most 10000000"),
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


THREE = ("n01440764", "n01443537", "n01484850")
WORDS = ("tench", "goldfish", "white shark")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("k.json", '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n01484850", "white shark"]}'),
        ("list.json", '[["n01440764", "tench"], ["n01443537", "goldfish"], ["n01484850", "white shark"]]'),
        ("shuffled.json", '{"2": "n01484850 white shark", "0": "n01440764 tench", "1": "n01443537 goldfish"}'),
        ("a.csv", "n01440764,tench\nn01443537,goldfish\nn01484850,white shark\n"),
        ("b.csv", "index,wnid,name\n1,n01443537,goldfish\n0,n01440764,tench\n2,n01484850,white shark\n"),
        ("c.csv", "2;n01484850;white shark\n0;n01440764;tench\n1;n01443537;goldfish\n"),
        ("d.tsv", "synset\twords\nn01440764\ttench\nn01443537\tgoldfish\nn01484850\twhite shark\n"),
    ],
)  # fmt: skip
def test_wnids_and_names_in_other_forms(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name, 3) == (THREE, WORDS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dict.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish', 2: \"tiger's eye\",}"),
        ("config.json", '{"a": 1, "id2label": {"0": "tench, Tinca tinca", "1": "goldfish", "2": "tiger\'s eye"}}'),
        ("idx.json", '{"goldfish": 1, "tiger\'s eye": 2, "tench, Tinca tinca": 0}'),
        ("a.csv", 'name\n"tench, Tinca tinca"\ngoldfish\ntiger\'s eye\n'),
        ("b.csv", 'id,label\n0,"tench, Tinca tinca"\n1,goldfish\n2,tiger\'s eye\n'),
        ("b.txt", "tench, Tinca tinca\ngoldfish\ntiger's eye"),
        ("c.txt", "0 tench, Tinca tinca\n1 goldfish\n2 tiger's eye\n"),
        ("d.txt", "1: goldfish\n0: tench, Tinca tinca\n2: tiger's eye\n"),
    ],
)  # fmt: skip
def test_names_in_other_forms(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name, 3) == (("tench, Tinca tinca", "goldfish", "tiger's eye"), ())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.json",
            '{"0": "a", "2": "b"}',
            "expected outputs from 0 on as keys, or as values, of its object, each once",
        ),
        ("a.json", "{0: open('x')}", "neither JSON ("),
        ("a.json", '{"0": 5, "1": 6}', "'5' is no class, expected a name, or a WNID and a name"),
        ("a.json", "[" * 100_000, "nested too deeply, expected a JSON list"),
        ("a.json", "[1, [2]]", "'1' is no class, expected a name"),
        ("a.csv", "a,b\nc\n", "row 2 has 1 columns, the first has 2"),
        ("a.csv", "0,a,x\n1,b,y\n", "2 columns may be the names, expected one"),
    ],
)
def test_forms_that_name_no_classes(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ClassesError, match=re.escape(message)) as caught:
        read_classes(tmp_path / name, 2)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    """As ImageNet's bird and machine; WNIDs tell them apart, and places where there are none."""
    (tmp_path / "names.txt").write_text("crane\nvase\ncrane\n")
    classes, names = read_classes(tmp_path / "names.txt", 3)
    assert (classes, names) == (("crane (output 0)", "vase", "crane (output 2)"), ("crane", "vase", "crane"))
    (tmp_path / "names.txt").write_text("n02012849 crane\nn03126707 crane\n")
    assert read_classes(tmp_path / "names.txt", 2) == (("n02012849", "n03126707"), ("crane", "crane"))


def test_imagenet_is_built_in() -> None:
    """Sorted by WNID, with the words of known places; the two cranes at 134 and 517."""
    classes, names = read_classes(Path("imagenet-1k"), 1000)
    assert list(classes) == sorted(set(classes)) and len(classes) == 1000
    known = {0: "tench, Tinca tinca", 134: "crane", 281: "tabby, tabby cat", 517: "crane", 999: "toilet tissue, toilet"}
    assert all(names[place].startswith(words) for place, words in known.items())
    assert (classes[0], classes[281], classes[999]) == ("n01440764", "n02123045", "n15075141")
    with pytest.raises(ClassesError, match="imagenet-1k: 1000 classes, expected 1001"):
        read_classes(Path("imagenet-1k"), 1001)


def test_what_an_import_says_of_its_classes() -> None:
    assert described(None, 10, ["class_0000"]) == "10 classes called class_0000 ... (--classes FILE names them)"
    said = described(None, 1000, ["class_0000"])
    assert "taken to be ImageNet's, in the order of sorted WNIDs: --classes imagenet-1k" in said
