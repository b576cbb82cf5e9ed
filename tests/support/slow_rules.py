"""The rules of ILSVRC, VOC and COCO read word by word: plain loops over plain numbers, without any care for time.

Written from what the devkits say, not from evaluation/detection/metric.py, which it judges. A detection is (image,
score, box), in the order in which they were given; an object is (box, ignored, crowd).
"""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]
Found = tuple[int, float, Box]
Thing = tuple[Box, bool, bool]


def area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def overlap(box: Box, thing: Thing) -> float:
    other = thing[0]
    wide = min(box[2], other[2]) - max(box[0], other[0]) + 1
    high = min(box[3], other[3]) - max(box[1], other[1]) + 1
    if wide <= 0 or high <= 0:
        return 0.0
    if thing[2]:
        return wide * high / area(box)
    return wide * high / (area(box) + area(other) - wide * high)


def surest_first(found: list[Found]) -> list[Found]:
    by_image = sorted(found, key=lambda one: one[0])
    return sorted(by_image, key=lambda one: -one[1])


def in_crowd(box: Box, things: list[Thing], least: float) -> bool:
    return any(thing[2] and overlap(box, thing) >= least for thing in things)


def judge_ilsvrc(found: list[Found], things: list[list[Thing]], blacklisted: set[int]) -> list[str]:
    detected: set[tuple[int, int]] = set()
    said = []
    for image, _, box in surest_first(found):
        if image in blacklisted:
            said.append("neither")
            continue
        largest, which, beside = -math.inf, None, False
        for number, thing in enumerate(things[image]):
            wide, high = thing[0][2] - thing[0][0] + 1, thing[0][3] - thing[0][1] + 1
            least = min(0.5, wide * high / ((wide + 10) * (high + 10)))
            here = overlap(box, thing)
            if here < least:
                continue
            if thing[1] or thing[2]:
                beside = True
            elif (image, number) not in detected and here > largest:
                largest, which = here, number
        if which is not None:
            detected.add((image, which))
            said.append("right")
        else:
            said.append("neither" if beside else "wrong")
    return said


def judge_voc(found: list[Found], things: list[list[Thing]], blacklisted: set[int]) -> list[str]:
    detected: set[tuple[int, int]] = set()
    said = []
    for image, _, box in surest_first(found):
        if image in blacklisted:
            said.append("neither")
            continue
        largest, which = -math.inf, -1
        for number, thing in enumerate(things[image]):
            if not thing[2] and overlap(box, thing) > 0 and overlap(box, thing) > largest:
                largest, which = overlap(box, thing), number
        answer = "wrong"
        if largest >= 0.5:
            if things[image][which][1]:
                answer = "neither"
            elif (image, which) not in detected:
                detected.add((image, which))
                answer = "right"
        if answer == "wrong" and in_crowd(box, things[image], 0.5):
            answer = "neither"
        said.append(answer)
    return said


def judge_coco(found: list[Found], things: list[list[Thing]], blacklisted: set[int], least: float) -> list[str]:
    detected: set[tuple[int, int]] = set()
    seen: dict[int, int] = {}
    said = []
    for image, _, box in surest_first(found):
        seen[image] = seen.get(image, 0) + 1
        if image in blacklisted or seen[image] > 100:
            said.append("neither")
            continue
        # what counts is looked at first, then the rest; of two that overlap alike the later one is taken
        which, matched = None, min(least, 1 - 1e-10)
        for number, (_, ignored, crowd) in enumerate(things[image]):
            here = overlap(box, things[image][number])
            if not ignored and not crowd and (image, number) not in detected and here >= matched:
                which, matched = number, here
        if which is None:
            for number, (_, ignored, crowd) in enumerate(things[image]):
                here = overlap(box, things[image][number])
                if (crowd or (ignored and (image, number) not in detected)) and here >= matched:
                    which, matched = number, here
        if which is None:
            said.append("wrong")
            continue
        detected.add((image, which))
        said.append("neither" if things[image][which][1] or things[image][which][2] else "right")
    return said


def points_of(said: list[str], objects: int) -> list[tuple[float, float]]:
    """(recall, precision) after each detection that counts."""
    points, right, wrong = [], 0, 0
    for word in said:
        right += word == "right"
        wrong += word == "wrong"
        if word != "neither":
            points.append((right / objects, right / (right + wrong)))
    return points


def best_precision(points: list[tuple[float, float]], recall: float) -> float:
    return max((precision for reached, precision in points if reached >= recall), default=0.0)


def area_under(points: list[tuple[float, float]]) -> float:
    """Each step to a higher recall counts by the best precision that is reached there or beyond."""
    whole, before = 0.0, 0.0
    for recall, _ in points:
        whole += (recall - before) * best_precision(points, recall)
        before = recall
    return whole


def average_precision(found: list[Found], things: list[list[Thing]], blacklisted: set[int], rule: str) -> float:
    counted = [
        thing for image, own in enumerate(things) for thing in own
        if image not in blacklisted and not thing[1] and not thing[2]
    ]  # fmt: skip
    if not counted:
        return math.nan
    if rule == "ilsvrc":
        return area_under(points_of(judge_ilsvrc(found, things, blacklisted), len(counted)))
    if rule == "voc":
        return area_under(points_of(judge_voc(found, things, blacklisted), len(counted)))
    if rule == "voc07":
        points = points_of(judge_voc(found, things, blacklisted), len(counted))
        return sum(best_precision(points, tenth / 10) for tenth in range(11)) / 11

    means = []
    for step in range(10):
        points = points_of(judge_coco(found, things, blacklisted, 0.5 + step / 20), len(counted))
        means.append(sum(best_precision(points, part / 100) for part in range(101)) / 101)
    return sum(means) / 10
