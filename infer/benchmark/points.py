"""Points of error and speed: what an evaluation said of an engine, beside how fast the engine is here.

The error is read from the report.json in the OUT folder of evaluation.ilsvrc; OUT/points.json holds the points, which
evaluation.report draws. A point belongs to the engine's file: to its SHA-256, protocol, scales and runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..engine import Engine, is_stand_in
from ..errors import Refused
from ..files import read_file, replacing

REPORT, POINTS = "report.json", "points.json"
MOST_BYTES = 1 << 28
"""That is read of a report.json, which may name every image."""

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class PointError(Refused):
    """A point that cannot be made."""


class EvaluatedResult(msgspec.Struct, frozen=True):
    """What a report.json says of one engine by one protocol."""

    model: str
    runtime: str
    protocol: str
    scales: tuple[int, ...]
    pooling: str
    images: Count
    top1_error_percent: Percent | None
    top1_interval95_percent: tuple[Percent, Percent] | None
    engine_sha256: str | None = None


class _EvaluatedImages(msgspec.Struct, frozen=True):
    id: str


class _Report(msgspec.Struct, frozen=True):
    dataset: _EvaluatedImages
    results: list[EvaluatedResult]


class Point(msgspec.Struct, frozen=True):
    """One point of OUT/points.json. images_per_second: pipelined; device: the processor, as its maker calls it."""

    engine_sha256: str
    model: str
    runtime: str
    protocol: str
    scales: tuple[int, ...]
    pooling: str
    dataset_id: str
    images: Count
    top1_error_percent: Percent
    batch: Count
    device: str
    decoder: str
    workers: Count
    images_per_second: Rate
    compute_images_per_second: Rate | None
    latency_ms: dict[str, Rate]

    @property
    def key(self) -> tuple[object, ...]:
        """What a new measurement takes the place of."""
        engine = self.engine_sha256, self.runtime, self.protocol, self.scales, self.pooling, self.dataset_id
        return (*engine, self.batch, self.device, self.decoder, self.workers)


class EvaluatedRun:
    """The OUT folder of a run of evaluation.ilsvrc that has ended. Raises PointError."""

    def __init__(self, out: Path) -> None:
        self.out, path = out, out / REPORT
        try:
            report = msgspec.json.decode(read_file(path, MOST_BYTES, PointError), type=_Report)
        except OSError as error:
            raise PointError(f"{path}: {error.strerror}, expected the OUT folder of an evaluation.ilsvrc run") from None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            said = " ".join(str(error).split())[:100]
            raise PointError(f"{path}: not a report of evaluation.ilsvrc ({said})") from None
        self.dataset_id, self.results = report.dataset.id, report.results
        read_points(out / POINTS)  # one that is damaged is said before anything is measured

    def result_of(self, path: Path, engine: Engine, protocol: str, scales: Sequence[int]) -> EvaluatedResult:
        """The result of this engine. Raises PointError where there is none, or where its speed is not the model's."""
        if is_stand_in(engine.arithmetic):
            raise PointError(
                f"{path}: {engine.arithmetic}: its speed is not the model's, so there is no point: measure it on a GPU"
            )
        wanted = engine.sha256, engine.runtime, protocol, tuple(scales)
        for result in self.results:
            if (result.engine_sha256, result.runtime, result.protocol, result.scales) == wanted:
                if result.top1_error_percent is None:
                    raise PointError(f"{self.out / REPORT}: {result.model} by {protocol} has no error: no labels")
                return result

        asked = f"{engine.spec.name} ({engine.sha256[:12]}, {engine.runtime}) by {protocol} at {_joined(scales)}"
        has = "; ".join(
            f"{one.model} ({(one.engine_sha256 or 'unknown')[:12]}, {one.runtime}) by {one.protocol} at "
            f"{_joined(one.scales)}"
            for one in self.results[:4]
        )
        raise PointError(
            f"{self.out / REPORT}: no result of {asked}, but {has or 'none'}: evaluate this engine so by python -m "
            f"evaluation.ilsvrc --engine {path} --protocol {protocol} --scales {_joined(scales)}"
        )

    def add_points(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Writes the points of rows of the benchmark into OUT/points.json beside others; returns its path.

        Raises PointError for a points.json that is none.
        """
        path = self.out / POINTS
        points = {point.key: point for point in read_points(path)}
        for row in rows:
            result = row["evaluated"]
            names = ("engine_sha256", "model", "runtime", "protocol", "scales", "batch", "device", "decoder", "workers")
            known = {name: row[name] for name in (*names, "compute_images_per_second", "latency_ms")}
            known |= {name: result[name] for name in ("pooling", "images", "top1_error_percent")}
            known |= {"dataset_id": self.dataset_id, "images_per_second": row["pipelined_images_per_second"]}
            point = msgspec.convert(known, Point)
            points[point.key] = point
        with replacing(path) as unfinished:
            content = [msgspec.to_builtins(point) for point in points.values()]
            unfinished.write_text(json.dumps(content, indent=2) + "\n")
        return path


def read_points(path: Path) -> list[Point]:
    """The points of a points.json; none where there is no such file. Raises PointError for a file that is none."""
    try:
        return msgspec.json.decode(read_file(path, MOST_BYTES, PointError), type=list[Point])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:100]
        raise PointError(f"{path}: not the points of infer.benchmark ({said}): remove it, and measure again") from None


def _joined(scales: Sequence[int]) -> str:
    return ",".join(map(str, scales))
