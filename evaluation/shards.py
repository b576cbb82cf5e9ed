"""A run on disk while it goes on: shards of its score tables, each committed by rename, so that a kill loses little.

`OUT/unfinished/run.json` says what the run is, `progress.json` how far it came, and a folder for each table holds its
shards, named by their first image. At the end the shards become OUT/scores/*.parquet, the same bytes however often the
run was interrupted, and the folder goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infer.files import replacing

from . import scores as tables
from .images import RunError
from .runner import Shard
from .scores import Scores

SAID = {
    "engine_sha256": "the engine",
    "spec": "the model's description",
    "runtime": "the runtime",
    "protocol": "the protocol",
    "scales": "the scales",
    "pooling": "the pooling",
    "dataset_id": "the data set",
    "commit": "the code (commit)",
}
"""What the metadata of a table says, in the order in which a difference is reported."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run came: its first `images` are done."""

    images: int = 0
    engine_seconds: tuple[float, ...] = ()
    wall_seconds: float = 0.0


class UnfinishedRun:
    """The shards of one run in OUT/unfinished.

    A run that others began is gone on with if `resume`, from `progress` on. Raises RunError if it is another one, or
    if there is one and `resume` was not asked for.
    """

    def __init__(self, out: Path, described: Sequence[Sequence[dict[str, str]]], images: int, *, resume: bool) -> None:
        self.folder, self._scores = out / "unfinished", out / "scores"
        self.described, self._images = described, images
        run = {"images": images, "tables": described}
        if (self.folder / "progress.json").is_file():
            content = json.loads((self.folder / "progress.json").read_text())
            self.progress = Progress(**{**content, "engine_seconds": tuple(content["engine_seconds"])})
            self._check(json.loads((self.folder / "run.json").read_text()), run, resume)
        else:  # nothing is lost of a run that has no shard yet
            self.progress = Progress(engine_seconds=(0.0,) * len(described))
            with replacing(self.folder / "run.json") as unfinished:
                unfinished.write_text(json.dumps(run))

    def add(self, shard: Shard, wall_seconds: float) -> None:
        """Commits a shard; `wall_seconds` is the time since this process began the run."""
        for own, described in zip(shard.scores, self.described, strict=True):
            for scores, metadata in zip(own, described, strict=True):
                tables.write([scores], self._shard(metadata, shard.first))
        images = shard.first + len(shard.scores[0][0].images)
        spent = zip(self.progress.engine_seconds, shard.engine_seconds, strict=True)
        self.progress = Progress(images, tuple(one + more for one, more in spent), wall_seconds)
        with replacing(self.folder / "progress.json") as unfinished:
            unfinished.write_text(json.dumps(asdict(self.progress)))

    def finish(self) -> list[list[Path]]:
        """Writes the score tables and returns their paths, [engine][protocol]."""
        written = []
        for own in self.described:
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

    def _shard(self, metadata: dict[str, str], first: int) -> Path:
        return self.folder / tables.file_name(metadata).removesuffix(".parquet") / f"{first:08d}.parquet"

    def _parts(self, metadata: dict[str, str]) -> Iterator[Scores]:
        first = 0
        while first < self._images:
            for part in tables.parts(self._shard(metadata, first)):
                yield part
                first += len(part.images)


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
    return None
