"""Tables of boxes as Parquet: for each image the guesses of classes and boxes, in the image's own pixels.

Every error is computed from these files. They hold nothing that differs between two runs of the same command.

While a run goes on its shards are in OUT/unfinished-boxes (see run/store.py), of which OUT/boxes/*.parquet are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from infer.boxes.finding import Guess
from infer.data import own_parquet as parquet
from infer.data.annotations import Box
from infer.spec import Size

from ..errors import ScoresError
from ..run.loop import Shard
from ..run.store import UNFINISHED, ShardNotes, UnfinishedShards
from ..scores import table as tables

SHARD_IMAGES = 8
KIND = "localization"
"""Value of `kind` in report.json, by which it is known."""
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
class LocatedImage:
    """The boxes found in one image: up to five guesses, the surest class first, and the box of its given class.

    status: "ok" or why there are none; pixel_digest: of the pixel sums that the engines returned; size_px: (height,
    width) of the image that the boxes are in.
    """

    image: str
    label: int
    status: str
    pixel_digest: str = ""
    size_px: Size = (0, 0)
    guesses: tuple[Guess, ...] = ()
    given: Guess | None = None


class UnfinishedBoxes(UnfinishedShards[Sequence[LocatedImage], ShardNotes]):
    """The shards of one run over `images` images; `settings` are all that its rows depend on."""

    def __init__(self, out: Path, settings: Mapping[str, str], images: int, *, resume: bool) -> None:
        self.settings = dict(settings)
        run = {**settings, "number of images": str(images)}
        super().__init__(out / UNFINISHED[KIND], run, images, SHARD_IMAGES, resume=resume)

    def add(self, shard: Shard[Sequence[LocatedImage]]) -> None:
        notes = ShardNotes(**self._basic_notes(shard, len(shard.rows), shard.effort.wall_seconds))
        self._write_shard(pa.Table.from_pylist([_plain_row(located) for located in shard.rows], SCHEMA), notes)
        self._take_note(shard.first, [notes])

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds inside the engines, and in all."""
        notes = [note for (note,) in self._notes.values()]
        return sum(sum(note.engine_seconds) for note in notes), sum(note.wall_seconds for note in notes)

    def finish(self, path: Path) -> None:
        """Writes the table. Raises RunError."""
        self._join({**self.settings, "dataset_id": self.dataset_id}, path, tables.ROW_GROUP)

    def _difference(self, found: Mapping[str, str], run: Mapping[str, Any]) -> str | None:
        for name in {**run, **found}:
            before, now = (str(side.get(name)) for side in (found, run))
            if before != now:
                return f"the {name} changed from {before[:40]} to {now[:40]}"
        return None


def read_located(path: Path) -> Iterator[LocatedImage]:
    """Reads a table, in its order. Raises ScoresError for a file that is no table of boxes; of damage at the end."""
    with parquet.opened(path, "a table of boxes", "evaluation.localization", ScoresError) as table:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")

        for batch in table.parts(tables.ROW_GROUP):
            for row in batch.to_pylist():
                known = row["image"], row["label"], row["status"], row["pixels"], (row["height"], row["width"])
                guesses = tuple(map(_guess, row["guesses"]))
                yield LocatedImage(*known, guesses, row["given"] and _guess(row["given"]))


def _guess(found: Mapping[str, Any]) -> Guess:
    return Guess(found["class"], found["score"], Box(*(found[edge] for edge in Box._fields)))


def _plain_guess(guess: Guess) -> dict[str, float]:
    return {"class": guess.label, "score": guess.score, **guess.box._asdict()}


def _plain_row(located: LocatedImage) -> dict[str, Any]:
    return {
        "image": located.image,
        "label": located.label,
        "status": located.status,
        "pixels": located.pixel_digest,
        "height": located.size_px[0],
        "width": located.size_px[1],
        "guesses": [_plain_guess(guess) for guess in located.guesses],
        "given": located.given and _plain_guess(located.given),
    }
