"""Images through the engines of a classification: every distinct view once, a posterior for each protocol.

A ScoreMaker says to the run loop (loop.py) what is made of a few images and of a shard.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer import views as view_plans
from infer.data.dataset import Dataset, Item
from infer.engine import HOST, DeviceImage, Engine, Provider, Started, Starting, start
from infer.errors import one_line
from infer.pixels import render
from infer.pixels.nvjpeg import DecoderName
from infer.pixels.render import Cache
from infer.spec import Size
from infer.views import MergedPlan, ViewPlan

from ..errors import RunError
from ..scores.metrics import is_wrong
from ..scores.table import (
    ARITHMETIC,
    CPU_DECODER,
    OK,
    OUT_OF_RANGE,
    UNKNOWN_LABEL,
    Mistake,
    Scores,
    decoder_metadata,
)
from .engines import KnownEngine, check_together, known_engine
from .labels import match_classes
from .loop import DecodedImage, MakerOpener, ShardMaker, digest_pixels
from .mistakes import find_mistakes
from .submission import POOLING_OUTPUT, Pooling, Protocol, RunPlan

SMALL_BATCH, LARGE_BATCH = 40, 8
"""Images of a shard: the first when their protocols have few views each, or of plans, in which images share calls."""
PLANS = 64
"""Image sizes whose plans are kept: most photographs of a data set have one of a few sizes."""

TableMetadata = Sequence[Sequence[dict[str, str]]]
"""The metadata of every table, [engine][protocol]."""


@dataclass(frozen=True, slots=True)
class KnownEngines:
    """The engines of a run, for those who do not run them themselves, with the protocols and the metadata of each."""

    engines: tuple[KnownEngine, ...]
    protocols: tuple[tuple[Protocol, ...], ...]
    metadata: TableMetadata
    shard_images: int


def table_metadata(
    engine: Engine, protocol: Protocol, pooling: Pooling, commit: str, decoder: DecoderName = CPU_DECODER
) -> dict[str, str]:
    """Says what the rows of a table depend on beside the data set, whose id is known when it has been read."""
    return {
        "spec": engine.spec.to_json(),
        "runtime": engine.runtime,
        ARITHMETIC: engine.arithmetic,
        "protocol": protocol.name,
        "scales": ",".join(map(str, protocol.scales)),
        "pooling": pooling,
        **decoder_metadata(decoder),
        "engine_sha256": engine.sha256,
        "commit": commit,
    }


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """The answer of one engine and protocol to an image, f32 [classes], and to each view, f32 [views, classes]."""

    status: str
    pixel_digest: str = ""
    posterior: NDArray[np.float32] | None = None
    plan: ViewPlan | None = None
    view_posteriors: NDArray[np.float32] | None = None

    @property
    def view_pixels(self) -> int:
        """Pixels of all views: the work that the protocol is for a convolutional net."""
        return sum(view.size_px[0] * view.size_px[1] for view in self.plan.views) if self.plan else 0


@dataclass(frozen=True, slots=True)
class TablePart:
    """The rows of a shard in one table, and what they came to; `wrong` first answers are those of labelled images."""

    scores: Scores
    wrong: int
    view_pixels: int
    mistakes: tuple[Mistake, ...]


TableParts = Sequence[Sequence[TablePart]]
"""The rows of a shard in every table, [engine][protocol]."""


class SizePlan(NamedTuple):
    """For images of one size: plans of the protocols that can see it, by number, merged; why the others cannot."""

    plans: dict[int, ViewPlan]
    refused: dict[int, str]
    merged: MergedPlan


@dataclass(frozen=True, slots=True)
class EngineTables:
    """An engine with the protocols, and the metadata, of the tables that it makes.

    label_of: the engine's class of each class of the data set; plan: of an image of some (height, width).
    """

    engine: Engine
    protocols: tuple[Protocol, ...]
    metadata: Sequence[dict[str, str]]
    label_of: NDArray[np.int32]
    plan: Callable[[Size], SizePlan]


@dataclass(frozen=True, slots=True)
class BegunBatch:
    """A few images that an engine works on.

    answers: [image][protocol], those that are to come in place; work: the images that are seen, with their plans.
    """

    answers: list[list[ImageAnswer]]
    work: Sequence[tuple[int, SizePlan]]
    output: str
    started: Started | None

    def collect(self) -> list[list[ImageAnswer]]:
        """Waits for the engine; returns [image][protocol]. Raises EngineError."""
        if self.started is None:
            return self.answers

        results = self.started.result()
        start = 0
        for place, (plans, _, merged) in self.work:
            own = slice(start, start + len(merged.plan))
            start = own.stop
            views = results[self.output][own]  # f32 [distinct views, classes]
            sums = results["pixel_sums"][own]  # i32 [distinct views, 6]
            means = merged.weights @ views.astype(np.float64)  # [protocols, classes]
            for (number, plan), mean, places in zip(plans.items(), means, merged.places, strict=True):
                digest = digest_pixels(sums[places])
                self.answers[place][number] = ImageAnswer(OK, digest, mean.astype(np.float32), plan, views[places])
        return self.answers


class ScoreMaker(ShardMaker[Item, list[BegunBatch], TableParts]):
    """Engines, each by its own protocols, over the images of `dataset`. An answer is [engine][protocol].

    An image that an engine's shapes do not admit gets a status and stops nothing unless `strict`. Each table of a
    shard has its `mistakes` most confident ones. Raises RunError where an engine does not know the data set's classes.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        protocols: Sequence[Sequence[Protocol]],
        dataset: Dataset,
        pooling: Pooling,
        *,
        commit: str = "unknown",
        strict: bool = False,
        mistakes: int = 0,
        classes_by_order: bool = False,
        decoder: DecoderName = CPU_DECODER,
    ) -> None:
        self.engines, self.strict, self._mistakes = engines, strict, mistakes
        self._output = POOLING_OUTPUT[pooling]
        self._tables = []
        for engine, own in zip(engines, protocols, strict=True):
            metadata = tuple(table_metadata(engine, protocol, pooling, commit, decoder) for protocol in own)
            if classes_by_order:
                metadata = tuple({**one, "classes": "by order"} for one in metadata)
            label_of = match_classes(dataset, engine.spec, by_order=classes_by_order).label_of
            self._tables.append(EngineTables(engine, tuple(own), metadata, label_of, _planner(engine, own)))

        # images with few views each share calls; in a plan for TensorRT dense views of images of one size do, too
        single = all(protocol.name in view_plans.SINGLE_SCALE for own in protocols for protocol in own)
        plans = all(isinstance(engine, Starting) for engine in engines)
        self.shard_images, self.together = (SMALL_BATCH, SMALL_BATCH) if single or plans else (LARGE_BATCH, 1)
        metadata_of_all = tuple(tables.metadata for tables in self._tables)
        names = tuple(tables.protocols for tables in self._tables)
        self.known = KnownEngines(tuple(map(known_engine, engines)), names, metadata_of_all, self.shard_images)

    def item(self, sample: Item) -> Item:
        return sample

    def shrink(self, image: DecodedImage) -> DecodedImage:
        """Rescales an image that will share calls with others, for all engines on the host: the pixels then may go.

        So the images of a call are the same, however large they are.
        """
        if self.together == 1 or not image.images or any(engine.device != HOST for engine in self.engines):
            return image
        rescaled: dict[str, Cache] = {exif: {} for exif in image.images}
        sizes = dict(image.images)
        for tables in self._tables:
            spec = tables.engine.spec
            exif = spec.preprocessing.exif
            height, width, _ = image.images[exif].shape
            views = [view for plan in tables.plan((height, width)).plans.values() for view in plan.views]
            sizes[exif] = render.shrink(image.images[exif], views, spec, rescaled[exif])
        return replace(image, images=sizes, rescaled=rescaled)

    def begin(self, samples: Sequence[Item], images: Sequence[DecodedImage]) -> list[BegunBatch]:
        loaded: dict[tuple[str, str], DeviceImage] = {}  # engines that see the same pixels in one place share them
        begun = []
        for tables in self._tables:
            engine, exif = tables.engine, tables.engine.spec.preprocessing.exif
            if (engine.device, exif) not in loaded:
                seen = [each for each in images if each.images]
                loaded[engine.device, exif] = engine.load([each.images[exif] for each in seen])
                for cache, each in zip(loaded[engine.device, exif].rescaled, seen, strict=True):
                    cache.update(each.rescaled.get(exif, {}))
            begun.append(self._begin(tables, images, loaded[engine.device, exif]))
        return begun

    def _begin(self, tables: EngineTables, images: Sequence[DecodedImage], loaded: DeviceImage) -> BegunBatch:
        """Gives an engine every distinct view of a few images, once; `loaded` holds the readable ones."""
        answers = [[ImageAnswer(image.status) for _ in tables.protocols] for image in images]
        work: list[tuple[int, SizePlan]] = []
        for place, image in enumerate(images):
            if not image.images:
                continue
            height, width, _ = image.images[tables.engine.spec.preprocessing.exif].shape
            planned = tables.plan((height, width))
            for number, reason in planned.refused.items():
                if self.strict:
                    raise RunError(f"{image.item.name}: {reason}")
                tqdm.write(one_line(f"{image.item.name}: {reason}"), file=sys.stderr)
                answers[place][number] = ImageAnswer(OUT_OF_RANGE)
            work.append((place, planned))

        if not any(planned.plans for _, planned in work):
            return BegunBatch(answers, work, self._output, None)
        plans = [planned.merged.plan for _, planned in work]
        started = start(tables.engine, loaded, plans, (self._output, "pixel_sums"))
        return BegunBatch(answers, work, self._output, started)

    def collect(self, begun: list[BegunBatch]) -> list[list[list[ImageAnswer]]]:
        of_engines: list[list[list[ImageAnswer]]] = [[] for _ in begun]  # [engine][image][protocol]
        for number in reversed(range(len(begun))):  # when the last GPU engine is done, the others are: one wait
            of_engines[number] = begun[number].collect()
        return [list(of_image) for of_image in zip(*of_engines, strict=True)]

    def rows(self, samples: Sequence[Item], answers: Sequence[list[list[ImageAnswer]]]) -> TableParts:
        parts = []
        for number, tables in enumerate(self._tables):
            columns = zip(*(of_image[number] for of_image in answers), strict=True)  # [protocol][image]
            own = zip(tables.metadata, columns, strict=True)
            parts.append([self._part(samples, tables, metadata, column) for metadata, column in own])
        return parts

    def _part(
        self, items: Sequence[Item], tables: EngineTables, metadata: dict[str, str], column: Sequence[ImageAnswer]
    ) -> TablePart:
        """Makes the rows of one table."""
        spec = tables.engine.spec
        labels = np.array([item.label for item in items])  # of the data set
        failed = np.zeros(len(spec.classes), np.float32)
        scores = Scores(
            tuple(item.name for item in items),
            np.where(labels == UNKNOWN_LABEL, UNKNOWN_LABEL, tables.label_of[labels]).astype(np.int32),
            tuple(answer.status for answer in column),
            tuple(answer.pixel_digest for answer in column),
            np.stack([failed if answer.posterior is None else answer.posterior for answer in column]),
            metadata,
        )

        wrong = is_wrong(scores, 1)
        mistakes = find_mistakes(scores, column, wrong, spec, self._mistakes)
        return TablePart(scores, int(wrong.sum()), sum(answer.view_pixels for answer in column), mistakes)


def score_opener(
    plan: RunPlan,
    dataset: Dataset,
    provider: Provider,
    *,
    commit: str,
    strict: bool,
    mistakes: int,
    classes_by_order: bool = False,
    decoder: DecoderName = CPU_DECODER,
) -> MakerOpener[Item, TableParts]:
    """Makes the opener of a classification over the images of `dataset`."""
    options = {
        "commit": commit,
        "strict": strict,
        "mistakes": mistakes,
        "classes_by_order": classes_by_order,
        "decoder": decoder,
    }
    make = functools.partial(_make, plan, replace(dataset, items=()), options)
    largest = [max((q for _, scales in engine.asked for q in scales or ()), default=0) for engine in plan.engines]
    return MakerOpener([engine.path for engine in plan.engines], make, provider, largest, decoder=decoder)


def _make(plan: RunPlan, dataset: Dataset, options: dict[str, Any], engines: Sequence[Engine]) -> ScoreMaker:
    protocols = []
    for engine, (path, asked) in zip(engines, plan.engines, strict=True):
        own = [Protocol(name, scales or view_plans.default_scales(engine.spec, name)) for name, scales in asked]
        for protocol in own:
            view_plans.check_scales(engine.spec, protocol.scales)
            view_plans.check_protocol(engine.spec, engine.shapes, protocol.name, protocol.scales)
        if len(set(own)) < len(own):
            raise RunError(f"{path} takes part twice by the same protocol and scales, expected each once")
        protocols.append(own)

    check_together(engines, [engine.path for engine in plan.engines])
    return ScoreMaker(engines, protocols, dataset, plan.pooling, **options)


def _planner(engine: Engine, protocols: Sequence[Protocol]) -> Callable[[Size], SizePlan]:
    @functools.lru_cache(maxsize=PLANS)
    def plan(size: Size) -> SizePlan:
        plans, refused = {}, {}
        for number, protocol in enumerate(protocols):
            own = view_plans.plan_views(engine.spec, protocol.name, size, protocol.scales)
            reason = view_plans.out_of_range(own, engine.shapes, engine.spec)
            if reason is None:
                plans[number] = own
            else:
                refused[number] = reason
        return SizePlan(plans, refused, view_plans.merge_plans(size, list(plans.values())))

    return plan
