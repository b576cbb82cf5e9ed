"""What identifies a run: data set, engines, commit."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol as Typed

from infer.spec import ModelSpec

from .protocol import Pooling, Protocol


def our_commit() -> str:
    """The commit of this checkout, or the installed version."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        try:
            return f"verydeep {metadata.version('verydeep')}"
        except metadata.PackageNotFoundError:
            return "unknown"


Described = Sequence[Sequence[dict[str, str]]]
"""The metadata of every table, [engine][protocol]."""


def content_of(label: int, sha256: str) -> int:
    """Digest of a labelled image: a data set's identity is the sum over its images, whatever their names and order.

    Sums of shards add up, so that no image is read for its identity alone (an incremental multiset hash).
    """
    return int.from_bytes(hashlib.sha256(f"{label} {sha256}".encode()).digest(), "big")


def dataset_id(images: int, content: int) -> str:
    """Of what was read: the bytes and labels of all images, in whatever folder, archive or shards they lie."""
    return hashlib.sha256(f"{images} {content % 2**256:064x}".encode()).hexdigest()[:16]


class Known(Typed):
    """An engine, or what is known of one that runs elsewhere."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def runtime(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def describe(
    engines: Sequence[Known], protocols: Sequence[Sequence[Protocol]], pooling: Pooling, commit: str = "unknown"
) -> Described:
    """All that the rows of a table depend on but the data set, whose `dataset_id` is known when it has been read."""
    return tuple(
        tuple(
            {
                "spec": engine.spec.to_json(),
                "runtime": engine.runtime,
                "protocol": protocol.name,
                "scales": ",".join(map(str, protocol.scales)),
                "pooling": pooling,
                "engine_sha256": engine.sha256,
                "commit": commit,
            }
            for protocol in own
        )
        for engine, own in zip(engines, protocols, strict=True)
    )
