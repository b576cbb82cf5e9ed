"""evaluation/scores/metrics.py, explain_order: classes in another order are found and named; nothing else is."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import VAL_DIGITS
from helpers import slim_spec, summary_of
from numpy.typing import NDArray

from evaluation.scores.metrics import details, explain_order
from evaluation.scores.table import OK, Scores
from infer.data.dataset import VAL, open_dataset
from trainer.miniature import DEVKIT_ORDER, WNIDS

Answers = NDArray[np.int64]


def table(labels: Answers, answers: Answers, classes: int, statuses: tuple[str, ...] = ()) -> list[Scores]:
    """Scores of which only the first answer matters, in parts of uneven sizes."""
    posterior = np.full((len(labels), classes), 0.1, np.float32)
    posterior[np.arange(len(labels)), answers] = 0.9
    spec = slim_spec("A", name="slim-d", classes=tuple(f"n{i:08d}" for i in range(classes)))
    whole = Scores(
        tuple(f"{i}.jpg" for i in range(len(labels))),
        labels.astype(np.int32),
        statuses or (OK,) * len(labels),
        ("",) * len(labels),
        posterior,
        {"spec": spec.to_json()},
    )
    cuts = [0, len(labels) // 7, len(labels) // 2, len(labels)]
    return [
        dataclasses.replace(
            whole,
            images=whole.images[a:b],
            labels=whole.labels[a:b],
            statuses=whole.statuses[a:b],
            pixel_digests=whole.pixel_digests[a:b],
            posterior=whole.posterior[a:b],
        )
        for a, b in itertools.pairwise(cuts)
    ]


def remark_on(parts: list[Scores], class_names: Sequence[str] = (), devkit_order: Sequence[int] = ()) -> str | None:
    return explain_order(summary_of(parts).answers, class_names, devkit_order)


def answer(labels: Answers, order: Answers, accuracy: float, classes: int, seed: int = 0) -> Answers:
    """Right by `order` for a share of the images, anything for the others."""
    rng = np.random.default_rng(seed)
    known = rng.random(len(labels)) < accuracy
    return np.where(known, order[labels], rng.integers(0, classes, len(labels)))


def shuffled_labels(classes: int, each: int, seed: int = 0) -> Answers:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), each))


def test_a_permutation_is_found_and_what_it_explains_is_measured() -> None:
    classes = 100
    labels = shuffled_labels(classes, 20)
    cycle = np.random.default_rng(1).permutation(classes)
    order = cycle.copy()
    order[cycle] = np.roll(cycle, 1)  # no class stays
    said = remark_on(table(labels, answer(labels, order, 0.7, classes), classes))
    assert said is not None
    start = "slim-d answers at chance ("
    assert said.startswith(start)
    own = float(said[len(start) :].split(" %")[0])
    explained = float(said.split("explains ")[1].split(" %")[0])
    assert own < 4
    assert abs(explained - 70.3) < 4  # 0.7 known, and a hundredth of the rest
    one = int(said.split("(e.g. class ")[1].split(" is called")[0])
    called = int(said.split(" is called ")[1].split(")")[0])
    assert order[one] == called
    assert said.endswith("): the classes of the model or the data set are in another order")


@pytest.mark.parametrize(
    ("shift", "name"),
    [(1, "each class is called the next, as by a model whose first class is a background"), (-1, "the one before")],
)
def test_a_shift_is_recognised(shift: int, name: str) -> None:
    """1001 outputs for 1000 classes, as TensorFlow's nets have them; neighbours are alike, and taken for each other."""
    classes, labels = 1001, shuffled_labels(1000, 10) + (shift < 0)
    answers = answer(labels, np.arange(classes) + shift, 0.6, classes)
    alike = np.random.default_rng(2).random(len(labels)) < 0.05
    answers[alike] = labels[alike]
    said = remark_on(table(labels, answers, classes))
    assert said is not None
    assert re.match(r"slim-d answers little better than chance \([45]\.\d\d %\), but a permutation", said)
    assert f"another order, one apart: {'each class is called ' if shift < 0 else ''}{name}" in said


@pytest.mark.parametrize("inverse", [False, True])
def test_devkit_ids_and_alphabetical_order_are_recognised(inverse: bool) -> None:
    classes, labels = 50, shuffled_labels(50, 20)
    order = np.random.default_rng(5).permutation(classes)
    answers = answer(labels, np.argsort(order) if inverse else order, 0.8, classes)
    devkit = remark_on(table(labels, answers, classes), devkit_order=order.tolist())
    assert devkit is not None
    assert devkit.endswith(
        "another order, that of the devkit's ids (ILSVRC2012_ID) in the one, that of the WNIDs in the other"
    )
    names = [f"name {place:02d}" for place in order]
    assert [sorted(names).index(name) for name in names] == order.tolist()
    by_name = remark_on(table(labels, answers, classes), class_names=names)
    assert by_name is not None
    assert by_name.endswith("the alphabetical order of their names in the one, that of their WNIDs in the other")
    other = remark_on(table(labels, answers, classes), class_names=sorted(names), devkit_order=range(classes))
    assert other is not None
    assert other.endswith("are in another order")


def test_the_order_of_the_devkit_comes_from_the_data_set(miniature_dir: Path, miniature_copy: Path) -> None:
    dataset = open_dataset(miniature_dir)
    assert [DEVKIT_ORDER.index(digit) for digit in range(10)] == list(dataset.devkit_order)
    labels = shuffled_labels(10, 40)
    answers = answer(labels, np.array(dataset.devkit_order), 0.95, 10)
    said = remark_on(table(labels, answers, 10), dataset.class_names, dataset.devkit_order)
    assert said is not None
    assert said.endswith("that of the devkit's ids (ILSVRC2012_ID) in the one, that of the WNIDs in the other")
    items = open_dataset(miniature_copy).items
    for wnid in WNIDS:
        (miniature_copy / VAL / wnid).mkdir()
    for item in items:
        item.path.rename(miniature_copy / VAL / WNIDS[item.label] / item.path.name)
    assert len(open_dataset(miniature_copy).items) == VAL_DIGITS
    assert open_dataset(miniature_copy).devkit_order == dataset.devkit_order


def test_nothing_is_as_large_as_the_square_of_the_classes() -> None:
    """The whole of ImageNet, few images of it: a dense confusion would have 3.8 GB."""
    classes, labels = 21_841, np.repeat(np.arange(0, 21_841, 546), 4)
    parts = table(labels, (labels + 1) % classes, classes)
    tracemalloc.start()
    try:
        said = remark_on(parts)
        found = details(parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said is not None and "each class is called the next" in said
    assert found.confusion.sum() == len(labels) and len(found.most_confused(classes)) == 41
    assert peak < 200e6


def silent_cases() -> dict[str, Callable[[int], list[Scores]]]:
    """Tables by seed of which there is nothing to say."""

    def random(seed: int, classes: int, each: int) -> list[Scores]:
        labels = shuffled_labels(classes, each, seed)
        return table(labels, np.random.default_rng(seed + 1).integers(0, classes, len(labels)), classes)

    def by_colour(seed: int) -> list[Scores]:
        """Untrained: a few answers, which go with some classes a little."""
        rng = np.random.default_rng(seed)
        labels = shuffled_labels(10, 100, seed)
        likely = rng.dirichlet(np.full(10, 0.5), 10) * 0.3 + rng.dirichlet(np.full(10, 0.5)) * 0.7
        return table(labels, np.array([rng.choice(10, p=likely[label]) for label in labels]), 10)

    def good(seed: int, accuracy: float) -> list[Scores]:
        labels = shuffled_labels(100, 20, seed)
        return table(labels, answer(labels, np.arange(100), accuracy, 100, seed), 100)

    def some_swapped(seed: int) -> list[Scores]:
        """A good net that calls ten classes by wrong names."""
        labels = shuffled_labels(100, 20, seed)
        order = np.arange(100)
        order[:10] = order[9::-1]
        return table(labels, answer(labels, order, 0.7, 100, seed), 100)

    def permuted(seed: int, classes: int, each: int, accuracy: float = 0.7) -> list[Scores]:
        labels = shuffled_labels(classes, each, seed)
        order = np.random.default_rng(seed).permutation(classes)
        return table(labels, answer(labels, order, accuracy, classes), classes)

    def one_class(seed: int) -> list[Scores]:
        return table(np.full(50, 3), np.full(50, 7), 10)

    def unreadable(seed: int) -> list[Scores]:
        labels = shuffled_labels(10, 20)
        return table(labels, (labels + 1) % 10, 10, ("is empty",) * len(labels))

    def unlabelled(seed: int) -> list[Scores]:
        return table(np.full(100, -1), np.arange(100) % 10, 10)

    return {
        "random": lambda seed: random(seed, 100, 20),
        "random, few": lambda seed: random(seed, 10, 4),
        "random, many classes": lambda seed: random(seed, 1000, 2),
        "constant": lambda seed: table(shuffled_labels(10, 30, seed), np.full(300, 4), 10),
        "untrained": by_colour,
        "good": lambda seed: good(seed, 0.9),
        "bad": lambda seed: good(seed, 0.05),
        "some swapped": some_swapped,
        "permuted, one image a class": lambda seed: permuted(seed, 1000, 1),
        "permuted, two images of ten classes": lambda seed: permuted(seed, 10, 2),
        "permuted, hardly trained, many images": lambda seed: permuted(seed, 200, 50, 0.06),
        "one class": one_class,
        "unreadable": unreadable,
        "unlabelled": unlabelled,
        "no images": lambda seed: table(np.zeros(0, np.int64), np.zeros(0, np.int64), 10)[:1],
        "no parts": lambda seed: [],
    }


@pytest.mark.parametrize("case", silent_cases())
def test_silent(case: str) -> None:
    for seed in range(10 if "many" not in case else 2):
        assert remark_on(silent_cases()[case](seed)) is None


def test_rows_that_are_not_finite_are_no_answers() -> None:
    labels = shuffled_labels(10, 40)
    parts = table(labels, (labels + 1) % 10, 10)
    assert remark_on(parts) is not None
    for part in parts:
        part.posterior[part.posterior > 0.5] = np.inf
    assert remark_on(parts) is None
