"""Tables of classified regions as Parquet: for each image its proposals, and what each net makes of each.

All that a run computes is here: detections, fusions and every score come from these files. They hold nothing that
differs between two runs of the same command. While a run goes on its shards are in OUT/unfinished-regions.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infer.data import own_parquet as parquet
from infer.data.annotations import Box
from infer.spec import Exif, ModelSpec, Size

from ..errors import ScoresError
from ..run.loop import Shard
from ..run.store import UNFINISHED, ShardNotes, UnfinishedShards

SHARD_IMAGES, ROW_GROUP = 8, 8
"""Images of a shard, and of a part of a table that is read at once: 2,000 regions of 201 classes are 1.6 MB."""
OF_A_RUN = ("nets", "engines", "proposals", "listing", "mirrored")
"""What makes a run another one, by the keys of a table's metadata."""
KIND = "detection"
"""Value of `kind` in report.json, by which it is known."""
REGION = pa.struct([(edge, pa.float32()) for edge in Box._fields])
FIXED = {
    "image": pa.string(),
    "status": pa.string(),
    "pixels": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "boxes": pa.list_(REGION),
}


def schema(nets: int) -> pa.Schema:
    """The columns of a table of so many nets, each with its posteriors of all regions, one after the other."""
    return pa.schema({**FIXED, **{f"posterior_{number}": pa.list_(pa.float32()) for number in range(nets)}})


@dataclass(frozen=True, slots=True)
class ClassifiedImage:
    """The regions of an image: boxes f32 [R, 4] in its pixels, and by each net posteriors f32 [R, classes].

    status: "ok" or why there are none; pixel_digest: of the pixel sums that the first engine returned.
    """

    image: str
    status: str
    pixel_digest: str
    size_px: Size
    boxes: NDArray[np.float32]
    posteriors: tuple[NDArray[np.float32], ...]


class UnfinishedRegions(UnfinishedShards[Sequence[ClassifiedImage], ShardNotes]):
    """The shards of one run over `images` images with `nets` nets; `settings` are all that its rows depend on."""

    def __init__(self, out: Path, settings: Mapping[str, str], nets: int, images: int, *, resume: bool) -> None:
        self.settings, self._schema = dict(settings), schema(nets)
        run = {**settings, "number of images": str(images)}
        super().__init__(out / UNFINISHED[KIND], run, images, SHARD_IMAGES, resume=resume)

    def add(self, shard: Shard[Sequence[ClassifiedImage]]) -> None:
        notes = ShardNotes(**self._basic_notes(shard, len(shard.rows), shard.effort.wall_seconds))
        self._write_shard(_as_table(shard.rows, self._schema), notes)
        self._take_note(shard.first, [notes])

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds inside the engines, and in all."""
        notes = [note for (note,) in self._notes.values()]
        return sum(sum(note.engine_seconds) for note in notes), sum(note.wall_seconds for note in notes)

    def finish(self, path: Path) -> None:
        """Writes the table. Raises RunError."""
        self._join({**self.settings, "dataset_id": self.dataset_id}, path, ROW_GROUP)

    def _difference(self, found: Mapping[str, str], run: Mapping[str, Any]) -> str | None:
        for name in {**run, **found}:
            before, now = (str(side.get(name)) for side in (found, run))
            if before != now:
                return f"the {name} changed from {before[:40]} to {now[:40]}"
        return None


def _as_table(rows: Sequence[ClassifiedImage], columns: pa.Schema) -> pa.Table:
    counts = np.cumsum([0, *(len(row.boxes) for row in rows)], dtype=np.int32)
    boxes = np.concatenate([row.boxes for row in rows]) if rows else np.empty((0, 4), np.float32)
    edges = [pa.array(np.ascontiguousarray(edge), pa.float32()) for edge in boxes.T]
    arrays = [
        pa.array([row.image for row in rows]),
        pa.array([row.status for row in rows]),
        pa.array([row.pixel_digest for row in rows]),
        pa.array([row.size_px[0] for row in rows], pa.int32()),
        pa.array([row.size_px[1] for row in rows], pa.int32()),
        pa.ListArray.from_arrays(counts, pa.StructArray.from_arrays(edges, Box._fields)),
    ]
    for number in range(len(columns) - len(FIXED)):
        flat = [row.posteriors[number].reshape(-1) for row in rows]
        ends = np.cumsum([0, *map(len, flat)], dtype=np.int32)
        arrays.append(pa.ListArray.from_arrays(ends, pa.array(np.concatenate(flat), pa.float32())))
    return pa.Table.from_arrays(arrays, schema=columns)


class RegionsHead(NamedTuple):
    """What a table says of itself: names of its nets, their classes with background, and its metadata."""

    nets: tuple[str, ...]
    classes: tuple[str, ...]
    images: int
    metadata: dict[str, str]


def read_head(path: Path) -> RegionsHead:
    """Raises ScoresError for a file that is no table of regions."""
    with parquet.opened(path, "a table of regions", "evaluation.detection", ScoresError) as table:
        return _head(table)


def check_same_run(path: Path, metadata: Mapping[str, str]) -> None:
    """Raises ScoresError where a file would be lost: a table of another run, or what is none."""
    if not path.exists():
        return
    known = read_head(path).metadata
    other = [name for name in OF_A_RUN if known.get(name) != metadata[name]]
    if other:
        raise ScoresError(
            f"{path}: posteriors of another run (of other {other[0]}), which would be lost: use another --out, or "
            "remove it"
        )


def exif_of(path: Path) -> Exif:
    """What the nets of a table do with the rotation that a camera noted. Raises ScoresError."""
    spec = json.loads(read_head(path).metadata["specs"])[0]
    return ModelSpec.from_json(spec).preprocessing.exif


def read_regions(path: Path) -> Generator[ClassifiedImage]:
    """Reads a table, in its order. Raises ScoresError for a file that is no table of regions; of damage at the end."""
    with parquet.opened(path, "a table of regions", "evaluation.detection", ScoresError) as table:
        head = _head(table)
        names = [f"posterior_{number}" for number in range(len(head.nets))]
        for part in table.parts(ROW_GROUP):
            for row in range(len(part)):
                known = [part.column(name)[row].as_py() for name in ("image", "status", "pixels", "height", "width")]
                found = part.column("boxes")[row].values
                edges = [found.field(edge).to_numpy(zero_copy_only=False) for edge in Box._fields]
                boxes = np.stack(edges, 1).astype(np.float32)
                posteriors = []
                for name in names:
                    values = part.column(name)[row].values.to_numpy(zero_copy_only=False)
                    if values.size != len(boxes) * len(head.classes):
                        raise ValueError(f"{values.size} posteriors of {len(boxes)} regions")
                    posteriors.append(values.reshape(len(boxes), len(head.classes)))
                image, status, pixels, height, width = known
                yield ClassifiedImage(image, status, pixels, (height, width), boxes, tuple(posteriors))


def _head(table: parquet.StoredTable) -> RegionsHead:
    """Raises ValueError and KeyError, which say of a file that it is none."""
    nets = tuple(json.loads(table.metadata["nets"]))
    classes = tuple(json.loads(table.metadata["classes"]))
    if not table.schema.equals(schema(len(nets))):
        raise ValueError("other columns")
    return RegionsHead(nets, classes, table.rows, table.metadata)
