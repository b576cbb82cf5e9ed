"""Features of layers that are frozen: computed once for each crop, and kept in files, which a later start finds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.data.known_images import image_number
from infer.errors import Refused
from infer.files import replacing

from ..data.augment import augmentation_from_recipe
from ..data.batches import Centers, Crops, TrainingBatch, load, read_bytes, share_draws
from ..data.examples import Examples
from ..processes import Bar, say, say_seconds
from .fine_tuning import FEATURE_EPOCHS
from .stopping import Wish
from .training_state import TrainingState

FOLDER, KEY = "features", "key"
CHUNK, BATCH = 32, 16
"""Images of a file, and of a forward pass."""
BACKWARD = 3
"""A step on all layers takes so many times as long as their features: forward, and two products of each backward."""


class FeaturesError(Refused):
    """Features that cannot be used; one line."""


class FeatureStore:
    """The features f32 [V, width] of a view of each of V images, in files of CHUNK images each.

    A row of NaN is of an image that cannot be read. Beside them lie the numbers i64 [V] of the images' files.
    """

    def __init__(self, folder: Path, name: str, labels: Sequence[int]) -> None:
        self.folder, self.name, self.labels = folder, name, torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, chunk: int) -> Path:
        return self.folder / f"{self.name}-{chunk:06d}.npy"

    @property
    def missing(self) -> list[int]:
        """The numbers of the files that are not there."""
        return [chunk for chunk in range(self.chunks) if not self.path(chunk).exists()]

    @property
    def chunks(self) -> int:
        return -(-len(self) // CHUNK)

    def places(self, chunk: int) -> NDArray[np.int64]:
        """The indices of the images of a file."""
        return np.arange(chunk * CHUNK, min(len(self), (chunk + 1) * CHUNK))

    def numbers_path(self, chunk: int) -> Path:
        return self.folder / f"{self.name}-{chunk:06d}.numbers.npy"

    def holds(self, chunk: int, width: int, numbers: Sequence[int]) -> bool:
        """True where a file has features of this width of just these images, whose files have these numbers."""
        try:
            rows = np.load(self.path(chunk), mmap_mode="r", allow_pickle=False)
            of_files = np.load(self.numbers_path(chunk), allow_pickle=False)
        except (ValueError, OSError, EOFError):
            return False
        is_whole = rows.dtype == np.float32 and rows.shape == (len(numbers), width)
        return is_whole and np.array_equal(of_files, np.array(numbers, np.int64))

    def rows(self, places: NDArray[np.int64]) -> Tensor:
        """The features f32 [N, width] of the images at some places."""
        return torch.from_numpy(self._taken(self.path, places))

    def numbers(self, places: NDArray[np.int64]) -> Tensor:
        """The numbers i64 [N] of the images' files (infer/data/known_images.py)."""
        return torch.from_numpy(self._taken(self.numbers_path, places))

    def _taken(self, path_of: Callable[[int], Path], places: NDArray[np.int64]) -> NDArray[Any]:
        """The rows of some images. No file stays open: a data set has more of them than a process may have."""
        chunks, rows = np.divmod(places, CHUNK)
        found: dict[int, NDArray[Any]] = {}
        for chunk in set(chunks.tolist()):
            path = path_of(chunk)
            try:
                found[chunk] = np.load(path, mmap_mode="r", allow_pickle=False)[rows[chunks == chunk]]
            except (ValueError, OSError, EOFError, IndexError) as error:
                raise FeaturesError(f"{path}: cannot be read ({error}): go on with --resume, or remove it") from None

        taken = np.empty((len(places), *next(iter(found.values())).shape[1:]), next(iter(found.values())).dtype)
        for chunk, part in found.items():
            taken[chunks == chunk] = part
        return taken

    def batches(self, batch: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(features f32 [N, width], labels i64 [N], places i64 [N]) of a process's images, without unreadable ones."""
        own = np.arange(rank, len(self), world)
        for start in range(0, len(own), batch):
            places = own[start : start + batch]
            features = self.rows(places)
            readable = ~features.isnan().any(1)
            if readable.any():
                found = torch.from_numpy(places)[readable]
                yield features[readable], self.labels[found], found


class Features:
    """The stores of a run whose last layer alone is trained: of each draw of the images, and of validation's."""

    def __init__(self, run: TrainingState, examples: Examples, held_out: Examples | None, out: Path) -> None:
        self.run, self.folder = run, out / FOLDER
        recipe, spec = run.recipe, run.spec
        augmentation = augmentation_from_recipe(recipe, recipe.phases[-1], spec)
        labels = [item.label for item in examples.dataset.items]
        self.crops = [
            Crops(examples.dataset, augmentation, seed=recipe.seed, epoch=draw, exif=spec.preprocessing.exif)
            for draw in range(recipe.feature_draws)
        ]
        self.draws = [FeatureStore(self.folder, f"draw{draw}", labels) for draw in range(recipe.feature_draws)]
        self.centers = None if held_out is None else Centers(held_out.dataset, spec)
        held_out_labels = [] if held_out is None else [item.label for item in held_out.dataset.items]
        self.validation = None if held_out is None else FeatureStore(self.folder, "validation", held_out_labels)
        listings = (one.dataset.listing_digest for one in (examples, held_out) if one is not None)
        self.key = self._key(*listings)
        last: Any = run.net.get_submodule(run.net.layers[-1])
        self.width: int = last.in_channels

    def _key(self, *listings: str) -> str:
        """A digest of all that the features depend on: frozen weights, preprocessing, recipe, precision and images."""
        run = self.run
        described = (run.recipe.to_json(), repr(run.spec.preprocessing), run.execution.precision, *listings)
        digest = hashlib.sha256("\n".join(described).encode())
        for name, tensor in run.net.state_dict().items():
            if name not in run.trained:
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mean_square(self) -> float:
        """The mean of the squared norms of the first draw's features."""
        first = self.draws[0]
        sums = [first.rows(first.places(chunk)).double().square().sum() for chunk in range(first.chunks)]
        return float(torch.stack(sums).sum()) / len(first)

    def steps(self, epoch: int) -> Generator[list[TrainingBatch]]:
        """The pieces of each step of an epoch that is left to this process, like those of pixels."""
        run, recipe, peers = self.run, self.run.recipe, self.run.peers
        labels, shares = self.draws[0].labels, {"rank": peers.rank, "world": peers.world, "parts": run.execution.parts}
        key = (recipe.seed, epoch)
        draws = share_draws(key, labels.tolist(), recipe.batch, sampling=recipe.sampling, **shares)
        for step in draws[run.steps_of_epoch :]:
            yield [self._batch(epoch, piece) for piece in step]

    def _batch(self, epoch: int, draws: NDArray[np.int64]) -> TrainingBatch:
        """Features, no shifts, and targets of some draws; an image that comes again in an epoch is another crop."""
        times, places = np.divmod(draws, len(self.draws[0]))
        stores = (epoch + times) % len(self.draws)
        first, rows = self.draws[0], torch.empty(len(draws), self.width)
        for store in set(stores.tolist()):
            rows[torch.from_numpy(stores == store)] = self.draws[store].rows(places[stores == store])
        return rows, torch.zeros(len(draws), 3), first.labels[places], first.numbers(places)

    def fill(self, wish: Wish, stop: Callable[[int, str], None]) -> None:
        """Computes what is missing; the processes share it. stop: is called with the signal and what is done."""
        run, peers = self.run, self.run.peers
        if peers.rank == 0:
            self._prepare()
        peers.wait()

        stores: list[tuple[FeatureStore, Crops | Centers]] = list(zip(self.draws, self.crops, strict=True))
        if self.validation is not None and self.centers is not None:
            stores.append((self.validation, self.centers))
        todo = [(store, images, chunk) for store, images in stores for chunk in store.missing]
        peers.wait()  # all have looked before one writes
        if not todo:
            return

        # The first forward pass takes longer than the others.
        crops = sum(len(store.places(chunk)) for store, _, chunk in todo)
        done, begun, said = 0, (0, 0.0), False
        run.net.eval()
        with Bar("features of frozen layers", -(-crops // peers.world), unit="crop") as bar:
            for number in range(0, len(todo), peers.world):
                for store, images, chunk in todo[number : number + peers.world][peers.rank : peers.rank + 1]:
                    rows, numbers = [], []
                    for part, of_files in self._computed(images, store.places(chunk)):
                        rows.append(part)
                        numbers.append(of_files)
                        bar.update(len(part))
                        done, now = done + len(part), time.monotonic()
                        if begun[0] and not said:
                            self._say_time(crops, (now - begun[1]) / (done - begun[0]))
                            said = True
                        begun = begun if begun[0] else (done, now)
                    _save(store.numbers_path(chunk), np.concatenate(numbers))
                    _save(store.path(chunk), np.concatenate(rows))  # whose presence says that both are there
                (signal,) = peers.most((wish.signal,))
                if signal and number + peers.world < len(todo):
                    stop(signal, f"features of about {done * peers.world} of {crops} crops are in {self.folder}")
        run.net.train()
        peers.wait()

    def _prepare(self) -> None:
        """Removes features of other weights, images or settings, and what is damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / KEY
        if not key.exists() or key.read_bytes() != self.key.encode():
            for path in self.folder.glob("*.npy"):
                path.unlink()
            with replacing(key) as unfinished:
                unfinished.write_text(self.key)
            return

        # An image may have become another of the same name and size.
        of_images: list[tuple[list[FeatureStore], Crops | Centers]] = [(self.draws, self.crops[0])]
        if self.validation is not None and self.centers is not None:
            of_images.append(([self.validation], self.centers))
        for stores, images in of_images:
            for chunk in range(stores[0].chunks):
                there = [store for store in stores if store.path(chunk).exists()]
                items = [images.items[place] for place in stores[0].places(chunk)] if there else []
                numbers = [image_number(read_bytes(item)) for item in items]
                for store in there:
                    if not store.holds(chunk, self.width, numbers):
                        store.path(chunk).unlink()

    @torch.no_grad()
    def _computed(
        self, images: Crops | Centers, places: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """(features, numbers of files) of images, BATCH of them at a time, by the net in its inference mode."""
        run, device = self.run, self.run.peers.device
        parts = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
        for part, made in zip(parts, load(images, parts), strict=True):
            features = np.full((len(part), self.width), np.nan, np.float32)
            if made is not None:  # a view that can be made of one of these images at least
                pixels, of_crops = made[0].to(device), isinstance(images, Crops)
                shift = made[1].to(device) if of_crops else torch.zeros(len(pixels), 3, device=device)
                with run.execution.autocast(device):
                    found = run.objective.features(pixels, shift).float().cpu()
                if not found.isfinite().all():
                    raise FeaturesError(
                        "the frozen layers give features that are no numbers: the weights are of no use"
                    )
                features[np.arange(len(part)) if of_crops else np.searchsorted(part, made[2].numpy())] = found.numpy()
            if isinstance(images, Crops):
                yield features, made[3].numpy()
            else:
                yield features, np.array([image_number(read_bytes(images.items[place])) for place in part], np.int64)

    def _say_time(self, crops: int, seconds: float) -> None:
        """Says how long the features take, and how long training all layers would; seconds: a crop, of one process."""
        recipe, here = self.run.recipe, seconds / self.run.peers.world
        epochs = max(1, recipe.epochs // FEATURE_EPOCHS)
        every = BACKWARD * here * epochs * len(self.draws[0])
        say(
            f"{recipe.name}: features of the frozen layers take about {say_seconds(crops * here)}, once; training all "
            f"layers for {epochs} epochs would take about {say_seconds(every)} (--freeze none --set epochs={epochs})"
        )


def _save(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array, allow_pickle=False)
