"""Which class index of the model each class of the data is: by name, by number, by place where it is said; or not."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from grey_nets import nearest_level, write_grey
from helpers import slim_spec

from evaluation.errors import RunError
from evaluation.ilsvrc import main
from evaluation.report.results import read_run
from evaluation.run.labels import match_classes
from evaluation.scores.table import read
from infer.data.dataset import Dataset, open_dataset
from infer.data.imagenet import words_of_wnids
from infer.spec import ModelSpec, placeholder_classes
from trainer.checkpoint import load, save

Checkpoints = Callable[..., Path]


def data(*classes: str, numbered: bool = False, empty: Sequence[str] = (), names: Sequence[str] = ()) -> Dataset:
    return Dataset(
        Path("d"), [], classes, tuple(names) or classes, False, numbered=numbered, empty_classes=tuple(empty)
    )


def model(*classes: str, class_names: Sequence[str] = ()) -> ModelSpec:
    return slim_spec("A", classes=classes, class_names=tuple(class_names))


def matched(dataset: Dataset, spec: ModelSpec, *, by_order: bool = False) -> list[int]:
    return match_classes(dataset, spec, by_order=by_order).label_of.tolist()


def refused(dataset: Dataset, spec: ModelSpec, *, by_order: bool = False) -> str:
    with pytest.raises(RunError) as caught:
        match_classes(dataset, spec, by_order=by_order)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_by_name_in_any_order_without_a_word() -> None:
    match = match_classes(data("a", "b", "c"), model("c", "b", "a", "another"))
    assert match.label_of.tolist() == [2, 1, 0]
    assert match.remark == ""


def test_folders_called_by_numbers_are_indices_only_of_a_model_that_calls_its_classes_otherwise() -> None:
    """ImageNet-V2's folders 0 ... 999; a model that was trained on such folders has them in the order of their text."""
    folders = data(*sorted(map(str, range(12))))
    by_number = [int(name) for name in folders.classes]
    for spec in (model(*(f"n{i:08d}" for i in range(12))), model(*placeholder_classes(12))):
        match = match_classes(folders, spec)
        assert match.label_of.tolist() == by_number
        assert "0 to 11, taken as indices" in match.remark
    assert match_classes(folders, model(*folders.classes)).label_of.tolist() == list(range(12))
    assert match_classes(folders, model(*folders.classes)).remark == ""
    assert matched(data(*(f"{i:03d}" for i in range(12))), model(*placeholder_classes(12))) == list(range(12))


def test_imagenet_v2_and_a_as_they_are_distributed_with_a_model_of_all_classes(tmp_path: Path) -> None:
    """V2: folders 0 ... 999, whose order as text is another; A and R: 200 WNIDs and a README. On disk."""
    spec = model(*words_of_wnids())
    for number in range(1000):
        (tmp_path / "v2" / str(number)).mkdir(parents=True)
        (tmp_path / "v2" / str(number) / "0a1b.jpeg").touch()
    wnids = sorted(words_of_wnids())[6:1000:5]
    for wnid in wnids:
        (tmp_path / "a" / wnid).mkdir(parents=True)
        (tmp_path / "a" / wnid / "0.jpg").touch()
    (tmp_path / "a" / "README.txt").touch()

    for name in ("v2", "a"):
        dataset = open_dataset(tmp_path / name)
        label_of = match_classes(dataset, spec).label_of
        for item in dataset.items:
            folder = item.name.split("/")[-2]
            assert label_of[item.label] == (int(folder) if name == "v2" else spec.classes.index(folder))
        assert len(dataset.items) == len(label_of) == (1000 if name == "v2" else len(wnids))

    # with folders missing, numbers are taken for nothing
    (tmp_path / "v2" / "77" / "0a1b.jpeg").unlink()
    (tmp_path / "v2" / "77").rmdir()
    assert "77 is missing" in refused(open_dataset(tmp_path / "v2"), spec)


@pytest.mark.parametrize(
    ("folders", "where"),
    [
        (map(str, range(1, 13)), "12 is beyond"),
        (map(str, (*range(7), *range(8, 13))), "12 is beyond"),
        (map(str, range(10)), "10 is missing"),
        (map(str, (0, 1, 5)), "2 is missing"),
    ],
)
def test_numbers_with_gaps_are_no_indices(folders: Sequence[str], where: str) -> None:
    names = sorted(folders)
    for spec in (model(*(f"n{i:08d}" for i in range(12))), model(*placeholder_classes(12))):
        assert where in refused(data(*names), spec)
    own = model(*sorted(map(str, range(13))))
    assert matched(data(*names), own) == [own.classes.index(name) for name in names]


def test_by_order_takes_numbers_by_their_values() -> None:
    folders = data(*sorted(map(str, range(1, 13))))
    spec = model(*(f"n{i:08d}" for i in range(12)))
    match = match_classes(folders, spec, by_order=True)
    assert match.label_of.tolist() == [int(name) - 1 for name in folders.classes]
    assert "--classes-by-order" in match.remark


def test_names_are_compared_composed() -> None:
    names = sorted(["Apple", "Banane", "Épée", "Fusil", "Zèbre"])
    for form in ("NFC", "NFD"):
        folders = data(*(unicodedata.normalize(form, name) for name in names))
        for spec in (model(*names), model(*(unicodedata.normalize("NFD", name) for name in names))):
            assert matched(folders, spec) == list(range(5))


def test_folders_of_a_mac_are_sorted_as_others(tmp_path: Path) -> None:
    names = sorted(["Apple", "Banane", "Épée", "Fusil", "Zèbre"])
    found = []
    for form in ("NFC", "NFD"):
        for number, name in enumerate(names):
            folder = tmp_path / form / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(bytes([number]))
        dataset = open_dataset(tmp_path / form)
        assert dataset.classes == tuple(names)
        found.append([(item.name, item.label, item.read_bytes()) for item in dataset.items])
    assert found[0] == found[1]


def test_another_spelling_is_refused_with_the_first_difference_or_taken_by_order() -> None:
    folders, spec = data("ant", "bee", "cat"), model("ant", "beetle", "cats")
    said = refused(folders, spec)
    assert "2 are called otherwise: the first is 'bee' where the model has 'beetle'" in said
    assert "--classes-by-order" in said
    match = match_classes(folders, spec, by_order=True)
    assert match.label_of.tolist() == [0, 1, 2]
    assert "--classes-by-order" in match.remark
    assert "'Ant' and 'ant' differ in capitals" in refused(data("Ant", "bee"), model("ant", "bee"))


def test_by_order_is_refused_where_names_or_numbers_contradict() -> None:
    assert "cat would be taken for dog, but slim-a has a class of that name" in refused(
        data("bee", "cat", "doge"), model("cat", "dog", "bees"), by_order=True
    )
    assert "2 classes with images, slim-a has 3" in refused(data("a", "b"), model("x", "y", "z"), by_order=True)


def test_each_cause_has_its_own_words() -> None:
    spec = model("ant", "bee", "cat")
    assert "1 of the data set's 4 are none of them (dog): expected only classes that it knows" in refused(
        data("ant", "bee", "cat", "dog"), spec
    )
    assert "the data set has 2 of 2 others (x, y): use the data the model was trained for" in refused(
        data("x", "y"), spec
    )
    assert "knows 5 classes (class_0000 ... class_0004) but no names for them, and the data set has 3" in refused(
        data("ant", "bee", "cat"), model(*placeholder_classes(5))
    )
    assert "has labels up to 3: expected 0 to 2" in refused(data("0", "1", "2", "3", numbered=True), spec)


def test_a_folder_without_images_is_no_class_unless_it_makes_the_number() -> None:
    names = ("aardvark", "ant", "bee")
    folders = data(*names, empty=("aardvark",))
    assert matched(folders, model("ant", "bee")) == [-1, 0, 1]
    assert matched(folders, model(*placeholder_classes(2))) == [-1, 0, 1]
    assert matched(folders, model(*placeholder_classes(3))) == [0, 1, 2]
    assert matched(folders, model("bee", "aardvark", "ant")) == [1, 2, 0]
    assert "aardvark" not in refused(folders, model("x", "y", "z", "w"))


def test_wnids_and_words_are_matched_where_wordnet_agrees_at_every_place() -> None:
    wnids = ("n01440764", "n02012849", "n03126707", "n03710637", "n03710721")
    words = ("tench", "crane bird", "crane machine", "maillot", "maillot tank suit")
    match = match_classes(data(*wnids), model(*words))
    assert match.label_of.tolist() == list(range(5))
    assert "WordNet's words agree" in match.remark
    assert matched(data(*words, numbered=True), model(*wnids)) == list(range(5))  # a ClassLabel's names
    assert matched(data(*(words_of_wnids()[w] for w in wnids), numbered=True), model(*wnids)) == list(range(5))
    said = refused(data(*wnids), model(*sorted(words)))
    assert "the first is 'n01440764' where the model has 'crane bird'" in said and "--classes-by-order" in said


def test_words_are_names_too_where_each_is_of_one_class() -> None:
    spec = model("n1", "n2", "n3", class_names=("tench", "crane", "maillot"))
    match = match_classes(data("crane", "maillot", "tench", numbered=True), spec)
    assert match.label_of.tolist() == [1, 2, 0]
    assert match.remark
    assert matched(data("n11", "n12", "n13", names=("maillot", "tench", "crane")), spec) == [2, 0, 1]
    twice = model("n1", "n2", "n3", class_names=("tench", "crane", "crane"))
    assert "2 of 2 others (crane, tench)" in refused(data("crane", "tench"), twice)


def test_labels_that_are_numbers_are_the_models_own_unless_their_names_say_otherwise(miniature_dir: Path) -> None:
    spec = slim_spec("A")
    assert matched(data("0", "1", "2", numbered=True), spec) == [0, 1, 2]  # fewer: the last classes have no image
    assert matched(data(*spec.classes[::-1], numbered=True), spec) == list(range(9, -1, -1))
    assert matched(data(*spec.classes[3:5], numbered=True), spec) == [3, 4]
    nameless = model(*placeholder_classes(10))
    assert matched(data(*(f"word {i}" for i in range(10)), numbered=True), nameless) == list(range(10))
    assert "'word 0' where the model has 'n9" in refused(data(*(f"word {i}" for i in range(10)), numbered=True), spec)
    assert matched(data(*(f"word {9 - i}" for i in range(10)), numbered=True), spec, by_order=True) == list(range(10))
    assert "use the data" in refused(data("tench", "English springer", "cassette player", numbered=True), spec)
    assert "has labels up to 10" in refused(data(*map(str, range(11)), numbered=True), spec)
    text = model(*sorted(map(str, range(11))))  # trained on folders
    match = match_classes(data(*map(str, range(11)), numbered=True), text)
    assert match.label_of.tolist() == [text.classes.index(str(i)) for i in range(11)]
    assert "label 2 is the class that it calls so, though its index is 3" in match.remark


def test_the_wnids_of_a_classlabel_are_sorted_for_a_model_without_names() -> None:
    assert matched(data("n00000002", "n00000001"), model(*placeholder_classes(2))) == [1, 0]


def test_the_answers_of_numbered_folders_are_right_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is right by construction, of 12 levels of grey: its error is 0 or the labels are wrong."""
    for number in range(12):
        write_grey(tmp_path / "v2" / str(number) / "1.png", number, 12)
    for name, classes in (("named", tuple(f"n{i:08d}" for i in range(12))), ("nameless", placeholder_classes(12))):
        engine = nearest_level(tmp_path / f"{name}.onnx", classes)
        out = tmp_path / name
        argv = ["--engine", str(engine), "--data", str(tmp_path / "v2"), "--protocol", "center", "--out", str(out)]
        assert main(argv) == 0
        assert "taken as indices of the model's classes" in capsys.readouterr().err
        report = read_run(out).report
        assert report.results[0].top1_error_percent == 0
        assert any("taken as indices" in remark for remark in report.remarks)


def test_a_model_without_names_is_taken_in_the_order_of_the_data(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = load(slim_checkpoint("A"))
    spec = dataclasses.replace(named.spec, name="nameless", classes=placeholder_classes(10))
    save(dataclasses.replace(named, spec=spec), tmp_path / "nameless.pt")
    common = ["--data", str(miniature_dir), "--protocol", "center", "--out", str(tmp_path)]
    both = ["--engine", str(slim_checkpoint("A")), "--engine", str(tmp_path / "nameless.pt")]
    assert main([*both, *common]) == 1
    assert "have different classes: they cannot be fused" in capsys.readouterr().err
    assert not (tmp_path / "unfinished").exists()  # found before the work, not after
    for path in (slim_checkpoint("A"), tmp_path / "nameless.pt"):
        assert main(["--engine", str(path), *common]) == 0
    assert "nameless has no names for its 10 classes: the data set's are taken in sorted order" in (
        capsys.readouterr().err
    )
    one, other = (read(path) for path in sorted((tmp_path / "scores").iterdir()))
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.posterior, other.posterior)


def test_tables_of_other_labels_are_not_compared() -> None:
    from helpers import make_scores

    from evaluation.errors import ScoresError
    from evaluation.scores.table import check_same_images

    one, other = (make_scores([[0.6, 0.4]], [label]) for label in (0, 1))
    with pytest.raises(ScoresError, match="different labels for the same images"):
        check_same_images(one, other)
