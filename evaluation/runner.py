"""Runs engines over a data set: decode once, plan views, one posterior per image, protocol and model."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.dataset import Dataset, Item
from infer.engine import DeviceImage, Engine
from infer.pipeline import ordered
from infer.spec import ModelSpec, placeholder_classes
from infer.views import SINGLE_SCALE, MergedPlan, ViewPlan, default_scales, merge_plans, out_of_range, plan_views

from .images import Decoded, RunError, read_image
from .scores import OK, UNKNOWN_LABEL, Scores, concatenate

Pooling = Literal["scores", "posteriors"]
POOLING_OUTPUT: dict[Pooling, str] = {"scores": "posterior", "posteriors": "posterior_positions"}
"""Mean of the class score map over positions, then softmax (the paper's words), or softmax first, then the mean."""

OUT_OF_RANGE = "out of range"
SMALL_BATCH, LARGE_BATCH = 40, 8
"""Images of a shard: the first when their protocols have few views each, which then share calls."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol by name with the scales it runs at."""

    name: str
    scales: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """What one engine and protocol made of one image."""

    status: str
    pixels: str = ""
    posterior: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of images `first`, `first` + 1, ... for each engine and each of its protocols."""

    first: int
    scores: tuple[tuple[Scores, ...], ...]
    engine_seconds: tuple[float, ...]  # of each engine, all its protocols together


@dataclass(frozen=True, slots=True)
class Run:
    """Scores of each (engine, protocol), engine by engine, and where the time went."""

    scores: tuple[tuple[Scores, ...], ...]
    engine_seconds: tuple[float, ...]
    wall_seconds: float


def resolve(names: Sequence[str], spec: ModelSpec, scales: Sequence[int] | None) -> tuple[Protocol, ...]:
    """The protocols of one model: at the given scales, or at its own defaults."""
    return tuple(Protocol(name, tuple(scales) if scales else default_scales(spec, name)) for name in names)


def map_labels(dataset: Dataset, spec: ModelSpec) -> NDArray[np.int32]:
    """The model's class index of each class of the data set. Raises RunError unless the model knows them all.

    A model imported without class names is taken at its word: as many classes, in the data set's own sorted order.
    """
    if spec.classes == placeholder_classes(len(dataset.classes)):
        return np.arange(len(dataset.classes), dtype=np.int32)
    index = {name: i for i, name in enumerate(spec.classes)}
    missing = [name for name in dataset.classes if name not in index]
    if missing:
        raise RunError(
            f"{spec.name} knows {len(spec.classes)} classes ({spec.classes[0]} ... {spec.classes[-1]}), but the data "
            f"set has {len(missing)} of {len(dataset.classes)} others ({', '.join(missing[:3])} ...): use the data the "
            "model was trained for"
        )
    return np.array([index[name] for name in dataset.classes], np.int32)


def evaluate(
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    *,
    pooling: Pooling = "scores",
    strict: bool = False,
) -> Run:
    """Scores of every engine for its own `protocols`, over all images, in memory. Raises RunError."""
    started = time.monotonic()
    described = describe(engines, protocols, dataset, pooling)
    shards = list(score(engines, protocols, dataset, described, strict=strict))
    tables = tuple(
        tuple(concatenate([shard.scores[i][j] for shard in shards]) for j in range(len(own)))
        for i, own in enumerate(protocols)
    )
    seconds = tuple(sum(column) for column in zip(*(shard.engine_seconds for shard in shards), strict=True))
    return Run(tables, seconds, time.monotonic() - started)


def describe(
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    pooling: Pooling,
    commit: str = "unknown",
) -> tuple[tuple[dict[str, str], ...], ...]:
    """The metadata of every table, [engine][protocol]: all that its rows depend on."""
    dataset_id = dataset.id
    return tuple(
        tuple(
            {
                "spec": engine.spec.to_json(),
                "runtime": engine.runtime,
                "protocol": protocol.name,
                "scales": ",".join(map(str, protocol.scales)),
                "pooling": pooling,
                "dataset_id": dataset_id,
                "engine_sha256": engine.sha256,
                "commit": commit,
            }
            for protocol in own
        )
        for engine, own in zip(engines, protocols, strict=True)
    )


def shard_images(protocols: Sequence[Sequence[Protocol]]) -> int:
    """How many images a shard has: what may be lost, and what shares a call where there are few views of each."""
    single = all(protocol.name in SINGLE_SCALE for own in protocols for protocol in own)
    return SMALL_BATCH if single else LARGE_BATCH


def score(
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    described: Sequence[Sequence[dict[str, str]]],
    *,
    first: int = 0,
    strict: bool = False,
    workers: int = 1,
) -> Iterator[Shard]:
    """Shards of the images from `first` on (a multiple of `shard_images`), in order, by `workers` decoding threads.

    An image that cannot be read, or that an engine's shapes do not admit, gets a status and stops nothing unless
    `strict`. Raises RunError, also where the data set is no longer what it was.
    """
    labels = [map_labels(dataset, engine.spec) for engine in engines]
    exifs = list(dict.fromkeys(engine.spec.preprocessing.exif for engine in engines))
    size = shard_images(protocols)
    together = size if size == SMALL_BATCH else 1  # images of one call
    items = dataset.items[first:]
    batch: list[Decoded] = []
    rows: list[list[list[_Row]]] = [[] for _ in engines]  # [engine][image][protocol]
    seconds_before = [engine.seconds for engine in engines]
    read = functools.partial(read_image, exifs=exifs, strict=strict)
    with tqdm(total=len(dataset.items), initial=first, desc="evaluation", unit="img", disable=None) as progress:
        for done, decoded in enumerate(ordered(read, items, workers, ahead=together), first + 1):
            batch.append(decoded)
            if len(batch) < together and done < len(dataset.items):
                continue
            loaded: dict[tuple[str, str], DeviceImage] = {}  # engines that see the same pixels in one place share them
            for engine, own, engine_rows in zip(engines, protocols, rows, strict=True):
                exif = engine.spec.preprocessing.exif
                if (engine.device, exif) not in loaded:
                    loaded[engine.device, exif] = engine.load([each.images[exif] for each in batch if each.images])
                output = POOLING_OUTPUT[described[0][0]["pooling"]]  # type: ignore[index]
                engine_rows += _score_batch(engine, own, batch, loaded[engine.device, exif], output, strict)
            progress.update(len(batch))
            batch = []
            if len(rows[0]) == size or done == len(dataset.items):
                start = done - len(rows[0])
                own_items = dataset.items[start:done]
                tables = tuple(
                    _tables(own_items, label_of, engine_rows, metadata)
                    for label_of, engine_rows, metadata in zip(labels, rows, described, strict=True)
                )
                seconds = tuple(e.seconds - before for e, before in zip(engines, seconds_before, strict=True))
                yield Shard(start, tables, seconds)
                rows, seconds_before = [[] for _ in engines], [engine.seconds for engine in engines]


def _tables(
    items: Sequence[Item],
    label_of: NDArray[np.int32],
    rows: Sequence[Sequence[_Row]],
    described: Sequence[dict[str, str]],
) -> tuple[Scores, ...]:
    """The rows of one engine as a table for each protocol."""
    labels = np.array([item.label for item in items])
    known = np.where(labels == UNKNOWN_LABEL, UNKNOWN_LABEL, label_of[labels]).astype(np.int32)
    failed = np.zeros(len(json.loads(described[0]["spec"])["classes"]), np.float32)
    return tuple(
        Scores(
            tuple(item.name for item in items),
            known,
            tuple(row.status for row in column),
            tuple(row.pixels for row in column),
            np.stack([failed if row.posterior is None else row.posterior for row in column]),
            metadata,
        )
        for metadata, column in zip(described, zip(*rows, strict=True), strict=True)
    )


class _Work(NamedTuple):
    """A readable image of a batch with the plans of the protocols that can see it, by their numbers."""

    place: int
    plans: dict[int, ViewPlan]
    merged: MergedPlan


def _score_batch(
    engine: Engine,
    protocols: Sequence[Protocol],
    batch: Sequence[Decoded],
    image: DeviceImage,
    output: str,
    strict: bool,
) -> list[list[_Row]]:
    """A row for each image and protocol; every distinct view runs once. `image` holds the readable ones."""
    rows = [[_Row(decoded.status) for _ in protocols] for decoded in batch]
    work = []
    for place, decoded in enumerate(batch):
        if not decoded.images:
            continue
        height, width, _ = decoded.images[engine.spec.preprocessing.exif].shape
        plans = {}
        for number, protocol in enumerate(protocols):
            plan = plan_views(engine.spec, protocol.name, (height, width), protocol.scales)
            reason = out_of_range(plan, engine.shapes, engine.spec)
            if reason is None:
                plans[number] = plan
                continue
            if strict:
                raise RunError(f"{decoded.item.name}: {reason}")
            tqdm.write(f"{decoded.item.name}: {reason}", file=sys.stderr)
            rows[place][number] = _Row(OUT_OF_RANGE)
        work.append(_Work(place, plans, merge_plans((height, width), list(plans.values()))))
    if not any(each.plans for each in work):
        return rows
    results = engine.run(image, [each.merged.plan for each in work], (output, "pixel_sums"))
    start = 0
    for place, plans, merged in work:
        own = slice(start, start + len(merged.plan))
        start = own.stop
        means = merged.weights @ results[output][own].astype(np.float64)
        for number, mean, places in zip(plans, means, merged.places, strict=True):
            pixels = _digest(results["pixel_sums"][own][places])
            rows[place][number] = _Row(OK, pixels, mean.astype(np.float32))
    return rows


def _digest(sums: NDArray[np.int32]) -> str:
    return hashlib.sha256(sums.astype("<i4").tobytes()).hexdigest()[:32]
