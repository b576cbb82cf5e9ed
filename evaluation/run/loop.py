"""The run loop: images in shards, decoded ahead by threads, begun on the engines and collected one behind.

Classification, localisation and feature extraction each bring a ShardMaker, which says what engines make of images.
This file knows neither tables nor protocols.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from infer.data.dataset import Item
from infer.data.folder import OwnFault
from infer.data.known_images import KnownImages, known_images, number_of_sha256
from infer.engine import Engine, Provider, Starting
from infer.pixels.decode import ImageError, Pixels, decode, decoded_bytes
from infer.pixels.nvjpeg import Decode, DecoderName, open_decoder
from infer.pixels.render import Cache
from infer.processes.pipeline import Budget, one_behind, ordered
from infer.spec import Exif

from ..errors import RunError
from ..scores.table import OK
from .engines import open_any

GROUP = 4
"""Shards that a process is given at a time: decoding runs ahead of the engine within them."""
DECODED_BYTES = 1 << 28
"""Bytes of decoded images ahead of the engine, and in a call; 256 MiB, of which a photograph of 24 megapixels has 72.
One image may have more: 300 MB (infer/pixels/header.py)."""

Sample = TypeVar("Sample")
"""An image of a run with all that is known of it beforehand, such as its labels."""
Begun = TypeVar("Begun")
"""The work of a few images that engines were given."""
Rows = TypeVar("Rows")
"""The rows of a shard in the tables of a run."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image of the data set for each way of treating EXIF, or in `status` why there is none.

    rescaled: versions of each; where they are all that is needed, only the size is left of the image itself
    (infer/pixels/render.py, shrink).
    """

    item: Item
    status: str
    images: dict[str, Pixels]
    sha256: str = ""  # of the file's bytes, empty where they cannot be read
    rescaled: dict[str, Cache] = field(default_factory=dict)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the pixels that are held."""
        return sum(pixels.nbytes for pixels in self.images.values())

    @property
    def digest(self) -> int:
        """Digest of the label and the bytes: a data set's identity is the sum over its images (dataset_id).

        Sums of shards add up, so that no image is read for its identity alone (an incremental multiset hash).
        """
        return int.from_bytes(hashlib.sha256(f"{self.item.label} {self.sha256}".encode()).digest(), "big")


def dataset_id(images: int, content: int) -> str:
    """Identifies what was read: the bytes and labels of all images, in whatever folder, archive or shards they lie.

    content: sum of the images' digests (DecodedImage.digest).
    """
    return hashlib.sha256(f"{images} {content % 2**256:064x}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Effort:
    """The seconds that a shard took, in each engine and in all. `content` is the sum of its images' digests.

    trained_on: for each engine, how many of its images the engine was trained on, of those that its sample would have
    (infer/data/known_images.py).
    """

    content: int
    engine_seconds: tuple[float, ...]
    wall_seconds: float
    trained_on: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Shard(Generic[Rows]):
    """The rows of the images `first`, `first` + 1, ...: `images` of them, ready to be committed."""

    first: int
    images: int
    rows: Rows
    effort: Effort


class ShardMaker(ABC, Generic[Sample, Begun, Rows]):
    """Engines that are open, and what they make of images.

    engines: all that take part; known: picklable, what others need to know of them, equal in every process of a run;
    shard_images: images of a shard; together: how many of them share a call; strict: whether an image that cannot be
    read stops the run; decode: what decodes, and trained_on: the images that each engine was trained on, None where
    it does not say, both set by who opens a maker.
    """

    engines: Sequence[Engine]
    known: Any
    shard_images: int
    together: int = 1
    strict: bool = False
    decode: Decode = staticmethod(decode)
    trained_on: Sequence[KnownImages | None] = ()

    @property
    def exifs(self) -> Sequence[Exif]:
        """Ways of treating EXIF that images are decoded by; here each engine's own."""
        return [engine.spec.preprocessing.exif for engine in self.engines]

    def item(self, sample: Any) -> Item:
        """Says where the image of a sample lies."""
        found: Item = sample.item
        return found

    def shrink(self, image: DecodedImage) -> DecodedImage:
        """Keeps of an image what the engines need, called where it was decoded; here all of it."""
        return image

    @abstractmethod
    def begin(self, samples: Sequence[Sample], images: Sequence[DecodedImage]) -> Begun:
        """Gives engines the work of a few images. Raises EngineError and RunError."""

    @abstractmethod
    def collect(self, begun: Begun) -> Sequence[Any]:
        """Waits for the engines: an answer for each image. Raises EngineError and RunError."""

    @abstractmethod
    def rows(self, samples: Sequence[Sample], answers: Sequence[Any]) -> Rows:
        """Makes the rows of a shard from the answers to its images."""


@dataclass(frozen=True, slots=True)
class MakerOpener(Generic[Sample, Rows]):
    """Everything that a process needs to open the engines of a run; picklable.

    files: the engines'; make: makes a ShardMaker of the engines, in the order of the files, and raises EngineError,
    PlanError or RunError; largest_short_px: the largest scale each will be asked for; options: others of
    infer.open.open_engine; decoder: of the images, on the engines' GPU where it is one of a GPU.
    """

    files: Sequence[Path]
    make: Callable[[Sequence[Engine]], ShardMaker[Sample, Any, Rows]]
    provider: Provider
    largest_short_px: Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    decoder: DecoderName = "cpu"

    def open(self, stack: contextlib.ExitStack, *, device: int = 0, threads: int = 0) -> ShardMaker[Sample, Any, Rows]:
        """Opens the engines, which `stack` closes. Raises DecoderError, EngineError, PlanError or RunError,
        and SpecError where a spec's images cannot be read.

        device: ordinal of a GPU; threads: of a CPU, 0 for all.
        """
        decode = open_decoder(self.decoder, device)
        engines: list[Engine] = []
        for path, largest in zip(self.files, self.largest_short_px, strict=True):
            place: dict[str, Any] = {"provider": self.provider, "device": device, "threads": threads}
            engines.append(open_any(path, largest_short_px=largest, **place, **self.options))
            stack.callback(engines[-1].close)
        maker = self.make(engines)
        maker.decode = decode
        maker.trained_on = [known_images(engine.spec) for engine in engines]
        return maker


def digest_pixels(sums: NDArray[np.int32]) -> str:
    """Digest of the pixel sums that engines returned, i32 [views, 6]."""
    return hashlib.sha256(sums.astype("<i4").tobytes()).hexdigest()[:32]


def read_image(
    item: Item,
    exifs: Sequence[Exif],
    strict: bool,
    wait: Callable[[int], object] = lambda _: None,
    decode: Decode = decode,
) -> DecodedImage:
    """Reads and decodes one image; what is its own fault becomes its status: no image, cut, too large.

    wait: is told how many bytes of pixels are to be decoded, and returns when there is room for them. Raises RunError
    where `strict`, and for every other failure, which a disk, a network, a permission or a limit has.
    """
    sha256 = ""
    try:
        data = item.file.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        wait(len(exifs) * decoded_bytes(data))
        return DecodedImage(item, OK, {exif: decode(data, exif=exif, name=item.name) for exif in exifs}, sha256)
    except ImageError as error:
        reason = str(error)
    except OwnFault as error:
        reason = f"{item.name}: cannot be read ({error.strerror})"
    except OSError as error:
        raise RunError(
            f"{item.path}: {error.strerror}, which is no fault of the image: mend that, and go on with --resume"
        ) from None

    if strict:
        raise RunError(f"{reason} (--strict stops at the first unreadable image)")
    return DecodedImage(item, reason, {}, sha256)


def make_shards(
    maker: ShardMaker[Sample, Any, Rows],
    samples: Sequence[Sample],
    starts: Sequence[int] | None = None,
    *,
    decoders: int = 1,
    offset: int = 0,
    on_images: Callable[[int], object] = lambda _: None,
) -> Generator[Shard[Rows], None, None]:
    """Makes the shards at `starts` (multiples of `shard_images`; all by default), by `decoders` threads.

    `samples` are those of the run from number `offset` on. `on_images` hears of each batch, how many images it had.
    Raises EngineError, and RunError also where the data set is no longer what it was.
    """
    size, together = maker.shard_images, maker.together
    starts = range(0, len(samples), size) if starts is None else starts
    ranges = [range(start, min(start + size, len(samples))) for start in starts]

    exifs = list(dict.fromkeys(maker.exifs))
    budget = Budget(DECODED_BYTES)

    def read(numbered: tuple[int, Item]) -> DecodedImage:
        number, item = numbered
        wait = functools.partial(budget.hold, number)
        image = maker.shrink(read_image(item, exifs=exifs, strict=maker.strict, wait=wait, decode=maker.decode))
        budget.hold(number, image.decoded_bytes)
        return image

    items = (maker.item(samples[place]) for places in ranges for place in places)
    decoded = ordered(read, enumerate(items), decoders, ahead=together, budget=budget)

    def begin() -> Iterator[tuple[list[DecodedImage], Any]]:
        """Gives the engines batches: of `together` images, or fewer whose pixels are many."""
        numbers = itertools.count()
        for places in ranges:
            first = places.start
            while first < places.stop:
                images: list[DecodedImage] = []
                while len(images) < min(together, places.stop - first) and _held(images) < DECODED_BYTES:
                    images.append(next(decoded))
                    budget.let_go(next(numbers))
                yield images, maker.begin(samples[first : first + len(images)], images)
                first += len(images)

    begun = begin()
    if any(isinstance(engine, Starting) for engine in maker.engines):
        begun = one_behind(begun)  # a GPU computes while the host makes the next images ready

    try:
        for places in ranges:
            started, before = time.monotonic(), [engine.seconds for engine in maker.engines]
            answers: list[Any] = []
            content = 0
            counts = [[0, 0] for _ in maker.trained_on]
            while len(answers) < len(places):
                images, running = next(begun)
                answers += maker.collect(running)
                content += sum(image.digest for image in images)
                _count_known(images, maker.trained_on, counts)
                on_images(len(images))
                del images, running  # before the next ones are there

            seconds = tuple(engine.seconds - earlier for engine, earlier in zip(maker.engines, before, strict=True))
            known = tuple((trained, comparable) for trained, comparable in counts)
            effort = Effort(content, seconds, time.monotonic() - started, known)
            rows = maker.rows(samples[places.start : places.stop], answers)
            yield Shard(offset + places.start, len(places), rows, effort)
    finally:
        budget.close()


def _count_known(
    images: Sequence[DecodedImage], trained_on: Sequence[KnownImages | None], counts: list[list[int]]
) -> None:
    """Adds to the counts of each engine, (trained on, comparable), what images are to it."""
    numbers = [number_of_sha256(image.sha256) for image in images if image.sha256]
    for known, count in zip(trained_on, counts, strict=True):
        if known is not None:
            count[0] += sum(number in known for number in numbers)
            count[1] += len(images) if known.is_whole else sum(map(known.admits, numbers))


def _held(images: Sequence[DecodedImage]) -> int:
    return sum(image.decoded_bytes for image in images)


Group = tuple[int, Sequence[Sample]]
"""The place of the first sample of some shards, and the samples of them all."""


def group_shards(samples: Sequence[Sample], size: int, starts: Sequence[int]) -> Iterator[Group[Sample]]:
    """Puts shards of `size` samples that follow each other together, up to GROUP, as the work of one process."""
    run: list[int] = []
    for start in [*starts, -1]:
        if run and (len(run) == GROUP or start != run[-1] + size):
            yield run[0], samples[run[0] : run[-1] + size]
            run = []
        run.append(start)


class Worker(Generic[Sample, Rows]):
    """A process with its engines open, beside others of the same run.

    `known` is what the engines are where the run began. Raises RunError where they are not the same here.
    """

    def __init__(
        self, opener: MakerOpener[Sample, Rows], known: object, decoders: int, *, device: int = 0, threads: int = 0
    ) -> None:
        self._decoders, self._stack = decoders, contextlib.ExitStack()
        self._maker = opener.open(self._stack, device=device, threads=threads)
        if self._maker.known != known:
            raise RunError(
                f"{socket.gethostname()}: an engine here is another file, or another version runs it, than where the "
                "run began: use the same engines and the same code on every machine"
            )

    def __call__(self, group: Group[Sample]) -> list[Shard[Rows]]:
        first, samples = group
        return list(make_shards(self._maker, samples, decoders=self._decoders, offset=first))
