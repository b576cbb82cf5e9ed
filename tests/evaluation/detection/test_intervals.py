"""evaluation/detection/intervals.py: samples of images measured whole, and what an interval covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.random import default_rng

from evaluation.detection.intervals import SEED, difference_with_interval, mean_with_interval, sample_means
from evaluation.detection.metric import Detections, Judged, Rule, average_precisions, judge, truth_of
from infer.data.annotations import Box
from infer.data.detection import Object

BOX = Box(1, 1, 40, 40)
RULES: tuple[Rule, ...] = ("ilsvrc", "voc07", "voc", "coco")


class System:
    """Detections of two classes in so many images, found with this probability; scores differ, so that none tie.

    informed: the right ones have higher scores than most others, as those of nets have.
    """

    def __init__(self, images: int, chance: float, seed: int, *, informed: bool = False) -> None:
        rng = default_rng(seed)
        self.objects = [[Object(image % 2, BOX)] for image in range(images)]
        self.rows: list[list[tuple[int, float, Box]]] = [[], []]
        for image in range(images):
            if rng.random() < chance:
                self.rows[image % 2].append((image, float(rng.beta(4, 2) if informed else rng.random()), BOX))
            for _ in range(3 if informed else int(rng.random() < 0.5)):
                score = float(rng.beta(2, 4) if informed else rng.random())
                self.rows[image % 2].append((image, score, Box(200, 1, 240, 40)))

    def judged(self, rule: Rule) -> list[list[Judged]]:
        truth = truth_of(self.objects, 2)
        return [judge(truth, label, detections(rows), rule) for label, rows in enumerate(self.rows)]


def detections(rows: list[tuple[int, float, Box]]) -> Detections:
    boxes = np.array([box for _, _, box in rows], np.float64).reshape(-1, 4)
    return Detections(
        np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.float32), boxes
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_is_its_images_measured_whole(rule: Rule) -> None:
    system = System(9, 0.7, 3)
    means = sample_means(system.judged(rule), rule, 12)
    for number, mean in enumerate(means):
        drawn = np.sort(default_rng((SEED, number)).integers(0, 9, 9))
        rows: list[list[tuple[int, float, Box]]] = [[], []]
        for new, image in enumerate(drawn):
            for label in range(2):
                rows[label] += [(new, score, box) for own, score, box in system.rows[label] if own == image]
        truth = truth_of([system.objects[image] for image in drawn], 2)
        expected = average_precisions(truth, [detections(own) for own in rows], rule).mean_percent
        assert mean == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_the_interval_holds_the_mean_and_shrinks_with_images(rule: Rule) -> None:
    widths = []
    for images in (40, 640):
        system = System(images, 0.7, 5)
        found = mean_with_interval(system.judged(rule), rule, 200)
        low, high = found.interval95_percent
        truth = truth_of(system.objects, 2)
        assert found.percent == average_precisions(truth, [detections(own) for own in system.rows], rule).mean_percent
        assert low < found.percent < high
        widths.append(high - low)
        assert found == mean_with_interval(system.judged(rule), rule, 200)
    assert 2.5 < widths[0] / widths[1] < 6.5  # a factor of four


def test_the_interval_covers_the_mean_of_many_images_about_as_often_as_its_docstring_says() -> None:
    many = [System(8000, 0.7, 1000 + seed, informed=True).judged("voc") for seed in range(6)]
    exact = np.mean([mean_with_interval(judged, "voc", 1).percent for judged in many])
    inside = 0
    for seed in range(100):
        judged = System(200, 0.7, seed, informed=True).judged("voc")
        low, high = mean_with_interval(judged, "voc", 200).interval95_percent
        inside += low <= exact <= high
    assert 85 <= inside <= 97  # 90 of 100, give or take twice the standard deviation of such a count


def test_a_difference_of_two_on_the_same_images() -> None:
    one, better = System(300, 0.5, 1), System(300, 0.9, 2)
    same = difference_with_interval(one.judged("voc"), one.judged("voc"), "voc", 50)
    assert (same.percent, same.interval95_percent) == (0, (0, 0))
    found = difference_with_interval(one.judged("voc"), better.judged("voc"), "voc", 200)
    assert 0 < found.interval95_percent[0] < found.percent < found.interval95_percent[1]
    back = difference_with_interval(better.judged("voc"), one.judged("voc"), "voc", 200)
    assert back.percent == -found.percent
    assert back.interval95_percent == pytest.approx((-found.interval95_percent[1], -found.interval95_percent[0]))


def test_parts_of_the_samples_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(30, 0.7, 3).judged("ilsvrc")
    whole = sample_means(system, "ilsvrc", 25)
    monkeypatch.setattr("evaluation.detection.intervals.MOST_NUMBERS", 200)
    np.testing.assert_array_equal(sample_means(system, "ilsvrc", 25), whole)


def test_without_objects_there_is_no_interval() -> None:
    judged = [judge(truth_of([[], []], 1), 0, detections([(0, 0.5, BOX)]), "voc")]
    found = mean_with_interval(judged, "voc", 10)
    assert math.isnan(found.percent)
    assert all(math.isnan(end) for end in found.interval95_percent)
    none = mean_with_interval([judge(truth_of([], 1), 0, detections([]), "voc")], "voc", 10)
    assert math.isnan(none.percent)
