"""Tables of features made by hand, whose classes overlap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evaluation.features.collection import one_of
from evaluation.features.table import FORMAT, PART, FeatureRow, Table, UnfinishedTable
from evaluation.run.loop import Effort, Shard
from evaluation.scores.table import OK


def noisy(kind: str = "folders", *, counts: tuple[int, ...] = (40, 40, 40), seed: int = 0, width: int = 12) -> Table:
    """Examples whose classes overlap, so that C matters; two of five test where `kind` has sets."""
    random = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    order = random.permutation(len(classes))
    features = random.normal(0, 1, (len(classes), width)).astype(np.float32)
    features[np.arange(len(classes)), classes] += 1.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    sets = ["train", "train", "val", "test", "test"] if kind.startswith("voc") else ["train"] * 3 + ["val"] * 2
    drawn = kind.startswith("caltech")
    splits = np.array([""] * len(order) if drawn else [sets[i % 5] for i in range(len(order))])
    return Table(
        tuple(f"{i}.png" for i in range(len(order))),
        splits,
        (OK,) * len(order),
        one_of(len(counts), classes[order]),
        features[order],
        ({"kind": kind, "classes": json.dumps(["a", "b", "c", "d"][: len(counts)])},),
    )


def write_table(path: Path, table: Table, **metadata: str) -> Path:
    keys = ("scales", "combine", "normalise", "regions", "engine_sha256", "commit")
    values = {"format": FORMAT, **dict.fromkeys(keys, "1"), "specs": json.dumps([{"name": "hand"}])}
    values |= {**table.metadata[0], **metadata}
    unfinished = UnfinishedTable(path, values, "listing", table.features.shape[1], len(table.images), resume=False)
    rows = [
        FeatureRow(image, str(split), labels, status, "", image, features if status == OK else None)
        for image, split, labels, status, features in zip(
            table.images, table.splits, table.labels, table.statuses, table.features, strict=True
        )
    ]
    effort = Effort(0, (), 0.0)
    starts = range(0, len(rows), PART)
    cuts = [0, *(start + 6 for start in starts[1:]), len(rows)]  # a shard need not have a row for each image
    for start, first, last in zip(starts, cuts[:-1], cuts[1:], strict=True):
        unfinished.add(Shard(start, min(PART, len(rows) - start), rows[first:last], effort))
    assert unfinished.finish() == len(rows)
    return path
