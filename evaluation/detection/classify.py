"""Images through nets of regions: the posteriors of all proposals, each image decoded once for all nets."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infer.boxes.detecting import Regions, check_regions, classify_regions
from infer.boxes.proposed import OK, ProposalsError, exif_of_proposals, read_proposals
from infer.data.dataset import Item
from infer.data.detection import DetectionData
from infer.engine import Engine, Provider
from infer.errors import one_line
from infer.files import file_sha256
from infer.pixels.regions import inside
from infer.spec import Size

from ..errors import RunError
from ..run.engines import KnownEngine, check_classes, known_engine, our_commit
from ..run.loop import DecodedImage, MakerOpener, ShardMaker, digest_pixels
from ..scores.table import decoder_metadata
from .table import SHARD_IMAGES, ClassifiedImage


class ImageToClassify(NamedTuple):
    """An image of a run, with its proposals f32 [n, 4]; status: "ok", or why it has none."""

    item: Item
    status: str
    size_px: Size
    boxes: NDArray[np.float32]


class _Begun(NamedTuple):
    """An image whose regions are with the engines; regions: None where there is nothing to see, as status says."""

    status: str
    size_px: Size
    boxes: NDArray[np.float32]
    regions: Regions | None


class RegionMaker(ShardMaker[ImageToClassify, Sequence[_Begun], Sequence[ClassifiedImage]]):
    """Nets of regions. `strict`: an image without proposals, or that cannot be read, stops the run."""

    def __init__(self, engines: Sequence[Engine], *, mirrored: bool, strict: bool) -> None:
        self.engines, self._mirrored = engines, mirrored
        self.strict, self.shard_images = strict, SHARD_IMAGES
        self.known: tuple[KnownEngine, ...] = tuple(map(known_engine, engines))

    def begin(self, samples: Sequence[ImageToClassify], images: Sequence[DecodedImage]) -> Sequence[_Begun]:
        return [self._begin(sample, image) for sample, image in zip(samples, images, strict=True)]

    def collect(self, begun: Sequence[_Begun]) -> Sequence[_Collected]:
        classes = len(self.engines[0].spec.classes)
        collected = []
        for one in begun:
            if one.regions is None:
                none = tuple(np.empty((0, classes), np.float32) for _ in self.engines)
                collected.append(_Collected(one, none, ""))
                continue
            posteriors, sums = one.regions.collect(classes)
            collected.append(_Collected(one, tuple(posteriors), digest_pixels(sums)))
        return collected

    def rows(self, samples: Sequence[ImageToClassify], answers: Sequence[Any]) -> Sequence[ClassifiedImage]:
        return [
            ClassifiedImage(sample.item.name, one.status, digest, one.size_px, one.boxes, posteriors)
            for sample, (one, posteriors, digest) in zip(samples, answers, strict=True)
        ]

    def _begin(self, sample: ImageToClassify, decoded: DecodedImage) -> _Begun:
        """Gives the engines the regions of an image. Raises EngineError, and RunError where `strict`."""
        none = np.empty((0, 4), np.float32)
        if not decoded.images:
            return _Begun(decoded.status, (0, 0), none, None)
        pixels = [decoded.images[engine.spec.preprocessing.exif] for engine in self.engines]
        size = (pixels[0].shape[0], pixels[0].shape[1])
        why = "" if sample.status == OK else f"no proposals: {sample.status}"
        if not why and sample.size_px != size:
            of, here = (f"{height}x{width}" for height, width in (sample.size_px, size))
            why = f"its proposals are of an image of {of} px, not {here}"
        if why:
            if self.strict:
                raise RunError(f"{sample.item.name}: {why}")
            tqdm.write(one_line(f"{sample.item.name}: {why}"), file=sys.stderr)
            return _Begun(why, size, none, None)

        boxes = sample.boxes[inside(sample.boxes.astype(np.float64), size)]
        if len(boxes) < len(sample.boxes):
            said = f"{len(sample.boxes) - len(boxes)} of {len(sample.boxes)} proposals lie outside the image: left out"
            tqdm.write(one_line(f"{sample.item.name}: {said}"), file=sys.stderr)
        regions = classify_regions(self.engines, pixels, boxes.astype(np.float64), mirrored=self._mirrored)
        return _Begun(OK, size, boxes, regions)


class _Collected(NamedTuple):
    """What the engines made of an image."""

    begun: _Begun
    posteriors: tuple[NDArray[np.float32], ...]
    digest: str


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """Settings of a run that the engines need."""

    mirrored: bool
    strict: bool


def region_opener(
    settings: RegionSettings, files: Sequence[Path], provider: Provider, options: dict[str, Any]
) -> MakerOpener[ImageToClassify, Sequence[ClassifiedImage]]:
    """Makes the opener of a run; options: of infer.open.open_engine."""
    return MakerOpener(files, functools.partial(_make, settings, files), provider, [0] * len(files), options)


def _make(settings: RegionSettings, files: Sequence[Path], engines: Sequence[Engine]) -> RegionMaker:
    for engine in engines:
        check_regions(engine.spec)
    check_classes(engines, files)
    exifs = {engine.spec.preprocessing.exif for engine in engines}
    if len(exifs) > 1:
        raise RunError("one net turns images as EXIF says and another does not: proposals are of one of both: --exif")
    return RegionMaker(engines, mirrored=settings.mirrored, strict=settings.strict)


def images_to_classify(data: DetectionData, path: Path) -> tuple[list[ImageToClassify], list[str]]:
    """(the images of a data set with their proposals, notes). Raises ProposalsError where it has none of these."""
    found = {image.image: image for image in read_proposals(path)}
    none = np.empty((0, 4), np.float32)
    images, without = [], 0
    for item in data.items:
        known = found.get(item.name)
        without += known is None
        if known is None:
            images.append(ImageToClassify(item, "the table does not have the image", (0, 0), none))
        else:
            images.append(ImageToClassify(item, known.status, known.size_px, known.boxes))
    if without == len(images):
        raise ProposalsError(
            f"{path}: has none of the {len(images)} images of {data.root} (like {data.items[0].name}), expected "
            "proposals of this data set and split: python -m evaluation.proposals"
        )
    notes = [f"{path}: lacks {without} of {len(images)} images, in which nothing is found"] if without else []
    return images, notes


def check_exif(known: Sequence[KnownEngine], data: DetectionData, path: Path) -> list[str]:
    """What is to be said of nets that turn images. Raises RunError where the proposals are of images turned otherwise.

    Sizes do not tell: an image that is upside down, or a mirror, has the same.
    """
    exif, made = known[0].spec.preprocessing.exif, exif_of_proposals(path)
    if made not in (None, exif):
        raise RunError(
            f"{path}: proposals by --exif {made}, but the images would be seen by --exif {exif}: make them anew by "
            f"evaluation.proposals --exif {exif}, or use --exif {made} here"
        )
    if exif == "ignore":
        return []
    return [
        f"{data.root}: its objects are in pixels of the images as they are stored, but images are turned as EXIF says: "
        "objects of those that are turned count as missed (--exif ignore)"
    ]


def region_metadata(
    settings: RegionSettings, known: Sequence[KnownEngine], data: DetectionData, proposals: Path, decoder: Any
) -> dict[str, str]:
    """Says all that the rows depend on, for the table's metadata."""
    return {
        "nets": json.dumps([engine.spec.name for engine in known]),
        "classes": json.dumps(list(known[0].spec.classes)),
        "specs": json.dumps([engine.spec.to_json() for engine in known]),
        "engines": "+".join(engine.sha256 for engine in known),
        "runtime": "+".join(dict.fromkeys(engine.runtime for engine in known)),
        "arithmetic": "+".join(dict.fromkeys(engine.arithmetic for engine in known)),
        "mirrored": str(settings.mirrored),
        "proposals": file_sha256(proposals),
        "listing": data.listing_digest,
        "split": data.split,
        "commit": our_commit(),
        **decoder_metadata(decoder),
    }
