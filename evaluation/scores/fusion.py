"""The mean of posteriors."""

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
    """The mean posterior (VGG section 4.5). Raises ScoresError unless all have the same images, labels and classes.

    An image that any member could not score has that member's status.
    """
    first = members[0]
    for other in members[1:]:
        check_same_images(first, other)
    statuses = tuple(
        next((status for status in row if status != OK), OK)
        for row in zip(*(member.statuses for member in members), strict=True)
    )
    readable = np.array([status == OK for status in statuses])
    mean = np.mean([member.posterior.astype(np.float64) for member in members], 0)
    spec = {"name": name, "classes": first.classes, "members": [json.loads(m.metadata["spec"]) for m in members]}
    metadata = {
        key: _common([member.metadata[key] for member in members])
        for key in ("runtime", "protocol", "scales", "pooling", "dataset_id", "engine_sha256", "commit")
    }
    return Scores(
        first.images,
        first.labels,
        statuses,
        first.pixel_digests if all(m.pixel_digests == first.pixel_digests for m in members) else ("",) * len(statuses),
        np.where(readable[:, None], mean, 0).astype(np.float32),
        {"spec": json.dumps(spec), **metadata},
    )


def fuse_files(paths: Sequence[Path], name: str = FUSED) -> Iterator[Scores]:
    """The fusion of score tables, part by part. Raises ScoresError."""
    for members in itertools.zip_longest(*map(tables.parts, paths)):
        missing = [path for path, member in zip(paths, members, strict=True) if member is None]
        if missing:
            raise ScoresError(f"{missing[0]} has fewer images than the others: use tables of the same images")
        yield fuse(members, name)


def _common(values: list[str]) -> str:
    """The one value that all have, or all of them in order."""
    return values[0] if len(set(values)) == 1 else "+".join(values)
