"""Classification of single images: a file, bytes or pixels in, the likeliest classes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, EngineError, Provider
from .open import open_engine
from .pixels.decode import ImageError, Pixels, decode, read
from .views import SINGLE_SCALE, check_protocol, check_scales, default_scales, out_of_range, plan_views

BATCH = 16
"""Images that share calls when each has few views."""
NOT_FINITE = "the model's answer is not finite (NaN or infinite): it is damaged, or overflows in half precision"
"""Status of an image to which a model has no answer."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class with its posterior probability."""

    index: int
    wnid: str
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image's predictions with the status "ok", or why there are none."""

    status: str
    predictions: tuple[Prediction, ...] = ()


class Classifier:
    """An engine with a protocol.

        classifier = Classifier("model.onnx", protocol="center")
        classifier("photo.jpg", top=5)

    Not thread-safe: one classifier per thread. Raises EngineError or PlanError when it is made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        protocol: str = "center",
        scales: Sequence[int] | None = None,
        provider: Provider = "cpu",
        device: int = 0,
        runtime_cache: Path | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self.engine: Engine = open_engine(
            path,
            provider=provider,
            device=device,
            largest_short_px=max(scales or [0]),
            runtime_cache=runtime_cache,
            cuda_graphs=cuda_graphs,
        )

        self.protocol = protocol
        self.scales = tuple(scales) if scales else default_scales(self.engine.spec, protocol)
        check_scales(self.engine.spec, self.scales)
        check_protocol(self.engine.spec, self.engine.shapes, protocol, self.scales)  # refuses an unknown one, too

    def __call__(self, image: str | os.PathLike[str] | bytes | Pixels, *, top: int = 5) -> list[Prediction]:
        """The `top` likeliest classes of a path, encoded bytes or u8 RGB pixels [h, w, 3].

        Raises ImageError, and EngineError where the model answers by what is no number.
        """
        outcome = self._classify([self.pixels(image)], top)[0]
        if outcome.status == NOT_FINITE:
            raise EngineError(f"{self.engine.spec.name}: {NOT_FINITE}")
        if outcome.status != "ok":
            raise ImageError(outcome.status)
        return list(outcome.predictions)

    def classify_files(self, paths: Iterable[Path], *, top: int = 5) -> Iterator[tuple[Path, Outcome]]:
        """An outcome for each file, in order; one that cannot be read stops nothing."""
        size = BATCH if self.protocol in SINGLE_SCALE else 1
        waiting = iter(paths)
        while batch := list(islice(waiting, size)):
            outcomes: dict[Path, Outcome] = {}
            images: dict[Path, Pixels] = {}
            for path in batch:
                try:
                    images[path] = self.pixels(path)
                except ImageError as error:
                    outcomes[path] = Outcome(str(error))

            outcomes |= zip(images, self._classify(list(images.values()), top), strict=True)
            yield from ((path, outcomes[path]) for path in batch)

    def close(self) -> None:
        self.engine.close()

    def pixels(self, image: str | os.PathLike[str] | bytes | Pixels) -> Pixels:
        """u8 RGB [h, w, 3] as the engine's spec has images decoded. Raises ImageError."""
        exif = self.engine.spec.preprocessing.exif
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ImageError(f"pixels {image.dtype} {list(image.shape)}: expected uint8 [height, width, 3], RGB")
            return image
        if isinstance(image, bytes):
            return decode(image, exif=exif)
        return read(Path(image), exif=exif)

    def _classify(self, images: Sequence[Pixels], top: int) -> list[Outcome]:
        """An outcome for each image; those that the engine can see share its calls."""
        spec = self.engine.spec
        plans = [plan_views(spec, self.protocol, (i.shape[0], i.shape[1]), self.scales) for i in images]
        reasons = [out_of_range(plan, self.engine.shapes, spec) for plan in plans]

        fit = [number for number, reason in enumerate(reasons) if reason is None]
        posterior = np.zeros((0, len(spec.classes)), np.float32)
        if fit:
            loaded = self.engine.load([images[number] for number in fit])
            posterior = self.engine.run(loaded, [plans[number] for number in fit])["posterior"]  # [views, classes]

        outcomes, start = [], 0
        for plan, reason in zip(plans, reasons, strict=True):
            if reason is not None:
                outcomes.append(Outcome(reason))
                continue
            weights = np.array([view.weight for view in plan.views])
            mean = weights @ posterior[start : start + len(plan)].astype(np.float64)  # [classes]
            known = np.isfinite(mean).all()
            outcomes.append(Outcome("ok", self._best(mean, top)) if known else Outcome(NOT_FINITE))
            start += len(plan)
        return outcomes

    def _best(self, posterior: NDArray[np.float64], top: int) -> tuple[Prediction, ...]:
        spec = self.engine.spec
        names = spec.class_names or spec.classes
        order = np.argsort(-posterior, kind="stable")[:top].tolist()
        return tuple(Prediction(i, spec.classes[i], names[i], float(posterior[i])) for i in order)
