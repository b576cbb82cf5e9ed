"""Score tables: the posterior of every image for one model and one protocol, as a Parquet file; fusions and mistakes.

Errors, fusions, comparisons and figures are all computed from these files. A table holds nothing that differs between
two runs of the same command. It is read and written in parts of ROW_GROUP rows, so that it need not fit into memory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infer.data import own_parquet as parquet
from infer.data.own_parquet import StoredTable
from infer.engine import UNROUNDED
from infer.pixels.nvjpeg import DecoderName

from ..errors import ScoresError

OK = "ok"
"""Status of an image that was scored."""
OUT_OF_RANGE = "out of range"
"""Status of an image that an engine's shapes do not admit."""
ARITHMETIC = "arithmetic"
"""Key of what the engine computed in (infer.engine.Engine); tables of earlier versions have none."""
DECODER = "decoder"
"""Key of what decoded the images (infer/pixels/nvjpeg.py); tables by CPU_DECODER have none."""
CPU_DECODER: DecoderName = "cpu"
WHY_UNROUNDED = (
    "an FP16 model's table of an earlier version, which did not round on a CPU: no cost of half precision shows in it; "
    "evaluate it again"
)
"""Why nothing is said of a table that is `unrounded` against one that is not."""
ROW_GROUP = 1000
"""Rows that are written and read at a time."""
KEYS = ("runtime", "protocol", "scales", "pooling", "dataset_id", "engine_sha256", "commit")
"""What every table has in its metadata beside its spec."""
UNKNOWN_LABEL = -1
FUSED = "fused"
"""Name of a fusion that was not given another."""
INDEX = "index.json"
"""Name of the list within OUT/mistakes; thumbnails lie beside it."""
Pixels = Annotated[int, msgspec.Meta(ge=1)]
SizePx = tuple[Pixels, Pixels]
"""(height, width)"""


@dataclass(frozen=True, slots=True)
class Scores:
    """A score table or a part of one: a row per image, in the order of the data set.

    labels: i32 [images], UNKNOWN_LABEL where the class is not known.
    statuses: OK, or why the image could not be scored.
    pixel_digests: of the pixel sums that the engine returned; "" where the image was not scored or the table is a
    fusion of models that saw different views.
    posterior: f32 [images, classes], zero where the status is not OK.
    metadata: spec, protocol, scales, pooling, runtime, arithmetic, dataset_id, engine_sha256, commit, and the decoder
    where it was another than CPU_DECODER.
    """

    images: tuple[str, ...]
    labels: NDArray[np.int32]
    statuses: tuple[str, ...]
    pixel_digests: tuple[str, ...]
    posterior: NDArray[np.float32]
    metadata: Mapping[str, str]

    @property
    def model(self) -> str:
        return str(json.loads(self.metadata["spec"])["name"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, one for each column of `posterior`."""
        return tuple(json.loads(self.metadata["spec"])["classes"])

    @property
    def scales(self) -> tuple[int, ...]:
        """Test scales Q in px, as they were given; for a fusion over different scales all of them, sorted."""
        sets = [tuple(int(q) for q in given.split(",")) for given in self.metadata["scales"].split("+")]
        return sets[0] if len(sets) == 1 else tuple(sorted(set().union(*sets)))

    @property
    def unrounded(self) -> bool:
        """True where an FP16 model may have been run in FP32, which earlier versions did on a CPU without a word."""
        arithmetic = self.metadata.get(ARITHMETIC)
        if arithmetic is not None:
            return UNROUNDED in arithmetic
        return "onnxruntime-fp16" in self.metadata["runtime"].split("+")

    @property
    def decoder(self) -> str:
        """What decoded the images; of a fusion of several `cpu+nvjpeg`."""
        return self.metadata.get(DECODER, CPU_DECODER)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Mask of the images that were scored, [images]."""
        return np.array([status == OK for status in self.statuses], np.bool_)

    def rows(self, places: Sequence[int]) -> Scores:
        """The rows at these places, in this order."""
        return replace(
            self,
            images=tuple(self.images[place] for place in places),
            labels=self.labels[list(places)],
            statuses=tuple(self.statuses[place] for place in places),
            pixel_digests=tuple(self.pixel_digests[place] for place in places),
            posterior=self.posterior[list(places)],
        )


def file_name(metadata: Mapping[str, str]) -> str:
    """MODEL.RUNTIME-PRECISION.PROTOCOL.qQ1-Q2.POOLING.parquet"""
    model = json.loads(metadata["spec"])["name"]
    scales = metadata["scales"].replace(",", "-")
    return f"{model}.{metadata['runtime']}.{metadata['protocol']}.q{scales}.{metadata['pooling']}.parquet"


def decoder_metadata(decoder: DecoderName) -> dict[str, str]:
    """Says which decoder it was; nothing of CPU_DECODER, whose pixels are the same everywhere."""
    return {} if decoder == CPU_DECODER else {DECODER: decoder}


def with_dataset_id(scores: Scores, dataset_id: str) -> Scores:
    return replace(scores, metadata={**scores.metadata, "dataset_id": dataset_id})


def concatenate(parts: Sequence[Scores]) -> Scores:
    """One table from its parts, in order."""
    return Scores(
        tuple(name for part in parts for name in part.images),
        np.concatenate([part.labels for part in parts]),
        tuple(status for part in parts for status in part.statuses),
        tuple(digest for part in parts for digest in part.pixel_digests),
        np.concatenate([part.posterior for part in parts]),
        parts[0].metadata,
    )


def have_same_images(one: Scores, other: Scores) -> bool:
    return other.metadata["dataset_id"] == one.metadata["dataset_id"] and other.images == one.images


def check_same_images(one: Scores, other: Scores) -> None:
    """Raises ScoresError unless two tables (or the same parts of two) have the same images, classes and labels."""
    if not have_same_images(one, other):
        raise ScoresError(say_other_images(one, other, len(one.images), len(other.images)))
    if other.classes != one.classes:
        raise ScoresError(f"{other.model} and {one.model} have different classes: their posteriors mean other things")
    if not np.array_equal(other.labels, one.labels):
        raise ScoresError(say_other_labels(one, other))


def say_other_images(one: Scores, other: Scores, one_count: int, other_count: int) -> str:
    """Text of the error that two tables, with these numbers of images, were scored on different images."""
    return (
        f"{other.model} was scored on data set {other.metadata['dataset_id']} ({other_count} images), "
        f"{one.model} on {one.metadata['dataset_id']} ({one_count}): use tables of the same images"
    )


def say_other_labels(one: Scores, other: Scores) -> str:
    """Text of the error that two tables have other labels for the same images."""
    return (
        f"{other.model} and {one.model} have different labels for the same images: evaluate both with or without "
        "--classes-by-order"
    )


def write(parts: Iterable[Scores], path: Path) -> None:
    """Writes the parts of one score table, in order, as `parquet.write` does."""
    parquet.write(map(to_arrow, parts), path, ROW_GROUP)


def to_arrow(scores: Scores) -> pa.Table:
    """The rows as they are stored."""
    classes = scores.posterior.shape[1]
    posterior = pa.FixedSizeListArray.from_arrays(pa.array(scores.posterior.ravel()), classes)
    columns = {
        "image": pa.array(scores.images, pa.string()),
        "label": pa.array(scores.labels, pa.int32()),
        "status": pa.array(scores.statuses, pa.string()),
        "pixels": pa.array(scores.pixel_digests, pa.string()),
        "posterior": posterior,
    }
    return pa.table(columns).replace_schema_metadata(dict(scores.metadata))


def from_arrow(rows: pa.Table | pa.RecordBatch, metadata: Mapping[str, str]) -> Scores:
    """The rows as they were before they were stored."""
    posterior = rows["posterior"].combine_chunks() if isinstance(rows, pa.Table) else rows["posterior"]
    return Scores(
        tuple(rows["image"].to_pylist()),
        rows["label"].to_numpy(),
        tuple(rows["status"].to_pylist()),
        tuple(rows["pixels"].to_pylist()),
        posterior.flatten().to_numpy().reshape(len(posterior), posterior.type.list_size),  # [rows, classes]
        metadata,
    )


def read(path: Path) -> Scores:
    """The whole table. Raises ScoresError for a file that is no score table, or is damaged."""
    return concatenate(list(parts(path)))


def read_head(path: Path) -> Scores:
    """The table without its rows, for its metadata. Raises ScoresError for a file that is no score table."""
    with _opened(path) as table:
        return Scores((), np.zeros(0, np.int32), (), (), np.zeros((0, 0), np.float32), table.metadata)


def read_labels(path: Path) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Names and labels of all images, i32 [images], without their posteriors. Raises ScoresError as `read_head`."""
    with _opened(path) as table:
        found = table.columns(["image", "label"])
        labels = found["label"].to_numpy()
        _check_labels(labels, table.metadata)
        return tuple(found["image"].to_pylist()), labels


def parts(path: Path) -> Iterator[Scores]:
    """The table, ROW_GROUP rows at a time. Raises ScoresError, of damage to the rows at the end."""
    with _opened(path) as table:
        for batch in table.parts(ROW_GROUP):
            part = from_arrow(batch, table.metadata)
            _check_labels(part.labels, table.metadata)
            if part.posterior.shape[1] != len(part.classes) or None in (*part.images, *part.statuses):
                raise ValueError(f"posteriors of {part.posterior.shape[1]} classes for {len(part.classes)}, or no name")
            yield part


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[StoredTable]:
    """The open file of a table, whose metadata has a spec. Raises ScoresError, also for what fails of reading it."""
    with parquet.opened(path, "a score table", "evaluation.ilsvrc", ScoresError) as table:
        _check_metadata(table.metadata)
        yield table


def _check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises ValueError for metadata of no score table."""
    lacking = next((key for key in ("spec", *KEYS) if key not in metadata), None)
    if lacking is not None:
        raise ValueError(f"its metadata has no {lacking}")
    try:
        known = msgspec.json.decode(metadata["spec"], type=_Known)
        Scores((), np.zeros(0, np.int32), (), (), np.zeros((0, 0), np.float32), metadata).scales  # noqa: B018
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its spec: {error}") from None
    if not known.classes:
        raise ValueError("its spec has no classes")


class _Known(msgspec.Struct):
    """What a table's spec has at least: a model's, or that of a fusion."""

    name: str
    classes: list[str]
    class_names: list[str] | None = None  # words; a fusion has none


def _check_labels(labels: NDArray[np.int32], metadata: Mapping[str, str]) -> None:
    """Raises ValueError for a label that is none of the classes, nor UNKNOWN_LABEL."""
    classes = len(json.loads(metadata["spec"])["classes"])
    beyond = labels[(labels < UNKNOWN_LABEL) | (labels >= classes)]
    if len(beyond):
        raise ValueError(f"label {beyond[0]} of {classes} classes")


def fuse(members: Sequence[Scores], name: str = FUSED) -> Scores:
    """The mean posterior of tables, or of the same parts of them, image by image (VGG section 4.5).

    An image that some member could not score has the status of the first such member. Raises ScoresError unless all
    have the same images and classes.
    """
    first = members[0]
    for other in members[1:]:
        check_same_images(first, other)

    # an image is readable only where every member could score it
    statuses = []
    for own in zip(*(member.statuses for member in members), strict=True):
        statuses.append(next((status for status in own if status != OK), OK))
    readable = np.array([status == OK for status in statuses])
    mean = np.mean([member.posterior.astype(np.float64) for member in members], 0)  # [images, classes]

    mean = np.where(readable[:, None], mean, 0).astype(np.float32)

    # members that saw different pixels leave no digest
    same_pixels = all(member.pixel_digests == first.pixel_digests for member in members)
    digests = first.pixel_digests if same_pixels else ("",) * len(statuses)
    spec = {"name": name, "classes": first.classes, "members": [json.loads(m.metadata["spec"]) for m in members]}
    metadata = {"spec": json.dumps(spec)}
    for key in KEYS:
        metadata[key] = _joined([member.metadata[key] for member in members])

    if any(DECODER in member.metadata for member in members):
        metadata[DECODER] = _joined([member.decoder for member in members])

    # a member of an earlier version does not say it: only of FP16 that may be unrounded does that leave it open
    if not any(member.unrounded and ARITHMETIC not in member.metadata for member in members):
        metadata[ARITHMETIC] = _joined([member.metadata.get(ARITHMETIC, _precisions(member)) for member in members])
    return Scores(first.images, first.labels, tuple(statuses), digests, mean, metadata)


def in_step(paths: Sequence[Path]) -> Iterator[tuple[Scores, ...]]:
    """Parts of several tables in step, one of each table. Raises ScoresError where a table is shorter."""
    for members in itertools.zip_longest(*map(parts, paths)):
        missing = [path for path, member in zip(paths, members, strict=True) if member is None]
        if missing:
            raise ScoresError(f"{missing[0]} has fewer images than the others: use tables of the same images")
        yield members


def _precisions(scores: Scores) -> str:
    """The precisions of a table's runtimes: of `torch-fp32` FP32."""
    return _joined([runtime.rpartition("-")[2] for runtime in scores.metadata["runtime"].split("+")])


def _joined(values: list[str]) -> str:
    """The one value that all members have, or all values in order, joined by +."""
    return values[0] if len(set(values)) == 1 else "+".join(values)


@dataclass(frozen=True, slots=True)
class MistakeView:
    """One view of a mistaken image: how it was cut, and the posterior of the answer and of the true class in it.

    rescaled_px: size of the image after rescaling to `short_side_px`, in which `box` is (top, left, height, width).
    resize_px: side in px that the box is resized to; None where it is not.
    """

    short_side_px: int
    rescaled_px: SizePx
    box: tuple[int, int, int, int]
    resize_px: int | None
    mirrored: bool
    weight: float
    answer_probability: float
    label_probability: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A labelled image whose first answer in one score table is wrong; classes by name.

    size: the image's. views: the surest of the answer, the surest first; of `views_total` views, `views_agreeing` gave
    that answer themselves. thumbnail: file beside INDEX; None where the image could not be read again.
    """

    model: str
    runtime: str
    protocol: str
    scales: tuple[int, ...]
    pooling: str
    image: str
    label: str
    answer: str
    probability: float
    label_probability: float
    size: SizePx
    views_total: int
    views_agreeing: int
    views: tuple[MistakeView, ...]
    thumbnail: str | None


def surest(mistakes: Iterable[Mistake], count: int) -> tuple[Mistake, ...]:
    """The `count` most confident ones, the most confident first; equal ones by name."""
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.image))[:count])
