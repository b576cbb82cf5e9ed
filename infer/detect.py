"""Objects in photographs by an exported net of regions: proposals, their classes, what is left of them (GoogLeNet, 8).

from infer.detect import Detector
detector = Detector("det.onnx", proposals="selective-search")
for found in detector.detect(pixels): print(found.name, found.score, found.box)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .boxes.detecting import Suppression, check_regions, classify_regions, find_objects
from .boxes.multibox import propose
from .boxes.overlap import Boxes
from .boxes.proposals import selective_search
from .data.annotations import Box
from .engine import NOT_FINITE, AnswerError
from .errors import UsageError
from .open import open_engine
from .pixels.decode import Pixels
from .pixels.regions import inside

Proposing = Literal["selective-search", "multibox"]
METHODS: tuple[Proposing, ...] = get_args(Proposing)
SHOWN = 0.5
"""Posterior from which on an app shows an object; a measurement takes far less sure ones, too."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object: class by number, by WNID or name, and in words; posterior; box in the image's pixels."""

    index: int
    wnid: str
    name: str
    score: float
    box: Box


class Detector:
    """A net of regions and what proposes them; `multibox` is the engine of a MultiBox net.

    options: of infer.open.open_engine. Raises EngineError, and UsageError where proposals and `multibox` do not go
    together.
    """

    def __init__(
        self,
        engine: Path,
        *,
        proposals: Proposing | Sequence[Proposing] = "selective-search",
        multibox: Path | None = None,
        least: float = SHOWN,
        **options: Any,
    ) -> None:
        methods = (proposals,) if isinstance(proposals, str) else tuple(proposals)
        unknown = [method for method in methods if method not in METHODS]
        if unknown or not methods:
            raise UsageError(f"proposals by {unknown[0] if unknown else 'nothing'}: expected {' or '.join(METHODS)}")
        if ("multibox" in methods) != (multibox is not None):
            raise UsageError("proposals by multibox need its engine, --multibox MODEL.onnx, and nothing else does")
        self.methods, self.how = methods, Suppression(least=least)
        self.engine = open_engine(engine, **options)
        check_regions(self.engine.spec)
        self.multibox = None if multibox is None else open_engine(multibox, **options)

    def propose(self, image: Pixels) -> Boxes:
        """Boxes f64 [n, 4] of an image u8 RGB [h, w, 3] by all methods, those of the first method first."""
        found: list[Boxes] = [np.empty((0, 4))]
        for method in self.methods:
            if method == "multibox":
                assert self.multibox is not None
                found.append(propose(self.multibox, image).boxes)
            else:
                found.append(selective_search(image))
        boxes = np.concatenate(found)
        return boxes[inside(boxes, (image.shape[0], image.shape[1]))]

    def detect(self, image: Pixels) -> list[FoundObject]:
        """The objects of an image u8 RGB [h, w, 3], the surest first.

        Raises EngineError; AnswerError where an answer to this image is not finite.
        """
        boxes, spec = self.propose(image), self.engine.spec
        (posterior,), _ = classify_regions([self.engine], [image], boxes).collect(len(spec.classes))
        if not np.isfinite(posterior).all():
            raise AnswerError(f"{spec.name}: {NOT_FINITE}")
        names = spec.class_names or spec.classes
        return [
            FoundObject(label, spec.classes[label], names[label], score, Box(*box))
            for label, score, box in zip(*map(np.ndarray.tolist, find_objects(posterior, boxes, self.how)), strict=True)
        ]

    def close(self) -> None:
        self.engine.close()
        if self.multibox is not None:
            self.multibox.close()
