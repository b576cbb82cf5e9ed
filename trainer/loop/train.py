"""The training program, read from top to bottom: data, net, start, epochs, checkpoints.

python -m trainer --recipe mini-a --data DIR --out runs/a            at most 12 % error (center), under 3 minutes
python -m trainer --recipe mini-d --data DIR --out runs/d --init runs/a/ckpt.pt                          the same
python -m trainer --recipe mini-googlenet --data DIR --out runs/g
torchrun --nproc-per-node 8 -m trainer --recipe vgg-a --data DIR --out runs/a --precision bf16
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infer.data.known_images import KnownImages, image_number, known_images, say_trained_on, with_trained_on
from infer.files import replacing
from infer.processes.owned import own_folder

from .. import checkpoint as checkpoints
from ..checkpoint import Checkpoint
from ..data.augment import augmentation_from_recipe
from ..data.batches import Crops, ProcessLost, TrainingBatch, batches, read_bytes
from ..data.colours import Statistics
from ..data.examples import Examples, ValSplit, open_examples, open_multibox_examples, open_region_examples, say_turned
from ..data.multibox import MultiBoxTargets
from ..data.regions import ProposalFiles
from ..nets.zoo import Net
from ..processes import Bar, Peers, join, say
from ..recipe import Recipe
from .checks import TrainingError as TrainingError
from .checks import check_feasible, check_resumable, naming_checkpoint
from .execution import Execution
from .features import Features
from .memory import check_memory
from .progress import CURVES, METRICS, TrainingProgress, run_size
from .schedule import learning_rate, phase_at
from .start import class_weights, make_initial_net, make_net, make_spec, start_fine_tuning
from .stopping import Wish, wish_to_stop
from .training_state import TrainingState
from .validation import validate

READ_EVERY = {"cpu": 1, "cuda": 20}
"""Iterations between looks at the loss, for which a GPU must be waited for."""


HELD_OUT = "held-out.txt"
"""The file in OUT with the names of the images that --val-split keeps out of training, for --only of other commands."""
SAVING_SHARE = 5
"""Seconds between checkpoints of short epochs, for each second that saving takes."""


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
    init: Path | Checkpoint | None = None,
    resume: bool = False,
    statistics: Statistics | None = None,
    execution: Execution | None = None,
    reading: Mapping[str, Any] | None = None,
    proposals: ProposalFiles | None = None,
) -> Path:
    """Trains a net and returns the path of its checkpoint, which is written after every epoch, and in between.

    init: a checkpoint whose layers start the net (VGG section 3.1), or that a fine-tuning recipe, fitted to it
    (fine_tuning.fit_recipe), goes on from. resume: go on from out/ckpt.pt, with the same
    result as an uninterrupted run, to the bit on a CPU. statistics: the colours of the training set, measured on a
    sample where they are not given. reading: options of open_dataset. proposals: for a net of regions.
    Ctrl-C and SIGTERM end the step, save and raise Stopped. Under torchrun every process calls this; the first one,
    which writes, owns `out`. Raises DatasetError, ProposalsError, CheckpointError, ImageError, ExecutionError,
    TrainingError, ProcessLost, Owned, or OSError where a file cannot be written.
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
            proposals=proposals,
        )


def _train(
    recipe: Recipe,
    data: Path,
    out: Path,
    execution: Execution,
    peers: Peers,
    *,
    init: Path | Checkpoint | None,
    resume: bool,
    statistics: Statistics | None,
    reading: Mapping[str, Any] | None,
    proposals: ProposalFiles | None,
) -> Path:
    """Trains in a folder that is owned, as `train` says."""
    # The checkpoint to go on from.
    path = out / "ckpt.pt"
    written = [found for found in (path, out / METRICS, out / CURVES) if found.exists() and found.stat().st_size]
    if written and not resume:
        raise TrainingError(f"{written[0]} is there already: go on with --resume, or use a new --out")
    previous = checkpoints.load(path) if resume and path.exists() else None

    # The data, and whether recipe, data, checkpoint and processes fit together.
    source = checkpoints.load(init) if isinstance(init, Path) else init
    before = previous or source
    known = previous.spec.classes if previous is not None else ()
    split = (
        ValSplit(recipe.val_split, recipe.split_seed, before.held_out if before else ()) if recipe.val_split else None
    )
    if recipe.task == "regions":
        examples, held_out = open_region_examples(data, recipe, reading, proposals)
    elif recipe.task == "multibox":
        examples, held_out = open_multibox_examples(data, recipe, reading)
    else:
        examples, held_out = open_examples(data, recipe.task, reading, known=known, split=split)
    held_names = tuple(item.name for item in held_out.dataset.items) if split and held_out else ()
    if previous is not None:
        check_resumable(previous, path, recipe, examples, statistics, held_names)
    check_feasible(recipe, examples, held_out)
    slices = peers.world * execution.parts
    if recipe.batch % slices:
        raise TrainingError(f"a batch of {recipe.batch} cannot be cut into {slices} equal pieces: --set batch=...")
    if previous is not None and previous.finished:
        write_held_out(out, held_names, peers)  # which may have been removed, or changed
        return path

    out.mkdir(parents=True, exist_ok=True)
    if previous is None and recipe.fine_tune:
        say_images(recipe, source, examples, held_out, peers)
    run = make_state(recipe, previous, source, examples, statistics, execution, peers)
    if previous is not None:
        with naming_checkpoint(path):
            run.restore(previous)
    write_held_out(out, held_names, peers)
    check_memory(run)
    peers.wait()  # all have read the checkpoint before one writes it

    # The epochs.
    with wish_to_stop() as wish:
        program = Program(run, examples, held_out, path, wish, held_names)
        with program.progress or nullcontext():
            program.run_epochs()
    return path


def make_state(
    recipe: Recipe,
    previous: Checkpoint | None,
    source: Checkpoint | None,
    examples: Examples,
    statistics: Statistics | None,
    execution: Execution,
    peers: Peers,
) -> TrainingState:
    """The state of a run before its first step, or one that a checkpoint of the run is to be restored to."""
    dataset, target = examples.dataset, examples.target
    seen_before = known_images(source.spec) if source is not None else None
    if previous is not None:
        spec, net = previous.spec, make_net(recipe, previous.spec)
    elif recipe.fine_tune:
        spec, net = start_fine_tuning(recipe, dataset, source)
    else:
        spec = make_spec(recipe, dataset, statistics)
        net = make_initial_net(recipe, spec, source, target if isinstance(target, MultiBoxTargets) else None)
    if previous is None:
        spec = with_trained_on(spec, seen_before)
    return TrainingState(recipe, spec, net, execution, peers, class_weights=class_weights(recipe, dataset))


def say_images(
    recipe: Recipe, source: Checkpoint | None, examples: Examples, held_out: Examples | None, peers: Peers
) -> None:
    """Says what there is to say of one's own photographs before they are learnt from. Raises SpecError."""
    if recipe.exif == "ignore":
        say_turned(examples.dataset)
    seen_before = known_images(source.spec) if source is not None else None
    if source is not None and seen_before is not None and peers.rank == 0:
        say_known(f"--init: {source.spec.name}", seen_before, held_out)


def write_held_out(out: Path, names: tuple[str, ...], peers: Peers) -> None:
    """Writes the names of the images that a run keeps out of training, if it keeps any; the first process does."""
    if names and peers.rank == 0:
        with replacing(out / HELD_OUT) as unfinished:
            unfinished.write_text("".join(f"{name}\n" for name in names))


def say_known(name: str, seen: KnownImages, held_out: Examples | None) -> None:
    """Says of weights how many of the validation images they were trained on: the best epoch is chosen on these."""
    items = [] if held_out is None else held_out.dataset.items
    with Bar("validation images, whether they are new", len(items)) as bar:
        numbers = []
        for item in items:
            numbers.append(image_number(read_bytes(item)))
            bar.update()
    line = say_trained_on(name, sum(n in seen for n in numbers), sum(map(seen.admits, numbers)), len(items))
    if line is not None:
        say(f"validation images: {line}")


@dataclasses.dataclass
class Program:
    """The epochs of one run, until its steps are done, its schedule ends it or somebody wishes to stop."""

    run: TrainingState
    examples: Examples
    held_out: Examples | None
    path: Path
    wish: Wish
    held_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        run, recipe = self.run, self.run.recipe
        self.steps_per_epoch = len(self.examples.dataset.items) // recipe.batch
        self.steps = recipe.steps(self.steps_per_epoch)

        # The first process alone shows the run to the user.
        shown = (self.path.parent, recipe.name, self.steps, self.steps_per_epoch, recipe.batch, run.epochs_done)
        self.saved, self.saving_seconds = time.monotonic(), 0.0
        size = run_size(recipe, self.examples, self.held_out, run.peers)
        self.progress = None if run.peers.rank else TrainingProgress(*shown, size=size)
        self.listing = self.examples.listing_digest
        self.said_unreadable = False

        self.features: Features | None = None
        if recipe.train_layers == "last":
            self.features = Features(run, self.examples, self.held_out, self.path.parent)

    def run_epochs(self) -> None:
        """Trains, validates and saves, epoch by epoch."""
        run = self.run
        if self.features is not None:
            self.features.fill(self.wish, self.stop)
            run.fit_rate_to_features(self.features.mean_square())
        if self.held_out is None and run.recipe.keep == "best":
            say(
                f"{run.recipe.name}: no validation images, so the last epoch is kept, and nothing says how good it is: "
                "--val-split 0.2 keeps a fifth of the images for it"
            )
        for epoch in range(run.epochs_done, math.ceil(self.steps / self.steps_per_epoch)):
            first = epoch * self.steps_per_epoch
            last = min(self.steps, first + self.steps_per_epoch)
            rate = self.run_steps(epoch, first, last)

            loss, wrong, images = run.sums_of_epoch()
            metrics: dict[str, float] = {"epoch": epoch + 1, "iteration": last, "learning_rate": rate}
            metrics |= {"loss": loss / images, "training_error_percent": 100 * wrong / images}
            if self.held_out is not None:
                if self.features is None:
                    self.save()  # validation may take longer than whoever wants to stop the run waits
                metrics |= self.validate(epoch + 1)

            run.epochs_done, run.steps_of_epoch = epoch + 1, 0
            run.sums.zero_()
            stale = run.recipe.stop_after and run.best[0] and epoch + 1 - run.best[0] >= run.recipe.stop_after
            run.finished = last == self.steps or run.plateau.ends(run.recipe) or bool(stale)
            if self.progress is not None:
                self.progress.end_epoch(metrics)
            # Where epochs take less time than saving does, it is done for several.
            late = time.monotonic() - self.saved > SAVING_SHARE * self.saving_seconds
            signal, due = run.peers.most((self.wish.signal, late))
            if signal or due or run.finished:
                self.save()
            if run.finished:
                return
            if signal:
                self.stop(signal, self.say_done(last))

    def validate(self, epoch: int) -> dict[str, float]:
        """Tries the net on the held-out images after `epoch`, from 1; returns what metrics.jsonl has of it."""
        run, held_out = self.run, self.held_out
        assert held_out is not None
        stored = None if self.features is None else self.features.validation
        found = validate(run, stored or held_out.centers(run.spec))

        if found.unreadable and not self.said_unreadable:
            images = f"{found.unreadable} of {len(held_out.dataset.items)} validation images"
            say(f"{run.recipe.name}: {images} cannot be read and count as wrong; evaluation.ilsvrc names them")
            self.said_unreadable = True

        error = found.errors[run.objective.errors[0]]
        run.plateau = run.plateau.after(run.recipe, error)
        loss = found.loss if math.isfinite(found.loss) else math.inf  # which a comparison knows what to do with
        is_best = (error, loss) < run.best[1:]
        if is_best:
            run.best = (epoch, error, loss)
        if run.spec.task == "classify":
            run.answers.setdefault("first", found.answers)
            if is_best or run.recipe.keep == "last":
                run.answers |= {"kept": found.answers, "probability": found.probability}
        if is_best and run.recipe.keep == "best":
            run.keep()
        errors = {f"validation_{name}_error_percent": value for name, value in found.errors.items()}
        return {**errors, "validation_loss": found.loss}

    def run_steps(self, epoch: int, first: int, last: int) -> float:
        """The steps of one epoch that are left, of iterations first + 1 to last; returns the last learning rate."""
        run, recipe = self.run, self.run.recipe
        phase = phase_at(recipe, first / self.steps)
        run.net.train()
        set_dropout(run.net, active=phase.dropout)
        augmentation = augmentation_from_recipe(recipe, phase, run.spec)
        crops = self.examples.crops(augmentation, run.spec, seed=recipe.seed, epoch=epoch)

        done = run.steps_of_epoch
        read = first + done  # the iteration up to which the loss has been looked at
        rate = learning_rate(recipe, run.plateau, epoch=epoch, done=read / self.steps) if done else 0.0
        if self.progress is not None:
            self.progress.begin_epoch(epoch + 1, done)

        steps_left = batches_of_steps(crops, run) if self.features is None else self.features.steps(epoch)
        with closing(steps_left) as steps:
            for iteration in range(first + done + 1, last + 1):
                batch = self.next_batch(steps)
                rate = learning_rate(recipe, run.plateau, epoch=epoch, done=iteration / self.steps)
                torch.manual_seed(step_seed(recipe.seed, iteration, run.peers.rank))  # dropout's draws
                run.step(batch, rate)
                run.steps_of_epoch = iteration - first

                # All processes look, save and stop after the same step.
                late = time.monotonic() - self.saved > 60 * run.execution.save_minutes
                signal, due = run.peers.most((self.wish.signal, late))
                if iteration == last or signal or due or iteration - read >= READ_EVERY[run.peers.device.type]:
                    self.read_loss(epoch, read + 1, iteration, rate)
                    read = iteration
                if iteration < last and (signal or due):
                    self.save()
                    if signal:
                        self.stop(signal, self.say_done(iteration))
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
        started = time.monotonic()
        count = len(self.examples.dataset.items)
        done = self.run.checkpoint(images=count, listing=self.listing, held_out=self.held_names)
        broken = next((name for name, t in done.weights.items() if not t.isfinite().all()), None)
        if broken is not None:
            raise self.divergence(f"{broken} is no number any more in epoch {done.epochs_done}")
        try:
            if self.run.peers.rank == 0:
                checkpoints.save(done, self.path)
        except OSError as error:
            if error.errno is not None:
                raise
            raise TrainingError(f"{error} Make room, then go on with --resume") from None  # torch does not say why
        self.saved = time.monotonic()
        self.saving_seconds = self.saved - started

    def divergence(self, how: str) -> TrainingError:
        """The error of a run whose numbers became useless, with the checkpoint that is left of it."""
        kept = f"; the last checkpoint from before is {self.path}" if self.path.exists() else ""
        return TrainingError(f"{how}: lower learning_rate{kept}")

    def say_done(self, iteration: int) -> str:
        return f"{iteration} of {self.steps} iterations are in {self.path}"

    def stop(self, signal: int, done: str) -> None:
        """Raises Stopped for a signal that asked one of the processes to, when what is `done` is on the disk."""
        raise Stopped(signal, f"stopped: {done}, go on with --resume")


def batches_of_steps(crops: Crops, run: TrainingState) -> Generator[list[TrainingBatch]]:
    """The pieces of each step of this process, from the epoch's next step on."""
    peers, parts, batch = run.peers, run.execution.parts, run.recipe.batch
    pin, done = peers.device.type == "cuda", run.steps_of_epoch
    shares = {"rank": peers.rank, "world": peers.world, "parts": parts}
    pieces = batches(crops, batch, start=done, sampling=run.recipe.sampling, pin=pin, **shares)
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
