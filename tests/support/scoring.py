"""A classification in memory: the scores of engines over a whole data set, without a command or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evaluation.run.loop import dataset_id, make_shards
from evaluation.run.score import ScoreMaker
from evaluation.run.submission import Pooling, Protocol
from evaluation.scores.table import Scores, concatenate, with_dataset_id
from infer.data.dataset import Dataset
from infer.engine import Engine
from infer.spec import ModelSpec
from infer.views import default_scales


class ScoredRun(NamedTuple):
    """Scores in memory, [engine][protocol]."""

    scores: tuple[tuple[Scores, ...], ...]


def evaluate(
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    *,
    pooling: Pooling = "scores",
) -> ScoredRun:
    """Scores every engine by its own `protocols`, over all images. Raises RunError."""
    shards = list(make_shards(ScoreMaker(engines, protocols, dataset, pooling), dataset.items))
    content = dataset_id(len(dataset.items), sum(shard.effort.content for shard in shards))
    tables = []
    for number, own in enumerate(protocols):
        parts = [[shard.rows[number][place].scores for shard in shards] for place in range(len(own))]
        tables.append(tuple(with_dataset_id(concatenate(of_table), content) for of_table in parts))
    return ScoredRun(tuple(tables))


def resolve(names: Sequence[str], spec: ModelSpec, scales: Sequence[int] | None) -> tuple[Protocol, ...]:
    """Resolves the protocols of one model: at the given scales, or at its own defaults."""
    return tuple(Protocol(name, tuple(scales) if scales else default_scales(spec, name)) for name in names)
