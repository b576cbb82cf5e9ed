"""Linear SVMs as the last layer of a net of regions, as R-CNN has them in place of the softmax.

    python -m evaluation.detection.svm det.pt --data DIR --proposals train.parquet -o svm.pt

One class against the rest (Girshick et al. 2014, section 2.3 and appendix B): an object's own box is an example of its
class; a region that overlaps no object of a class by LEAST_OVERLAP is one against it, and what lies between takes no
part. Random regions of all images train first, then those of some images too that came out on the wrong side of the
margin (one round of hard negatives). C is chosen on a fifth of the images (evaluation/features/svm.py).

The result is a checkpoint like any other: its last layer has the SVMs' hyperplanes, scaled by one factor, and beside
them the constant of background, both by maximum likelihood on the examples (after J. Platt, 1999), so that the net's
softmax is a posterior. The papers have no such posterior: R-CNN orders detections by the SVMs' scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm import tqdm

from infer.boxes.detecting import check_regions
from infer.boxes.overlap import overlaps
from infer.boxes.proposed import OK, ProposalsError, ProposedImage, read_proposals
from infer.command import Parser, count_argument, exit_with, print_notes, run, whole_argument
from infer.data.detection import DetectionData, boxes_in, open_detection
from infer.data.detection.objects import NEGATIVE, POSITIVE
from infer.data.own_parquet import check_replaceable
from infer.errors import UsageError, one_line
from infer.pixels.decode import ImageError, Pixels, decode
from infer.pixels.regions import inside, make_picture, plan_regions
from infer.pixels.render import normalise, render
from infer.processes.owned import own_file
from infer.spec import ModelSpec

from ..features.collection import Labels
from ..features.svm import Choices, Features, Trained, mean_ap_percent, scores_of, train
from .score import classes_of_data

LEAST_OVERLAP = 0.3
"""By which a region has to overlap an object of a class not to be an example against it (R-CNN, section 2.3)."""
RANDOM, MOST_RANDOM = 32, 50_000
"""Regions of an image, and in all, that are drawn as first examples: what a machine's memory holds."""
HARD = 50_000
"""Hard negatives at most, those with the highest scores."""
MARGIN = -1.0
BATCH = 64
"""Regions of a forward pass."""


class Examples(NamedTuple):
    """Regions to learn from: features f32 [N, width], labels i8 [N, classes] of 1, -1 and 0, and the images' names."""

    features: Features
    labels: Labels
    images: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.detection.svm",
        description="Linear SVMs as the last layer of a net of regions, as R-CNN has them (docs/detection.md).",
    )
    mine = "images whose hard negatives train, evenly spaced (default: %(default)s; 0: none)"
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a net of regions: of the recipes with -det")
    add("--data", required=True, type=Path, help="what the net has learnt from (docs/detection.md)")
    add("--proposals", required=True, type=Path, metavar="FILE", help="of its training images")
    add("--limit", type=count_argument, metavar="N", help="take N images, evenly spaced, always the same")
    add("--classes-by-order", action="store_true", help="take the data set's classes by their places, not by name")
    add("--mine", type=whole_argument, default=200, metavar="N", help=mine)
    add("--seed", type=whole_argument, default=0, metavar="N", help="of all that is drawn")
    add("-o", "--out", required=True, type=Path, metavar="SVM.pt")
    args = parser.parse_args(argv)
    return run(parser, lambda: _make(args), own_file(args.out))


def _make(args: argparse.Namespace) -> int:
    from trainer.checkpoint import Checkpoint, load, save  # here, since evaluation runs without torch

    check_replaceable(args.out, load)
    if args.out.exists() and args.out.samefile(args.checkpoint):
        raise UsageError(f"-o {args.out}: is the net itself, which would be lost: expected another name")
    checkpoint = load(args.checkpoint)
    check_regions(checkpoint.spec)
    data = open_detection(args.data, "train", limit=args.limit)
    print_notes(data.remarks)
    order = classes_of_data(checkpoint.spec.classes, data, str(args.checkpoint), by_order=args.classes_by_order)
    images = _with_proposals(data, args.proposals)
    finder = Finder(checkpoint, data)

    # the first fit chooses C
    most = max(1, min(RANDOM, MOST_RANDOM // len(images)))
    found = finder.random_examples(images, most, args.seed)
    measure = functools.partial(mean_ap_percent, "all-point")
    trained = train(found.features, found.labels, data.classes, measure, Choices(seed=args.seed), found.images)
    held_out = trained.held_out_percent

    # the second has hard negatives
    mined = np.linspace(0, len(images) - 1, min(args.mine, len(images))).astype(int)
    hard = finder.hard_negatives([images[place] for place in mined], trained)
    if len(hard.labels):
        features, labels = (np.concatenate([a, b]) for a, b in zip(found[:2], hard[:2], strict=True))
        found = Examples(features, labels, found.images + hard.images)
        choices = Choices((trained.c,), args.seed)
        trained = train(found.features, found.labels, data.classes, measure, choices, found.images)

    scale, background = fit_posterior(scores_of(trained, found.features), found.labels)
    planes = np.zeros((len(order) + 1, trained.weights.shape[1]))
    planes[:-1] = scale * trained.weights[order]
    said = f"linear SVMs, C={trained.c:g}, {len(found.labels)} regions of which {len(hard.labels)} hard negatives"
    spec = dataclasses.replace(
        checkpoint.spec, name=f"{checkpoint.spec.name}-svm", source={**checkpoint.spec.source, "last_layer": said}
    )
    weights = finder.with_last_layer(planes, np.append(scale * trained.bias[order], background))
    made = Checkpoint(
        spec,
        weights,
        recipe=checkpoint.recipe,
        epochs_done=checkpoint.epochs_done,
        held_out=checkpoint.held_out,
        finished=True,
    )
    save(made, args.out)
    chosen = ", ".join(f"{c}: {value:.2f}" for c, value in held_out.items())
    print(one_line(f"{args.out}: {said}; mean average precision of what was held out, by C, in %: {chosen}"))
    return 0


def _with_proposals(data: DetectionData, path: Path) -> list[tuple[int, ProposedImage]]:
    """The images of a data set that have proposals, by their places. Raises ProposalsError where there are none."""
    place = {item.name: number for number, item in enumerate(data.items)}
    found = [(place[one.image], one) for one in read_proposals(path) if one.status == OK and one.image in place]
    if not found:
        raise ProposalsError(f"{path}: no proposals for an image of {data.root}, expected those of its {data.split}")
    return sorted(found, key=lambda each: each[0])


class Finder:
    """Finds examples in images, by the features of a net of regions."""

    def __init__(self, checkpoint: Any, data: DetectionData) -> None:
        """Takes a trainer.checkpoint.Checkpoint."""
        self.spec: ModelSpec = checkpoint.spec
        self.data, self.weights = data, checkpoint.weights
        self.net = checkpoint.build()
        self.last: str = self.net.layers[-1]

    def with_last_layer(self, planes: NDArray[np.float64], constants: NDArray[np.float64]) -> dict[str, Any]:
        """The net's weights with another last layer: hyperplanes [outputs, width] and constants [outputs]."""
        weights = dict(self.weights)
        for name, values in (("weight", planes), ("bias", constants)):
            old = weights[f"{self.last}.{name}"]
            weights[f"{self.last}.{name}"] = old.new_tensor(values).reshape(old.shape)
        return weights

    def random_examples(self, images: Sequence[tuple[int, ProposedImage]], most: int, seed: int) -> Examples:
        """All objects, and up to `most` proposals of each image."""

        def choose(number: int, objects: int, regions: int) -> NDArray[np.intp]:
            drawn = objects + default_rng((seed, number)).permutation(regions - objects)[:most]
            return np.concatenate([np.arange(objects), np.sort(drawn)])

        parts = [self._examples(number, image, choose) for number, image in tqdm(images, "examples", disable=None)]
        return self._together(parts)

    def hard_negatives(self, images: Sequence[tuple[int, ProposedImage]], trained: Trained) -> Examples:
        """The proposals that are not of a class and score above the margin, at most HARD with the highest scores."""
        parts, worst = [], []
        for number, image in tqdm(images, "hard negatives", disable=None):
            part = self._examples(number, image, lambda _, objects, regions: np.arange(objects, regions))
            wrong = np.where(part.labels < 0, scores_of(trained, part.features), -np.inf).max(1, initial=-np.inf)
            (places,) = np.nonzero(wrong > MARGIN)
            parts.append(_taken(part, places))
            worst.append(wrong[places])
        found = self._together(parts)
        hardest = np.sort(np.argsort(-np.concatenate([*worst, np.zeros(0)]), kind="stable")[:HARD])
        return _taken(found, hardest)

    def _examples(
        self, number: int, proposed: ProposedImage, choose: Callable[[int, int, int], NDArray[np.intp]]
    ) -> Examples:
        """The examples of an image that `choose` takes, by (its place, how many objects, how many regions)."""
        item = self.data.items[number]
        try:
            image = decode(item.read_bytes(), exif=self.spec.preprocessing.exif, name=item.name)
        except ImageError as error:
            tqdm.write(one_line(f"{error}: left out"), file=sys.stderr)
            return self.nothing
        size = (image.shape[0], image.shape[1])
        if size != proposed.size_px:
            of, here = (f"{height}x{width}" for height, width in (proposed.size_px, size))
            raise ProposalsError(f"{item.name}: its proposals are of an image of {of} px, not {here}")
        boxes, labels, objects = label_examples(self.data, number, proposed)
        chosen = choose(number, objects, len(boxes))
        features = self.features(image, boxes[chosen])
        return Examples(features, labels[chosen], (item.name,) * len(chosen))

    def _together(self, parts: Sequence[Examples]) -> Examples:
        features, labels, images = zip(self.nothing, *parts, strict=True)
        return Examples(np.concatenate(features), np.concatenate(labels), tuple(itertools.chain(*images)))

    @property
    def nothing(self) -> Examples:
        width = self.net.get_submodule(self.last).in_channels
        return Examples(np.empty((0, width), np.float32), np.empty((0, len(self.data.classes)), np.int8), ())

    def features(self, image: Pixels, boxes: NDArray[np.float64]) -> Features:
        """The activations f32 [N, width] before the last layer, of boxes f64 [N, 4] of an image."""
        import torch

        picture, size = make_picture(image, self.spec), (image.shape[0], image.shape[1])
        parts = [self.nothing.features]
        for first in range(0, len(boxes), BATCH):
            views = plan_regions(boxes[first : first + BATCH], size, self.spec).views
            pixels = normalise(np.stack(render(picture, views, self.spec)), self.spec)
            with torch.inference_mode():
                parts.append(self.net.penultimate(torch.from_numpy(pixels)).flatten(1).numpy())
        return np.concatenate(parts)


def label_examples(
    data: DetectionData, number: int, proposed: ProposedImage
) -> tuple[NDArray[np.float64], Labels, int]:
    """(boxes f64 [R, 4] in an image: objects, then proposals; labels i8 [R, classes]; how many are objects).

    1: an object's own box, for its class. -1: a region that overlaps no object of the class by LEAST_OVERLAP. 0: what
    lies between, all regions for a class of which not all objects of the image have boxes, and what overlaps an
    object that does not count.
    """
    every = boxes_in(data.objects[number], data.sizes_px[number], proposed.size_px)
    counting = np.array([not (one.ignored or one.crowd) for one in every], np.bool_)
    theirs = np.array([one.box for one in every], np.float64).reshape(-1, 4)
    of_class = np.array([one.label for one in every], np.intp)

    own = theirs[counting]
    boxes = np.concatenate([own, proposed.boxes.astype(np.float64)])
    kept = inside(boxes, proposed.size_px)
    kept[: len(own)] = True
    boxes = boxes[kept]
    labels = np.full((len(boxes), len(data.classes)), -1, np.int8)
    shared = overlaps(boxes, theirs)
    for place, label in enumerate(of_class):
        labels[shared[:, place] >= LEAST_OVERLAP, label] = 0
    labels[np.arange(len(own)), of_class[counting]] = 1
    if data.listed is not None:
        unknown = ~np.isin(data.listed[number], (POSITIVE, NEGATIVE))
        labels[:, unknown] = np.maximum(labels[:, unknown], 0)
    return boxes, labels, len(own)


def fit_posterior(scores: NDArray[np.float64], labels: Labels) -> tuple[float, float]:
    """(factor, constant of background) by which a softmax of scores [N, classes] is likeliest, of the examples whose
    class is known: those with an object's own box, and those against all classes."""
    is_object, is_background = (labels == 1).any(1), (labels == -1).all(1)
    known = is_object | is_background
    target = np.where(is_object, labels.argmax(1), labels.shape[1])[known]
    wide = np.concatenate([scores[known], np.zeros((int(known.sum()), 1))], 1)

    def loss(free: NDArray[np.float64]) -> float:
        logits = np.exp(free[0]) * wide
        logits[:, -1] = free[1]
        return float((logsumexp(logits, axis=1) - logits[np.arange(len(target)), target]).mean())

    found = minimize(loss, np.zeros(2), method="Nelder-Mead")
    return float(np.exp(found.x[0])), float(found.x[1])


def _taken(examples: Examples, places: NDArray[np.intp]) -> Examples:
    images = tuple(examples.images[place] for place in places.tolist())
    return Examples(examples.features[places], examples.labels[places], images)


if __name__ == "__main__":
    exit_with(main)
