"""The training program, read from top to bottom: data, net, start, steps, checkpoint.

python -m trainer --recipe mini-a --data DIR --out runs/a            at most 12 % error (center), under 3 minutes
python -m trainer --recipe mini-d --data DIR --out runs/d --init runs/a/ckpt.pt                          the same
python -m trainer --recipe mini-googlenet --data DIR --out runs/g
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from infer.dataset import open_dataset
from infer.files import replacing

from . import checkpoint as checkpoints
from .augment import Augmentation
from .checkpoint import Checkpoint, split_weights
from .data import Crops, batches, mean_rgb
from .recipe import Phase, Recipe
from .schedule import cosine
from .start import start_from, start_weights
from .stopping import wish_to_stop
from .zoo import Net, build_net

SAVE_MINUTES = 10.0
Sums = tuple[float, float, float]
"""Of the images of an epoch so far: loss, wrong answers, how many."""


class TrainingError(RuntimeError):
    """A run that cannot start or go on; one line."""


class Stopped(TrainingError):
    """A run that was asked to stop, by `signal`, and has saved what it did."""

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
    save_minutes: float = SAVE_MINUTES,
) -> Path:
    """Trains a net and returns the path of its checkpoint, which is written after every epoch and every `save_minutes`.

    init: a checkpoint whose layers start the net (VGG section 3.1). resume: go on from out/ckpt.pt, with the same
    result as an uninterrupted run, to the bit on a CPU. Ctrl-C and SIGTERM end the step, save and raise Stopped.
    Raises DatasetError, CheckpointError, ImageError, TrainingError, or OSError where a file cannot be written.
    """
    dataset = open_dataset(data, "train")
    unlabelled = next((item.name for item in dataset.items if item.label < 0), None)
    if unlabelled is not None:
        raise TrainingError(f"{data}: {unlabelled} has no label, expected one for every image to train on")
    path = out / "ckpt.pt"
    previous = checkpoints.load(path) if resume and path.exists() else None
    if previous is not None and previous.recipe != recipe.to_json():
        raise TrainingError(
            f"{path} was made by another recipe or other settings: resume with the same, or use a new --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    spec = previous.spec if previous else recipe.spec(dataset.classes, dataset.class_names, mean_rgb(dataset))
    if len(dataset.items) < recipe.batch:
        raise TrainingError(f"{len(dataset.items)} training images do not fill a batch of {recipe.batch}")

    torch.manual_seed(recipe.seed)
    net = build_net(spec, auxiliary_heads=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start_weights(net, recipe.start, sigma=recipe.start_sigma)
    if init is not None:
        start_from(net, checkpoints.load(init))
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
    )
    if previous is not None:
        restore(net, optimizer, previous)

    def save(epochs_done: int, steps_of_epoch: int = 0, sums: Sums = (0.0, 0.0, 0.0)) -> None:
        rng = torch.get_rng_state() if steps_of_epoch else None
        weights, auxiliary = split_weights(net.state_dict())
        momentum, own = momentum_of(net, optimizer), recipe.to_json()
        done = Checkpoint(spec, weights, auxiliary, momentum, epochs_done, own, steps_of_epoch, rng, sums)
        checkpoints.save(done, path)

    steps_per_epoch = len(dataset.items) // recipe.batch
    steps = recipe.epochs * steps_per_epoch
    mean = torch.tensor(spec.preprocessing.mean_rgb)
    std = torch.tensor(spec.preprocessing.std_rgb)
    first = previous.epochs_done if previous else 0
    keep_metrics(out / "metrics.jsonl", first)
    saved = time.monotonic()
    with wish_to_stop() as wish:
        for epoch in range(first, recipe.epochs):
            torch.manual_seed(recipe.seed + 1_000_003 * (epoch + 1))  # dropout's draws belong to the epoch
            done_before, sums = 0, (0.0, 0.0, 0.0)
            if previous is not None and epoch == first and previous.rng is not None:
                done_before, sums = previous.steps_of_epoch, previous.sums
            phase = phase_at(recipe, epoch / recipe.epochs)
            net.train()
            set_dropout(net, active=phase.dropout)
            augmentation = Augmentation(
                recipe.crop_px, phase.short_px, recipe.mirror, recipe.color_sigma, spec.preprocessing.filter
            )
            crops = Crops(dataset, augmentation, seed=recipe.seed, epoch=epoch)
            bar = tqdm(
                desc=f"{recipe.name} epoch {epoch + 1}/{recipe.epochs}",
                total=steps_per_epoch * recipe.batch,
                initial=done_before * recipe.batch,
                unit="image",
                disable=None,
            )
            own_batches = batches(crops, recipe.batch, start=done_before)
            if done_before and previous is not None and previous.rng is not None:
                torch.set_rng_state(previous.rng)  # after the loader, which draws a number when it starts
            for step, (pixels, shift, labels) in enumerate(own_batches, start=done_before + 1):
                iteration = epoch * steps_per_epoch + step
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * cosine(iteration / steps, warmup=recipe.warmup)
                x = ((pixels + shift[:, None, None] - mean) / std).permute(0, 3, 1, 2)  # [N, 3, crop, crop]
                scores = net.training_scores(x)
                loss = sum((weight * F.cross_entropy(s, labels) for weight, s in scores), torch.zeros(()))
                if not loss.isfinite():
                    bar.close()
                    raise TrainingError(diverged(loss.item(), iteration, path, epoch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                wrong = (scores[0][1].argmax(1) != labels).sum().item()
                sums = sums[0] + loss.item() * len(labels), sums[1] + wrong, sums[2] + len(labels)
                rate = optimizer.param_groups[0]["lr"]
                bar.set_postfix(
                    loss=f"{sums[0] / sums[2]:.3f}",
                    error=f"{100 * sums[1] / sums[2]:.1f}%",
                    lr=f"{rate:.2g}",
                    refresh=False,
                )
                bar.update(len(labels))
                due = time.monotonic() - saved > 60 * save_minutes
                if step < steps_per_epoch and (wish.signal or due):
                    save(epoch, step, sums)
                    saved = time.monotonic()
                if step < steps_per_epoch and wish.signal:
                    bar.close()
                    done = f"{iteration} of {steps} iterations are in {path}"
                    raise Stopped(wish.signal, f"stopped: {done}, go on with --resume")
            bar.close()
            add_metrics(out / "metrics.jsonl", epoch + 1, sums)
            save(epoch + 1)
            saved = time.monotonic()
            if wish.signal and epoch + 1 < recipe.epochs:
                done = f"{(epoch + 1) * steps_per_epoch} of {steps} iterations are in {path}"
                raise Stopped(wish.signal, f"stopped: {done}, go on with --resume")
    return path


def diverged(loss: float, iteration: int, path: Path, epoch: int) -> str:
    """What to say of a loss that is no number."""
    kept = f"; the last checkpoint from before is {path}" if path.exists() else ""
    return f"the loss became {loss} in iteration {iteration} (epoch {epoch + 1}): lower learning_rate{kept}"


def keep_metrics(path: Path, epochs: int) -> None:
    """Leaves the lines of the first epochs, those that a checkpoint has; what came after them is trained again."""
    lines = path.read_text().splitlines(keepends=True) if epochs and path.exists() else []
    with replacing(path) as unfinished:
        unfinished.write_text("".join(line for line in lines if json.loads(line)["epoch"] <= epochs))


def add_metrics(path: Path, epoch: int, sums: Sums) -> None:
    loss, wrong, images = sums
    log = {"epoch": epoch, "loss": loss / images, "training_error_percent": 100 * wrong / images}
    with path.open("a") as file:
        file.write(json.dumps(log) + "\n")


def restore(net: Net, optimizer: torch.optim.SGD, previous: Checkpoint) -> None:
    net.load_state_dict({**previous.weights, **previous.auxiliary})
    for name, parameter in net.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = previous.momentum[name].clone()


def momentum_of(net: Net, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    return {name: optimizer.state[p]["momentum_buffer"] for name, p in net.named_parameters()}


def phase_at(recipe: Recipe, done: float) -> Phase:
    """The phase that is on when `done` (a share of the epochs) is behind us."""
    end = 0.0
    for phase in recipe.phases:
        end += phase.share
        if done < end - 1e-9:
            return phase
    return recipe.phases[-1]


def set_dropout(net: Net, *, active: bool) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.train(active)
