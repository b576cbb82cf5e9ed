"""Linear SVMs on features: the optimum they should be at, sets drawn and held out, and that nothing looks at what is
tested before the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_tables import noisy, write_table
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from evaluation.errors import RunError
from evaluation.features import svm as feature_svm
from evaluation.features.__main__ import main
from evaluation.features.collection import one_of
from evaluation.features.svm import (
    Choices,
    accuracy_percent,
    evaluate_random,
    evaluate_sets,
    hold_out,
    mean_recall_percent,
    random_split,
    submission_scores,
    train,
)
from evaluation.features.table import FeatureError, Table, UnfinishedTable, read
from evaluation.features.voc import OTHER
from evaluation.scores.table import OK

OneLine = Callable[[], str]


def spoilt(table: Table, places: NDArray[Any]) -> Table:
    """The same with other features and labels at some places."""
    random = np.random.default_rng(9)
    features, labels = table.features.copy(), table.labels.copy()
    features[places] = random.normal(0, 50, (len(places), features.shape[1]))
    labels[places] = np.roll(labels[places], 1, axis=1)
    return replace(table, features=features, labels=labels)


def fits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every SVM that is trained from now on came to."""
    seen: list[Any] = []
    real = feature_svm._fit_class

    def record(*args: Any, **options: Any) -> Any:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(feature_svm, "_fit_class", record)
    return seen


def learnt(seen: list[Any]) -> list[Any]:
    found = [(weights.tolist(), bias) for weights, bias, _ in seen]
    seen.clear()
    return found


def test_test_images_change_neither_c_nor_any_svm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fits(monkeypatch)
    for kind, tested in (("folders", "val"), ("voc2007", "test"), ("voc2012", "val")):
        table = noisy(kind)
        one = evaluate_sets(table, tested, Choices())
        expected = learnt(seen)
        # of VOC's test images nothing is learnt either where val is tested
        others = np.isin(table.splits, ["val", "test"] if tested == "val" else ["test"])
        two = evaluate_sets(spoilt(table, np.flatnonzero(others)), tested, Choices())
        assert (two["c"], two["held_out_percent"]) == (one["c"], one["held_out_percent"])
        assert learnt(seen) == expected
        assert len(expected) == 3 * (len(feature_svm.CS) + 1)


def test_images_that_are_drawn_to_test_change_neither_c_nor_any_svm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, table = fits(monkeypatch), noisy("caltech-101")
    drawn = random_split(table, 20, 10, 0)
    monkeypatch.setattr(feature_svm, "random_split", lambda *_: drawn)
    one = evaluate_random(table, 20, 10, Choices())
    expected = learnt(seen)
    two = evaluate_random(spoilt(table, drawn[1]), 20, 10, Choices())
    assert learnt(seen) == expected
    assert [split["c"] for split in two["splits"]] == [split["c"] for split in one["splits"]]
    assert two["mean_class_recall_percent"] != one["mean_class_recall_percent"]


def test_c_is_the_best_on_what_was_held_out_and_all_of_it_trains_in_the_end() -> None:
    table, choices = noisy(counts=(60, 30, 30), width=40), Choices(cs=(0.01, 0.1, 1.0, 100.0))
    names = table.classes
    found = train(table.features, table.labels, names, accuracy_percent, choices)
    held_out = hold_out(table.labels, 0)
    percents = {}
    for c in choices.cs:
        alone = train(table.features[~held_out], table.labels[~held_out], names, accuracy_percent, Choices((c,)))
        percents[f"{c:g}"] = accuracy_percent(
            feature_svm.scores_of(alone, table.features[held_out]), table.labels[held_out]
        )
    assert found.held_out_percent == percents and len(set(percents.values())) > 1
    assert found.c == min(c for c in choices.cs if percents[f"{c:g}"] == max(percents.values()))
    whole = train(table.features, table.labels, names, accuracy_percent, Choices((found.c,)))
    assert np.array_equal(whole.weights, found.weights) and whole.held_out_percent == {}


def test_an_svm_is_at_the_optimum_of_the_squared_hinge() -> None:
    table, c = noisy(), 2.0
    labels = table.labels.copy()
    labels[::7, 0] = 0  # does not count for the first class
    found = train(table.features, labels, table.classes, accuracy_percent, Choices((c,)))
    for weights, bias, own in zip(found.weights, found.bias, labels.T, strict=True):
        x = np.column_stack([table.features, np.ones(len(own))])[own != 0]
        y = own[own != 0].astype(np.float64)
        plane = np.array([*weights, bias])

        def loss(plane: NDArray[Any], x: NDArray[Any] = x, y: NDArray[Any] = y) -> float:
            return float(plane @ plane / 2 + c * (np.maximum(0, 1 - y * (x @ plane)) ** 2).sum())

        gradient = plane - 2 * c * (y * np.maximum(0, 1 - y * (x @ plane))) @ x
        assert np.linalg.norm(gradient) < 1e-2 * np.linalg.norm(plane)
        assert loss(plane) < loss(plane * 1.05) and loss(plane) < loss(plane * 0.95)


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = noisy(counts=(50, 10, 5)).labels
    held_out = hold_out(labels, 3)
    assert (labels[held_out] > 0).sum(0).tolist() == [10, 2, 1]
    assert not np.array_equal(held_out, hold_out(labels, 4))
    several = labels.copy()
    several[0] = 1  # an image of all classes: a fifth of all images
    assert hold_out(several, 3).sum() == 13


def test_people_of_one_image_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    table = noisy("voc-action")
    images = tuple(f"{i // 5 // 3:06d}/{i}" for i in range(len(table.images)))  # 15 people in each, 9 of them train
    seen: list[tuple[str, ...]] = []
    real = feature_svm.hold_out

    def record(labels: Any, seed: int, of: Any = ()) -> Any:
        held_out = real(labels, seed, of)
        seen.append(tuple(of))
        assert not {name for name, held in zip(of, held_out, strict=True) if held} & {
            name for name, held in zip(of, held_out, strict=True) if not held
        }
        assert held_out.sum() == 2 * 9  # of 8 images
        return held_out

    monkeypatch.setattr(feature_svm, "hold_out", record)
    evaluate_sets(replace(table, images=images), "test", Choices((1.0, 10.0)))
    submission_scores(replace(table, images=images), Choices((1.0, 10.0)))
    assert len(seen) == 2 and set(seen[0]) == {f"{i:06d}" for i in range(8)}
    one_each = [f"{i}" for i in range(len(table.labels))]
    assert np.array_equal(real(table.labels, 3, one_each), real(table.labels, 3))


def test_random_sets_are_disjoint_and_repeat_by_seed() -> None:
    table = noisy("caltech-101", counts=(12, 30, 9))
    train_at, test_at = random_split(table, 8, 5, 0)
    assert not set(train_at) & set(test_at)
    assert (table.labels[train_at] > 0).sum(0).tolist() == [8, 8, 8]
    assert (table.labels[test_at] > 0).sum(0).tolist() == [4, 5, 1]
    assert (table.labels[random_split(table, 8, None, 0)[1]] > 0).sum(0).tolist() == [4, 22, 1]
    again, other = random_split(table, 8, 5, 0), random_split(table, 8, 5, 1)
    assert np.array_equal(again[0], train_at) and not np.array_equal(other[0], train_at)


def test_recall_is_scikit_learns_and_std_is_over_the_splits() -> None:
    table = noisy("caltech-256", counts=(40, 20, 30))
    random = np.random.default_rng(0)
    scores = random.random(table.labels.shape) + (table.labels > 0) * 0.5
    theirs = balanced_accuracy_score(table.labels.argmax(1), scores.argmax(1))
    assert mean_recall_percent(scores, table.labels) == pytest.approx(100 * theirs)
    found = evaluate_random(table, 10, None, Choices(seed=5))
    recalls = [split["mean_class_recall_percent"] for split in found["splits"]]
    mean = sum(recalls) / 3
    assert len(set(recalls)) > 1 and [split["seed"] for split in found["splits"]] == [5, 6, 7]
    assert found["mean_class_recall_percent"] == pytest.approx(mean)
    assert found["std_percent"] == pytest.approx((sum((r - mean) ** 2 for r in recalls) / 2) ** 0.5)


def test_what_has_no_features_is_wrong_and_trains_nothing() -> None:
    table = noisy()
    tested = np.flatnonzero((table.splits == "val") & (table.labels[:, 0] > 0))[0]  # of the class that argmax names
    places = np.array([0, tested])
    statuses = tuple("unreadable" if i in places else OK for i in range(len(table.images)))
    features = table.features.copy()
    features[places] = 0
    found = evaluate_sets(replace(table, statuses=statuses, features=features), None, Choices((1.0,)))
    kept = np.setdiff1d(np.arange(len(table.images)), [0])
    without = replace(
        table,
        images=tuple(table.images[i] for i in kept),
        splits=table.splits[kept],
        statuses=(OK,) * len(kept),
        labels=table.labels[kept],
        features=table.features[kept],
    )
    other = evaluate_sets(without, None, Choices((1.0,)))
    assert found["train_images"] == other["train_images"] == 71
    trained = np.setdiff1d(np.flatnonzero(table.splits == "train"), [0])
    own = train(features[trained], table.labels[trained], table.classes, accuracy_percent, Choices((1.0,)))
    was_wrong = feature_svm.scores_of(own, table.features[[tested]]).argmax() != 0
    before, after = (round(one["top1_error_percent"] * 48 / 100) for one in (other, found))
    assert after - before == 1 - was_wrong
    scores = np.array([[-np.inf, -np.inf], [0.2, 0.1]])
    assert mean_recall_percent(scores, one_of(2, [0, 0])) == 50


def test_distractors_are_not_in_the_mean() -> None:
    table = noisy("voc-action")
    names = json.dumps(["a", OTHER, "c"])
    found = evaluate_sets(replace(table, metadata=({"kind": "voc-action", "classes": names},)), None, Choices((1.0,)))
    ap = found["ap_all_point_percent"]
    assert found["map_all_point_percent"] == pytest.approx((ap["a"] + ap["c"]) / 2)
    assert ap[OTHER] != ap["a"]


def test_for_the_server_train_and_val_train() -> None:
    table = noisy("voc2012")
    labels = table.labels.copy()
    labels[table.splits == "test"] = 0
    hidden = replace(table, labels=labels)
    places, scores, said = submission_scores(hidden, Choices((1.0,)))
    assert said == {"c": 1.0, "held_out_percent": {}}
    assert np.array_equal(places, np.flatnonzero(table.splits == "test"))
    trained = np.isin(table.splits, ["train", "val"])
    own = train(table.features[trained], table.labels[trained], table.classes, accuracy_percent, Choices((1.0,)))
    assert np.array_equal(scores, feature_svm.scores_of(own, table.features[places]))
    assert evaluate_sets(hidden, None, Choices((1.0,)))["tested"] == "val"


def test_several_threads_change_nothing() -> None:
    table = noisy()
    assert evaluate_sets(table, None, Choices()) == evaluate_sets(table, None, Choices(workers=3))


def test_what_cannot_be_learnt_is_said() -> None:
    table = noisy()
    none = table.labels.copy()
    none[:, 1] = -1
    with pytest.raises(FeatureError, match=r"b: no images with it among the 72 that train, so nothing can be learnt"):
        evaluate_sets(replace(table, labels=none), None, Choices((1.0,)))
    with pytest.raises(FeatureError, match=r"c has 5 images: with 5 to train none is left to test, use fewer --train"):
        random_split(noisy(counts=(9, 9, 5)), 5, None, 0)
    with pytest.raises(FeatureError, match=r"6 images that train are too few to hold any out and choose C: name one"):
        evaluate_random(table, 2, None, Choices())
    with pytest.raises(FeatureError, match=r"no labelled image of the set test has features"):
        evaluate_sets(table, "test", Choices())


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = noisy()
    table.features[5] = 0
    table = replace(table, statuses=tuple("gone" if i == 5 else OK for i in range(len(table.images))))
    found = read([write_table(tmp_path / "f.parquet", table)])
    for name in ("images", "statuses", "kind", "classes"):
        assert getattr(found, name) == getattr(table, name)
    for name in ("splits", "labels", "features"):
        assert np.array_equal(getattr(found, name), getattr(table, name))
    assert (found.labels.dtype, found.features.dtype) == (np.int8, np.float32)
    both = read([tmp_path / "f.parquet", write_table(tmp_path / "g.parquet", table, engine_sha256="2")])
    assert both.features.shape == (120, 24) and len(both.metadata) == 2


def test_bad_tables_are_one_line(tmp_path: Path, one_line: OneLine) -> None:
    first = write_table(tmp_path / "f.parquet", noisy())
    other = write_table(tmp_path / "g.parquet", noisy(seed=1))
    same = write_table(tmp_path / "same.parquet", noisy())
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "h.parquet.parts").mkdir()
    (tmp_path / "h.parquet.parts" / "00000000.parquet").write_text("a part")
    (tmp_path / "h.parquet.parts" / "run.json").write_text("{")
    for paths, message in (
        ([first, other], "g.parquet has features of other images or labels than"),
        ([first, same], "same.parquet has the same features as"),
        ([tmp_path / "text.parquet"], "text.parquet: not a table of features"),
        ([tmp_path / "gone.parquet"], "gone.parquet: no such file, expected a table of features"),
    ):
        assert main(["svm", *map(str, paths)]) == 1
        assert message in one_line()
    with pytest.raises(RunError, match=r"h\.parquet\.parts is damaged \("):
        UnfinishedTable(tmp_path / "h.parquet", {}, "", 1, 1, resume=True)


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        (["--c", "0,1"], "folders", "argument --c: expected different positive numbers like 0.1,1,10, got '0,1'"),
        (["--results", "out"], "folders", "--results is for VOC, the table is of folders: leave it out"),
        (["--results", "out", "--test", "val"], "folders", "--test does not go with --results, which trains on train"),
        (["--results", "out", "--json"], "folders", "--json does not go with --results"),
        (["--results", "out", "--train-images", "3"], "folders", "--train-images does not go with --results"),
        ([], "drawn", "the data set has no train and val: say by --train-images how many"),
    ],
)
def test_usage_errors_are_one_line(tmp_path: Path, one_line: OneLine, more: list[str], kind: str, message: str) -> None:
    table = noisy()
    if kind == "drawn":
        table = replace(table, splits=np.full(len(table.images), ""))
    with pytest.raises(SystemExit) as ended:
        main(["svm", str(write_table(tmp_path / "f.parquet", table)), *more])
    assert ended.value.code == 2
    assert message in one_line()


def test_doubts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_svm, "ITERATIONS", 1)
    path = write_table(tmp_path / "f.parquet", noisy())
    assert main(["svm", str(path), "--c", "0.0001,0.00011"]) == 0
    text = capsys.readouterr().out
    assert "is at the end of what was tried: try others by --c" in text
    assert "the solver gave up for some classes" in text
