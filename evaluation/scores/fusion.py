"""Fusion of models: the mean of their posteriors, image by image (VGG section 4.5)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import ScoresError
from . import table as tables
from .table import OK, Scores, check_same_images

FUSED = "fused"


def fuse(members: Sequence[Scores], name: str = FUSED) -> Scores:
    """The mean posterior of tables, or of the same parts of them.

    An image that some member could not score has the status of the first such member. Raises ScoresError unless all
    have the same images and classes.
    """
    first = members[0]
    for other in members[1:]:
        check_same_images(first, other)

    # an image is readable only where every member could score it
    statuses = []
    for own in zip(*(member.statuses for member in members), strict=True):
        statuses.append(next((status for status in own if status != OK), OK))
    readable = np.array([status == OK for status in statuses])
    mean = np.mean([member.posterior.astype(np.float64) for member in members], 0)  # [images, classes]

    # members that saw different pixels leave no digest
    same_pixels = all(member.pixel_digests == first.pixel_digests for member in members)
    spec = {"name": name, "classes": first.classes, "members": [json.loads(m.metadata["spec"]) for m in members]}
    metadata = {"spec": json.dumps(spec)}
    for key in ("runtime", "protocol", "scales", "pooling", "dataset_id", "engine_sha256", "commit"):
        metadata[key] = _joined([member.metadata[key] for member in members])
    return Scores(
        first.images,
        first.labels,
        tuple(statuses),
        first.pixel_digests if same_pixels else ("",) * len(statuses),
        np.where(readable[:, None], mean, 0).astype(np.float32),
        metadata,
    )


def fuse_files(paths: Sequence[Path], name: str = FUSED) -> Iterator[Scores]:
    """The fusion of score tables, part by part. Raises ScoresError."""
    return (fuse(members, name) for members in in_step(paths))


def in_step(paths: Sequence[Path]) -> Iterator[tuple[Scores, ...]]:
    """Parts of several tables in step, one of each table. Raises ScoresError where a table is shorter."""
    for members in itertools.zip_longest(*map(tables.parts, paths)):
        missing = [path for path, member in zip(paths, members, strict=True) if member is None]
        if missing:
            raise ScoresError(f"{missing[0]} has fewer images than the others: use tables of the same images")
        yield members


def _joined(values: list[str]) -> str:
    """The one value that all members have, or all values in order, joined by +."""
    return values[0] if len(set(values)) == 1 else "+".join(values)
