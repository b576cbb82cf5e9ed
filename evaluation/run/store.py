"""A run while it goes on: its shards on disk, each committed by rename, so that a kill loses little.

A folder holds `run.json`, which says what the run is, and the shards of its tables as Parquet files, named by their
first image. Shards come in any order, and each says in its metadata what it is and what it came to. A run that others
began is gone on with if it is the same one; a shard that is not whole is made anew. At the end the shards of a table
become one file, the same bytes however often the run was interrupted, and the folder goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pyarrow as pa
from tqdm import tqdm

from infer.data import own_parquet as parquet
from infer.data.dataset import Dataset
from infer.data.known_images import say_trained_on
from infer.files import read_file, replacing
from infer.processes.owned import check_ours, remove_ours
from infer.processes.pipeline import behind

from ..errors import RunError
from ..scores import table as tables
from ..scores.table import CPU_DECODER, DECODER, Mistake, surest
from .loop import Rows, Shard, dataset_id
from .score import KnownEngines, TableParts

UNFINISHED = {None: "unfinished", "localization": "unfinished-boxes", "detection": "unfinished-regions"}
"""Folders of shards within OUT, by the `kind` in the command's report.json; evaluation.ilsvrc's has none."""
REPORT_BYTES = 1 << 30
"""Most that is read of a report.json, which lists every unreadable image."""
LEAST_SECONDS = 1.0
"""Least time between two lines of progress."""
SAID = {
    "engine_sha256": "the engine",
    "spec": "the model's description",
    "runtime": "the runtime",
    "protocol": "the protocol",
    "scales": "the scales",
    "pooling": "the pooling",
    DECODER: "the decoder",
    "classes": "the matching of classes",
    "commit": "the code (commit)",
}
"""Names of what the metadata of a score table says, in the order in which a difference is reported."""

UNSAID = {"classes": "by name", DECODER: CPU_DECODER}
"""What the metadata of a score table leaves unsaid where it is so."""
RUN_BYTES = 64 << 20
"""Most that is read of run.json: a thousand classes of a hundred letters, for a hundred tables, are 10 MB."""
NOTES = "shard"
"""Key of a shard's notes in its metadata."""
OURS = re.compile(r"((run|progress)\.json|([^/]+/)?[0-9]{8,}\.parquet)(\.unfinished)?")
"""Names of what a run's folder may hold; earlier versions had progress.json."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


def check_out(out: Path, kind: str | None) -> None:
    """Raises RunError for an OUT of another command, whose report would be lost."""
    path, found = out / "report.json", kind
    with contextlib.suppress(FileNotFoundError):
        try:
            content = read_file(path, REPORT_BYTES, RunError)
            if content.strip(b"\0"):  # after a loss of power a file may be empty, or zeros: nothing is lost with it
                report = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
                found = msgspec.json.decode(report["kind"], type=str) if "kind" in report else None
        except (ValueError, RecursionError):
            raise RunError(f"{path}: no report, or a damaged one: remove it, or use another --out") from None
    if found != kind:
        raise RunError(f"{path}: a report of another command, which would be lost: use another --out")

    for other, name in UNFINISHED.items():
        if other != kind and (out / name).exists():
            raise RunError(f"{out / name}: another command has begun here: remove that folder, or use another --out")


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


class ShardNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard says of itself: of which run it is, of which images, and what they took.

    content: sum of the images' digests, as a hexadecimal number, since it is larger than numbers of JSON are.
    trained_on: of each engine, (images that it was trained on, those of which that would be known).
    """

    run: str
    first: Count
    images: Count
    rows: Count
    content: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,80}$")]
    engine_seconds: tuple[Seconds, ...]
    wall_seconds: Seconds
    trained_on: tuple[tuple[Count, Count], ...] = ()


Notes = TypeVar("Notes", bound=ShardNotes)


class UnfinishedShards(ABC, Generic[Rows, Notes]):
    """The shards of a run of `images` images in `folder`: of its tables, each in a folder there, or of its one table.

    run: all that the rows depend on. remarks: what is to be said of the shards that were found. Raises RunError where
    shards are there and `resume` was not asked for, they are of another run, or the folder holds what is not ours. A
    folder without a whole shard is of a run that is not begun: nothing of it is lost.
    """

    damaged = "holds a run that another version began, or is damaged"
    run_type: Any = dict[str, str]
    notes_type: Any = ShardNotes

    def __init__(self, folder: Path, run: Mapping[str, Any], images: int, shard_images: int, *, resume: bool) -> None:
        self.folder, self.images, self.shard_images = folder, images, shard_images
        self.remarks: list[str] = []
        self._run = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
        self._notes: dict[int, list[Notes]] = {}  # of each table, by the first image of the shard

        shards = [path for path in check_ours(folder, OURS, RunError) if path.suffix == ".parquet"]
        found = self._read_run() if shards else None
        if found is None or not self._complete(found):
            with replacing(folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(run))
            return

        try:
            changed = self._difference(found, run)
        except (KeyError, ValueError, TypeError) as error:
            raise self._damage(error) from None
        if not resume:
            raise RunError(
                f"{folder} holds {self._say_done(found)}a run that did not end: go on with it by --resume, or remove "
                "that folder to begin again"
            )
        if changed is not None:
            raise RunError(
                f"--resume: {changed} since the run in {folder} began: use what it began with, or remove that folder "
                "to begin again"
            )
        self._read_shards(self._folders(found))

    @property
    def pending(self) -> list[int]:
        """The first images of the shards that are to be made."""
        return [first for first in self._starts if first not in self._notes]

    @property
    def done(self) -> int:
        """Images whose shards are there."""
        return sum(notes[0].images for notes in self._notes.values())

    @property
    def dataset_id(self) -> str:
        """Identifies the images that were read, as score tables do."""
        return dataset_id(self.done, self._content)

    @property
    def top1_error_percent(self) -> float | None:
        """The error over what is done, where a run has one."""
        return None

    def say_trained_on(self, models: Sequence[str]) -> list[str]:
        """Lines that engines of these names, in their order, were trained on images of the run."""
        every = [notes[0].trained_on for notes in self._notes.values()]
        said = []
        for number, name in enumerate(models):
            counts = [of_shard[number] for of_shard in every if number < len(of_shard)]
            trained, comparable = (sum(count[part] for count in counts) for part in (0, 1))
            said.append(say_trained_on(name, trained, comparable, self.done))
        return list(dict.fromkeys(line for line in said if line))

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
        remove_ours(self.folder, OURS, RunError)

    @property
    def _starts(self) -> range:
        return range(0, self.images, self.shard_images)

    @property
    def _content(self) -> int:
        return sum(int(notes[0].content, 16) for notes in self._notes.values())

    def _path(self, first: int, table: str = "") -> Path:
        return self.folder / table / f"{first:08d}.parquet"

    def _folders(self, found: Any) -> list[str]:
        """Names of the folders of a run's tables, within its own."""
        return [""]

    def _basic_notes(self, shard: Shard[Rows], rows: int, wall_seconds: float) -> dict[str, Any]:
        """The notes that every shard has, by name."""
        effort = shard.effort
        known = {"run": self._run, "first": shard.first, "images": shard.images, "rows": rows}
        taken = {"engine_seconds": effort.engine_seconds, "wall_seconds": wall_seconds}
        taken |= {"trained_on": effort.trained_on}
        return {**known, "content": f"{effort.content:x}", **taken}

    # What is found

    def _read_run(self) -> Any:
        try:
            return msgspec.json.decode(read_file(self.folder / "run.json", RUN_BYTES, RunError), type=self.run_type)
        except (OSError, ValueError, RecursionError) as error:
            raise self._damage(error) from None

    def _damage(self, error: Exception) -> RunError:
        return RunError(f"{self.folder} {self.damaged} ({error}): remove that folder to begin again")

    def _complete(self, found: Any) -> set[int]:
        """The first images of the shards that are there in every table of the run that is found; not yet read."""
        try:
            folders = self._folders(found)
        except (KeyError, ValueError, TypeError) as error:
            raise self._damage(error) from None
        names = [{path.name for path in (self.folder / folder).glob("*.parquet")} for folder in folders]
        return {int(name.removesuffix(".parquet")) for name in set.intersection(*names)}

    def _read_shards(self, folders: Sequence[str]) -> None:
        """Takes note of every whole shard. A remark names one that is cut or damaged, which is then made anew."""
        names = [{path.name for path in (self.folder / folder).glob("*.parquet")} for folder in folders]
        for first in self._starts:
            if not all(self._path(first).name in those for those in names):
                continue
            try:
                self._take_note(first, [self._read_shard(first, folder)[1] for folder in folders])
            except RunError as error:
                self.remarks.append(f"{error}: it is made anew")

    def _take_note(self, first: int, notes: list[Notes]) -> None:
        self._notes[first] = notes

    def _read_shard(self, first: int, table: str = "") -> tuple[pa.Table, Notes]:
        """A shard with its notes. Raises RunError unless it is whole, of this run and of the images of its name."""
        path = self._path(first, table)
        with parquet.opened(path, "a shard", "this run", RunError) as stored:
            notes: Notes = msgspec.json.decode(stored.metadata.pop(NOTES), type=self.notes_type)
            rows = stored.read().replace_schema_metadata(stored.metadata)
        expected = self._run, first, min(self.shard_images, self.images - first), len(rows)
        if (notes.run, notes.first, notes.images, notes.rows) != expected:
            raise RunError(f"{path}: a shard of other images or of another run")
        return rows, notes

    # What is made of it

    def _write_shard(self, rows: pa.Table, notes: Notes, table: str = "") -> None:
        said = {**(rows.schema.metadata or {}), NOTES: msgspec.json.encode(notes)}
        parquet.write([rows.replace_schema_metadata(said)], self._path(notes.first, table), tables.ROW_GROUP)

    def _shards(self, number: int = 0, table: str = "") -> Iterator[pa.Table]:
        """The rows of table `number`, shard by shard. Raises RunError unless each image of the run is there once."""
        if self.pending:
            raise RunError(f"{self.folder}: {self.done} of {self.images} images are done: go on with --resume")
        for first in self._starts:
            try:
                rows, notes = self._read_shard(first, table)
                if notes != self._notes[first][number]:
                    raise RunError(f"{self._path(first, table)}: changed since it was written")
            except RunError as error:
                raise RunError(f"{error}: go on with --resume, which makes it anew") from None
            yield rows

    def _join(self, metadata: Mapping[str, str], path: Path, row_group: int) -> None:
        """Writes the shards of the run's one table as one file; `metadata` takes the place of theirs."""
        parquet.write((rows.replace_schema_metadata(dict(metadata)) for rows in self._shards()), path, row_group)

    def _say_done(self, found: Any) -> str:
        return f"{self._found_images(found)} of {found['number of images']} images of "

    def _found_images(self, found: Any) -> int:
        """Images whose shards are there, by the names of these."""
        return sum(min(self.shard_images, self.images - first) for first in self._complete(found))

    @abstractmethod
    def _difference(self, found: Any, run: Mapping[str, Any]) -> str | None:
        """Says what changed since the run of `found`, None where it is the same run. Raises KeyError, ValueError."""


class ScoreNotes(ShardNotes, frozen=True, kw_only=True):
    """Also the results of the shard in one table: wrong first answers of labelled images, and the surest of them."""

    labelled: Count
    wrong: Count
    view_pixels: Count
    mistakes: tuple[Mistake, ...]


@dataclass(slots=True)
class TableProgress:
    """Results of the images done in one table."""

    wrong: int = 0
    view_pixels: int = 0
    mistakes: tuple[Mistake, ...] = ()


@dataclass(slots=True)
class Progress:
    """What the shards came to. engine_seconds: of each engine; tables: [engine][protocol]."""

    engine_seconds: list[float]
    tables: list[list[TableProgress]]
    labelled: int = 0
    wall_seconds: float = 0.0


class ScoreRun(msgspec.Struct, frozen=True):
    """The content of run.json: the listing of the data set and the metadata of the tables."""

    listing: str
    images: Count
    tables: Annotated[list[list[dict[str, str]]], msgspec.Meta(min_length=1)]


class UnfinishedScores(UnfinishedShards[TableParts, ScoreNotes]):
    """The shards of the score tables in OUT/unfinished, a folder for each table.

    known: the engines, with the metadata of their tables; mistakes: how many are kept for each table; started: when
    the command began, by time.monotonic().
    """

    run_type = ScoreRun
    notes_type = ScoreNotes

    def __init__(
        self, out: Path, known: KnownEngines, dataset: Dataset, mistakes: int, *, started: float, resume: bool
    ) -> None:
        metadata = known.metadata
        self.metadata, self._scores, self._mistakes = metadata, out / "scores", mistakes
        self.progress = Progress([0.0] * len(metadata), [[TableProgress() for _ in own] for own in metadata])
        self._counted = started  # until when time is counted
        run = {"listing": dataset.listing_digest, "images": len(dataset.items), "tables": metadata}
        super().__init__(out / UNFINISHED[None], run, len(dataset.items), known.shard_images, resume=resume)

    @property
    def top1_error_percent(self) -> float | None:
        """Top-1 error of the first table over what is done, None without labels."""
        progress = self.progress
        return 100 * progress.tables[0][0].wrong / progress.labelled if progress.labelled else None

    def add(self, shard: Shard[TableParts]) -> None:
        now = time.monotonic()
        taken, self._counted = now - self._counted, now

        notes = []
        for parts, own in zip(shard.rows, self.metadata, strict=True):
            for part, metadata in zip(parts, own, strict=True):
                known = self._basic_notes(shard, len(part.scores.images), taken)
                known |= {"labelled": int((part.scores.labels >= 0).sum()), "wrong": part.wrong}
                notes.append(ScoreNotes(**known, view_pixels=part.view_pixels, mistakes=part.mistakes))
                self._write_shard(tables.to_arrow(part.scores), notes[-1], _folder(metadata))
        self._take_note(shard.first, notes)

    def finish(self) -> list[list[Path]]:
        """Writes the score tables; returns their paths, [engine][protocol]. Raises RunError."""
        written: list[list[Path]] = []
        number = 0
        for own in self.metadata:
            written.append([self._scores / tables.file_name(metadata) for metadata in own])
            for metadata, path in zip(own, written[-1], strict=True):
                said = {**metadata, "dataset_id": self.dataset_id}
                tables.write((tables.from_arrow(rows, said) for rows in self._shards(number, _folder(metadata))), path)
                number += 1
        return written

    def _folders(self, found: ScoreRun) -> list[str]:
        return [_folder(metadata) for own in found.tables for metadata in own]

    def _take_note(self, first: int, notes: list[ScoreNotes]) -> None:
        """Adds the results of a shard to the progress."""
        super()._take_note(first, notes)
        progress = self.progress
        so_far = [table for own in progress.tables for table in own]
        for note, table in zip(notes, so_far, strict=True):
            table.wrong += note.wrong
            table.view_pixels += note.view_pixels
            table.mistakes = surest([*table.mistakes, *note.mistakes], self._mistakes)

        progress.labelled += notes[0].labelled
        progress.wall_seconds += notes[0].wall_seconds
        seconds = zip(progress.engine_seconds, notes[0].engine_seconds, strict=True)
        progress.engine_seconds = [before + more for before, more in seconds]

    def _say_done(self, found: ScoreRun) -> str:
        return f"{self._found_images(found)} of {found.images} images of "

    def _difference(self, found: ScoreRun, run: Mapping[str, Any]) -> str | None:
        """Names the first thing that changed, with both values where they are short."""
        if len(found.tables) != len(self.metadata):
            return f"the number of engines changed from {len(found.tables)} to {len(self.metadata)}"

        for key, said in SAID.items():
            for before, now in zip(found.tables, self.metadata, strict=True):
                old, new = ([table.get(key, UNSAID.get(key, "")) for table in side] for side in (before, now))
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
