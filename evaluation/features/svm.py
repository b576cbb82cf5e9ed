"""Linear SVMs on features, one class against the rest, by the protocols of VGG's appendix B.

C is chosen on 20 % of the training images, which are held out; then all of them train. Test images are not looked at
before the last step. scikit-learn's LinearSVC (LIBLINEAR: L2 penalty, squared hinge, bias penalised too); the paper
names neither solver nor C nor whether one C is for all classes, as it is here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.processes.pipeline import ordered

from ..scores.metrics import error_rate
from .collection import Labels
from .table import FeatureError, Table
from .voc import OTHER

CS = (0.01, 0.1, 1.0, 10.0, 100.0)
HELD_OUT = 0.2
SPLITS = 3
ITERATIONS = 10_000
ROWS = 1024
"""Examples that are scored at a time."""
CALTECH = {"caltech-101": (30, 50), "caltech-256": (60, None)}
"""Images of a class that train, and that test at most (None: all others)."""

Features = NDArray[np.float32]
Places = NDArray[np.intp]
Names = Sequence[str]
Convention = Literal["11-point", "all-point"]
"""How PASCAL VOC's devkits average precision: at eleven recalls (until 2009), or at all (from 2010 on)."""
Measure = Callable[[NDArray[np.float64], Labels], float]
"""Rates scores f64 [N, classes] by labels i8 [N, classes], in percent; more is better."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of a run. cs: C is one of these; seed: of what is held out, the solver, and the first random split."""

    cs: tuple[float, ...] = CS
    seed: int = 0
    workers: int = 1


class Trained(NamedTuple):
    """Hyperplanes of all classes, with the C of all and what each C came to on what was held out, in percent."""

    weights: NDArray[np.float64]  # [classes, width]
    bias: NDArray[np.float64]  # [classes]
    c: float
    held_out_percent: dict[str, float]
    unconverged: int


def scores_of(trained: Trained, features: Features) -> NDArray[np.float64]:
    """Computes signed distances f64 [N, classes], up to a factor of each class."""
    parts = [features[first : first + ROWS] @ trained.weights.T for first in range(0, max(len(features), 1), ROWS)]
    return np.concatenate(parts) + trained.bias  # in parts, since each is made f64


def train(
    features: Features, labels: Labels, classes: Names, measure: Measure, choices: Choices, images: Names = ()
) -> Trained:
    """Trains an SVM for each class, on training images alone. Raises FeatureError for a class that cannot be learnt.

    images: see hold_out.
    """
    if len(choices.cs) == 1:
        return _fit(features, labels, classes, choices.cs[0], choices)

    held_out = hold_out(labels, choices.seed, images)
    if not held_out.any():
        raise FeatureError(
            f"{len(labels)} images that train are too few to hold any out and choose C: name one C by --c"
        )
    found: dict[str, float] = {}
    for c in choices.cs:
        fitted = _fit(features[~held_out], labels[~held_out], classes, c, choices)
        found[f"{c:g}"] = measure(scores_of(fitted, features[held_out]), labels[held_out])

    best = max(choices.cs, key=lambda c: (found[f"{c:g}"], -c))  # of equal ones the smallest
    return _fit(features, labels, classes, best, choices)._replace(held_out_percent=found)


def hold_out(labels: Labels, seed: int, images: Sequence[str] = ()) -> NDArray[np.bool_]:
    """Draws the 20 % of the images that choose C: of each class where an image has one, else of all.

    images: of each example, where several may be of one: all of them are held out, or none.
    """
    random = np.random.default_rng(seed)
    if len(set(images)) < len(images):
        names = np.unique(images)
        return np.isin(images, random.permutation(names)[: round(HELD_OUT * len(names))])

    chosen = np.zeros(len(labels), np.bool_)
    single = bool(((labels > 0).sum(1) == 1).all())
    groups = [np.flatnonzero(column > 0) for column in labels.T] if single else [np.arange(len(labels))]
    for group in groups:
        chosen[random.permutation(group)[: round(HELD_OUT * len(group))]] = True
    return chosen


def _fit(features: Features, labels: Labels, classes: Sequence[str], c: float, choices: Choices) -> Trained:
    """Trains an SVM for each class with one C. Raises FeatureError for a class that cannot be learnt."""
    from sklearn.exceptions import ConvergenceWarning

    for name, column in zip(classes, labels.T, strict=True):
        if not (column > 0).any() or not (column < 0).any():
            what = "images with" if not (column > 0).any() else "images without"
            raise FeatureError(
                f"{name}: no {what} it among the {len(labels)} that train, so nothing can be learnt: add some or, if "
                "they were held out to choose C, name one C by --c"
            )

    wide = features.astype(np.float64)  # as LIBLINEAR takes them, once for all classes
    one = functools.partial(_fit_class, wide, c=c, seed=choices.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        planes = list(ordered(one, labels.T, choices.workers))
    weights, biases, failed = zip(*planes, strict=True)
    return Trained(np.stack(weights), np.array(biases), c, {}, sum(failed))


def _fit_class(
    features: NDArray[np.float64], labels: Labels, *, c: float, seed: int
) -> tuple[NDArray[np.float64], float, bool]:
    """Trains the SVM of one class: (weights, bias, whether the solver gave up).

    Images of label 0 take no part: weight 0 leaves them out as copying the others would, to the bit.
    """
    from sklearn.svm import LinearSVC

    svm = LinearSVC(C=c, dual="auto", max_iter=ITERATIONS, random_state=seed)
    svm.fit(features, labels > 0, sample_weight=np.abs(labels).astype(np.float64))
    return svm.coef_[0].astype(np.float64), float(svm.intercept_[0]), bool(svm.n_iter_ >= ITERATIONS)


def eleven_point(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> float | None:
    """Averages over the recalls 0, 0.1, ..., 1 the best precision at that recall or more (VOC 2007, section 4.1).

    scores [N]: higher stands first, of equal ones the earlier; labels [N]: 1, -1, or 0 for an image that does not
    count. None without positives. Recalls are compared as fractions, so that 3 of 10 reach 0.3.
    """
    true, ranks = _positives(scores, labels)
    if not len(true):
        return None
    precision = true / ranks
    reached = [precision[10 * true >= tenths * len(true)] for tenths in range(11)]
    return float(np.mean([found.max() for found in reached]))


def all_point(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> float | None:
    """Averages over the positives the best precision at its recall or more: the area below the curve of VOC 2010."""
    true, ranks = _positives(scores, labels)
    if not len(true):
        return None
    return float(np.maximum.accumulate((true / ranks)[::-1]).mean())


def _positives(scores: NDArray[np.floating], labels: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts for each positive, first to last, the positives that stand there or before, and the images.

    Precision is best at a positive, so nothing else is looked at.
    """
    counted = labels != 0
    order = np.argsort(-scores[counted], kind="stable")
    ranks = np.flatnonzero(labels[counted][order] > 0) + 1
    return np.arange(1, len(ranks) + 1), ranks


CONVENTIONS: dict[Convention, Callable[[NDArray[np.floating], NDArray[np.int8]], float | None]] = {
    "11-point": eleven_point,
    "all-point": all_point,
}


def mean_ap_percent(convention: Convention, scores: NDArray[np.float64], labels: Labels) -> float:
    """Averages AP over the classes that have positives."""
    every = [CONVENTIONS[convention](own, label) for own, label in zip(scores.T, labels.T, strict=True)]
    return float(100 * np.mean([ap for ap in every if ap is not None] or [0.0]))


def mean_recall_percent(scores: NDArray[np.float64], labels: Labels) -> float:
    """Averages over the classes with images the part of these that have its score first, and any score."""
    true = labels.argmax(1)
    is_right = (scores.argmax(1) == true) & np.isfinite(scores).all(1)
    counts = np.bincount(true, minlength=labels.shape[1])
    right = np.bincount(true[is_right], minlength=labels.shape[1])
    return float(100 * np.nanmean(np.where(counts, right / np.maximum(counts, 1), np.nan)))


def accuracy_percent(scores: NDArray[np.float64], labels: Labels) -> float:
    return float(100 * (scores.argmax(1) == labels.argmax(1)).mean())


def evaluate_sets(table: Table, tested: str | None, choices: Choices) -> dict[str, Any]:
    """Measures mAP (VOC) or top-1 error (folders) of the `tested` set; what comes before it trains.

    None: test where it has labels, else val. Images without features train nothing, and stand last when tested.
    """
    has_labels = (table.labels != 0).any(1)
    tested = tested or next((name for name in ("test", "val") if (has_labels & (table.splits == name)).any()), "test")
    trains = np.isin(table.splits, ["train", "val"] if tested == "test" else ["train"])
    train_at = np.flatnonzero(trains & has_labels & table.readable)
    test_at = np.flatnonzero((table.splits == tested) & has_labels)
    is_voc = table.kind.startswith("voc")
    for name, places in (("train", train_at), (tested, test_at)):
        if not len(places):
            if name == "test" and is_voc and (table.splits == "test").any():
                raise FeatureError(
                    "the images of the set test have no labels, which VOC's server keeps: write the files that it "
                    "takes by --results DIR, or --test val"
                )
            raise FeatureError(
                f"no labelled image of the set {name} has features: extract them from the whole data set"
            )

    trained = _train_on(table, train_at, choices)
    scores = _scores(trained, table, test_at)
    common = {"tested": tested, "train_images": len(train_at), "test_images": len(test_at), **_said(trained)}
    if not is_voc:
        wrong = (scores.argmax(1) != table.labels[test_at].argmax(1)) | ~table.readable[test_at]
        rate = error_rate(int(wrong.sum()), len(test_at))
        return {**common, "top1_error_percent": rate.percent, "top1_interval95_percent": rate.interval95_percent}
    return {**common, **_precisions(table, scores, table.labels[test_at])}


def submission_scores(table: Table, choices: Choices) -> tuple[Places, NDArray[np.float64], dict[str, Any]]:
    """Scores the test images for VOC's server: (places, scores, how C was chosen). All of train and val trains."""
    train_at = np.flatnonzero(np.isin(table.splits, ["train", "val"]) & table.readable)
    test_at = np.flatnonzero(table.splits == "test")
    if not len(train_at) or not len(test_at):
        raise FeatureError("no images of train, or of test, have features: extract them from the whole data set")
    trained = _train_on(table, train_at, choices)
    return test_at, _scores(trained, table, test_at), _said(trained)


def evaluate_random(table: Table, train_images: int, test_images: int | None, choices: Choices) -> dict[str, Any]:
    """Measures mean class recall over random splits: `train_images` of each class train, the others (at most
    `test_images`) test."""
    splits = []
    for seed in range(choices.seed, choices.seed + SPLITS):
        train_at, test_at = random_split(table, train_images, test_images, seed)
        kept = train_at[table.readable[train_at]]

        own = Choices(choices.cs, seed, choices.workers)
        trained = train(table.features[kept], table.labels[kept], table.classes, mean_recall_percent, own)
        recall = mean_recall_percent(_scores(trained, table, test_at), table.labels[test_at])
        counts = {"train_images": len(kept), "test_images": len(test_at)}
        splits.append({"seed": seed, **counts, **_said(trained), "mean_class_recall_percent": recall})

    recalls = [float(one["mean_class_recall_percent"]) for one in splits]
    return {
        "train_images_per_class": train_images,
        "test_images_per_class": test_images,
        "mean_class_recall_percent": float(np.mean(recalls)),
        "std_percent": float(np.std(recalls, ddof=1)),
        "splits": splits,
    }


def random_split(table: Table, train_images: int, test_images: int | None, seed: int) -> tuple[Places, Places]:
    """Draws (training, test) rows, sorted. Raises FeatureError for a class with none left to test."""
    random = np.random.default_rng(seed)
    chosen: tuple[list[int], list[int]] = ([], [])
    for name, column in zip(table.classes, table.labels.T, strict=True):
        own = random.permutation(np.flatnonzero(column > 0)).tolist()
        if len(own) <= train_images:
            raise FeatureError(
                f"{name} has {len(own)} images: with {train_images} to train none is left to test, use fewer "
                "--train-images"
            )
        chosen[0].extend(own[:train_images])
        chosen[1].extend(own[train_images:] if test_images is None else own[train_images : train_images + test_images])
    return np.sort(np.array(chosen[0], np.intp)), np.sort(np.array(chosen[1], np.intp))


def _scores(trained: Trained, table: Table, places: Places) -> NDArray[np.float64]:
    """Scores rows; one without features stands behind everything, and is of no class: -inf."""
    return np.where(table.readable[places, None], scores_of(trained, table.features[places]), -np.inf)


def _train_on(table: Table, places: Places, choices: Choices) -> Trained:
    """Trains on the examples at `places`; C is chosen by the measure that is reported."""
    convention: Convention = "11-point" if table.kind == "voc2007" else "all-point"
    of_voc = functools.partial(_mean_of_actions, table.classes, convention)
    measure = of_voc if table.kind.startswith("voc") else accuracy_percent

    # the images that examples are of: several people, IMAGE/1 and IMAGE/2, may be of one
    names = [table.images[place] for place in places]
    images = [name.rpartition("/")[0] for name in names] if table.kind == "voc-action" else names
    return train(table.features[places], table.labels[places], table.classes, measure, choices, images)


def _said(trained: Trained) -> dict[str, Any]:
    said = {"c": trained.c, "held_out_percent": trained.held_out_percent}
    return {**said, **({"unconverged_classes": trained.unconverged} if trained.unconverged else {})}


def _mean_of_actions(
    classes: Sequence[str], convention: Convention, scores: NDArray[np.float64], labels: Labels
) -> float:
    """Averages AP as the devkit does, without the distractors."""
    counted = [i for i, name in enumerate(classes) if name != OTHER]
    return mean_ap_percent(convention, scores[:, counted], labels[:, counted])


def _precisions(table: Table, scores: NDArray[np.float64], labels: Labels) -> dict[str, Any]:
    """Measures mAP and each class's AP by both conventions; a class without positives has none, and is named."""
    found: dict[str, Any] = {}
    for convention, ap in CONVENTIONS.items():
        every = {name: ap(scores[:, i], labels[:, i]) for i, name in enumerate(table.classes)}
        key = convention.replace("-", "_")
        found[f"map_{key}_percent"] = _mean_of_actions(table.classes, convention, scores, labels)
        found[f"ap_{key}_percent"] = {name: None if value is None else 100 * value for name, value in every.items()}
    return found
