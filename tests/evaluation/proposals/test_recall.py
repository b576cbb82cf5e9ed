"""Covered objects against the number of proposals, and the baselines of the same budget."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.proposals.baselines import grid_boxes, random_boxes
from evaluation.proposals.recall import Coverage, combinations, recall_text
from infer.boxes.overlap import overlaps

OBJECTS = [[1, 1, 10, 10], [31, 31, 40, 40]]
PROPOSALS = [[31, 31, 40, 36], [50, 50, 60, 60], [1, 1, 10, 8], [31, 31, 40, 40]]
"""The second object is covered by half from the first on, wholly by the fourth; the first by 0.8 from the third on."""


def test_an_object_is_covered_by_the_first_proposal_that_shares_enough() -> None:
    coverage = Coverage()
    coverage.add(PROPOSALS, OBJECTS)
    coverage.add([], [[5, 5, 9, 9]])
    coverage.add(PROPOSALS, np.zeros((0, 4)))

    assert coverage.objects == 3 and coverage.mean_proposals == pytest.approx(8 / 3)
    shares = {
        (level, budget): coverage.covered(level, budget).percent  # type: ignore[union-attr]
        for level in (0.5, 0.7)
        for budget in (1, 2, 3, 4)
    }
    third = pytest.approx(100 / 3)
    assert [shares[0.5, budget] for budget in (1, 2, 3, 4)] == [third, third, pytest.approx(200 / 3), 200 / 3]
    assert [shares[0.7, budget] for budget in (1, 2, 3, 4)] == [0, 0, third, pytest.approx(200 / 3)]

    said = coverage.to_json()
    assert said["covered_percent"]["0.7"]["all"] == 66.667 and said["proposals"] == 2.667
    low, high = said["interval95_percent"]["0.7"]
    assert low < 66.667 < high


def test_without_objects_there_is_no_share() -> None:
    coverage = Coverage()
    coverage.add(PROPOSALS, np.zeros((0, 4)))
    assert coverage.covered(0.5) is None and coverage.to_json()["covered_percent"]["0.5"]["all"] is None
    assert "| none     | 4.0                  | no objects" in recall_text({"none": coverage})


def test_the_papers_numbers_stand_beside() -> None:
    coverage = Coverage()
    coverage.add(PROPOSALS * 10, OBJECTS)
    text = recall_text({"selective-search": coverage})
    assert "| selective-search | 40.0                 | 100.00 [34.2, 100.0]   | 100.00 [34.2, 100.0]   |" in text
    assert "cover 93 % instead of 92 %" in text and "about 60 %" in text
    assert "| selective-search                    | 100.0 | 100.0 |" in text


def test_each_method_alone_and_all_together() -> None:
    assert list(combinations(["selective-search"])) == [("selective-search", ("selective-search",))]
    assert list(combinations(["selective-search", "multibox"]))[-1] == (
        "selective-search + multibox",
        ("multibox", "selective-search"),
    )


@pytest.mark.parametrize("image_px", [(375, 500), (500, 375), (64, 64), (10, 2000), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 7, 100, 1000])
def test_baselines_keep_to_the_image_and_the_budget(image_px: tuple[int, int], count: int) -> None:
    height, width = image_px
    for boxes in (random_boxes(image_px, count, 1), grid_boxes(image_px, count)):
        assert boxes.shape[1] == 4 and len(boxes) <= count
        assert (boxes[:, :2] >= 1).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert len(random_boxes(image_px, count, 1)) == count


def test_baselines_are_the_same_each_time_and_the_grid_beats_chance() -> None:
    size = (300, 400)
    np.testing.assert_array_equal(random_boxes(size, 50, 3), random_boxes(size, 50, 3))
    assert not np.array_equal(random_boxes(size, 50, 3), random_boxes(size, 50, 4))
    assert 700 <= len(grid_boxes(size, 1000)) <= 1000

    rng = np.random.default_rng(0)
    corner, side = rng.uniform(1, 200, (200, 2)), rng.uniform(40, 100, (200, 2))
    objects = np.concatenate([corner, corner + side], 1)
    found = [
        (overlaps(boxes, objects).max(0) >= 0.5).mean()
        for boxes in (grid_boxes(size, 1000), random_boxes(size, 1000, 0))
    ]
    assert found[0] > 0.9 > found[1] > 0.5
