"""Runs engines over a data set: decode once, plan views, one posterior per image, protocol and model, in shards."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Dataset, Item
from infer.engine import HOST, DeviceImage, Engine
from infer.pipeline import one_behind, ordered
from infer.views import SINGLE_SCALE

from ..scores.mistakes import Mistake
from ..scores.table import UNKNOWN_LABEL, Scores, concatenate, with_dataset_id
from .identity import Described, content_of, dataset_id, describe
from .image_batch import Row, Running, planner, start_batch
from .images import Decoded, read_image
from .labels import map_labels
from .mistakes import find_mistakes
from .protocol import POOLING_OUTPUT, Pooling, Protocol

SMALL_BATCH, LARGE_BATCH = 40, 8
"""Images of a shard: the first when their protocols have few views each, which then share calls."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of images `first`, `first` + 1, ... for each engine and each of its protocols.

    content: sum of the images' digests (see `content_of`); engine_seconds of each engine, all its protocols together;
    view_pixels and mistakes for each engine and protocol.
    """

    first: int
    scores: tuple[tuple[Scores, ...], ...]
    content: int
    engine_seconds: tuple[float, ...]
    view_pixels: tuple[tuple[int, ...], ...]
    mistakes: tuple[tuple[tuple[Mistake, ...], ...], ...]

    @property
    def images(self) -> int:
        return len(self.scores[0][0].images)


@dataclass(frozen=True, slots=True)
class Run:
    """Scores of each (engine, protocol), engine by engine, and where the time went."""

    scores: tuple[tuple[Scores, ...], ...]
    engine_seconds: tuple[float, ...]
    wall_seconds: float


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
    described = describe(engines, protocols, pooling)
    shards = list(score(engines, protocols, dataset, described, strict=strict))
    content = dataset_id(len(dataset.items), sum(shard.content for shard in shards))
    tables = tuple(
        tuple(with_dataset_id(concatenate([shard.scores[i][j] for shard in shards]), content) for j in range(len(own)))
        for i, own in enumerate(protocols)
    )
    seconds = tuple(sum(column) for column in zip(*(shard.engine_seconds for shard in shards), strict=True))
    return Run(tables, seconds, time.monotonic() - started)


def shard_images(protocols: Sequence[Sequence[Protocol]]) -> int:
    """How many images a shard has: what may be lost, and what shares a call where there are few views of each."""
    single = all(protocol.name in SINGLE_SCALE for own in protocols for protocol in own)
    return SMALL_BATCH if single else LARGE_BATCH


def score(
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    described: Described,
    *,
    starts: Iterable[int] | None = None,
    strict: bool = False,
    workers: int = 1,
    mistakes: int = 0,
    on_images: Callable[[int], None] = lambda _: None,
) -> Iterator[Shard]:
    """Shards of the images at `starts` (multiples of `shard_images`; all by default), by `workers` decoding threads.

    An image that cannot be read, or that an engine's shapes do not admit, gets a status and stops nothing unless
    `strict`. Of each table a shard has its `mistakes` most confident ones. `on_images` hears of each batch, how many
    images it had. Raises RunError, also where the data set is no longer what it was.
    """
    size = shard_images(protocols)
    starts = range(0, len(dataset.items), size) if starts is None else starts
    ranges = [range(start, min(start + size, len(dataset.items))) for start in starts]
    labels = [map_labels(dataset, engine.spec) for engine in engines]
    plans = [planner(engine, own) for engine, own in zip(engines, protocols, strict=True)]
    exifs = list(dict.fromkeys(engine.spec.preprocessing.exif for engine in engines))
    output = POOLING_OUTPUT[described[0][0]["pooling"]]  # type: ignore[index]
    together = size if size == SMALL_BATCH else 1  # images of one call
    items = (dataset.items[place] for places in ranges for place in places)
    decoded = ordered(functools.partial(read_image, exifs=exifs, strict=strict), items, workers, ahead=together)

    def start(images: int) -> tuple[list[Decoded], list[Running]]:
        batch = [next(decoded) for _ in range(images)]
        loaded: dict[tuple[str, str], DeviceImage] = {}  # engines that see the same pixels in one place share them
        running = []
        for engine, own, plan in zip(engines, protocols, plans, strict=True):
            exif = engine.spec.preprocessing.exif
            if (engine.device, exif) not in loaded:
                loaded[engine.device, exif] = engine.load([each.images[exif] for each in batch if each.images])
            running.append(start_batch(engine, own, plan, batch, loaded[engine.device, exif], output, strict))
        return batch, running

    counts = (min(together, places.stop - first) for places in ranges for first in places[::together])
    order = collecting_order(engines)
    started: Iterator[tuple[list[Decoded], list[Running]]] = map(start, counts)
    if any(engine.device != HOST for engine in engines):
        started = one_behind(started)
    for places in ranges:
        rows: list[list[list[Row]]] = [[] for _ in engines]  # [engine][image][protocol]
        before, content = [engine.seconds for engine in engines], 0
        while len(rows[0]) < len(places):
            batch, running = next(started)
            for number in order:
                rows[number] += running[number].collect()
            content += sum(content_of(each.item.label, each.sha256) for each in batch)
            on_images(len(batch))
        own_items = [dataset.items[place] for place in places]
        columns = [list(zip(*engine_rows, strict=True)) for engine_rows in rows]  # [engine][protocol][image]
        tables = tuple(
            _tables(own_items, label_of, own_columns, metadata)
            for label_of, own_columns, metadata in zip(labels, columns, described, strict=True)
        )
        yield Shard(
            places.start,
            tables,
            content,
            tuple(engine.seconds - earlier for engine, earlier in zip(engines, before, strict=True)),
            tuple(tuple(sum(row.view_pixels for row in column) for column in own) for own in columns),
            tuple(
                tuple(find_mistakes(one, column, mistakes) for one, column in zip(table, own, strict=True))
                for table, own in zip(tables, columns, strict=True)
            ),
        )


def collecting_order(engines: Sequence[Engine]) -> list[int]:
    """Numbers of the engines as they are to be waited for: those on the host, which compute meanwhile, then the last
    of those on a GPU, when the others are done, too: one wait for an ensemble."""
    host = [number for number, engine in enumerate(engines) if engine.device == HOST]
    return host + [number for number in reversed(range(len(engines))) if number not in host]


def _tables(
    items: Sequence[Item],
    label_of: NDArray[np.int32],
    columns: Sequence[Sequence[Row]],
    described: Sequence[dict[str, str]],
) -> tuple[Scores, ...]:
    """The rows of one engine, [protocol][image], as a table for each protocol."""
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
        for metadata, column in zip(described, columns, strict=True)
    )
