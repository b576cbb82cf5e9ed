"""Score tables: the posterior of every image for one model and protocol, as Parquet. Everything else is computed
from these files. They hold nothing that differs between two runs of the same command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infer.files import replacing

from ..errors import ScoresError

OK = "ok"
ROW_GROUP = 1000
"""Rows that are written and read at a time."""
UNKNOWN_LABEL = -1


@dataclass(frozen=True, slots=True)
class Scores:
    """One row per image, in the order of the data set.

    labels i32 [N], -1 where unknown; statuses "ok" or why the image could not be scored; pixel_digests: digest of the
    pixel sums that the engine returned; posterior f32 [N, classes], zero where the status is not "ok".
    """

    images: tuple[str, ...]
    labels: NDArray[np.int32]
    statuses: tuple[str, ...]
    pixel_digests: tuple[str, ...]
    posterior: NDArray[np.float32]
    metadata: Mapping[str, str]  # spec, protocol, scales, pooling, runtime, dataset_id, engine_sha256, commit

    @property
    def model(self) -> str:
        return str(json.loads(self.metadata["spec"])["name"])

    @property
    def classes(self) -> tuple[str, ...]:
        """What the columns of `posterior` stand for."""
        return tuple(json.loads(self.metadata["spec"])["classes"])

    @property
    def scales(self) -> tuple[int, ...]:
        """Q, in the order they were given; of a fusion of models at different scales, all of them, sorted."""
        sets = [tuple(int(q) for q in part.split(",")) for part in self.metadata["scales"].split("+")]
        return sets[0] if len(sets) == 1 else tuple(sorted(set().union(*sets)))

    @property
    def readable(self) -> NDArray[np.bool_]:
        return np.array([status == OK for status in self.statuses], np.bool_)


def file_name(metadata: Mapping[str, str]) -> str:
    """MODEL.RUNTIME-PRECISION.PROTOCOL.qQ1-Q2.POOLING.parquet"""
    model = json.loads(metadata["spec"])["name"]
    scales = metadata["scales"].replace(",", "-")
    return f"{model}.{metadata['runtime']}.{metadata['protocol']}.q{scales}.{metadata['pooling']}.parquet"


def with_dataset_id(scores: Scores, dataset_id: str) -> Scores:
    return replace(scores, metadata={**scores.metadata, "dataset_id": dataset_id})


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Parts of one table, in order, as one."""
    return Scores(
        tuple(name for part in parts for name in part.images),
        np.concatenate([part.labels for part in parts]),
        tuple(status for part in parts for status in part.statuses),
        tuple(digest for part in parts for digest in part.pixel_digests),
        np.concatenate([part.posterior for part in parts]),
        parts[0].metadata,
    )


def check_same_images(one: Scores, other: Scores) -> None:
    """Raises ScoresError unless two tables (or the same parts of two) have the same images and classes."""
    if other.metadata["dataset_id"] != one.metadata["dataset_id"] or other.images != one.images:
        raise ScoresError(
            f"{other.model} was scored on data set {other.metadata['dataset_id']} ({len(other.images)} images), "
            f"{one.model} on {one.metadata['dataset_id']} ({len(one.images)}): use tables of the same images"
        )
    if other.classes != one.classes:
        raise ScoresError(f"{other.model} and {one.model} have different classes: their posteriors mean other things")


def write(parts: Iterable[Scores], path: Path) -> None:
    """Writes the parts of one table, in order, as `write_regrouped` does."""
    write_regrouped(map(_to_arrow, parts), path)


def write_regrouped(parts: Iterable[pa.Table], path: Path) -> None:
    """Writes the parts of one Parquet table, in order, under a temporary name and renames.

    The bytes depend on the rows alone, not on how they are cut into parts. Holds ROW_GROUP rows and a part in memory.
    """
    with replacing(path) as unfinished, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.Table] = []
        for part in parts:
            waiting.append(part)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(unfinished, part.schema, compression="zstd"))
            while sum(map(len, waiting)) >= ROW_GROUP:
                table = pa.concat_tables(waiting)
                writer.write_table(table[:ROW_GROUP].combine_chunks(), ROW_GROUP)
                waiting = [table[ROW_GROUP:]]

        rest = pa.concat_tables(waiting)
        if len(rest) and writer is not None:
            writer.write_table(rest.combine_chunks(), ROW_GROUP)


def _to_arrow(scores: Scores) -> pa.Table:
    classes = scores.posterior.shape[1]
    return pa.table(
        {
            "image": pa.array(scores.images, pa.string()),
            "label": pa.array(scores.labels, pa.int32()),
            "status": pa.array(scores.statuses, pa.string()),
            "pixels": pa.array(scores.pixel_digests, pa.string()),
            "posterior": pa.FixedSizeListArray.from_arrays(pa.array(scores.posterior.ravel()), classes),
        }
    ).replace_schema_metadata(dict(scores.metadata))


def read(path: Path) -> Scores:
    """The whole table. Raises ScoresError for a file that is no score table."""
    return concatenate(list(parts(path)))


def classes(path: Path) -> tuple[str, ...]:
    """What the posteriors of a table stand for. Raises ScoresError."""
    for part in parts(path):
        return part.classes
    return ()


def parts(path: Path) -> Iterator[Scores]:
    """The table ROW_GROUP rows at a time; one without rows is one empty part. Raises ScoresError."""
    try:
        with pq.ParquetFile(path) as file:
            metadata = {
                key.decode(): value.decode()
                for key, value in file.schema_arrow.metadata.items()
                if key != b"ARROW:schema"
            }
            json.loads(metadata["spec"])
            for batch in file.iter_batches(ROW_GROUP):
                posterior = batch["posterior"]
                yield Scores(
                    tuple(batch["image"].to_pylist()),
                    batch["label"].to_numpy(),
                    tuple(batch["status"].to_pylist()),
                    tuple(batch["pixels"].to_pylist()),
                    posterior.flatten().to_numpy().reshape(len(posterior), posterior.type.list_size),
                    metadata,
                )
    except FileNotFoundError:
        raise ScoresError(f"{path}: no such file, expected a score table (.parquet)") from None
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise ScoresError(f"{path}: not a score table of evaluation.ilsvrc ({error})") from None
