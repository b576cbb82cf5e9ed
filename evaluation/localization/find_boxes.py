"""Images through box nets and a classifier, by the protocols of the VGG paper's appendix A."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.boxes import finding
from infer.boxes.finding import BoxNet, Guess, Merging
from infer.data.dataset import Dataset, Item
from infer.engine import Engine, Provider
from infer.errors import one_line
from infer.files import file_sha256
from infer.spec import ModelSpec
from infer.views import check_protocol, check_scales, default_scales

from ..errors import RunError, ScoresError
from ..run.engines import KnownEngine, known_engine, our_commit
from ..run.loop import DecodedImage, MakerOpener, ShardMaker, digest_pixels
from ..scores import table as tables
from ..scores.table import OK, OUT_OF_RANGE
from .ground_truth import GUESSES
from .table import SHARD_IMAGES, LocatedImage

PROTOCOLS = {"given-class": "center", "dense": "dense"}
"""Protocols of localisation, with the views of each."""


@dataclass(frozen=True, slots=True)
class ScaledNet:
    """A box net of a run: what it is, SCR or PCR, and its scales."""

    spec: ModelSpec
    kind: str
    scales: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.spec.name}/{','.join(map(str, self.scales))} {self.kind}"


@dataclass(frozen=True, slots=True)
class KnownNets:
    """The engines of a run, for those who do not run them: the box nets, and all engines with the classifier last."""

    nets: tuple[ScaledNet, ...]
    engines: tuple[KnownEngine, ...]

    @property
    def classifier(self) -> KnownEngine | None:
        return self.engines[-1] if len(self.engines) > len(self.nets) else None

    @property
    def runtime(self) -> str:
        return "+".join(dict.fromkeys(engine.runtime for engine in self.engines))


class ImageToLocate(NamedTuple):
    """An image of a run. label: its class as the nets number it, -1 if unknown; likeliest: its top-5 classes by a
    score table, None where the classifier says them."""

    item: Item
    label: int
    likeliest: Sequence[int] | None


Pairs = Sequence[tuple[ImageToLocate, DecodedImage]]
"""A few images of a run, decoded."""


class BoxMaker(ShardMaker[ImageToLocate, Pairs, Sequence[LocatedImage]]):
    """Box nets, with a classifier for the protocol `dense`. `strict`: an image that no engine can see stops the run."""

    def __init__(self, nets: Sequence[BoxNet], classifier: Engine | None, settings: BoxSettings) -> None:
        self._nets, self._classifier, self._settings = nets, classifier, settings
        self.strict, self.shard_images = settings.strict, SHARD_IMAGES
        self.engines = [*(net.engine for net in nets), *([classifier] if classifier else [])]
        scaled = (ScaledNet(net.engine.spec, net.kind, net.scales) for net in nets)
        self.known = KnownNets(tuple(scaled), tuple(map(known_engine, self.engines)))

    def begin(self, samples: Sequence[ImageToLocate], images: Sequence[DecodedImage]) -> Pairs:
        return list(zip(samples, images, strict=True))

    def collect(self, begun: Pairs) -> list[LocatedImage]:
        return [self._locate(sample, image) for sample, image in begun]

    def rows(self, samples: Sequence[ImageToLocate], answers: Sequence[LocatedImage]) -> Sequence[LocatedImage]:
        return answers

    def _locate(self, sample: ImageToLocate, decoded: DecodedImage) -> LocatedImage:
        """Finds the boxes of one image. Raises EngineError, and RunError where `strict`."""
        name, label, likeliest = sample.item.name, sample.label, sample.likeliest
        if not decoded.images:
            return LocatedImage(name, label, decoded.status)
        (image,) = decoded.images.values()
        size = (image.shape[0], image.shape[1])
        reason = finding.refused(self._nets, self._classifier, PROTOCOLS[self._settings.protocol], size)
        if reason is not None:
            if self.strict:
                raise RunError(f"{name}: {reason}")
            tqdm.write(one_line(f"{name}: {reason}"), file=sys.stderr)
            return LocatedImage(name, label, OUT_OF_RANGE, size_px=size)

        # the box of the given class at the central crop
        if self._classifier is None:
            boxes, sums = finding.center_boxes(self._nets[0], image)
            edges = boxes[label if len(boxes) > 1 else 0]
            seen = label >= 0 and bool(np.isfinite(edges).all())
            given = Guess(label, 1.0, finding.inside(edges, size)) if seen else None
            return LocatedImage(name, label, OK, digest_pixels(sums), size, given=given)

        # boxes of the likeliest classes, and of the given one, from all windows
        windows = finding.find_windows(self._nets, self._classifier, image, mean=likeliest is None)
        if likeliest is None:
            assert windows.mean is not None
            likeliest = np.argsort(-windows.mean, kind="stable")[:GUESSES].tolist()
        found = finding.guess(windows, [*likeliest, *([label] if label >= 0 else [])], self._settings.rule)
        guesses = tuple(one for one in found[: len(likeliest)] if one is not None)
        given = found[-1] if label >= 0 else None
        return LocatedImage(name, label, OK, digest_pixels(windows.pixel_sums), size, guesses, given)


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """Settings of a localisation. scales: of all box nets, or of each; none: each net's own."""

    protocol: str
    rule: Merging
    scales: Sequence[Sequence[int]]
    strict: bool


def box_opener(
    settings: BoxSettings, boxes: Sequence[Path], classifier: Path | None, provider: Provider, options: dict[str, Any]
) -> MakerOpener[ImageToLocate, Sequence[LocatedImage]]:
    """Makes the opener of a localisation; options: of infer.open.open_engine."""
    files = [*boxes, *([classifier] if classifier else [])]
    largest = max((q for own in settings.scales for q in own), default=0)
    make = functools.partial(_make, settings, len(boxes))
    return MakerOpener(files, make, provider, [largest] * len(files), {**options, "checkpoints": False})


def _make(settings: BoxSettings, count: int, engines: Sequence[Engine]) -> BoxMaker:
    """Makes box nets of the first `count` engines; a classifier may follow."""
    nets = []
    for number, engine in enumerate(engines[:count]):
        own = settings.scales[min(number, len(settings.scales) - 1)] if settings.scales else None
        scales = own or default_scales(engine.spec, PROTOCOLS[settings.protocol])
        check_scales(engine.spec, scales)
        nets.append(finding.box_net(engine, scales))

    classifier = engines[count] if len(engines) > count else None
    finding.check_together(nets, classifier)
    for engine, scales in finding.asked_of(nets, classifier):
        check_protocol(engine.spec, engine.shapes, PROTOCOLS[settings.protocol], scales)
    return BoxMaker(nets, classifier, settings)


def read_likeliest(
    path: Path, dataset: Dataset, classes: Sequence[str], label_of: NDArray[np.int32]
) -> tuple[list[tuple[int, ...]], str | None]:
    """Reads the top-5 classes of each image from a score table, and the table's data set if it has no other images.

    An image that the table could not score has none. label_of: the engines' class of each of the data set's. Raises
    ScoresError for a table of other images or classes.
    """
    likeliest: list[tuple[int, ...]] = []
    rows, scored_id, difference = 0, None, ""
    for part in tables.parts(path):
        if part.classes != tuple(classes):
            raise ScoresError(
                f"{path}: {part.model} and the box nets have different classes: use nets of the same data"
            )
        rows, scored_id = rows + len(part.images), part.metadata["dataset_id"]

        images = zip(part.images, part.labels, part.posterior, part.readable, strict=True)
        for name, label, posterior, readable in images:
            if len(likeliest) == len(dataset.items):
                break
            item = dataset.items[len(likeliest)]
            if (item.name, -1 if item.label < 0 else label_of[item.label]) != (name, label):
                # the data set may be a few of the table's images, in their order
                difference = difference or (
                    f"{path}: image {len(likeliest) + 1} is {name} of class {label}, but the data set has {item.name}: "
                    "use a table of the same images"
                )
                continue
            order = np.argsort(-posterior, kind="stable")[:GUESSES]
            likeliest.append(tuple(order.tolist()) if readable and np.isfinite(posterior).all() else ())

    if len(likeliest) < len(dataset.items):
        if difference:
            raise ScoresError(difference)
        raise ScoresError(f"{path}: {rows} images, but the data set has {len(dataset.items)}: use a table of the same")
    return likeliest, scored_id if rows == len(dataset.items) else None


def box_metadata(settings: BoxSettings, known: KnownNets, dataset: Dataset, scores: Path | None) -> dict[str, str]:
    """Says all that the rows depend on, for the tables' metadata."""
    specs = ",".join(net.spec.to_json() for net in known.nets)  # a JSON list, as it always was
    box_engines = known.engines[: len(known.nets)]
    dense = known.classifier is not None

    return {
        "protocol": settings.protocol,
        "scales": "+".join(",".join(map(str, net.scales)) for net in known.nets),
        "box_engines": "+".join(engine.sha256 for engine in box_engines),
        "box_nets": f"[{specs}]",
        "kinds": "+".join(net.kind for net in known.nets),
        "classifier": known.classifier.sha256 if known.classifier else "none",
        "merging": str(settings.rule) if dense else "none",
        "top-5_classes": f"scores {file_sha256(scores)}" if scores else "classifier" if dense else "none",
        "runtime": known.runtime,
        "arithmetic": "+".join(dict.fromkeys(engine.arithmetic for engine in known.engines)),
        "listing": dataset.listing_digest,
        "commit": our_commit(),
    }
