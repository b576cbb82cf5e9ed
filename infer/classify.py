"""Classification of single images: a file, bytes or pixels in, the likeliest classes out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .engine import HOST, NOT_FINITE, Engine, EngineError, Provider
from .open import open_engine
from .pixels.decode import ImageError, Pixels, decode, read
from .pixels.render import Cache, shrink
from .views import SINGLE_SCALE, ViewPlan, check_protocol, check_scales, default_scales, out_of_range, plan_views

BATCH = 16
"""Images that share calls when each has few views."""
BATCH_BYTES = 1 << 28
"""Bytes of decoded images that are held for a call: fewer share one on a GPU where they are large."""


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


class _Image(NamedTuple):
    """A decoded image, its rescaled versions, its views, and why the engine cannot see them."""

    pixels: Pixels
    rescaled: Cache
    plan: ViewPlan
    reason: str | None


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
        lazy_kernels: bool = False,
    ) -> None:
        self.engine: Engine = open_engine(
            path,
            provider=provider,
            device=device,
            largest_short_px=max(scales or [0]),
            runtime_cache=runtime_cache,
            cuda_graphs=cuda_graphs,
            lazy_kernels=lazy_kernels,
        )

        self.protocol = protocol
        self.scales = tuple(scales) if scales else default_scales(self.engine.spec, protocol)
        check_scales(self.engine.spec, self.scales)
        check_protocol(self.engine.spec, self.engine.shapes, protocol, self.scales)  # refuses an unknown one, too

    def __call__(self, image: str | os.PathLike[str] | bytes | Pixels, *, top: int = 5) -> list[Prediction]:
        """The `top` likeliest classes of a path, encoded bytes or u8 RGB pixels [h, w, 3].

        Raises ImageError, and EngineError where the model answers by what is no number.
        """
        outcome = self._classify([self._planned(self.pixels(image))], top)[0]
        if outcome.status == NOT_FINITE:
            raise EngineError(f"{self.engine.spec.name}: {NOT_FINITE}")
        if outcome.status != "ok":
            raise ImageError(outcome.status)
        return list(outcome.predictions)

    def classify_files(self, paths: Iterable[Path], *, top: int = 5) -> Iterator[tuple[Path, Outcome]]:
        """An outcome for each file, in order; one that cannot be read stops nothing."""
        size = BATCH if self.protocol in SINGLE_SCALE else 1
        waiting = iter(paths)
        while batch := self._next_batch(waiting, size):
            seen = [image for _, image in batch if isinstance(image, _Image)]
            outcomes = iter(self._classify(seen, top))
            answers = [(path, next(outcomes) if isinstance(each, _Image) else each) for path, each in batch]
            del batch, seen
            yield from answers

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

    def _next_batch(self, paths: Iterator[Path], size: int) -> list[tuple[Path, _Image | Outcome]]:
        """Up to `size` files that are decoded, or why they are not; fewer where the engine needs all their pixels."""
        batch: list[tuple[Path, _Image | Outcome]] = []
        held = 0
        while len(batch) < size and held < BATCH_BYTES and (path := next(paths, None)) is not None:
            try:
                image = self._planned(self.pixels(path), shrunk=size > 1 and self.engine.device == HOST)
            except ImageError as error:
                batch.append((path, Outcome(str(error))))
                continue
            held += image.pixels.nbytes
            batch.append((path, image))
        return batch

    def _planned(self, pixels: Pixels, *, shrunk: bool = False) -> _Image:
        """An image with its views; `shrunk` to what they are cut from, and its size."""
        spec = self.engine.spec
        plan = plan_views(spec, self.protocol, (pixels.shape[0], pixels.shape[1]), self.scales)
        reason = out_of_range(plan, self.engine.shapes, spec)
        cache: Cache = {}
        if shrunk:
            pixels = shrink(pixels, plan.views if reason is None else (), spec, cache)
        return _Image(pixels, cache, plan, reason)

    def _classify(self, images: Sequence[_Image], top: int) -> list[Outcome]:
        """An outcome for each image; those that the engine can see share its calls."""
        spec = self.engine.spec

        fit = [image for image in images if image.reason is None]
        posterior = np.zeros((0, len(spec.classes)), np.float32)
        if fit:
            loaded = self.engine.load([image.pixels for image in fit])
            for known, image in zip(loaded.rescaled, fit, strict=True):
                known.update(image.rescaled)
            posterior = self.engine.run(loaded, [image.plan for image in fit])["posterior"]  # [views, classes]

        outcomes, start = [], 0
        for image in images:
            if image.reason is not None:
                outcomes.append(Outcome(image.reason))
                continue
            weights = np.array([view.weight for view in image.plan.views])
            mean = weights @ posterior[start : start + len(image.plan)].astype(np.float64)  # [classes]
            known = np.isfinite(mean).all()
            outcomes.append(Outcome("ok", self._best(mean, top)) if known else Outcome(NOT_FINITE))
            start += len(image.plan)
        return outcomes

    def _best(self, posterior: NDArray[np.float64], top: int) -> tuple[Prediction, ...]:
        spec = self.engine.spec
        names = spec.class_names or spec.classes
        order = np.argsort(-posterior, kind="stable")[:top].tolist()
        return tuple(Prediction(i, spec.classes[i], names[i], float(posterior[i])) for i in order)
