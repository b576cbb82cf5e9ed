"""Runs engines over a data set: decode once, plan views, one posterior per image, protocol and model."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.dataset import Dataset, Item
from infer.engine import Engine
from infer.image import ImageError, Pixels, decode
from infer.spec import ModelSpec
from infer.views import SINGLE_SCALE, ViewPlan, default_scales, merge_plans, out_of_range, plan_views

from .scores import OK, UNKNOWN_LABEL, Scores

Pooling = Literal["scores", "posteriors"]
POOLING_OUTPUT: dict[Pooling, str] = {"scores": "posterior", "posteriors": "posterior_positions"}
"""Mean of the class score map over positions, then softmax (the paper's words), or softmax first, then the mean."""

OUT_OF_RANGE = "out of range"
SMALL_BATCH = 16
"""Images that share a call when their protocols have few views each."""


class RunError(RuntimeError):
    """A run that cannot start or, with --strict, go on; one line."""


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
class Run:
    """Scores of each (engine, protocol), engine by engine, and where the time went."""

    scores: tuple[tuple[Scores, ...], ...]
    engine_seconds: tuple[float, ...]  # of each engine, all its protocols together
    wall_seconds: float


def resolve(names: Sequence[str], spec: ModelSpec, scales: Sequence[int] | None) -> tuple[Protocol, ...]:
    """The protocols of one model: at the given scales, or at its own defaults."""
    return tuple(Protocol(name, tuple(scales) if scales else default_scales(spec, name)) for name in names)


def map_labels(dataset: Dataset, spec: ModelSpec) -> NDArray[np.int32]:
    """The model's class index of each class of the data set. Raises RunError unless the model knows them all."""
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
    commit: str = "unknown",
) -> Run:
    """Scores of every engine for its own `protocols`, over all images in order.

    An image that cannot be read, or that an engine's shapes do not admit, gets a status and stops nothing unless
    `strict`. Raises RunError.
    """
    started = time.monotonic()
    labels = [map_labels(dataset, engine.spec) for engine in engines]
    rows: list[list[list[_Row]]] = [[] for _ in engines]  # [engine][image][protocol]
    seconds_before = [engine.seconds for engine in engines]
    single = all(protocol.name in SINGLE_SCALE for own in protocols for protocol in own)
    with tqdm(total=len(dataset.items), desc="evaluation", unit="img", disable=None) as progress:
        for batch in _decoded(dataset, engines[0].spec, SMALL_BATCH if single else 1, strict):
            for engine, own, engine_rows in zip(engines, protocols, rows, strict=True):
                engine_rows += _score_batch(engine, own, batch, POOLING_OUTPUT[pooling], strict)
            progress.update(len(batch))
    dataset_id = dataset.id
    item_labels = np.array([item.label for item in dataset.items])
    tables = []
    for engine, own, engine_rows, label_of in zip(engines, protocols, rows, labels, strict=True):
        known = np.where(item_labels == UNKNOWN_LABEL, UNKNOWN_LABEL, label_of[item_labels]).astype(np.int32)
        failed = np.zeros(len(engine.spec.classes), np.float32)
        tables.append(
            tuple(
                Scores(
                    tuple(item.name for item in dataset.items),
                    known,
                    tuple(row.status for row in column),
                    tuple(row.pixels for row in column),
                    np.stack([failed if row.posterior is None else row.posterior for row in column]),
                    {
                        "spec": engine.spec.to_json(),
                        "runtime": engine.runtime,
                        "protocol": protocol.name,
                        "scales": ",".join(map(str, protocol.scales)),
                        "pooling": pooling,
                        "dataset_id": dataset_id,
                        "engine_sha256": engine.sha256,
                        "commit": commit,
                    },
                )
                for protocol, column in zip(own, zip(*engine_rows, strict=True), strict=True)
            )
        )
    engine_seconds = tuple(e.seconds - before for e, before in zip(engines, seconds_before, strict=True))
    return Run(tuple(tables), engine_seconds, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """An image of the data set, or why there is none."""

    item: Item
    image: Pixels | None
    status: str


def _decoded(dataset: Dataset, spec: ModelSpec, count: int, strict: bool) -> Iterator[list[_Decoded]]:
    """The images in order, `count` at a time."""
    batch: list[_Decoded] = []
    for item in dataset.items:
        try:
            image = decode(item.read_bytes(), exif=spec.preprocessing.exif, name=item.name)
            batch.append(_Decoded(item, image, OK))
        except (ImageError, OSError) as error:
            if strict:
                raise RunError(f"{error} (--strict stops at the first unreadable image)") from None
            batch.append(_Decoded(item, None, str(error)))
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


class _Work(NamedTuple):
    """An image that an engine can see, with the plans of the protocols that admit it, by their numbers."""

    place: int
    image: Pixels
    plans: dict[int, ViewPlan]


def _score_batch(
    engine: Engine, protocols: Sequence[Protocol], batch: Sequence[_Decoded], output: str, strict: bool
) -> list[list[_Row]]:
    """A row for each image and protocol; every distinct view runs once."""
    rows = [[_Row(decoded.status) for _ in protocols] for decoded in batch]
    work = []
    for place, decoded in enumerate(batch):
        if decoded.image is None:
            continue
        plans = {}
        for number, protocol in enumerate(protocols):
            plan = plan_views(engine.spec, protocol.name, decoded.image.shape[:2], protocol.scales)
            reason = out_of_range(plan, engine.shapes, engine.spec)
            if reason is None:
                plans[number] = plan
                continue
            if strict:
                raise RunError(f"{decoded.item.name}: {reason}")
            tqdm.write(f"{decoded.item.name}: {reason}", file=sys.stderr)
            rows[place][number] = _Row(OUT_OF_RANGE)
        if plans:
            work.append(_Work(place, decoded.image, plans))
    if not work:
        return rows
    merged = [merge_plans(list(item.plans.values())) for item in work]
    results = engine.run(
        engine.load([item.image for item in work]), [each.plan for each in merged], (output, "pixel_sums")
    )
    start = 0
    for item, each in zip(work, merged, strict=True):
        own = slice(start, start + len(each.plan))
        start = own.stop
        means = each.weights @ results[output][own].astype(np.float64)
        for number, mean, places in zip(item.plans, means, each.places, strict=True):
            pixels = _digest(results["pixel_sums"][own][places])
            rows[item.place][number] = _Row(OK, pixels, mean.astype(np.float32))
    return rows


def _digest(sums: NDArray[np.int32]) -> str:
    return hashlib.sha256(sums.astype("<i4").tobytes()).hexdigest()[:32]
