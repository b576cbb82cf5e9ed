"""The most confident mistakes of a run: the views that were sure of them, and what the image looks like.

They are found while the run goes on, so nothing is computed twice. At its end OUT/mistakes/index.json lists them for
the report, with thumbnails beside it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infer.data.dataset import Dataset
from infer.files import replacing
from infer.pixels.decode import ImageError, decode
from infer.pixels.render import resize
from infer.processes.owned import remove_ours
from infer.spec import ModelSpec
from infer.views import ViewPlan, rescaled_px

from ..errors import RunError
from ..scores.table import INDEX, Mistake, MistakeView, Scores, surest

MISTAKES = "mistakes"
"""Name of the folder within OUT."""
OURS = re.compile(rf"({re.escape(INDEX)}|[0-9a-f]{{16}}\.jpg)(\.unfinished)?")
"""Names of what it may hold."""
SUREST = 12
"""Views of a mistake that are kept."""
THUMBNAIL_PX = 160


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
    """The `count` wrong answers with the highest posterior among a table's rows; `wrong` tells of the labelled ones."""
    if count == 0:
        return ()

    labelled = np.flatnonzero(scores.labels >= 0)
    found = [
        (float(scores.posterior[place].max()), int(place))
        for place in labelled[wrong]
        if answers[place].plan is not None and np.isfinite(scores.posterior[place]).all()
    ]
    chosen = heapq.nlargest(count, found)
    return surest((_mistake(scores, spec, answers[place], place) for _, place in chosen), count)


def _mistake(scores: Scores, spec: ModelSpec, by_views: AnswerByViews, place: int) -> Mistake:
    """The mistake at a place of a table; its thumbnail is made at the end of the run."""
    plan, posteriors = by_views.plan, by_views.view_posteriors  # [views, classes]
    assert plan is not None and posteriors is not None
    posterior, label = scores.posterior[place], int(scores.labels[place])
    answer = int(posterior.argmax())
    size = plan.image_px

    views = []
    for i in np.argsort(-posteriors[:, answer], kind="stable")[:SUREST]:
        view = plan.views[i]
        views.append(
            MistakeView(
                short_side_px=view.short_side_px,
                rescaled_px=rescaled_px(size, view.short_side_px, spec.preprocessing.long_side_rounding),
                box=view.box,
                resize_px=view.resize_px,
                mirrored=view.mirrored,
                weight=view.weight,
                answer_probability=float(posteriors[i, answer]),
                label_probability=float(posteriors[i, label]),
            )
        )

    return Mistake(
        model=spec.name,
        runtime=scores.metadata["runtime"],
        protocol=scores.metadata["protocol"],
        scales=scores.scales,
        pooling=scores.metadata["pooling"],
        image=scores.images[place],
        label=spec.classes[label],
        answer=spec.classes[answer],
        probability=float(posterior[answer]),
        label_probability=float(posterior[label]),
        size=size,
        views_total=len(plan),
        views_agreeing=int((posteriors.argmax(1) == answer).sum()),
        views=tuple(views),
        thumbnail=None,
    )


def write_mistakes(out: Path, dataset: Dataset, tables: Iterable[tuple[Mapping[str, str], Sequence[Mistake]]]) -> None:
    """Writes OUT/mistakes anew from (metadata, mistakes) of each table; an image that is gone has no thumbnail."""
    folder = out / MISTAKES
    remove_ours(folder, OURS, RunError)
    items = {item.name: item for item in dataset.items}

    listed: list[Mistake] = []
    for metadata, mistakes in tables:
        exif = ModelSpec.from_json(metadata["spec"]).preprocessing.exif
        for mistake in mistakes:
            name = f"{hashlib.sha256(f'{exif} {mistake.image}'.encode()).hexdigest()[:16]}.jpg"
            thumbnail: str | None = name

            # tables of models that turn images alike share the thumbnail
            if not (folder / name).exists():
                try:
                    pixels = decode(items[mistake.image].read_bytes(), exif=exif)
                except (OSError, ImageError):
                    thumbnail = None
                else:
                    with replacing(folder / name) as unfinished:
                        _thumbnail(pixels).save(unfinished, "JPEG", quality=85)
            listed.append(replace(mistake, thumbnail=thumbnail))

    if listed:
        with replacing(folder / INDEX) as unfinished:
            unfinished.write_text(json.dumps(msgspec.to_builtins(listed), indent=1) + "\n")


def _thumbnail(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """The image with a shorter side of THUMBNAIL_PX, or as it is where that is smaller."""
    size = (pixels.shape[0], pixels.shape[1])
    short = min(THUMBNAIL_PX, *size)
    return Image.fromarray(resize(pixels, rescaled_px(size, short, "nearest"), "bilinear"))
