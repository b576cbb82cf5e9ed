"""MultiBox's priors, matching and targets, against slow readings of the rules."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infer.data.annotations import Box
from infer.data.detection import Object
from trainer.data.augment import Placement
from trainer.data.multibox import MultiBoxTargets, find_priors, match, seen_edges
from trainer.recipe import RecipeError

BILINEAR = Image.Resampling.BILINEAR


def place(left: float, top: float, right: float, bottom: float, *, mirrored: bool = False) -> Placement:
    """A crop of an image of 100 x 200 px."""
    return Placement((100, 200), left, top, right, bottom, filter=BILINEAR, mirrored=mirrored)


@pytest.mark.parametrize("seed", range(20))
def test_the_matching_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, priors = rng.uniform(0, 1, (int(rng.integers(0, 4)), 4)), rng.uniform(0, 1, (5, 4))
    places, own = match(boxes, priors)
    assert sorted(own) == list(range(len(boxes))) and len(set(places)) == len(boxes)

    def cost(chosen: tuple[int, ...]) -> float:
        return sum(
            (priors[prior][edge] - boxes[number][edge]) ** 2 for number, prior in enumerate(chosen) for edge in range(4)
        )

    least = min(cost(chosen) for chosen in itertools.permutations(range(5), len(boxes)))
    found = dict(zip(own.tolist(), places.tolist(), strict=True))
    assert cost(tuple(found[number] for number in range(len(boxes)))) == pytest.approx(least, abs=1e-12)


def test_of_more_boxes_than_priors_some_are_left_out() -> None:
    places, own = match(np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0.9, 1]]), np.array([[0, 0, 1, 1.0]]))
    assert (places.tolist(), own.tolist()) == ([0], [0])


def test_targets_are_what_a_crop_shows_of_each_object() -> None:
    objects = [
        Object(0, Box(1, 1, 50, 100)),  # the left quarter
        Object(1, Box(101, 26, 140, 75)),
        Object(1, Box(151, 1, 200, 20)),  # a fifth of its width is in the second crop
    ]
    priors = np.array([[0, 0, 0.3, 1], [0.5, 0.2, 0.7, 0.8], [0.8, 0, 1, 0.2], [0, 0, 1, 1.0]])
    targets = MultiBoxTargets([objects], [(100, 200)], priors)

    whole = targets(0, place(0, 0, 200, 100))
    assert whole.dtype == torch.float32 and whole.shape == (4, 5)
    expected = [[0, 0, 0.25, 1, 1], [0.5, 0.25, 0.7, 0.75, 1], [0.75, 0, 1, 0.2, 1], [0] * 5]
    np.testing.assert_allclose(whole, expected, atol=1e-6)

    # of the first object a fifth less is seen, of the third too little
    part = targets(0, place(10, 0, 160, 100, mirrored=True))
    seen = sorted(part[part[:, 4] > 0, :4].tolist())
    np.testing.assert_allclose(seen, [[20 / 150, 0.25, 60 / 150, 0.75], [110 / 150, 0, 1, 1]], atol=1e-6)


def test_boxes_of_another_size_are_moved_to_the_image() -> None:
    targets = MultiBoxTargets([[Object(0, Box(1, 1, 100, 50))]], [(200, 400)], np.array([[0, 0, 1, 1.0]]))
    np.testing.assert_allclose(targets(0, place(0, 0, 200, 100))[0], [0, 0, 0.25, 0.25, 1], atol=1e-6)


def test_an_image_without_objects_has_no_matched_prior() -> None:
    targets = MultiBoxTargets([[]], [None], np.eye(4))
    assert (targets(0, place(0, 0, 200, 100)) == 0).all() and targets.objects_per_image == 0


def test_what_a_crop_hardly_shows_is_nothing() -> None:
    at = place(50, 0, 150, 100)
    shown = seen_edges([Object(0, Box(1, 1, 99, 50)), Object(0, Box(2, 1, 101, 50)), Object(0, Box(1, 1, 40, 50))], at)
    np.testing.assert_allclose(shown, [[0, 0, 0.51, 0.5]], atol=1e-9)


def test_priors_are_the_centres_of_groups() -> None:
    rng = np.random.default_rng(1)
    centers = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.5, 0.9, 0.9], [0.1, 0.7, 0.3, 0.95]])
    boxes = np.concatenate([center + rng.normal(0, 0.01, (200, 4)) for center in centers])
    priors = find_priors(boxes, 3, seed=0)
    means = np.stack([boxes[200 * number : 200 * number + 200].mean(0) for number in range(3)])
    np.testing.assert_allclose(priors[np.lexsort(priors.T)], means[np.lexsort(means.T)], atol=1e-12)
    np.testing.assert_array_equal(find_priors(boxes, 3, seed=0), priors)


def test_every_round_of_the_k_means_is_at_rest() -> None:
    boxes = np.random.default_rng(2).uniform(0, 1, (500, 4))
    priors = find_priors(boxes, 20, seed=3)
    nearest = np.square(boxes[:, None] - priors[None]).sum(2).argmin(1)
    np.testing.assert_allclose(priors, np.stack([boxes[nearest == number].mean(0) for number in range(20)]))


def test_too_few_boxes_are_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="2 different boxes to learn from for 3 priors: --set boxes=N"):
        find_priors(np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0.5]]), 3, seed=0)
