"""Images/s of the trainer: its input alone, its step alone, both together; beside torchvision's reference loop.

    make .venv-torchvision/.installed
    .venv-torchvision/bin/python benchmarks/training.py [--data DIR] [--recipe mini-a]

The reference is references/classification of torchvision written out for a CPU: ImageFolder, RandomResizedCrop,
flip, PILToTensor, normalisation, its DataLoader, its loop with loss and accuracies after each step; the same net, data,
batch and number of loading processes. It is run with torch's threads as they are by default and with ours; the faster
one counts. All are measured in turns of some batches, so that what else the machine does meets all of them.

Cores that are lent may share what makes them fast. So the step is also measured beside a process that makes batches
which nobody takes: what is lost there is the machine's, and together can be no faster than that.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from tabulate import tabulate
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).resolve().parents[1])

from infer.data.dataset import TRAIN, Dataset, open_dataset
from trainer import miniature
from trainer.data.augment import augmentation_from_recipe
from trainer.data.batches import Crops, batches, cores_here, loader_workers
from trainer.loop.execution import Execution
from trainer.loop.start import make_initial_net, make_spec
from trainer.loop.train import set_dropout
from trainer.loop.training_state import TrainingState
from trainer.processes import Peers
from trainer.recipe import Recipe
from trainer.recipes import RECIPES

OURS = max(1, cores_here() - loader_workers())
"""Threads of the step, as python -m trainer sets them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="ILSVRC-2012 as distributed (default: the miniature)")
    parser.add_argument("--recipe", default="mini-a", choices=list(RECIPES))
    parser.add_argument("--batches", type=int, default=40, help="in a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "miniature"
        if args.data is None:
            miniature.make(data)
        measure(RECIPES[args.recipe], open_dataset(data, "train"), data, args.batches, args.turns)


def measure(recipe: Recipe, dataset: Dataset, data: Path, count: int, turns: int) -> None:
    spec = make_spec(recipe, dataset, None)
    run = TrainingState(recipe, spec, make_initial_net(recipe, spec, None), Execution(), Peers(torch.device("cpu")))
    phase = recipe.phases[-1]
    set_dropout(run.net, active=phase.dropout)
    run.net.train()
    crops = Crops(dataset, augmentation_from_recipe(recipe, phase, spec), seed=0, epoch=0)
    epochs = itertools.count()

    def ours() -> Iterator[Any]:
        while True:
            crops.key = (0, next(epochs))
            yield from batches(crops, recipe.batch)

    fixed = next(ours())
    kept = [tensor.clone() for tensor in fixed]
    rows: dict[str, Callable[[], float]] = {
        "trainer: input alone": timed(ours, lambda batch: None, count),
        "trainer: step alone": timed(lambda: itertools.repeat(kept), lambda b: our_step(run, b), count, OURS),
        "trainer: step beside unused input": beside(
            crops, timed(lambda: itertools.repeat(kept), lambda b: our_step(run, b), count, OURS)
        ),
        "trainer: together": timed(ours, lambda b: our_step(run, b), count, OURS),
    }
    torchvision = find_torchvision()
    if torchvision:
        step = reference_step(recipe, spec)
        loader = reference_loader(recipe, data)
        for threads in sorted({OURS, cores_here()}):
            name = f"torchvision {torchvision.__version__}: together, {threads} threads"
            rows[name] = timed(lambda: forever(loader), step, count, threads)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(turns + 1):
        for name, work in rows.items():
            taken = work()
            if turn:  # the first one warms up
                seconds[name].append(taken)
    speeds = {name: [count * recipe.batch / s for s in of_name] for name, of_name in seconds.items()}
    table = [(name, statistics.median(s), min(s), max(s)) for name, s in speeds.items()]
    print(f"{recipe.name}, batch {recipe.batch}, {cores_here()} cores, {turns} turns of {count} batches, images/s")
    print(tabulate(table, ("", "median", "lowest", "highest"), floatfmt=".0f", tablefmt="pipe"))
    alone = [statistics.median(speeds[f"trainer: {part} alone"]) for part in ("input", "step")]
    together = statistics.median(speeds["trainer: together"])
    print(f"\ntogether / the slower part alone: {together / min(alone):.3f} (asked: 0.95)")
    busy = statistics.median(speeds["trainer: step beside unused input"])
    print(f"of the step's speed alone, the machine leaves {busy / alone[1]:.2f} while its other cores make input")
    if torchvision:
        best = max(statistics.median(s) for name, s in speeds.items() if name.startswith("torchvision"))
        print(f"together / torchvision's loop: {together / best:.2f} (asked: 1)")


def find_torchvision() -> Any:
    """The package; its wheel's own operators want CUDA, so those that it describes on import are declared first."""
    declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(declared)
    try:
        import torchvision
    except ImportError:
        return None
    return torchvision


_KEPT: list[Any] = []


def timed(
    source: Callable[[], Iterator[Any]], work: Callable[[Any], None], count: int, threads: int = 1
) -> Callable[[], float]:
    """Seconds of `count` batches. The pipeline is started before, and stops in between: what it made ahead is not
    counted, as many batches as it may be ahead are done first."""

    def turn() -> float:
        torch.set_num_threads(threads)
        stream = source()
        for _ in range(4 * loader_workers() + 1):
            work(next(stream))
        begin = time.perf_counter()
        for _ in range(count):
            work(next(stream))
        taken = time.perf_counter() - begin
        if hasattr(stream, "close"):
            stream.close()
        return taken

    return turn


def beside(crops: Crops, turn: Callable[[], float]) -> Callable[[], float]:
    """`turn` while as many processes as load make batches that nobody takes."""
    fork = multiprocessing.get_context("fork")

    def busy_turn() -> float:
        makers = [fork.Process(target=make_for_nobody, args=(crops,)) for _ in range(loader_workers())]
        for maker in makers:
            maker.start()
        try:
            return turn()
        finally:
            for maker in makers:
                maker.terminate()
                maker.join()

    return busy_turn


def make_for_nobody(crops: Crops) -> None:
    cv2.setNumThreads(0)
    for index in itertools.cycle(range(len(crops))):
        crops[index]


def our_step(run: TrainingState, batch: Any) -> None:
    run.step([tuple(batch)], 1e-4)  # type: ignore[list-item]
    run.peers.total(run.sums)


def reference_loader(recipe: Recipe, data: Path) -> Any:
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(recipe.crop_px, antialias=True),
            transforms.RandomHorizontalFlip(0.5),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    images = datasets.ImageFolder(str(data / TRAIN), transform)
    sampler = torch.utils.data.RandomSampler(images)
    return torch.utils.data.DataLoader(images, recipe.batch, sampler=sampler, num_workers=loader_workers())


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def reference_step(recipe: Recipe, spec: Any) -> Callable[[Any], None]:
    net = make_initial_net(recipe, spec, None).to(memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, recipe.momentum, weight_decay=recipe.weight_decay)

    def accuracy(output: Tensor, target: Tensor) -> list[float]:
        correct = output.topk(5, 1)[1].t().eq(target[None])
        return [100 * correct[:k].flatten().sum(dtype=torch.float32).item() / len(target) for k in (1, 5)]

    def step(batch: Any) -> None:
        image, target = batch
        output = net(image).flatten(1)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy(output.detach(), target)
        loss.item()

    return step


if __name__ == "__main__":
    main()
