"""Score tables: the posterior of every image for one model and protocol, as Parquet. Everything else is computed
from these files. They hold nothing that differs between two runs of the same command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infer.files import replacing

OK = "ok"
UNKNOWN_LABEL = -1


class ScoresError(ValueError):
    """A file that is not a score table, or tables that do not belong together; one line."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One row per image, in the order of the data set.

    labels i32 [N], -1 where unknown; statuses "ok" or why the image could not be scored; pixels: digest of the
    pixel sums that the engine returned; posterior f32 [N, classes], zero where the status is not "ok".
    """

    images: tuple[str, ...]
    labels: NDArray[np.int32]
    statuses: tuple[str, ...]
    pixels: tuple[str, ...]
    posterior: NDArray[np.float32]
    metadata: Mapping[str, str]  # spec, protocol, scales, pooling, runtime, dataset_id, engine_sha256, commit

    @property
    def model(self) -> str:
        return str(json.loads(self.metadata["spec"])["name"])

    @property
    def scales(self) -> tuple[int, ...]:
        """Q, in the order they were given; of a fusion of models at different scales, all of them, sorted."""
        sets = [tuple(int(q) for q in part.split(",")) for part in self.metadata["scales"].split("+")]
        return sets[0] if len(sets) == 1 else tuple(sorted(set().union(*sets)))

    @property
    def readable(self) -> NDArray[np.bool_]:
        return np.array([status == OK for status in self.statuses])


def file_name(metadata: Mapping[str, str]) -> str:
    """MODEL.RUNTIME-PRECISION.PROTOCOL.qQ1-Q2.POOLING.parquet"""
    model = json.loads(metadata["spec"])["name"]
    scales = metadata["scales"].replace(",", "-")
    return f"{model}.{metadata['runtime']}.{metadata['protocol']}.q{scales}.{metadata['pooling']}.parquet"


def write(scores: Scores, path: Path) -> None:
    """Writes under a temporary name and renames."""
    classes = scores.posterior.shape[1]
    posterior = pa.FixedSizeListArray.from_arrays(pa.array(scores.posterior.ravel()), classes)
    table = pa.table(
        {
            "image": pa.array(scores.images, pa.string()),
            "label": pa.array(scores.labels, pa.int32()),
            "status": pa.array(scores.statuses, pa.string()),
            "pixels": pa.array(scores.pixels, pa.string()),
            "posterior": posterior,
        }
    ).replace_schema_metadata(dict(scores.metadata))
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


def read(path: Path) -> Scores:
    """Raises ScoresError for a file that is no score table."""
    try:
        table = pq.read_table(path)
        metadata = {
            key.decode(): value.decode() for key, value in table.schema.metadata.items() if key != b"ARROW:schema"
        }
        posterior = table["posterior"].combine_chunks()
        return Scores(
            tuple(table["image"].to_pylist()),
            table["label"].to_numpy(),
            tuple(table["status"].to_pylist()),
            tuple(table["pixels"].to_pylist()),
            posterior.flatten().to_numpy().reshape(len(posterior), posterior.type.list_size),
            metadata,
        )
    except FileNotFoundError:
        raise ScoresError(f"{path}: no such file, expected a score table (.parquet)") from None
    except (pa.ArrowInvalid, KeyError, AttributeError) as error:
        raise ScoresError(f"{path}: not a score table of evaluation.ilsvrc ({error})") from None
