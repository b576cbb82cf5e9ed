"""A run while it goes on: its shards on disk, each committed by rename, so that a kill loses little, and its progress.

A folder holds `run.json`, which says what the run is, and the shards of its tables as Parquet files, named by their
first image. Shards come in any order. A run that others began is gone on with if it is the same one. At the end the
shards of a table become one file, the same bytes however often the run was interrupted, and the folder goes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

import msgspec
import pyarrow.parquet as pq
from tqdm import tqdm

from infer.data.dataset import Dataset
from infer.files import replacing
from infer.pipeline import behind

from ..errors import RunError
from ..scores import table as tables
from ..scores.table import Mistake, surest
from .loop import Rows, Shard, dataset_id
from .score import KnownEngines, TableParts

LEAST_SECONDS = 1.0
"""Least time between two lines of progress."""
SAID = {
    "engine_sha256": "the engine",
    "spec": "the model's description",
    "runtime": "the runtime",
    "protocol": "the protocol",
    "scales": "the scales",
    "pooling": "the pooling",
    "classes": "the matching of classes",
    "commit": "the code (commit)",
}
"""Names of what the metadata of a score table says, in the order in which a difference is reported."""


class Watch(contextlib.AbstractContextManager["Watch"]):
    """A display of how far a run of `total` images is; `done` of them were done before.

    With `log_json`, each event is one line on stdout: {"event": "begin" | "progress" | "end", "images", "of", …}.
    """

    def __init__(self, total: int, done: int, *, log_json: bool) -> None:
        self._total, self._before, self._done, self._log_json = total, done, done, log_json
        self._error: float | None = None
        self._started = self._said = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc="evaluation", unit="img", disable=True if log_json else None)
        self.say("begin", images=done, of=total)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.close()

    def images(self, count: int) -> None:
        """Counts so many more as done."""
        self._done += count
        self._bar.update(count)

        now = time.monotonic()
        if now - self._said >= LEAST_SECONDS or self._done == self._total:
            self._said = now
            rate = (self._done - self._before) / max(now - self._started, 1e-9)
            self.say(
                "progress",
                images=self._done,
                of=self._total,
                images_per_second=round(rate, 3),
                seconds_left=round((self._total - self._done) / rate, 1),
                top1_error_percent=self._error,
            )

    def error(self, top1_percent: float | None) -> None:
        """Takes note of the error of the first table, over what is committed."""
        self._error = None if top1_percent is None else round(top1_percent, 3)
        if top1_percent is not None:
            self._bar.set_postfix_str(f"top-1 error {top1_percent:.1f} %", refresh=False)

    def say(self, event: str, **content: Any) -> None:
        if self._log_json:
            print(json.dumps({"event": event, **content}), flush=True)


class UnfinishedShards(ABC, Generic[Rows]):
    """The shards of a run of `images` images in `folder`.

    run: all that the rows depend on. Raises RunError where shards are there and `resume` was not asked for, or they
    are of another run. A folder without shards is of a run that is not begun: nothing of it is lost.
    """

    damaged = "holds a run that another version began, or is damaged"
    run_type: Any = dict[str, str]

    def __init__(self, folder: Path, run: Mapping[str, Any], images: int, shard_images: int, *, resume: bool) -> None:
        self.folder, self.images, self.shard_images = folder, images, shard_images
        if not self.firsts:
            with replacing(folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(run))
            return

        try:
            found = msgspec.json.decode((folder / "run.json").read_bytes(), type=self.run_type)
            holds, changed = self._say_done(found), self._difference(found, run)
        except (KeyError, OSError, ValueError) as error:
            raise RunError(f"{folder} {self.damaged} ({error}): remove that folder to begin again") from None
        if not resume:
            raise RunError(
                f"{folder} holds {holds}a run that did not end: go on with it by --resume, or remove that folder to "
                "begin again"
            )
        if changed is not None:
            raise RunError(
                f"--resume: {changed} since the run in {folder} began: use what it began with, or remove that folder "
                "to begin again"
            )

    @property
    def firsts(self) -> set[int]:
        """The first images of the shards that are there."""
        return {int(path.stem) for path in self.folder.glob("*.parquet")}

    @property
    def pending(self) -> list[int]:
        """The first images of the shards that are to be made."""
        done = self.firsts
        return [first for first in self._starts if first not in done]

    @property
    def done(self) -> int:
        """Images whose shards are there."""
        return sum(min(self.shard_images, self.images - first) for first in self.firsts)

    @property
    def top1_error_percent(self) -> float | None:
        """The error over what is done, where a run has one."""
        return None

    @abstractmethod
    def add(self, shard: Shard[Rows]) -> None:
        """Commits a shard."""

    def fill(self, shards: Iterable[Shard[Rows]], watch: Watch) -> None:
        """Commits `shards`, each in a thread while the next is made."""

        def commit(shard: Shard[Rows]) -> None:
            self.add(shard)
            watch.error(self.top1_error_percent)

        behind(shards, commit)

    def discard(self) -> None:
        """Removes the shards, when all that is made of them is written."""
        shutil.rmtree(self.folder)

    @property
    def _starts(self) -> range:
        return range(0, self.images, self.shard_images)

    def _path(self, first: int, table: str = "") -> Path:
        return self.folder / table / f"{first:08d}.parquet"

    def _join(self, metadata: Mapping[str, str], path: Path) -> None:
        """Writes the shards of the run's one table as one file; `metadata` takes the place of theirs."""
        shards = (pq.read_table(self._path(first)) for first in self._starts)
        tables.write_regrouped((shard.replace_schema_metadata(dict(metadata)) for shard in shards), path)

    def _say_done(self, found: Any) -> str:
        return f"{self.done} of {found['number of images']} images of "

    @abstractmethod
    def _difference(self, found: Any, run: Mapping[str, Any]) -> str | None:
        """Says what changed since the run of `found`, None where it is the same run. Raises KeyError, ValueError."""


@dataclass(slots=True)
class TableProgress:
    """Results of the done images in one table: wrong first answers of labelled images, and the surest of them."""

    wrong: int = 0
    view_pixels: int = 0
    mistakes: tuple[Mistake, ...] = ()


@dataclass(slots=True)
class Progress:
    """The content of progress.json: how far a run came.

    done: ranges of images, sorted, as (first, last + 1); content: sum of the images' digests; tables: for each engine
    and protocol.
    """

    done: list[tuple[int, int]]
    labelled: int
    content: int
    engine_seconds: list[float]
    tables: list[list[TableProgress]]
    wall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoreRun:
    """The content of run.json: the listing of the data set and the metadata of the tables."""

    listing: str
    images: int
    tables: list[list[dict[str, str]]]


class UnfinishedScores(UnfinishedShards[TableParts]):
    """The shards of the score tables in OUT/unfinished, a folder for each table. progress.json has what they came to.

    known: the engines, with the metadata of their tables; mistakes: how many are kept for each table; started: when
    the command began, by time.monotonic().
    """

    run_type = ScoreRun

    def __init__(
        self, out: Path, known: KnownEngines, dataset: Dataset, mistakes: int, *, started: float, resume: bool
    ) -> None:
        metadata = known.metadata
        self.metadata, self._scores, self._mistakes = metadata, out / "scores", mistakes

        # how far an earlier run came
        self.progress = Progress([], 0, 0, [0.0] * len(metadata), [[TableProgress() for _ in own] for own in metadata])
        folder = out / "unfinished"
        try:
            self.progress = msgspec.json.decode((folder / "progress.json").read_bytes(), type=Progress)
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise RunError(f"{folder} {self.damaged} ({error}): remove that folder to begin again") from None

        self._wall_started = started - self.progress.wall_seconds
        run = {"listing": dataset.listing_digest, "images": len(dataset.items), "tables": metadata}
        super().__init__(folder, run, len(dataset.items), known.shard_images, resume=resume)

    @property
    def firsts(self) -> set[int]:
        return {first for begin, end in self.progress.done for first in range(begin, end, self.shard_images)}

    @property
    def done(self) -> int:
        return sum(end - begin for begin, end in self.progress.done)

    @property
    def top1_error_percent(self) -> float | None:
        """Top-1 error of the first table over what is done, None without labels."""
        progress = self.progress
        return 100 * progress.tables[0][0].wrong / progress.labelled if progress.labelled else None

    @property
    def dataset_id(self) -> str:
        """Identifies the images done."""
        return dataset_id(self.done, self.progress.content)

    def add(self, shard: Shard[TableParts]) -> None:
        progress = self.progress
        for parts, metadata, so_far in zip(shard.rows, self.metadata, progress.tables, strict=True):
            for part, own_metadata, table in zip(parts, metadata, so_far, strict=True):
                tables.write([part.scores], self._path(shard.first, _folder(own_metadata)))
                table.wrong += part.wrong
                table.view_pixels += part.view_pixels
                table.mistakes = surest([*table.mistakes, *part.mistakes], self._mistakes)

        progress.labelled += int((shard.rows[0][0].scores.labels >= 0).sum())
        progress.content += shard.effort.content
        seconds = zip(progress.engine_seconds, shard.effort.engine_seconds, strict=True)
        progress.engine_seconds = [so_far + more for so_far, more in seconds]
        progress.done = _joined([*progress.done, (shard.first, shard.first + shard.images)])
        progress.wall_seconds = time.monotonic() - self._wall_started
        with replacing(self.folder / "progress.json") as unfinished:
            unfinished.write_text(json.dumps(asdict(progress)))

    def finish(self) -> list[list[Path]]:
        """Writes the score tables; returns their paths, [engine][protocol]."""
        written = []
        for own in self.metadata:
            written.append([self._scores / tables.file_name(metadata) for metadata in own])
            for metadata, path in zip(own, written[-1], strict=True):
                shards = (self._path(first, _folder(metadata)) for first in self._starts)
                parts = (part for shard in shards for part in tables.parts(shard))
                tables.write((tables.with_dataset_id(part, self.dataset_id) for part in parts), path)
        return written

    def _say_done(self, found: ScoreRun) -> str:
        return f"{self.done} of {found.images} images of "

    def _difference(self, found: ScoreRun, run: Mapping[str, Any]) -> str | None:
        """Names the first thing that changed, with both values where they are short."""
        if len(found.tables) != len(self.metadata):
            return f"the number of engines changed from {len(found.tables)} to {len(self.metadata)}"

        for key, said in SAID.items():
            for before, now in zip(found.tables, self.metadata, strict=True):
                old, new = ([table.get(key, "by name") for table in side] for side in (before, now))
                if old == new:
                    continue
                model = json.loads(now[0]["spec"])["name"]
                if key == "spec":
                    return f"{said} of {model} changed"
                was, is_now = (",".join(dict.fromkeys(side))[:40] for side in (old, new))
                return f"{said} of {model} changed from {was} to {is_now}"

        if found.images != run["images"]:
            return f"the number of images changed from {found.images} to {run['images']}"
        if found.listing != run["listing"]:
            return f"the data set (names, labels or sizes) changed from {found.listing} to {run['listing']}"
        return None


def _folder(metadata: Mapping[str, str]) -> str:
    return tables.file_name(metadata).removesuffix(".parquet")


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Puts the same images into as few ranges as can be, sorted."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return joined
