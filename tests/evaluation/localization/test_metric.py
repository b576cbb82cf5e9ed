"""evaluation/localization/ground_truth.py, is_right, and what is counted, against the devkit's rules read literally."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evaluation.errors import RunError
from evaluation.localization.ground_truth import GroundTruth, Truth, is_right, overlap
from evaluation.localization.report import Counts, count
from evaluation.localization.table import SHARD_IMAGES, LocatedImage, UnfinishedBoxes
from evaluation.run.loop import Effort, Shard
from infer.boxes.finding import Guess
from infer.data.annotations import Box

Rec = Sequence[tuple[int, Box]]
"""The objects of an image: (class, box)."""


def devkit_overlap(bb: Box, bbgt: Box) -> float:
    """As the devkit's VOC routines do: the +1 of every width and height, areas of both less the intersection."""
    bi = [max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])]
    iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
    if iw > 0 and ih > 0:
        ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1) - iw * ih
        return iw * ih / ua
    return 0.0


def devkit_error(gt_labels: list[int], rec: list[Rec], pred: list[Rec], blacklist: list[int]) -> float:
    """The mean over the images of min over guesses j of max(d_j, f_j), f over the boxes of the class its least."""
    e = [0.0] * len(pred)
    for i in range(len(pred)):
        if i + 1 in blacklist:
            continue
        d = []
        for label, box in pred[i][0:5]:
            d_j = int(gt_labels[i] != label)
            f_j = [1]
            if d_j == 0:
                f_j = [int(devkit_overlap(box, b) < 0.50) for own, b in rec[i] if own == gt_labels[i]] or [1]
            d.append(min(max(f, d_j) for f in f_j))
        e[i] = min(d) if d else 1
    return sum(e) / (len(pred) - len(blacklist))


def right(truths: Sequence[Box], guesses: Rec, label: int = 7) -> bool:
    """Of one image of class 7, which both readings must agree on."""
    found = is_right(label, truths, list(guesses))
    assert devkit_error([label], [[(label, box) for box in truths]], [guesses], []) == 1 - found
    return found


LINE = Box(1, 1, 10_000, 1)
"""10,000 pixels in a row."""


@pytest.mark.parametrize(
    ("guess", "expected", "passes"),
    [
        (Box(1, 1, 4_999, 1), 0.4999, False),
        (Box(1, 1, 5_000, 1), 0.5, True),
        (Box(1, 1, 4_999.9, 1), 0.49999, False),
        (Box(1, 1, 20_000, 1), 0.5, True),  # too large by the same
        (Box(1, 1, 20_001, 1), 10_000 / 20_001, False),
        (Box(5_001, 1, 10_000, 1), 0.5, True),
        (Box(1, 2, 10_000, 2), 0.0, False),  # the next row
        (Box(10_001, 1, 10_010, 1), 0.0, False),
    ],
)
def test_the_edge_of_one_half(guess: Box, expected: float, passes: bool) -> None:
    assert overlap(guess, LINE) == overlap(LINE, guess) == pytest.approx(expected, abs=1e-12)
    assert right([LINE], [(7, guess)]) == passes


def test_widths_count_both_ends() -> None:
    """One pixel of two is a half; without the +1 it were nothing, and boxes that share an edge were apart."""
    assert right([Box(1, 1, 2, 1)], [(7, Box(1, 1, 1, 1))])
    assert overlap(Box(1, 1, 1, 1), Box(1, 1, 1, 1)) == 1
    # 50 of 100 pixels by inclusive ends; by differences of ends 4 * 9 / (9 * 9) = 0.44
    assert right([Box(1, 1, 10, 10)], [(7, Box(1, 1, 10, 5))])


def test_any_box_of_the_class() -> None:
    two = [Box(1, 1, 10, 10), Box(100, 100, 200, 200)]
    assert right(two, [(7, two[1])]) and right(two, [(7, two[0])])
    assert not right(two, [(7, Box(1, 1, 200, 200))])
    assert not right([], [(7, two[0])])  # no box of the class: nothing can be right


def test_guesses() -> None:
    box, off = Box(1, 1, 10, 10), Box(50, 50, 60, 60)
    assert not right([box], [])
    assert right([box], [(7, box)])
    assert not right([box], [(6, box)])  # the box of another class
    assert right([box], [(1, box), (2, box), (7, box)])
    assert not right([box], [(7, off), (3, box)])
    assert right([box], [(7, off), (7, box)])  # a class may be guessed twice
    wrong = [(number, box) for number in range(5)]
    assert right([box], [*wrong[:4], (7, box)])
    assert not right([box], [*wrong, (7, box)])  # the sixth does not count


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(1, 3), rng.randint(1, 3)
    return Box(x, y, x + rng.randint(2, 7), y + rng.randint(2, 7))


Commit = Callable[[list[LocatedImage]], Path]


@pytest.fixture
def commit(tmp_path: Path) -> Commit:
    """Writes rows as a run does."""

    def write(rows: list[LocatedImage]) -> Path:
        run = UnfinishedBoxes(tmp_path, {"protocol": "dense"}, len(rows), resume=False)
        for first in run.pending:
            own = rows[first : first + SHARD_IMAGES]
            run.add(Shard(first, len(own), own, Effort(0, (0.0,), 0.0)))
        run.finish(tmp_path / "boxes.parquet")
        run.discard()
        return tmp_path / "boxes.parquet"

    return write


def rows_of(labels: list[int], pred: list[Rec], size: tuple[int, int] = (20, 20)) -> list[LocatedImage]:
    return [
        LocatedImage(f"{i}.jpg", label, "ok", "", size, tuple(Guess(c, 1.0, box) for c, box in guesses[:5]))
        for i, (label, guesses) in enumerate(zip(labels, pred, strict=True))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_counted_is_the_devkits_error(seed: int, commit: Commit) -> None:
    """Random images: zero to three boxes, zero to seven guesses, some blacklisted."""
    rng = random.Random(seed)
    labels = [rng.randrange(4) for _ in range(150)]
    rec = [[(rng.choice([label, 9]), random_box(rng)) for _ in range(rng.randrange(4))] for label in labels]
    pred = [[(rng.randrange(4), random_box(rng)) for _ in range(rng.randrange(8))] for _ in labels]
    blacklist = rng.sample(range(1, 151), 20)
    truths = tuple(
        None if i + 1 in blacklist else Truth(tuple(box for own, box in objects if own == labels[i]), None)
        for i, objects in enumerate(rec)
    )
    counts = count(commit(rows_of(labels, pred)), GroundTruth(truths, 20, (), True))
    assert counts.images == 130
    assert counts.wrong_top5 / 130 == devkit_error(labels, rec, pred, blacklist)
    named = [label in [c for c, _ in guesses[:5]] for label, guesses in zip(labels, pred, strict=True)]
    assert counts.wrong_class == sum(not ok for i, ok in enumerate(named) if i + 1 not in blacklist)
    assert counts.wrong_top5 < 125 and counts.wrong_class < counts.wrong_top5


def test_boxes_are_compared_in_the_frame_of_the_xml(commit: Commit) -> None:
    """The image is 100 x 200, but its box was drawn on one of 50 x 50."""
    rows = rows_of([0], [[(0, Box(81, 41, 120, 60))]], (100, 200))
    path = commit(rows)
    assert count(path, GroundTruth((Truth((Box(21, 21, 30, 30),), (50, 50)),), 0, (), True)).wrong_top5 == 0
    assert count(path, GroundTruth((Truth((Box(21, 21, 30, 30),), None),), 0, (), True)).wrong_top5 == 1


def test_what_has_no_answer_is_wrong_and_what_has_no_label_does_not_count(commit: Commit) -> None:
    box = Box(1, 1, 10, 10)
    found = Guess(3, 1.0, box)
    rows = [
        LocatedImage("a", 3, "ok", "", (20, 20), (found,), found),
        LocatedImage("b", 3, "b: not an image"),
        LocatedImage("c", -1, "ok", "", (20, 20), (found,)),
        LocatedImage("d", 3, "ok", "", (20, 20), (), found),
        LocatedImage("e", 3, "ok", "", (20, 20), (found,), None),
    ]
    truth = Truth((box,), (20, 20))
    path = commit(rows)
    assert count(path, GroundTruth((truth,) * 5, 0, (), False)) == Counts(4, 2, 2, 2)
    assert count(path, GroundTruth((truth, None, None, None, None), 4, (), False)) == Counts(1, 0, 0, 0)
    with pytest.raises(RunError, match=r"^no image counts: all are without a label, blacklisted or without readable"):
        count(path, GroundTruth((None,) * 5, 5, (), True))
