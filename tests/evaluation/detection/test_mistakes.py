"""evaluation/detection/mistakes.py: one detection of each kind, and what nobody found."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.detection.metric import Detections, Rule, truth_of
from evaluation.detection.mistakes import KINDS, NEITHER, RIGHT, sort_mistakes
from infer.data.annotations import Box
from infer.data.detection import Object

HERE, THERE, FAR, NEAR = Box(1, 1, 40, 40), Box(101, 1, 140, 40), Box(1, 101, 40, 140), Box(21, 1, 60, 40)


def detections(*rows: tuple[int, float, Box]) -> Detections:
    boxes = np.array([box for _, _, box in rows], np.float64).reshape(-1, 4)
    return Detections(
        np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.float32), boxes
    )


@pytest.mark.parametrize("rule", ["ilsvrc", "voc", "voc07", "coco"])
def test_each_kind(rule: Rule) -> None:
    objects = [Object(0, HERE), Object(1, THERE), Object(0, FAR, ignored=True), Object(0, Box(201, 1, 240, 40))]
    truth = truth_of([objects, []], 2)
    found = detections(
        (0, 0.9, HERE),
        (0, 0.8, HERE),
        (0, 0.7, THERE),
        (0, 0.6, NEAR),  # a third of the union
        (0, 0.5, FAR),
        (1, 0.4, HERE),
        (0, 0.3, Box(38, 1, 77, 40)),  # 0.04 of the union
    )
    first, second = sort_mistakes(truth, [found, detections()], rule)
    names = [{RIGHT: "right", NEITHER: "neither"}.get(kind, KINDS[kind]) for kind in first.kind]
    expected = ["right", "duplicate", "other class", "place", "neither", "background", "background"]
    assert names == expected
    assert first.other.tolist() == [-1, -1, 1, -1, -1, -1, -1]
    assert first.missed.tolist() == [2]
    assert [truth.objects[0].boxes[place].tolist() for place in first.missed] == [[201, 1, 240, 40]]
    # two objects: the two surest
    counts = {"right": 1, "duplicate": 1, "other class": 0, "place": 0, "background": 0, "missed": 1}
    assert first.counts() == counts
    assert (second.kind.tolist(), second.missed.tolist()) == ([], [0])


def test_order_is_that_of_the_docstring() -> None:
    """An object of its class at a third, one of another class on it: the other class."""
    truth = truth_of([[Object(0, NEAR), Object(1, HERE)]], 2)
    first, _ = sort_mistakes(truth, [detections((0, 0.9, HERE)), detections()], "voc")
    assert [KINDS[kind] for kind in first.kind] == ["other class"]


def test_small_objects_are_looser_in_ilsvrc() -> None:
    truth = truth_of([[Object(1, Box(11, 11, 20, 20))]], 2)
    loose = detections((0, 0.9, Box(6, 6, 25, 25)))
    assert [KINDS[sort_mistakes(truth, [loose, detections()], rule)[0].kind[0]] for rule in ("ilsvrc", "voc")] == [
        "other class",
        "background",
    ]


def test_pairs_that_do_not_count_have_no_mistakes() -> None:
    truth = truth_of([[Object(0, HERE), Object(1, THERE)]], 2, {(0, 0)})
    first, second = sort_mistakes(truth, [detections((0, 0.9, THERE)), detections((0, 0.8, HERE))], "ilsvrc")
    assert (len(first.kind), first.missed.tolist()) == (0, [])
    assert [KINDS[kind] for kind in second.kind] == ["background"]  # what lies there is not known
    assert second.missed.tolist() == [0]
