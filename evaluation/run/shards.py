"""A run on disk while it goes on: shards of its score tables, each committed by rename, so that a kill loses little.

`OUT/unfinished/run.json` says what the run is, `progress.json` which images are done and what they came to, and a
folder for each table holds its shards, named by their first image. Shards come in any order. At the end they become
OUT/scores/*.parquet, the same bytes however often the run was interrupted, and the folder goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from infer.files import replacing

from ..errors import RunError
from ..scores import table as tables
from ..scores.metrics import is_wrong
from ..scores.mistakes import Mistake, surest
from ..scores.table import Scores, with_dataset_id
from .identity import Described, dataset_id
from .score import Shard

SAID = {
    "engine_sha256": "the engine",
    "spec": "the model's description",
    "runtime": "the runtime",
    "protocol": "the protocol",
    "scales": "the scales",
    "pooling": "the pooling",
    "commit": "the code (commit)",
}
"""What the metadata of a table says, in the order in which a difference is reported."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done: tables, images, the listing of the data set, shards of `shard_images`, and what to keep."""

    described: Described
    listing: str
    images: int
    shard_images: int
    mistakes: int = 0


@dataclass(slots=True)
class TableProgress:
    """What the done images of one table came to."""

    wrong: int = 0  # top-1, of the labelled
    view_pixels: int = 0
    mistakes: tuple[Mistake, ...] = ()


@dataclass(slots=True)
class Progress:
    """How far a run came; `done` holds ranges of images, sorted, as (first, last + 1)."""

    done: list[tuple[int, int]]
    labelled: int
    content: int
    engine_seconds: list[float]
    tables: list[list[TableProgress]]
    wall_seconds: float = 0.0

    @property
    def images(self) -> int:
        return sum(last - first for first, last in self.done)

    @property
    def top1_error_percent(self) -> float | None:
        """Of the first table, so far."""
        return 100 * self.tables[0][0].wrong / self.labelled if self.labelled else None


class UnfinishedRun:
    """The shards of one run in OUT/unfinished.

    A run that others began is gone on with if `resume`, with what is `pending`. Raises RunError if it is another one,
    or if there is one and `resume` was not asked for.
    """

    def __init__(self, out: Path, task: Task, *, resume: bool) -> None:
        self.folder, self._scores, self.task = out / "unfinished", out / "scores", task
        run = {"listing": task.listing, "images": task.images, "tables": task.described}
        if (self.folder / "progress.json").is_file():
            try:
                self.progress = _read_progress(json.loads((self.folder / "progress.json").read_text()))
                found = json.loads((self.folder / "run.json").read_text())
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(
                    f"{self.folder} holds a run that another version began, or is damaged ({error!r}): remove that "
                    "folder to begin again"
                ) from None
            self._check(found, run, resume)
        else:  # nothing is lost of a run that has no shard yet
            none = [[TableProgress() for _ in own] for own in task.described]
            self.progress = Progress([], 0, 0, [0.0] * len(none), none)
            with replacing(self.folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(run))

    @property
    def pending(self) -> list[int]:
        """The first images of the shards that are to be made."""
        done = {start for first, last in self.progress.done for start in range(first, last, self.task.shard_images)}
        return [start for start in range(0, self.task.images, self.task.shard_images) if start not in done]

    def add(self, shard: Shard, wall_seconds: float) -> None:
        """Commits a shard; `wall_seconds` is the time that the run has taken so far."""
        progress = self.progress
        for own, pixels, mistakes, so_far in zip(
            shard.scores, shard.view_pixels, shard.mistakes, progress.tables, strict=True
        ):
            for scores, of_views, found, table in zip(own, pixels, mistakes, so_far, strict=True):
                tables.write([scores], self._shard(scores.metadata, shard.first))
                table.wrong += int(is_wrong(scores, 1).sum())
                table.view_pixels += of_views
                table.mistakes = surest([*table.mistakes, *found], self.task.mistakes)
        progress.labelled += int((shard.scores[0][0].labels >= 0).sum())
        progress.content += shard.content
        progress.engine_seconds = [a + b for a, b in zip(progress.engine_seconds, shard.engine_seconds, strict=True)]
        progress.done = _joined([*progress.done, (shard.first, shard.first + shard.images)])
        progress.wall_seconds = wall_seconds
        with replacing(self.folder / "progress.json") as unfinished:
            unfinished.write_text(json.dumps(asdict(progress)))

    @property
    def dataset_id(self) -> str:
        """Of the images done."""
        return dataset_id(self.progress.images, self.progress.content)

    def finish(self) -> list[list[Path]]:
        """Writes the score tables and returns their paths, [engine][protocol]."""
        written = []
        for own in self.task.described:
            written.append([self._scores / tables.file_name(metadata) for metadata in own])
            for metadata, path in zip(own, written[-1], strict=True):
                tables.write(self._parts(metadata), path)
        return written

    def discard(self) -> None:
        """Removes the shards, when all that is made of them is written."""
        shutil.rmtree(self.folder)

    def _check(self, found: Any, run: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise RunError(
                f"{self.folder} holds {self.progress.images} of {found['images']} images of a run that did not end: "
                "go on with it by --resume, or remove that folder to begin again"
            )
        changed = _difference(found, run)
        if changed:
            raise RunError(
                f"--resume: {changed} since the run in {self.folder} began: use what it began with, or remove that "
                "folder to begin again"
            )

    def _shard(self, metadata: Any, first: int) -> Path:
        return self.folder / tables.file_name(metadata).removesuffix(".parquet") / f"{first:08d}.parquet"

    def _parts(self, metadata: dict[str, str]) -> Iterator[Scores]:
        content = self.dataset_id
        for first in range(0, self.task.images, self.task.shard_images):
            for part in tables.parts(self._shard(metadata, first)):
                yield with_dataset_id(part, content)


def _read_progress(content: Any) -> Progress:
    of_tables = [
        [
            TableProgress(table["wrong"], table["view_pixels"], msgspec.convert(table["mistakes"], tuple[Mistake, ...]))
            for table in own
        ]
        for own in content["tables"]
    ]
    return Progress(**{**content, "done": [(first, last) for first, last in content["done"]], "tables": of_tables})


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same images in as few ranges as can be, sorted."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _difference(found: Any, run: dict[str, Any]) -> str | None:
    """The first thing that changed, with both values where they are short."""
    if len(found["tables"]) != len(run["tables"]):
        return f"the number of engines changed from {len(found['tables'])} to {len(run['tables'])}"
    for key, said in SAID.items():
        for before, now in zip(found["tables"], run["tables"], strict=True):
            old, new = ([table[key] for table in own] for own in (before, now))
            if old != new:
                model = json.loads(now[0]["spec"])["name"]
                values = (",".join(dict.fromkeys(side)) for side in (old, new))
                how = "changed" if key == "spec" else "changed from {} to {}".format(*(v[:40] for v in values))
                return f"{said} of {model} {how}"
    if found["images"] != run["images"]:
        return f"the number of images changed from {found['images']} to {run['images']}"
    if found["listing"] != run["listing"]:
        return f"the data set (names, labels or sizes) changed from {found['listing']} to {run['listing']}"
    return None
