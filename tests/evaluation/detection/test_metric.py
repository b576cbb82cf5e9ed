"""evaluation/detection/metric.py against the rules read word by word, and COCO's own code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.random import Generator, default_rng
from slow_rules import Found, Thing, average_precision

from evaluation.detection.metric import (
    COCO_MOST,
    Detections,
    Rule,
    Truth,
    average_precisions,
    curve_of,
    judge,
    overlaps,
    truth_of,
    weighted_aps,
)
from infer.data.annotations import Box
from infer.data.detection import Object

RULES: tuple[Rule, ...] = ("ilsvrc", "voc07", "voc", "coco")


class Case:
    """A few images, classes and detections; boxes on a coarse grid and few scores, so that ties are frequent."""

    def __init__(self, rng: Generator, *, side: int, crowds: bool = True, ignored: bool = True) -> None:
        self.classes, self.images = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        self.things = [[[] for _ in range(self.images)] for _ in range(self.classes)]  # type: list[list[list[Thing]]]
        self.found: list[list[Found]] = [[] for _ in range(self.classes)]
        self.side, self.rng = side, rng
        for label in range(self.classes):
            for image in range(self.images):
                for _ in range(int(rng.integers(0, 5))):
                    crowd = crowds and rng.random() < 0.15
                    self.things[label][image].append((self.box(), ignored and not crowd and rng.random() < 0.2, crowd))
            for _ in range(int(rng.integers(0, 14))):
                image = int(rng.integers(0, self.images))
                own = self.things[label][image]
                box = own[int(rng.integers(0, len(own)))][0] if own and rng.random() < 0.6 else self.box()
                box = self.shifted(box) if rng.random() < 0.7 else box
                self.found[label].append((image, float(rng.integers(0, 6)) / 4, box))
        pairs = [(image, label) for image in range(self.images) for label in range(self.classes)]
        self.blacklist = {pair for pair in pairs if rng.random() < 0.1}

    def box(self) -> tuple[float, float, float, float]:
        x, y, wide, high = (int(n) for n in self.rng.integers((1, 1, 1, 1), (self.side, self.side, 9, 9)))
        return (x, y, x + wide * self.side // 8, y + high * self.side // 8)

    def shifted(self, box: tuple[float, ...]) -> tuple[float, float, float, float]:
        by = self.rng.integers(-2, 3, 4)
        xmin, ymin, xmax, ymax = (edge + int(step) for edge, step in zip(box, by, strict=True))
        return (xmin, ymin, max(xmin, xmax), max(ymin, ymax))

    def truth(self) -> Truth:
        objects: list[list[Object]] = [[] for _ in range(self.images)]
        for label, of_class in enumerate(self.things):
            for own, things in zip(objects, of_class, strict=True):
                own += [Object(label, Box(*box), ignored, crowd) for box, ignored, crowd in things]
        return truth_of(objects, self.classes, self.blacklist)

    def detections(self) -> list[Detections]:
        return [as_detections(found) for found in self.found]


def as_detections(found: Sequence[Found]) -> Detections:
    return Detections(
        np.array([image for image, _, _ in found], np.int32),
        np.array([score for _, score, _ in found], np.float32),
        np.array([box for _, _, box in found], np.float64).reshape(-1, 4),
    )


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_rules_read_word_by_word(rule: Rule) -> None:
    rng = default_rng(RULES.index(rule))
    seen, unknown = [], 0
    for number in range(1250):
        case = Case(rng, side=(8, 16, 48)[number % 3])
        aps = average_precisions(case.truth(), case.detections(), rule).aps
        for label in range(case.classes):
            blacklisted = {image for image, own in case.blacklist if own == label}
            expected = average_precision(case.found[label], case.things[label], blacklisted, rule)
            unknown += math.isnan(expected)
            assert aps[label] == pytest.approx(expected, abs=1e-12, nan_ok=True), (number, label)
            seen.append(expected)
    assert unknown > 50
    assert sum(value == 0 for value in seen) > 50
    assert sum(0 < value < 1 for value in seen) > 500


def test_equals_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = default_rng(9)
    for number in range(200):
        case = Case(rng, side=(8, 16, 48)[number % 3], ignored=False)
        case.blacklist = set()
        annotations, results = [], []
        for label in range(case.classes):
            for image in range(case.images):
                for (xmin, ymin, xmax, ymax), _, crowd in case.things[label][image]:
                    wide, high = xmax - xmin + 1, ymax - ymin + 1
                    row = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": label + 1}
                    row |= {"bbox": [xmin - 1, ymin - 1, wide, high], "area": wide * high, "iscrowd": int(crowd)}
                    annotations.append(row)
            for image, score, (xmin, ymin, xmax, ymax) in case.found[label]:
                box = [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
                results.append({"image_id": image + 1, "category_id": label + 1, "bbox": box, "score": score})
        if not results or not annotations:
            continue

        theirs = COCO()
        theirs.dataset = {
            "images": [{"id": image + 1, "width": 99, "height": 99} for image in range(case.images)],
            "annotations": annotations,
            "categories": [{"id": label + 1, "name": str(label)} for label in range(case.classes)],
        }
        theirs.createIndex()
        judged = COCOeval(theirs, theirs.loadRes(results), "bbox")
        judged.evaluate()
        judged.accumulate()
        precision = judged.eval["precision"][:, :, :, 0, 2]  # [thresholds, recalls, classes], all areas, 100 detections
        expected = np.where(precision > -1, precision, np.nan).mean(1)  # [thresholds, classes]
        found = average_precisions(case.truth(), case.detections(), "coco")
        np.testing.assert_allclose(found.aps_by_overlap, expected, atol=1e-12, err_msg=str(number))
        if not np.isnan(found.aps).all():
            assert found.mean_percent == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-9)
    capsys.readouterr()


def one_class(things: list[list[Thing]], found: list[Found], rule: Rule) -> float:
    objects = [[Object(0, Box(*box), ignored, crowd) for box, ignored, crowd in own] for own in things]
    return float(average_precisions(truth_of(objects, 1), [as_detections(found)], rule).aps[0])


def test_values_by_hand() -> None:
    """Two objects; right, wrong, right: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1."""
    things: list[list[Thing]] = [[((1, 1, 40, 40), False, False)], [((1, 1, 40, 40), False, False)]]
    found: list[Found] = [(0, 0.9, (1, 1, 40, 40)), (0, 0.8, (1, 1, 40, 40)), (1, 0.7, (1, 1, 40, 40))]
    area = 0.5 * 1 + 0.5 * 2 / 3
    assert one_class(things, found, "ilsvrc") == pytest.approx(area)
    assert one_class(things, found, "voc") == pytest.approx(area)
    assert one_class(things, found, "voc07") == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert one_class(things, found, "coco") == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_small_objects_are_found_by_looser_boxes_in_ilsvrc() -> None:
    """The devkit's own example: 10x10 pixels in a window of 20x20 is an overlap of 0.25, and enough."""
    things: list[list[Thing]] = [[((11, 11, 20, 20), False, False)]]
    found: list[Found] = [(0, 1.0, (6, 6, 25, 25))]
    assert [one_class(things, found, rule) for rule in RULES] == [1, 0, 0, 0]
    assert one_class(things, [(0, 1.0, (6, 6, 25, 26))], "ilsvrc") == 0  # 100 of 420


def test_a_second_object_that_overlaps_less_is_found_by_ilsvrc_and_not_by_voc() -> None:
    things: list[list[Thing]] = [[((1, 1, 40, 40), False, False), ((1, 1, 40, 48), False, False)]]
    found: list[Found] = [(0, 0.9, (1, 1, 40, 40)), (0, 0.8, (1, 1, 40, 40))]
    assert one_class(things, found, "ilsvrc") == 1
    assert one_class(things, found, "voc") == 0.5


@pytest.mark.parametrize("rule", RULES)
def test_defined_values_at_the_edges(rule: Rule) -> None:
    thing: Thing = ((1, 1, 40, 40), False, False)
    found: Found = (0, 0.5, (1, 1, 40, 40))
    assert math.isnan(one_class([[]], [], rule))
    assert math.isnan(one_class([[]], [found], rule))
    assert math.isnan(one_class([[((1, 1, 40, 40), True, False)]], [found], rule))
    assert one_class([[thing]], [], rule) == 0
    assert one_class([[thing], []], [(1, 0.5, (1, 1, 40, 40))], rule) == 0
    assert one_class([[thing], []], [found], rule) == 1

    two = average_precisions(truth_of([[Object(1, Box(1, 1, 9, 9))]], 2), [as_detections([]), as_detections([])], rule)
    assert (two.mean_percent, two.objects.tolist()) == (0, [0, 1])
    none = average_precisions(truth_of([[]], 1), [as_detections([])], rule)
    assert math.isnan(none.mean_percent)


def test_what_does_not_count_is_neither_found_nor_missed() -> None:
    things = [Object(0, Box(1, 1, 40, 40)), Object(0, Box(50, 1, 90, 40), ignored=True), Object(1, Box(1, 1, 9, 9))]
    truth = truth_of([things, [Object(0, Box(1, 1, 9, 9))]], 2, {(1, 0)})
    detections = as_detections([(0, 0.9, (50, 1, 90, 40)), (1, 0.8, (60, 1, 69, 9)), (0, 0.7, (1, 1, 40, 40))])
    (judged,) = judge(truth, 0, detections, "ilsvrc")
    assert judged.order.tolist() == [0, 2]
    assert (judged.right.tolist(), judged.wrong.tolist(), judged.found.tolist()) == (
        [False, True],
        [False] * 2,
        [-1, 0],
    )
    assert judged.objects.tolist() == [1, 0]
    curve = curve_of(judged)
    assert (curve.recall.tolist(), curve.precision.tolist()) == ([1.0], [1.0])


def test_coco_looks_at_a_hundred_detections_of_an_image() -> None:
    found: list[Found] = [(0, 0.9, (60, 60, 90, 90))] * COCO_MOST + [(0, 0.5, (1, 1, 40, 40))]
    things: list[list[Thing]] = [[((1, 1, 40, 40), False, False)]]
    assert one_class(things, found, "coco") == 0
    assert one_class(things, found[1:], "coco") == pytest.approx(1 / 100)
    assert one_class(things, found, "ilsvrc") == pytest.approx(1 / 101)


def test_overlaps_count_pixels() -> None:
    boxes = np.array([[1, 1, 10, 10], [11, 1, 20, 10]], np.float64)
    objects = np.array([[1, 1, 10, 10], [6, 1, 15, 10], [1, 1, 100, 100]], np.float64)
    expected = [[1, 50 / 150, 1], [0, 50 / 150, 1]]
    np.testing.assert_allclose(overlaps(boxes, objects, np.array([False, False, True])), expected)


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_as_many_copies_of_an_image(rule: Rule) -> None:
    rng = default_rng(4)
    compared = 0
    for number in range(60):
        case = Case(rng, side=(8, 16, 48)[number % 3])
        scores = rng.permutation(len(case.found[0]))
        case.found[0] = [(image, float(s), box) for (image, _, box), s in zip(case.found[0], scores, strict=True)]
        weights = rng.integers(0, 3, case.images)
        if not weights.any():
            continue
        copies = np.repeat(np.arange(case.images), weights)
        judged = judge(case.truth(), 0, case.detections()[0], rule)
        blacklisted = {new for new, image in enumerate(copies) if (image, 0) in case.blacklist}
        things = [case.things[0][image] for image in copies]
        # copies of a detection stand side by side
        apart: list[Found] = []
        for image, score, box in sorted(case.found[0], key=lambda one: -one[1]):
            apart += [(int(new), score, box) for new in np.flatnonzero(copies == image)]
        aps = np.mean([weighted_aps(one, weights[None].astype(np.int32), rule)[0] for one in judged])
        expected = average_precision(apart, things, blacklisted, rule)
        assert aps == pytest.approx(expected, abs=1e-12, nan_ok=True), number
        compared += not math.isnan(expected)
    assert compared > 25
