"""The training program, read from top to bottom: data, net, start, steps, checkpoint.

python -m trainer --recipe mini-a --data DIR --out runs/a            at most 12 % error (center), under 3 minutes
python -m trainer --recipe mini-d --data DIR --out runs/d --init runs/a/ckpt.pt                          the same
python -m trainer --recipe mini-googlenet --data DIR --out runs/g
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from infer.dataset import open_dataset

from . import checkpoint as checkpoints
from .augment import Augmentation
from .checkpoint import Checkpoint, split_weights
from .data import Crops, batches, mean_rgb
from .recipe import Phase, Recipe
from .schedule import cosine
from .vgg import FROM_A
from .zoo import Net, build_net


class TrainingError(RuntimeError):
    """A run that cannot start or go on; one line."""


def train(recipe: Recipe, data: Path, out: Path, *, init: Path | None = None, resume: bool = False) -> Path:
    """Trains a net and returns the path of its checkpoint, which is written after every epoch.

    init: a checkpoint whose layers start the net (VGG section 3.1). resume: go on from out/ckpt.pt, with the same
    result as an uninterrupted run. Raises DatasetError, CheckpointError, ImageError or TrainingError.
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
    start_weights(net, recipe.start)
    if init is not None:
        start_from(net, checkpoints.load(init))
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
    )
    if previous is not None:
        restore(net, optimizer, previous)

    steps_per_epoch = len(dataset.items) // recipe.batch
    steps = recipe.epochs * steps_per_epoch
    mean = torch.tensor(spec.preprocessing.mean_rgb)
    std = torch.tensor(spec.preprocessing.std_rgb)
    for epoch in range(previous.epochs_done if previous else 0, recipe.epochs):
        torch.manual_seed(recipe.seed + 1_000_003 * (epoch + 1))  # dropout's draws belong to the epoch
        phase = phase_at(recipe, epoch / recipe.epochs)
        net.train()
        set_dropout(net, active=phase.dropout)
        augmentation = Augmentation(
            recipe.crop_px, phase.short_px, recipe.mirror, recipe.color_sigma, spec.preprocessing.filter
        )
        crops = Crops(dataset, augmentation, seed=recipe.seed, epoch=epoch)
        loss_sum = wrong = seen = 0.0
        bar = tqdm(
            batches(crops, recipe.batch),
            desc=f"{recipe.name} epoch {epoch + 1}/{recipe.epochs}",
            total=steps_per_epoch,
            unit="batch",
            disable=None,
        )
        for step, (pixels, shift, labels) in enumerate(bar, start=epoch * steps_per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * cosine((step + 1) / steps, warmup=recipe.warmup)
            x = ((pixels + shift[:, None, None] - mean) / std).permute(0, 3, 1, 2)  # [N, 3, crop, crop], channels last
            scores = net.training_scores(x)
            loss = sum((weight * F.cross_entropy(s, labels) for weight, s in scores), torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)
            loss_sum += loss.item() * len(labels)
            wrong += (scores[0][1].argmax(1) != labels).sum().item()
            bar.set_postfix(loss=f"{loss_sum / seen:.3f}", error=f"{100 * wrong / seen:.1f}%", refresh=False)
            if not loss.isfinite():
                kept = f"; {path} holds epoch {epoch}" if epoch else ""
                raise TrainingError(f"the loss became {loss.item()} in step {step}: lower learning_rate{kept}")
        weights, auxiliary = split_weights(net.state_dict())
        momentum = momentum_of(net, optimizer)
        checkpoints.save(Checkpoint(spec, weights, auxiliary, momentum, epoch + 1, recipe.to_json()), path)
        log = {"epoch": epoch + 1, "loss": loss_sum / seen, "training_error_percent": 100 * wrong / seen}
        with (out / "metrics.jsonl").open("a" if epoch else "w") as file:
            file.write(json.dumps(log) + "\n")
    return path


def start_weights(net: Net, start: str) -> None:
    """Biases zero; weights normal: He's sigma sqrt(2 / fan in), or 0.01 (AlexNet's, one reading of VGG 3.1)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if start == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, 0.0, 0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_from(net: Net, source: Checkpoint) -> None:
    """Copies the layers that the paper starts deeper nets from; all layers if the nets have the same ones."""
    own = net.state_dict()
    same = split_weights(own)[0].keys() == source.weights.keys()
    taken = source.weights if same else {n: t for n, t in source.weights.items() if n.split(".")[0] in FROM_A}
    unfit = [n for n, t in taken.items() if n not in own or own[n].shape != t.shape]
    if unfit or not taken:
        raise TrainingError(
            f"--init: {source.spec.name} (net {source.spec.net}) does not fit: {', '.join(unfit) or 'no layer'}"
        )
    net.load_state_dict(taken, strict=False)


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
