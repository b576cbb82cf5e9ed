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
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.data.dataset import Dataset
from infer.files import replacing
from infer.pixels.decode import ImageError, decode
from infer.pixels.render import resize
from infer.spec import ModelSpec
from infer.views import View, ViewPlan, rescaled_px

from ..scores.table import Scores

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


class AnswerByViews(Protocol):
    """An answer to an image with the views it was made of (score.ImageAnswer)."""

    @property
    def plan(self) -> ViewPlan | None: ...

    @property
    def view_posteriors(self) -> NDArray[np.float32] | None:
        """[views, classes]"""


def find_mistakes(
    scores: Scores, answers: Sequence[AnswerByViews], wrong: NDArray[np.bool_], spec: ModelSpec, count: int
) -> tuple[Mistake, ...]:
    """The `count` wrong answers of a table's rows with the highest posterior; `wrong` is of the labelled ones."""
    if count == 0:
        return ()
    labelled = np.flatnonzero(scores.labels >= 0)
    found = [
        (float(scores.posterior[place].max()), int(place))
        for place in labelled[wrong]
        if answers[place].plan is not None and np.isfinite(scores.posterior[place]).all()
    ]
    chosen = heapq.nlargest(count, found)
    return surest((_mistake(scores, answers[place], place, spec) for _, place in chosen), count)


def surest(mistakes: Iterable[Mistake], count: int) -> tuple[Mistake, ...]:
    """The `count` most confident ones, most confident first; of equal ones by name."""
    return tuple(sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.image))[:count])


def _mistake(scores: Scores, answer: AnswerByViews, place: int, spec: ModelSpec) -> Mistake:
    plan, views = answer.plan, answer.view_posteriors
    assert plan is not None and views is not None
    posterior, label = scores.posterior[place], int(scores.labels[place])
    first = int(posterior.argmax())  # the class that was answered

    order = np.argsort(-views[:, first], kind="stable")[:SUREST]
    sure = [_view(plan.views[i], spec, plan.image_px, float(views[i, first]), float(views[i, label])) for i in order]
    return Mistake(
        scores.images[place],
        spec.classes[label],
        spec.classes[first],
        float(posterior[first]),
        float(posterior[label]),
        plan.image_px,
        len(plan),
        int((views.argmax(1) == first).sum()),
        tuple(sure),
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
