"""Boxes as a MultiBox net learns them: each object is the business of one prior (Erhan et al., CVPR 2014).

The priors are the centres of a k-means of the boxes to learn from, as fractions of their images. An image's objects and
the priors are matched one to one, so that the sum of their squared distances is smallest; the net's box of a matched
prior learns the object's edges and a confidence of 1, every other one a confidence of 0. (The paper matches either
predictions or priors; by priors an image's targets depend on nothing that is learnt, and loading processes make them.)

The papers leave open, and it is chosen here: of an object that a crop cuts, the part that it shows is learnt where that
is half of it at least, and else nothing; images of which only some objects have boxes are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from infer.boxes.multibox import plan_whole
from infer.data.dataset import Dataset, DatasetError
from infer.data.detection import DetectionData, Object, boxes_in, open_detection
from infer.data.detection.objects import PARTLY
from infer.pixels.decode import ImageError
from infer.pixels.regions import make_picture
from infer.pixels.render import FILTERS, render
from infer.spec import Size

from ..processes import say
from ..recipe import Recipe, RecipeError
from .augment import Placement
from .batches import Centers, read_pixels

LEAST_VISIBLE = 0.5
SAMPLE = 20_000
"""Boxes of which priors are made at most."""
ROUNDS = 100
"""Of the k-means at most."""
Edges = NDArray[np.float64]
"""[N, 4]: left, top, right, bottom from 0 to 1."""


class MultiBoxTargets:
    """A TargetFunction of trainer.data.batches: for each prior the edges of the object that is matched to it, if any.

    A target is f32 [priors, 5]: left, top, right and bottom as fractions of the crop, then 1 where there is an
    object.
    """

    def __init__(self, objects: Sequence[Sequence[Object]], sizes_px: Sequence[Size | None], priors: Edges) -> None:
        """Takes each image's objects and the size that they are of (None: its own), and the priors [K, 4]."""
        self.objects, self.sizes_px, self.priors = objects, sizes_px, priors

    def __call__(self, index: int, at: Placement) -> Tensor:
        target = np.zeros((len(self.priors), 5), np.float32)
        boxes = seen_edges(boxes_in(self.objects[index], self.sizes_px[index], at.image_px), at)
        places, own = match(boxes, self.priors)
        target[places, :4], target[places, 4] = boxes[own], 1
        return torch.from_numpy(target)

    @property
    def objects_per_image(self) -> float:
        return float(np.mean([len(own) for own in self.objects]))

    @property
    def digest(self) -> str:
        """A digest of the objects and the priors."""
        digest = hashlib.sha256(np.ascontiguousarray(self.priors).tobytes())
        for objects, size_px in zip(self.objects, self.sizes_px, strict=True):
            digest.update(f"{size_px} {[tuple(one.box) for one in objects]}\n".encode())
        return digest.hexdigest()[:16]


def seen_edges(objects: Sequence[Object], at: Placement) -> Edges:
    """The edges [M, 4] of what a crop shows of the objects, as its fractions, without those that it hardly shows."""
    boxes = np.array([one.box for one in objects], np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    parts = np.clip(boxes, [at.left, at.top] * 2, [at.right, at.bottom] * 2)
    whole, shown = ((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]) for edges in (boxes, parts))
    kept = parts[(whole > 0) & (shown >= LEAST_VISIBLE * whole)]

    corner, sides = np.array([at.left, at.top]), np.array([at.right - at.left, at.bottom - at.top])
    edges: Edges = (kept - np.tile(corner, 2)) / np.tile(sides, 2)
    if at.mirrored:
        edges = np.stack([1 - edges[:, 2], edges[:, 1], 1 - edges[:, 0], edges[:, 3]], 1)
    return edges


def match(boxes: Edges, priors: Edges) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(places of priors, places of boxes) of the pairs whose squared distances have the smallest sum, one to one.

    Of more boxes than priors some are in no pair.
    """
    distances = np.square(priors[:, None] - boxes[None]).sum(2)  # [K, M]
    places, own = linear_sum_assignment(distances)
    return places, own


def find_priors(boxes: Edges, count: int, seed: int) -> Edges:
    """The centres [count, 4] of a k-means of boxes [N, 4]: Lloyd's rounds from a start by k-means++ (Arthur 2007).

    The same for the same boxes and seed. Raises RecipeError for fewer different boxes than centres.
    """
    different = np.unique(boxes, axis=0)
    if len(different) < count:
        raise RecipeError(f"{len(different)} different boxes to learn from for {count} priors: --set boxes=N")
    rng = default_rng((seed, count))
    centers = _spread(different if len(different) <= SAMPLE else rng.permutation(different)[:SAMPLE], count, rng)
    sample = boxes if len(boxes) <= SAMPLE else rng.permutation(boxes)[:SAMPLE]

    nearest = np.full(len(sample), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, _distances(sample, centers).argmin(1)
        if (before == nearest).all():
            break
        counts = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, edge, count) for edge in sample.T], 1)
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centers)
    return centers[np.lexsort(centers.T)]


def _spread(boxes: Edges, count: int, rng: Generator) -> Edges:
    """`count` of the boxes, each drawn with a chance by its squared distance from those before."""
    chosen = [int(rng.integers(len(boxes)))]
    distance = _distances(boxes, boxes[chosen])[:, 0]
    while len(chosen) < count:
        chosen.append(int(rng.choice(len(boxes), p=distance / distance.sum())))
        distance = np.minimum(distance, _distances(boxes, boxes[chosen[-1:]])[:, 0])
    return boxes[chosen]


def _distances(boxes: Edges, centers: Edges) -> NDArray[np.float64]:
    """Squared, [N, K]."""
    return np.stack([np.square(boxes - center).sum(1) for center in centers], 1)


def open_multibox(
    data: Path, recipe: Recipe, reading: Mapping[str, Any]
) -> tuple[tuple[Dataset, MultiBoxTargets], tuple[Dataset, MultiBoxTargets] | None]:
    """Images and targets to learn from, and to be tried on; the second is None where there are none.

    Raises DatasetError and RecipeError.
    """
    given = [name for name, value in reading.items() if value and name != "limit"]
    if given:
        raise RecipeError(f"{recipe.name}: --{given[0]} is for classification (docs/detection.md)")
    found = open_detection(data, "train", limit=reading.get("limit"))
    for remark in found.remarks:
        say(remark)
    training = _examples(found, None, recipe)
    try:
        held_out = open_detection(data, "val")
    except DatasetError:
        return training, None
    return training, _examples(held_out, training[1].priors, recipe)


def _examples(found: DetectionData, priors: Edges | None, recipe: Recipe) -> tuple[Dataset, MultiBoxTargets]:
    """Images with their targets; without priors they are made of the boxes."""
    whole = [found.listed is None or not (listed == PARTLY).any() for listed in _listed(found)]
    places = [place for place, is_whole in enumerate(whole) if is_whole]
    if len(places) < len(found.items):
        left = len(found.items) - len(places)
        say(f"{found.root}: {left} {found.split} images of which only some objects have boxes are left out")

    objects = [[one for one in found.objects[place] if not (one.ignored or one.crowd)] for place in places]
    sizes_px = [found.sizes_px[place] for place in places]
    if priors is None:
        every = [_fractions(one, size) for own, size in zip(objects, sizes_px, strict=True) for one in own if size]
        priors = find_priors(np.array(every).reshape(-1, 4), recipe.boxes, recipe.seed)
    dataset = Dataset(
        root=found.root,
        items=[found.items[place] for place in places],
        classes=found.classes,
        class_names=found.class_names,
        is_ilsvrc2012_val=False,
    )
    return dataset, MultiBoxTargets(objects, sizes_px, priors)


def _listed(found: DetectionData) -> Sequence[NDArray[np.int8]]:
    return [np.zeros(0, np.int8)] * len(found.items) if found.listed is None else list(found.listed)


def _fractions(one: Object, size_px: Size) -> tuple[float, float, float, float]:
    """An object's edges as fractions of its image."""
    height, width = size_px
    xmin, ymin, xmax, ymax = np.clip(one.box, 1, [width, height, width, height]).tolist()
    return (xmin - 1) / width, (ymin - 1) / height, xmax / width, ymax / height


class WholeImages(Centers):
    """Each image as evaluation shows it to a MultiBox net: (u8 [crop, crop, 3], target, index), or None."""

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor, int] | None:
        spec = self.spec
        try:
            image = read_pixels(self.items[index], spec.preprocessing.exif)
        except ImageError:
            return None
        size = (image.shape[0], image.shape[1])
        (pixels,) = render(make_picture(image, spec), plan_whole(size, spec).views, spec)
        whole = Placement(size, 0, 0, size[1], size[0], filter=FILTERS[spec.preprocessing.filter], mirrored=False)
        assert self.target is not None  # of these images it is MultiBoxTargets
        return torch.from_numpy(pixels.copy()), self.target(index, whole), index
