"""Images through the methods of proposals: selective search, a MultiBox net, and what a file has."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infer.boxes import multibox
from infer.boxes.multibox import plan_whole
from infer.boxes.proposals import SelectiveSearch, check_opencv, selective_search
from infer.boxes.proposed import OK, ProposedImage
from infer.data.dataset import Item
from infer.engine import AnswerError, Engine, Provider, Started, check_outputs, start
from infer.files import file_sha256
from infer.pixels.decode import Pixels
from infer.pixels.regions import make_picture
from infer.spec import Exif, Size

from ..run.engines import KnownEngine, known_engine, our_commit
from ..run.loop import DecodedImage, MakerOpener, ShardMaker
from .files import Proposals
from .table import SHARD_IMAGES, no_proposals

SEARCH, NET, FILE = "selective-search", "multibox", "file"
METHODS = (SEARCH, NET)
"""Methods that find boxes; those of --read are called `file`."""


class ImageToSearch(NamedTuple):
    """An image of a run, and what a file proposes for it, if there is one."""

    item: Item
    given: Proposals | None = None


@dataclass(frozen=True, slots=True)
class ProposalSettings:
    """What is done. methods: in their order; most: boxes of an image that the MultiBox net may propose; exif: of
    images where there is no net to say it."""

    methods: tuple[str, ...]
    search: SelectiveSearch
    most: int
    exif: Exif
    strict: bool


class Begun(NamedTuple):
    """An image that a MultiBox net works on, if there is one."""

    sample: ImageToSearch
    decoded: DecodedImage
    started: Started | None


class ProposalMaker(ShardMaker[ImageToSearch, Sequence[Begun], Sequence[ProposedImage]]):
    """The methods of a run, with the one engine that they may need."""

    def __init__(self, settings: ProposalSettings, engines: Sequence[Engine]) -> None:
        self.engines, self._settings = engines, settings
        self.strict, self.shard_images = settings.strict, SHARD_IMAGES
        self.known = tuple(map(known_engine, engines))
        for engine in engines:
            check_outputs(engine.spec, (multibox.OUTPUT,))
        if SEARCH in settings.methods:
            check_opencv()

    @property
    def exifs(self) -> Sequence[Exif]:
        return super().exifs or [self._settings.exif]

    def begin(self, samples: Sequence[ImageToSearch], images: Sequence[DecodedImage]) -> list[Begun]:
        return [Begun(sample, image, self._start(image)) for sample, image in zip(samples, images, strict=True)]

    def collect(self, begun: Sequence[Begun]) -> list[ProposedImage]:
        return [self._propose(*each) for each in begun]

    def rows(self, samples: Sequence[ImageToSearch], answers: Sequence[ProposedImage]) -> Sequence[ProposedImage]:
        return answers

    def _start(self, image: DecodedImage) -> Started | None:
        if not self.engines or not image.images:
            return None
        (engine,) = self.engines
        pixels = image.images[engine.spec.preprocessing.exif]
        loaded = engine.load([make_picture(pixels, engine.spec)])
        return start(engine, loaded, [plan_whole(_size(pixels), engine.spec)], (multibox.OUTPUT,))

    def _propose(self, sample: ImageToSearch, decoded: DecodedImage, started: Started | None) -> ProposedImage:
        if not decoded.images:
            return no_proposals(sample.item.name, decoded.status)
        (pixels,) = decoded.images.values()
        boxes: list[NDArray[np.float32]] = []
        scores: list[NDArray[np.float32]] = []
        methods: list[str] = []

        for method in self._settings.methods:
            try:
                found, rated = self._boxes(method, pixels, sample, started)
            except AnswerError as error:
                if self.strict:
                    raise
                return no_proposals(sample.item.name, f"{sample.item.name}: {error}")
            boxes.append(found.astype(np.float32))
            scores.append(rated.astype(np.float32))
            methods += [method] * len(found)
        size = _size(pixels)
        return ProposedImage(sample.item.name, OK, size, np.concatenate(boxes), np.concatenate(scores), methods)

    def _boxes(
        self, method: str, pixels: Pixels, sample: ImageToSearch, started: Started | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The boxes of one method, f64 [N, 4], and their scores."""
        if method == SEARCH:
            found = selective_search(pixels, self._settings.search)
            return found, -np.arange(1.0, len(found) + 1)
        if method == NET:
            assert started is not None  # there is an engine
            return multibox.found_boxes(started.result()[multibox.OUTPUT][0], _size(pixels), self._settings.most)
        if sample.given is None:
            return np.zeros((0, 4)), np.zeros(0)
        return sample.given


def _size(pixels: Pixels) -> Size:
    return pixels.shape[0], pixels.shape[1]


def proposal_opener(
    settings: ProposalSettings, engine: Path | None, provider: Provider, options: dict[str, Any]
) -> MakerOpener[ImageToSearch, Sequence[ProposedImage]]:
    """Makes the opener of a run; options: of infer.open.open_engine."""
    files = [engine] if engine is not None else []
    make = functools.partial(ProposalMaker, settings)
    return MakerOpener(files, make, provider, [0] * len(files), {**options, "checkpoints": False})


def proposal_metadata(
    settings: ProposalSettings, engines: Sequence[KnownEngine], listing: str, read: Path | None
) -> dict[str, str]:
    """Says all that the rows depend on, for the table's metadata."""
    said = {"methods": ",".join(settings.methods), "listing": listing, "commit": our_commit()}
    said["exif"] = engines[0].spec.preprocessing.exif if engines else settings.exif
    if SEARCH in settings.methods:
        said["selective search"] = str(settings.search)
        said["opencv"] = importlib.metadata.version("opencv-contrib-python-headless")
    for engine in engines:
        said |= {"multibox engine": engine.sha256, "multibox net": engine.spec.to_json()}
        said |= {"runtime": engine.runtime, "arithmetic": engine.arithmetic, "multibox boxes": str(settings.most)}
    if read is not None:
        said["file"] = file_sha256(read)
    return said
