"""The training program, read from top to bottom: data, net, start, epochs, checkpoints.

python -m trainer --recipe mini-a --data DIR --out runs/a            at most 12 % error (center), under 3 minutes
python -m trainer --recipe mini-d --data DIR --out runs/d --init runs/a/ckpt.pt                          the same
python -m trainer --recipe mini-googlenet --data DIR --out runs/g
torchrun --nproc-per-node 8 -m trainer --recipe vgg-a --data DIR --out runs/a --precision bf16
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infer.data.dataset import Dataset
from infer.data.known_images import known_images, with_trained_on
from infer.errors import Refused
from infer.processes.owned import own_folder
from infer.spec import ModelSpec

from .. import checkpoint as checkpoints
from ..checkpoint import Checkpoint, CheckpointError
from ..data.augment import augmentation_from_recipe
from ..data.batches import Centers, Crops, ProcessLost, TrainingBatch, batches
from ..data.colours import Statistics, measure
from ..data.examples import Examples, open_examples
from ..nets.zoo import Net, build_net
from ..processes import Peers, join, say
from ..recipe import Recipe
from .execution import Execution
from .progress import CURVES, METRICS, TrainingProgress
from .schedule import learning_rate, phase_at
from .start import copy_layers, start_weights
from .stopping import Wish, wish_to_stop
from .training_state import TrainingState
from .validation import validate

READ_EVERY = {"cpu": 1, "cuda": 20}
"""Iterations between looks at the loss, for which a GPU must be waited for."""


ANEW = "start from its weights by --init in a new --out"
"""What is left to do where a checkpoint's weights are good, but not what it says of its run."""


class TrainingError(Refused):
    """A run that cannot start or go on; one line."""


class Stopped(Exception):
    """The end of a run that was asked to stop, by `signal`, and has saved what it did."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    statistics: Statistics | None = None,
    execution: Execution | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Path:
    """Trains a net and returns the path of its checkpoint, which is written after every epoch, and in between.

    init: a checkpoint whose layers start the net (VGG section 3.1). resume: go on from out/ckpt.pt, with the same
    result as an uninterrupted run, to the bit on a CPU. statistics: the colours of the training set, measured on a
    sample where they are not given. reading: options of open_dataset. Ctrl-C and SIGTERM end the step, save and raise
    Stopped. Under torchrun every process calls this; the first one, which writes, owns `out`. Raises DatasetError,
    CheckpointError, ImageError, ExecutionError, TrainingError, ProcessLost, Owned, or OSError where a file cannot be
    written.
    """
    execution = execution or Execution()
    peers = join(execution.device)
    if execution.parts < 1:
        raise TrainingError(f"a batch in {execution.parts} pieces: expected --parts of 1 or more")

    with own_folder(out) if peers.rank == 0 else nullcontext():
        return _train(
            recipe,
            data,
            out,
            execution,
            peers,
            init=init,
            resume=resume,
            statistics=statistics,
            reading=reading,
        )


def _train(
    recipe: Recipe,
    data: Path,
    out: Path,
    execution: Execution,
    peers: Peers,
    *,
    init: Path | None,
    resume: bool,
    statistics: Statistics | None,
    reading: Mapping[str, Any] | None,
) -> Path:
    """Trains in a folder that is owned, as `train` says."""
    # The checkpoint to go on from.
    path = out / "ckpt.pt"
    written = [found for found in (path, out / METRICS, out / CURVES) if found.exists() and found.stat().st_size]
    if written and not resume:
        raise TrainingError(f"{written[0]} is there already: go on with --resume, or use a new --out")
    previous = checkpoints.load(path) if resume and path.exists() else None

    # The data, and whether recipe, data, checkpoint and processes fit together.
    known = previous.spec.classes if previous is not None else ()
    examples, held_out = open_examples(data, recipe.task, reading, known=known)
    if previous is not None:
        check_resumable(previous, path, recipe, examples, statistics)
    check_feasible(recipe, examples, held_out)
    slices = peers.world * execution.parts
    if recipe.batch % slices:
        raise TrainingError(f"a batch of {recipe.batch} cannot be cut into {slices} equal pieces: --set batch=...")
    if previous is not None and previous.finished:
        return path

    # The net.
    out.mkdir(parents=True, exist_ok=True)
    source = checkpoints.load(init) if init is not None else None
    spec = previous.spec if previous else make_spec(recipe, examples.dataset, statistics)
    if previous is None and source is not None:
        spec = with_trained_on(spec, known_images(source.spec))
    run = TrainingState(recipe, spec, make_initial_net(recipe, spec, source), execution, peers)
    if previous is not None:
        with naming_checkpoint(path):
            run.restore(previous)
    peers.wait()  # all have read the checkpoint before one writes it

    # The epochs.
    with wish_to_stop() as wish:
        program = Program(run, examples, held_out, path, wish)
        with program.progress or nullcontext():
            program.run_epochs()
    return path


def check_resumable(
    previous: Checkpoint, path: Path, recipe: Recipe, examples: Examples, statistics: Statistics | None
) -> None:
    """Raises TrainingError where a run cannot go on from a checkpoint: another recipe, other images or colours."""
    dataset, count = examples.dataset, len(examples.dataset.items)

    if previous.recipe != recipe.to_json():
        raise TrainingError(
            f"{path} was made by another recipe or other settings: resume with the same, or use a new --out"
        )
    if (previous.images, previous.spec.classes) != (count, dataset.classes):
        raise TrainingError(
            f"{path} was trained on {previous.images} images of {len(previous.spec.classes)} classes, {dataset.root} "
            f"has {count} of {len(dataset.classes)}: resume with the same, or start from it by --init in a new --out"
        )
    check_progress(previous, path, recipe, count)
    if previous.listing not in ("", examples.listing_digest):
        raise TrainingError(
            f"{path} was trained on other images, or other labels, than {dataset.root} has: resume with the same, or "
            "start from it by --init in a new --out"
        )
    if statistics is not None and with_trained_on(previous.spec, None) != make_spec(recipe, dataset, statistics):
        raise TrainingError(f"{path} was made with other --statistics: resume with the same, or use a new --out")


def check_progress(previous: Checkpoint, path: Path, recipe: Recipe, images: int) -> None:
    """Raises TrainingError where a checkpoint says of its run what cannot be."""
    steps_per_epoch = images // recipe.batch
    epochs = math.ceil(recipe.steps(steps_per_epoch) / steps_per_epoch) if steps_per_epoch else 0
    within_epoch = previous.steps_of_epoch <= steps_per_epoch and previous.epochs_done < epochs
    is_end = previous.steps_of_epoch == 0 and previous.epochs_done <= epochs
    if (steps_per_epoch and not (within_epoch or is_end)) or (previous.steps_of_epoch and not previous.sums[2]):
        raise TrainingError(
            f"{path} says {previous.epochs_done} epochs and {previous.steps_of_epoch} steps, of {previous.sums[2]:g} "
            f"images, of a run of {epochs} epochs with {steps_per_epoch} steps each: it is damaged, {ANEW}"
        )


@contextlib.contextmanager
def naming_checkpoint(path: Path) -> Iterator[None]:
    """Adds to what a checkpoint's state does not fit where it lies, and what is left to do."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}: it is damaged, {ANEW}") from None


def check_feasible(recipe: Recipe, examples: Examples, held_out: Examples | None) -> None:
    """Raises TrainingError where the recipe cannot be followed on these data."""
    dataset, count = examples.dataset, len(examples.dataset.items)
    if count < recipe.batch:
        raise TrainingError(f"{count} training images do not fill a batch of {recipe.batch}")
    if recipe.schedule == "plateau" and held_out is None:
        raise TrainingError(
            f"{dataset.root}: schedule=plateau drops the rate where the validation error stalls, but there are no "
            "labelled validation images of the same classes: add val/, or --set schedule=cosine iterations=0"
        )


def make_spec(recipe: Recipe, dataset: Dataset, statistics: Statistics | None) -> ModelSpec:
    """The spec of a new net, with the colours of its training set."""
    colors = statistics or measure(dataset)
    spec = recipe.spec(dataset.classes, dataset.class_names, colors.mean_rgb)
    source = {**spec.source, "colors": colors.to_json()}
    if is_text_order_of_numbers(dataset.classes):
        source["class_order"] = "numbers in the order of their text: 0, 1, 10, 11, 2"
        say(f"{dataset.root}: classes are numbers, and the net has them in the order of their text (0, 1, 10 ...)")
    return dataclasses.replace(spec, source=source)


def is_text_order_of_numbers(classes: Sequence[str]) -> bool:
    """True for classes that are called 0, 1, 10, 11, 2 ... in this order, which is that of no number."""
    numbers = [int(name) for name in classes if name.isdecimal()]
    return len(numbers) == len(classes) and numbers != sorted(numbers)


def make_initial_net(recipe: Recipe, spec: ModelSpec, source: Checkpoint | None) -> Net:
    """The net as its first step finds it. Random numbers fill a tensor in the order of its memory: channels last."""
    torch.manual_seed(recipe.seed)
    net = build_net(spec, auxiliary_heads=True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start_weights(net, recipe.start, sigma=recipe.start_sigma)
    if source is not None:
        copy_layers(net, source, spec.task)
    return net


@dataclasses.dataclass
class Program:
    """The epochs of one run, until its steps are done, its schedule ends it or somebody wishes to stop."""

    run: TrainingState
    examples: Examples
    held_out: Examples | None
    path: Path
    wish: Wish

    def __post_init__(self) -> None:
        run, recipe = self.run, self.run.recipe
        self.steps_per_epoch = len(self.examples.dataset.items) // recipe.batch
        self.steps = recipe.steps(self.steps_per_epoch)

        # The first process alone shows the run to the user.
        shown = (self.path.parent, recipe.name, self.steps, self.steps_per_epoch, recipe.batch, run.epochs_done)
        self.progress = None if run.peers.rank else TrainingProgress(*shown)
        self.saved = time.monotonic()
        self.listing = self.examples.listing_digest

    def run_epochs(self) -> None:
        """Trains, validates and saves, epoch by epoch."""
        run = self.run
        for epoch in range(run.epochs_done, math.ceil(self.steps / self.steps_per_epoch)):
            first = epoch * self.steps_per_epoch
            last = min(self.steps, first + self.steps_per_epoch)
            rate = self.run_steps(epoch, first, last)

            loss, wrong, images = run.sums_of_epoch()
            metrics: dict[str, float] = {"epoch": epoch + 1, "iteration": last, "learning_rate": rate}
            metrics |= {"loss": loss / images, "training_error_percent": 100 * wrong / images}
            if self.held_out is not None:
                self.save()  # validation may take longer than whoever wants to stop the run waits
                errors = validate(run, Centers(self.held_out.dataset, run.spec, self.held_out.target))
                metrics |= {f"validation_{name}_error_percent": error for name, error in errors.items()}
                run.plateau = run.plateau.after(run.recipe, errors[run.objective.errors[0]])

            run.epochs_done, run.steps_of_epoch = epoch + 1, 0
            run.sums.zero_()
            run.finished = last == self.steps or run.plateau.ends(run.recipe)
            if self.progress is not None:
                self.progress.end_epoch(metrics)
            self.save()
            if run.finished:
                return
            self.stop_if_wished(last)

    def run_steps(self, epoch: int, first: int, last: int) -> float:
        """The steps of one epoch that are left, of iterations first + 1 to last; returns the last learning rate."""
        run, recipe = self.run, self.run.recipe
        phase = phase_at(recipe, first / self.steps)
        run.net.train()
        set_dropout(run.net, active=phase.dropout)
        augmentation, (dataset, target) = augmentation_from_recipe(recipe, phase, run.spec), self.examples
        exif = run.spec.preprocessing.exif
        crops = Crops(dataset, augmentation, seed=recipe.seed, epoch=epoch, target=target, exif=exif)

        done = run.steps_of_epoch
        read = first + done  # the iteration up to which the loss has been looked at
        rate = learning_rate(recipe, run.plateau, epoch=epoch, done=read / self.steps) if done else 0.0
        if self.progress is not None:
            self.progress.begin_epoch(epoch + 1, done)

        with closing(batches_of_steps(crops, run)) as steps:
            for iteration in range(first + done + 1, last + 1):
                batch = self.next_batch(steps)
                rate = learning_rate(recipe, run.plateau, epoch=epoch, done=iteration / self.steps)
                torch.manual_seed(step_seed(recipe.seed, iteration, run.peers.rank))  # dropout's draws
                run.step(batch, rate, iteration)
                run.steps_of_epoch = iteration - first

                # All processes look, save and stop after the same step.
                late = time.monotonic() - self.saved > 60 * run.execution.save_minutes
                signal, due = run.peers.most((self.wish.signal, late))
                if iteration == last or signal or due or iteration - read >= READ_EVERY[run.peers.device.type]:
                    self.read_loss(epoch, read + 1, iteration, rate)
                    read = iteration
                if iteration < last and (signal or due):
                    self.save()
                    self.stop_if_wished(iteration)
        return rate

    def next_batch(self, steps: Iterator[list[TrainingBatch]]) -> list[TrainingBatch]:
        """The batch of the next step. Raises ProcessLost, when what was trained is saved.

        Of several processes each saves together with the others, so that one alone cannot.
        """
        try:
            return next(steps)
        except ProcessLost:
            if self.run.peers.world == 1 and self.run.steps_of_epoch:
                self.save()
            raise

    def read_loss(self, epoch: int, since: int, iteration: int, rate: float) -> None:
        """Shows the epoch so far. Raises TrainingError where the loss of an iteration from `since` on is no number."""
        loss, wrong, images = self.run.sums_of_epoch()
        if not math.isfinite(loss):
            between = f"iteration {iteration}" if since == iteration else f"iterations {since} to {iteration}"
            raise self.divergence(f"the loss became {loss} in {between} (epoch {epoch + 1})")
        if self.progress is not None:
            error = 100 * wrong / images
            self.progress.step(iteration, iteration - since + 1, loss=loss / images, error_percent=error, rate=rate)

    def save(self) -> None:
        """Writes the checkpoint. Raises TrainingError where its weights are no numbers, and leaves the last one."""
        self.saved = time.monotonic()
        done = self.run.checkpoint(images=len(self.examples.dataset.items), listing=self.listing)
        broken = next((name for name, t in done.weights.items() if not t.isfinite().all()), None)
        if broken is not None:
            raise self.divergence(f"{broken} is no number any more in epoch {done.epochs_done}")
        if self.run.peers.rank:
            return
        try:
            checkpoints.save(done, self.path)
        except OSError as error:
            if error.errno is not None:
                raise
            raise TrainingError(f"{error} Make room, then go on with --resume") from None  # torch does not say why

    def divergence(self, how: str) -> TrainingError:
        """The error of a run whose numbers became useless, with the checkpoint that is left of it."""
        kept = f"; the last checkpoint from before is {self.path}" if self.path.exists() else ""
        return TrainingError(f"{how}: lower learning_rate{kept}")

    def stop_if_wished(self, iteration: int) -> None:
        """Raises Stopped where a signal asked one of the processes to."""
        (signal,) = self.run.peers.most((self.wish.signal,))
        if signal:
            done = f"{iteration} of {self.steps} iterations are in {self.path}"
            raise Stopped(signal, f"stopped: {done}, go on with --resume")


def batches_of_steps(crops: Crops, run: TrainingState) -> Generator[list[TrainingBatch]]:
    """The pieces of each step of this process, from the epoch's next step on."""
    peers, parts, batch = run.peers, run.execution.parts, run.recipe.batch
    pin, done = peers.device.type == "cuda", run.steps_of_epoch
    pieces = batches(crops, batch, start=done, rank=peers.rank, world=peers.world, parts=parts, pin=pin)
    while step := list(itertools.islice(pieces, parts)):
        yield step


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """The seed of torch's random numbers in one step of one process, so that a run goes on from any step."""
    return int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0])


def set_dropout(net: Net, *, active: bool) -> None:
    """Turns the dropout of a net in training on or off."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.train(active)
