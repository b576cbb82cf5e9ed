"""Images through box nets and a classifier: what is found in each, by the protocols of the VGG paper's appendix A."""

from __future__ import annotations

import functools
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.boxes.finding import BoxNet, Guess, center_boxes, find_windows, guess, inside, refused
from infer.boxes.merging import Merging
from infer.data.dataset import Dataset
from infer.engine import Engine
from infer.files import file_sha256
from infer.pipeline import ordered

from ..errors import RunError, ScoresError
from ..run.identity import content_of, our_commit
from ..run.image_batch import OUT_OF_RANGE
from ..run.images import Decoded, read_image
from ..scores import table as tables
from ..scores.table import OK
from .metric import GUESSES
from .table import SHARD_IMAGES, Row, Shard

PROTOCOLS = {"given-class": "center", "dense": "dense"}
"""Of localisation, and the views of each."""
Answers = Sequence[Sequence[int]] | None
"""The likeliest classes of each image, by a score table."""


@dataclass(frozen=True, slots=True)
class Task:
    """All that a row depends on but its image. label_of: the engines' class of each of the data set's; exif: how they
    want images decoded; strict: whether an image that no engine can see stops the run."""

    nets: tuple[BoxNet, ...]
    classifier: Engine | None
    protocol: str
    rule: Merging
    answers: Answers
    label_of: NDArray[np.int32]
    strict: bool

    @property
    def engines(self) -> list[Engine]:
        return [*(net.engine for net in self.nets), *([self.classifier] if self.classifier else [])]


def make_shards(
    task: Task, dataset: Dataset, starts: Sequence[int], workers: int, on_images: Callable[[int], None]
) -> Iterator[Shard]:
    """The shards at `starts`, images decoded by so many threads. Raises EngineError and RunError."""
    ranges = [range(first, min(first + SHARD_IMAGES, len(dataset.items))) for first in starts]
    items = (dataset.items[place] for places in ranges for place in places)
    exif = task.nets[0].engine.spec.preprocessing.exif
    decoded = ordered(functools.partial(read_image, exifs=[exif], strict=task.strict), items, workers)
    for places in ranges:
        started, before = time.monotonic(), sum(engine.seconds for engine in task.engines)
        rows, content = [], 0
        for place in places:
            each = next(decoded)
            rows.append(locate(task, each, None if task.answers is None else task.answers[place]))
            content += content_of(each.item.label, each.sha256)
            on_images(1)
        seconds = sum(engine.seconds for engine in task.engines) - before
        yield Shard(places.start, tuple(rows), content, seconds, time.monotonic() - started)


def locate(task: Task, decoded: Decoded, answers: Sequence[int] | None) -> Row:
    """What is found in one image. Raises EngineError, and RunError where `strict`."""
    name = decoded.item.name
    label = -1 if decoded.item.label < 0 else int(task.label_of[decoded.item.label])
    if not decoded.images:
        return Row(name, label, decoded.status)
    (image,) = decoded.images.values()
    size = (image.shape[0], image.shape[1])
    reason = refused(task.nets, task.classifier, PROTOCOLS[task.protocol], size)
    if reason is not None:
        if task.strict:
            raise RunError(f"{name}: {reason}")
        tqdm.write(f"{name}: {reason}", file=sys.stderr)
        return Row(name, label, OUT_OF_RANGE, size_px=size)
    if task.classifier is None:
        boxes, sums = center_boxes(task.nets[0], image)
        edges = boxes[label if len(boxes) > 1 else 0]
        seen = label >= 0 and bool(np.isfinite(edges).all())
        return Row(name, label, OK, _digest(sums), size, given=Guess(label, 1.0, inside(edges, size)) if seen else None)
    windows = find_windows(task.nets, task.classifier, image, mean=answers is None)
    if answers is None:
        assert windows.mean is not None
        answers = np.argsort(-windows.mean, kind="stable")[:GUESSES].tolist()
    found = guess(windows, [*answers, *([label] if label >= 0 else [])], task.rule)
    guesses = tuple(one for one in found[: len(answers)] if one is not None)
    return Row(name, label, OK, _digest(windows.pixel_sums), size, guesses, found[-1] if label >= 0 else None)


def _digest(sums: NDArray[np.int32]) -> str:
    return hashlib.sha256(sums.astype("<i4").tobytes()).hexdigest()[:32]


def read_answers(
    path: Path, dataset: Dataset, classes: Sequence[str], label_of: NDArray[np.int32]
) -> tuple[list[tuple[int, ...]], str | None]:
    """The top-5 classes of each image by a score table, and the table's data set if it has no other images.

    None are an image's that it could not score. Raises ScoresError for a table of other images or classes.
    """
    answers: list[tuple[int, ...]] = []
    rows, scored_id = 0, None
    for part in tables.parts(path):
        if part.classes != tuple(classes):
            raise ScoresError(
                f"{path}: {part.model} and the box nets have different classes: use nets of the same data"
            )
        rows, scored_id = rows + len(part.images), part.metadata["dataset_id"]
        for name, label, posterior, readable in zip(
            part.images, part.labels, part.posterior, part.readable, strict=True
        ):
            if len(answers) == len(dataset.items):
                break
            item = dataset.items[len(answers)]
            if (item.name, -1 if item.label < 0 else label_of[item.label]) != (name, label):
                raise ScoresError(
                    f"{path}: image {len(answers) + 1} is {name} of class {label}, but the data set has {item.name}: "
                    "use a table of the same images"
                )
            order = np.argsort(-posterior, kind="stable")[:GUESSES]
            answers.append(tuple(order.tolist()) if readable and np.isfinite(posterior).all() else ())
    if len(answers) < len(dataset.items):
        raise ScoresError(f"{path}: {rows} images, but the data set has {len(dataset.items)}: use a table of the same")
    return answers, scored_id if rows == len(dataset.items) else None


def settings_of(task: Task, dataset: Dataset, scores: Path | None) -> dict[str, str]:
    """All that the rows depend on, for the tables' metadata."""
    dense = task.classifier is not None
    specs = ",".join(net.engine.spec.to_json() for net in task.nets)
    return {
        "protocol": task.protocol,
        "scales": "+".join(",".join(map(str, net.scales)) for net in task.nets),
        "box_engines": "+".join(net.engine.sha256 for net in task.nets),
        "box_nets": f"[{specs}]",
        "kinds": "+".join(net.kind for net in task.nets),
        "classifier": task.classifier.sha256 if task.classifier else "none",
        "merging": str(task.rule) if dense else "none",
        "top-5_classes": f"scores {file_sha256(scores)}" if scores else "classifier" if dense else "none",
        "runtime": "+".join(dict.fromkeys(engine.runtime for engine in task.engines)),
        "listing": dataset.listing_digest,
        "commit": our_commit(),
    }
