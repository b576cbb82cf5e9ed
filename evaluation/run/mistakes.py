"""The most confident mistakes of a run: which views were sure of them, and what the image looks like.

OUT/mistakes/index.json lists them with thumbnails beside it, for the report. They are found while the run goes on, so
nothing is computed twice.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infer.data.dataset import Dataset
from infer.files import replacing
from infer.pixels.decode import ImageError, decode
from infer.pixels.render import resize
from infer.spec import ModelSpec
from infer.views import View, rescaled_px

from ..scores.metrics import is_wrong
from ..scores.table import Scores
from .image_batch import Row

SUREST = 12
"""Views of a mistake that are kept."""
THUMBNAIL_PX = 160


@dataclass(frozen=True, slots=True)
class Mistake:
    """A labelled image whose first answer is wrong; classes by name, `size` (height, width) in pixels.

    views: those surest of the answer; of `views_total`, `views_agreeing` gave that answer themselves.
    """

    image: str
    label: str
    answer: str
    probability: float
    label_probability: float
    size: tuple[int, int]
    views_total: int
    views_agreeing: int
    views: tuple[dict[str, Any], ...]


def find_mistakes(scores: Scores, rows: Sequence[Row], count: int) -> tuple[Mistake, ...]:
    """The `count` wrong answers of a table's rows with the highest posterior."""
    if count == 0:
        return ()
    labelled = np.flatnonzero(scores.labels >= 0)
    wrong = [place for place in labelled[is_wrong(scores, 1)] if np.isfinite(scores.posterior[place]).all()]
    found = [(float(scores.posterior[place].max()), int(place)) for place in wrong if rows[place].plan is not None]
    spec, classes = ModelSpec.from_json(scores.metadata["spec"]), scores.classes
    chosen = heapq.nlargest(count, found)
    return surest((_mistake(scores, rows[place], place, spec, classes) for _, place in chosen), count)


def surest(mistakes: Iterable[Mistake], count: int) -> tuple[Mistake, ...]:
    """The `count` most confident ones, most confident first; of equal ones by name."""
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.image))[:count])


def _mistake(scores: Scores, row: Row, place: int, spec: ModelSpec, classes: Sequence[str]) -> Mistake:
    assert row.plan is not None and row.views is not None
    posterior, label = scores.posterior[place], int(scores.labels[place])
    answer = int(posterior.argmax())
    order = np.argsort(-row.views[:, answer], kind="stable")[:SUREST]
    size = row.plan.image_px
    return Mistake(
        scores.images[place],
        classes[label],
        classes[answer],
        float(posterior[answer]),
        float(posterior[label]),
        size,
        len(row.plan),
        int((row.views.argmax(1) == answer).sum()),
        tuple(
            _view(row.plan.views[i], spec, size, float(row.views[i, answer]), float(row.views[i, label])) for i in order
        ),
    )


def _view(view: View, spec: ModelSpec, size: tuple[int, int], answer: float, label: float) -> dict[str, Any]:
    return {
        "short_side_px": view.short_side_px,
        "rescaled_px": rescaled_px(size, view.short_side_px, spec.preprocessing.long_side_rounding),
        "box": view.box,
        "resize_px": view.resize_px,
        "mirrored": view.mirrored,
        "weight": view.weight,
        "answer_probability": answer,
        "label_probability": label,
    }


def write_mistakes(out: Path, dataset: Dataset, tables: Iterable[tuple[Mapping[str, str], Sequence[Mistake]]]) -> None:
    """Writes OUT/mistakes anew from (metadata, mistakes) of each table; an image that is gone has no thumbnail."""
    folder = out / "mistakes"
    shutil.rmtree(folder, ignore_errors=True)
    items = {item.name: item for item in dataset.items}
    index: list[dict[str, Any]] = []
    for metadata, mistakes in tables:
        spec = ModelSpec.from_json(metadata["spec"])
        said = {
            "model": spec.name,
            "runtime": metadata["runtime"],
            "protocol": metadata["protocol"],
            "scales": [int(q) for q in metadata["scales"].split(",")],
            "pooling": metadata["pooling"],
        }
        for mistake in mistakes:
            thumbnail = f"{hashlib.sha256(f'{spec.preprocessing.exif} {mistake.image}'.encode()).hexdigest()[:16]}.jpg"
            if not (folder / thumbnail).exists():
                try:
                    pixels = decode(items[mistake.image].read_bytes(), exif=spec.preprocessing.exif)
                except (OSError, ImageError):
                    thumbnail = ""
                else:
                    with replacing(folder / thumbnail) as unfinished:
                        _thumbnail(pixels).save(unfinished, "JPEG", quality=85)
            index.append({**said, **asdict(mistake), "thumbnail": thumbnail or None})
    if index:
        with replacing(folder / "index.json") as unfinished:
            unfinished.write_text(json.dumps(index, indent=1) + "\n")


def _thumbnail(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """The shorter side THUMBNAIL_PX, or as it is where that is smaller."""
    size = (pixels.shape[0], pixels.shape[1])
    short = min(THUMBNAIL_PX, *size)
    return Image.fromarray(resize(pixels, rescaled_px(size, short, "nearest"), "bilinear"))
