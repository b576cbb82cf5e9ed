"""Tables of boxes as Parquet: for each image the guesses of classes and boxes, in the image's own pixels. Every error
is computed from these files. They hold nothing that differs between two runs of the same command.

A run keeps its tables in OUT/unfinished-boxes while it goes on: run.json says what it is, and each shard, committed by
rename and named by its first image, carries beside its rows what they were made of and how long that took. At the end
they become OUT/boxes/*.parquet, the same bytes however often the run was interrupted, and the folder goes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infer.boxes.finding import Guess
from infer.data.annotations import Box
from infer.files import replacing
from infer.spec import Size

from ..errors import RunError, ScoresError
from ..run.identity import dataset_id
from ..scores.table import ROW_GROUP

SHARD_IMAGES = 8
UNFINISHED = "unfinished-boxes"
GUESS = pa.struct([("class", pa.int32()), ("score", pa.float64()), *((edge, pa.float64()) for edge in Box._fields)])
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "label": pa.int32(),
        "status": pa.string(),
        "pixels": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "guesses": pa.list_(GUESS),
        "given": GUESS,
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """What was found in one image: up to five guesses, the surest class first, and the box of its given class.

    status "ok" or why there are none; pixels: digest of the pixel sums that the engines returned; size_px (height,
    width) of the image that the boxes are in.
    """

    image: str
    label: int
    status: str
    pixels: str = ""
    size_px: Size = (0, 0)
    guesses: tuple[Guess, ...] = ()
    given: Guess | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows of the images `first`, `first` + 1, ...; content: sum of the images' digests (runner.content_of)."""

    first: int
    rows: tuple[Row, ...]
    content: int
    engine_seconds: float
    wall_seconds: float


class UnfinishedBoxes:
    """The shards of one run. Raises RunError if others are there and `resume` was not asked for, or of another run."""

    def __init__(self, out: Path, settings: Mapping[str, str], images: int, *, resume: bool) -> None:
        self._folder, self._settings, self._images = out / UNFINISHED, dict(settings), images
        self._starts = range(0, images, SHARD_IMAGES)
        described = {**self._settings, "number of images": str(images)}
        if self.done:
            self._check(described, resume)
        else:
            with replacing(self._folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(described))

    @property
    def pending(self) -> list[int]:
        return [first for first in self._starts if not self._path(first).exists()]

    @property
    def done(self) -> int:
        """Images."""
        shards = [int(path.stem) for path in self._folder.glob("*.parquet")]
        return sum(min(SHARD_IMAGES, self._images - first) for first in shards)

    def add(self, shard: Shard) -> None:
        notes = {
            "content": f"{shard.content:x}",
            "engine_seconds": f"{shard.engine_seconds:.6f}",
            "wall_seconds": f"{shard.wall_seconds:.6f}",
        }
        _write([_to_arrow(shard.rows, notes)], self._path(shard.first))

    def seconds(self) -> tuple[float, float]:
        """(inside the engines, in all)"""
        notes = [self._notes(first) for first in self._starts]
        return sum(float(n["engine_seconds"]) for n in notes), sum(float(n["wall_seconds"]) for n in notes)

    def dataset_id(self) -> str:
        """Of the images read, as score tables have it."""
        content = sum(int(self._notes(first)["content"], 16) for first in self._starts)
        return dataset_id(self._images, content)

    def finish(self, path: Path) -> None:
        metadata = {**self._settings, "dataset_id": self.dataset_id()}
        _write((pq.read_table(self._path(f)).replace_schema_metadata(metadata) for f in self._starts), path)

    def discard(self) -> None:
        shutil.rmtree(self._folder)

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:08d}.parquet"

    def _notes(self, first: int) -> dict[str, str]:
        metadata = pq.read_schema(self._path(first)).metadata
        return {key.decode(): value.decode() for key, value in metadata.items()}

    def _check(self, described: dict[str, str], resume: bool) -> None:
        try:
            found = dict(json.loads((self._folder / "run.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._folder} holds a run that another version began, or is damaged ({error}): remove that folder "
                "to begin again"
            ) from None
        if not resume:
            raise RunError(
                f"{self._folder} holds {self.done} of {found.get('number of images')} images of a run that did not "
                "end: go on with it by --resume, or remove that folder to begin again"
            )
        for name in {**described, **found}:
            before, now = (str(side.get(name)) for side in (found, described))
            if before != now:
                raise RunError(
                    f"--resume: the {name} changed from {before[:40]} to {now[:40]} since the run in {self._folder} "
                    "began: use what it began with, or remove that folder to begin again"
                )


def read_rows(path: Path) -> Iterator[Row]:
    """Of a table, in its order. Raises ScoresError for a file that is no table of boxes."""
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                raise ValueError("other columns")
            for batch in file.iter_batches(ROW_GROUP):
                for row in batch.to_pylist():
                    size = row["height"], row["width"]
                    guesses, given = tuple(map(_guess, row["guesses"])), row["given"] and _guess(row["given"])
                    yield Row(row["image"], row["label"], row["status"], row["pixels"], size, guesses, given)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ScoresError(f"{path}: not a table of boxes of evaluation.localization ({said})") from None


def _guess(found: Mapping[str, Any]) -> Guess:
    return Guess(found["class"], found["score"], Box(*(found[edge] for edge in Box._fields)))


def _to_arrow(rows: Sequence[Row], metadata: Mapping[str, str]) -> pa.Table:
    def plain(guess: Guess) -> dict[str, float]:
        return {"class": guess.label, "score": guess.score, **guess.box._asdict()}

    content = [
        {
            "image": row.image,
            "label": row.label,
            "status": row.status,
            "pixels": row.pixels,
            "height": row.size_px[0],
            "width": row.size_px[1],
            "guesses": [plain(guess) for guess in row.guesses],
            "given": row.given and plain(row.given),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(content, SCHEMA).replace_schema_metadata(dict(metadata))


def _write(tables: Iterable[pa.Table], path: Path) -> None:
    """Bytes that depend on the rows alone, not on how they are cut into tables."""
    waiting: list[pa.Table] = []
    with replacing(path) as unfinished, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            waiting.append(table)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(unfinished, table.schema, compression="zstd"))
            while sum(map(len, waiting)) >= ROW_GROUP:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined[:ROW_GROUP].combine_chunks(), ROW_GROUP)
                waiting = [joined[ROW_GROUP:]]
        rest = pa.concat_tables(waiting)
        if len(rest) and writer is not None:
            writer.write_table(rest.combine_chunks(), ROW_GROUP)
