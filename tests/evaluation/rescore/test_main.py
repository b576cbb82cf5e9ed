"""The command on score tables of ImageNet's classes: what counts, what is said, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import slim_spec
from report_runs import scores_of, write_run

from evaluation.rescore.__main__ import main
from evaluation.rescore.lists import OBJECTS, SUBSETS, number_of, read_subset
from evaluation.scores.table import OK, Scores, write
from infer.data.imagenet import words_of_wnids
from infer.spec import placeholder_classes

WNIDS = tuple(words_of_wnids())
REAL: list[list[int]] = [[number % 1000, (number + 1) % 1000] for number in range(50_000)]
IMAGES = 60


def imagenet_table(path: Path, answers: Sequence[int], numbers: Sequence[int], **changes: Any) -> Path:
    """Validation images of these numbers, from 1, whose label is number - 1, answered with these classes."""
    classes = changes.pop("classes", WNIDS)
    spec = slim_spec("A", name="net", classes=classes, **changes)
    posterior = np.full((len(answers), len(classes)), 1e-4, np.float32)
    posterior[np.arange(len(answers)), answers] = 0.9
    names = tuple(f"val/{WNIDS[n % 1000]}/ILSVRC2012_val_{n:08d}.JPEG" for n in numbers)
    keys = ("runtime", "protocol", "pooling", "dataset_id", "engine_sha256", "commit")
    metadata = {"spec": spec.to_json(), "scales": "88", **dict.fromkeys(keys, "x")}
    labels = np.array([(n - 1) % 1000 for n in numbers], np.int32)
    write([Scores(names, labels, (OK,) * len(answers), ("",) * len(answers), posterior, metadata)], path)
    return path


def real_file(folder: Path, content: Any = REAL) -> str:
    (folder / "real.json").write_text(json.dumps(content))
    return str(folder / "real.json")


def rescored(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([*map(str, words)]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and not shown.out
    return shown.err


def test_real_labels_by_the_number_in_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any order of images: the label, the class after it (right in ReaL alone), another; one image has no class."""
    numbers = [*range(1, 41)][::-1]
    answers = [[n - 1, n, n + 5, n - 1][n % 4] for n in numbers]
    real = [[] if number == 4 else own for number, own in enumerate(REAL)]  # image 5
    table = imagenet_table(tmp_path / "t.parquet", answers, numbers)
    found = rescored(capsys, table, "--real", real_file(tmp_path, real))["tables"][0]
    counted = [n for n in numbers if n != 5]
    assert found["images"] == 39 and found["unlabelled"] == 1
    assert found["top1_error_percent"] == pytest.approx(100 * sum(n % 4 == 2 for n in counted) / 39)
    assert found["before"]["top1_error_percent"] == pytest.approx(100 * sum(n % 4 in (1, 2) for n in numbers) / 40)


def test_the_text_has_both_and_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = imagenet_table(tmp_path / "t.parquet", list(range(IMAGES)), range(1, IMAGES + 1))
    assert main([str(table), "--real", real_file(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "0.00 [0.0, 6.0]" in shown and "before" in shown
    assert "the table's own label is among ReaL's for 100.0 % of 60 images" in shown


def test_real_labels_of_another_order_or_other_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = imagenet_table(tmp_path / "t.parquet", [0] * 30, range(1, 31))
    assert "in another order" in refused(capsys, table, "--real", real_file(tmp_path, REAL[7:] + REAL[:7]))
    assert "49999 lists" in refused(capsys, table, "--real", real_file(tmp_path, REAL[1:]))
    assert "expected classes from 0 to 999" in refused(
        capsys, table, "--real", real_file(tmp_path, [[1000], *REAL[1:]])
    )
    assert "not ReaL's labels" in refused(capsys, table, "--real", real_file(tmp_path, {"a": 1}))
    assert "No such file" in refused(capsys, table, "--real", tmp_path / "none.json")
    write([scores_of()], tmp_path / "other.parquet")
    assert "1000 of 1000 classes" in refused(capsys, tmp_path / "other.parquet", "--real", real_file(tmp_path))
    far = imagenet_table(tmp_path / "far.parquet", [0], [50_001])
    assert "is no image of ILSVRC-2012" in refused(capsys, far, "--real", real_file(tmp_path))


def test_classes_are_found_by_name_wherever_the_model_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model with its classes the other way around, and one without names, which is said."""
    table = imagenet_table(tmp_path / "t.parquet", [0, 1, 2], [1, 2, 3])
    turned = imagenet_table(tmp_path / "u.parquet", [999, 998, 2], [1, 2, 3], classes=WNIDS[::-1])
    nameless = imagenet_table(tmp_path / "n.parquet", [0, 1, 2], [1, 2, 3], classes=placeholder_classes(1000))
    found = rescored(capsys, table, turned, nameless, "--real", real_file(tmp_path))
    assert [one["top1_error_percent"] for one in found["tables"]] == pytest.approx([0, 100 / 3, 0])
    assert ["no names" in one["remark"] for one in found["remarks"] if one["table"] == str(nameless)].count(True) == 1


@pytest.mark.parametrize(
    ("name", "ends", "count", "wnids"),
    [
        ("imagenet-a", ("n01498041", "n12267677"), 200, 200),
        ("imagenet-r", ("n01443537", "n12267677"), 200, 200),
        ("objectnet", ("n02708093", "n15075141"), 113, 125),
        ("imagenet-sketch", (WNIDS[0], WNIDS[-1]), 1000, 1000),
    ],
)
def test_the_built_in_lists_are_of_imagenets_classes(name: str, ends: tuple[str, str], count: int, wnids: int) -> None:
    objects = read_subset(name)
    every = sorted(wnid for own in objects for wnid in own)
    assert len(objects) == count and len(set(every)) == len(every) == wnids
    assert set(every) <= set(WNIDS)
    assert (every[0], every[-1]) == ends
    assert name in SUBSETS


def test_other_classes_are_masked_and_their_images_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every answer is the class before the label; masked where it is not of ImageNet-A, and then the label is next."""
    allowed = {WNIDS.index(wnid) for (wnid,) in read_subset("imagenet-a")}
    numbers = list(range(1, 1001))
    path = imagenet_table(tmp_path / "t.parquet", [(n - 2) % 1000 for n in numbers], numbers)
    found = rescored(capsys, path, "--subset", "imagenet-a")["tables"][0]
    # all that are left are equal, and the first of them is answered
    wrong = sum((place - 1) % 1000 in allowed or place != min(allowed) for place in allowed)
    assert (found["images"], found["other_classes"], found["answers"]) == (200, 800, 200)
    assert found["top1_error_percent"] == pytest.approx(100 * wrong / 200)
    assert found["before"]["top1_error_percent"] == 100


def test_a_subset_of_a_file_by_the_models_names_or_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([scores_of(images=80)], tmp_path / "t.parquet")
    (tmp_path / "classes.txt").write_text("# two\nb\nd\te\n")
    found = rescored(capsys, tmp_path / "t.parquet", "--subset", tmp_path / "classes.txt")["tables"][0]
    assert found["images"] == sum(label in (1, 3, 4) for label in scores_of(images=80).labels)
    assert main([str(tmp_path / "t.parquet"), "--subset", str(tmp_path / "classes.txt")]) == 0
    assert "3 of 10 classes may be answered" in capsys.readouterr().out
    for text, said in (("b\nb\n", "is there twice"), ("", "no class in it"), ("b\nzebra\n", "(zebra ...) are none")):
        (tmp_path / "classes.txt").write_text(text)
        assert said in refused(capsys, tmp_path / "t.parquet", "--subset", tmp_path / "classes.txt")
    assert ", ".join(SUBSETS) in refused(capsys, tmp_path / "t.parquet", "--subset", "imagenet-x")


def test_a_name_that_two_classes_have_says_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """WordNet's cranes. The model's words are taken where each is of one class."""
    words = ("bird", "crane", "crane", "dog")
    table = imagenet_table(tmp_path / "t.parquet", [0, 1, 3, 3], range(1, 5), classes=tuple("abcd"), class_names=words)
    (tmp_path / "classes.txt").write_text("bird\ndog\n")
    assert rescored(capsys, table, "--subset", tmp_path / "classes.txt")["tables"][0]["images"] == 2
    (tmp_path / "classes.txt").write_text("bird\ncrane\n")
    assert "1 of 2 classes (crane ...)" in refused(capsys, table, "--subset", tmp_path / "classes.txt")


def test_a_table_of_another_data_set_than_the_report_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "out", [scores_of()], mistakes=0)
    (table,) = (tmp_path / "out" / "scores").iterdir()
    write([scores_of(dataset_id="f" * 16)], table)
    (tmp_path / "groups.csv").write_text("image,camera\n0.jpg,x\n")
    said = refused(capsys, tmp_path / "out", "--groups", tmp_path / "groups.csv", "camera")
    assert "scores of data set ffffffffffffffff, but report.json is of" in said


def test_top5_is_shown_where_more_than_five_may_be_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([scores_of()], tmp_path / "t.parquet")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    assert main([str(tmp_path / "t.parquet"), "--subset", str(tmp_path / "classes.txt")]) == 0
    head = capsys.readouterr().out.splitlines()[2]
    assert "top-5 error" not in head and "top-5 before" in head


def test_corrected_labels_replace_those_they_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = scores_of(images=50)
    write([scores], tmp_path / "t.parquet")
    answers = scores.posterior.argmax(1)
    rows = [f"{i},{scores.classes[answers[i]]}" for i in range(10)] + ["10.jpg,-1", "elsewhere.jpg,a"]
    (tmp_path / "new.csv").write_text("image,label\n" + "\n".join(rows))
    found = rescored(capsys, tmp_path / "t.parquet", "--relabel", tmp_path / "new.csv")
    wrong = sum(answers[i] != scores.labels[i] for i in range(11, 50))
    assert found["tables"][0]["images"] == 49
    assert found["tables"][0]["top1_error_percent"] == pytest.approx(100 * wrong / 49)
    changed = 1 + sum(answers[i] != scores.labels[i] for i in range(10))
    said = found["remarks"][0]["remark"]
    assert "labels of 11 images" in said and f"{changed} are changed" in said and "1 of its 12 rows" in said

    numbers = [f"{i},{answers[i]}" for i in range(10)] + ["10,-1"]
    (tmp_path / "new.csv").write_text("\n".join(numbers))
    again = rescored(capsys, tmp_path / "t.parquet", "--relabel", tmp_path / "new.csv")
    assert again["tables"] == found["tables"]
    assert "0 is a" in again["remarks"][1]["remark"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1.jpg,zebra", "(zebra ...) are none"),
        ("1.jpg,10", "label 10, expected 0 to 9"),
        ("other.jpg,a", "names none of the table's 120 images"),
        ("1.jpg,a\n1.jpg,b", "expected one label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, said: str
) -> None:
    write([scores_of()], tmp_path / "t.parquet")
    (tmp_path / "new.csv").write_text(f"image,label\n{rows}\n")
    assert said in refused(capsys, tmp_path / "t.parquet", "--relabel", tmp_path / "new.csv")


def test_groups_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tables of an OUT folder; a fusion of an earlier version, which has none, is named."""
    report = write_run(tmp_path / "out", [scores_of("one"), scores_of("two", seed=1)], fused=True)
    rows = [f"{i}.jpg,{i % 12},dark" for i in range(100)]
    (tmp_path / "groups.csv").write_text("image,camera,light\n" + "\n".join(rows))
    found = rescored(capsys, tmp_path / "out", "--groups", tmp_path / "groups.csv", "camera")
    for one, result in zip(found["tables"], report["results"], strict=False):
        assert one["top1_error_percent"] == one["before"]["top1_error_percent"] == result["top1_error_percent"]
        assert [own["group"] for own in one["groups"]] == [str(number) for number in range(12)]
        assert sum(own["images"] for own in one["groups"]) == 100
    said = [one["remark"] for one in found["remarks"]]
    assert any("1 fusions have no score table" in one for one in said)
    assert any("20 images are in no group" in one for one in said)
    assert main([str(tmp_path / "out"), "--groups", str(tmp_path / "groups.csv"), "light"]) == 0
    assert "| dark" in capsys.readouterr().out
    assert "no column 'lens', expected one of image, camera, light" in refused(
        capsys, tmp_path / "out", "--groups", tmp_path / "groups.csv", "lens"
    )


def test_a_line_stays_a_line_whatever_a_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture's base64, a minified script, or a table that is none of these, named by mistake."""
    write([scores_of(images=8)], tmp_path / "t.parquet")
    long = "x" * 100_000
    for text in (
        long,
        f"{long}\n{long}",
        f"image,label\n0.jpg,{long}",
        f"image,{long}\n0.jpg,a",
        f"0.jpg,a\n0.jpg,{long}",
    ):
        (tmp_path / "f.csv").write_text(text)
        for words in (["--subset", "f.csv"], ["--relabel", "f.csv"], ["--groups", "f.csv", "y" * 10_000]):
            words = [words[0], str(tmp_path / words[1]), *words[2:]]
            if main([str(tmp_path / "t.parquet"), *words]) == 0:
                continue
            assert 20 < len(capsys.readouterr().err) < 1500


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--real", "real.json", "--relabel", "new.csv"],
        ["--groups", "groups.csv"],
    ],
)
def test_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["t.parquet", *words])
    assert ended.value.code == 2


def test_a_table_named_twice_and_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([scores_of()], tmp_path / "t.parquet")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "t.parquet"), str(tmp_path / "t.parquet"), "--subset", "objectnet"])
    assert "named twice" in capsys.readouterr().err
    assert "no such file" in refused(capsys, tmp_path / "none.parquet", "--subset", "objectnet")
    assert "report.json" in refused(capsys, tmp_path, "--subset", "objectnet")


def test_names_of_others_stay_on_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write([scores_of()], tmp_path / "t.parquet")
    (tmp_path / "a\x1b[2J.csv").write_text("image,camera\n0.jpg,x\x1b[2Jy\n1.jpg,a|b\n")
    assert main([str(tmp_path / "t.parquet"), "--groups", str(tmp_path / "a\x1b[2J.csv"), "camera"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "x\\\\x1b" in shown and "a\\|b" in shown


def test_numbers_of_validation_images() -> None:
    assert number_of("val/n01440764/ILSVRC2012_val_00000293.JPEG") == 293
    assert number_of("ILSVRC2012_val_00000293_n01440764") == 293
    assert number_of("ILSVRC2012_val_000002931.JPEG") is None
    assert number_of("ILSVRC2012_val_00000001/image.JPEG") is None
    assert len(OBJECTS) == 3
