"""The display of a run while it trains: a progress bar or lines, metrics.jsonl, TensorBoard's events and curves.png."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from tqdm import tqdm

from infer.errors import Refused
from infer.files import naming, read_file, replacing

from ..data.examples import Examples
from ..processes import Bar, Peers, say, say_seconds
from ..recipe import Recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"
EVENTS_EVERY = 20
"""Iterations between points of TensorBoard's curves."""

DRAWING_SHARE = 10
"""Seconds until curves.png is drawn anew, for each second that drawing it takes."""
MOST_BYTES = 1 << 26
"""The largest metrics.jsonl that is read: 100,000 epochs have a tenth of it."""

FORECAST_AFTER = 60.0
"""Seconds until a run's time is foretold."""
LONG = 3600.0
"""Seconds of a run from which on it is said what takes less."""

Metrics = Mapping[str, float]
"""A line of metrics.jsonl: epoch, iteration, learning_rate, loss, and errors in percent. No times: runs repeat."""


class MetricsError(Refused):
    """A metrics.jsonl that is none; one line."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """What a run is made of; `shorter` says how to make one of less time."""

    images: int
    classes: int
    held_out: int
    device: str
    shorter: str


class TrainingProgress(contextlib.AbstractContextManager["TrainingProgress"]):
    """The display of one run, of which `done` epochs are behind: their lines of metrics.jsonl stay, later ones go.

    On a terminal a bar. Elsewhere lines: what the run is made of, after FORECAST_AFTER seconds how long it will take,
    one for each epoch, and those of trainer.processes.Bar in between. `size`: without it the first two are not said.
    """

    def __init__(
        self,
        out: Path,
        title: str,
        steps: int,
        steps_per_epoch: int,
        batch: int,
        done: int,
        *,
        size: RunSize | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out, self.title, self.batch = out, title, batch
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.epochs = -(-steps // steps_per_epoch)
        self._size, self._clock, self._in_pipe = size, clock, not sys.stderr.isatty()

        self.history = [metrics for metrics in read_metrics(out / METRICS) if metrics["epoch"] <= done]
        with replacing(out / METRICS) as unfinished:
            unfinished.write_text("".join(json.dumps(metrics) + "\n" for metrics in self.history))

        self._bar: Bar | None = None
        self._events: SummaryWriter | None = None
        self._began = clock()
        self._before = 0  # the iteration that the run begins after
        self._since: tuple[float, int] | None = None  # when the first step shown was done, and its iteration
        self._forecast_due = True
        self._undrawn, self._draw_due = False, -math.inf

    def __exit__(self, *_: object) -> None:
        if self._undrawn:
            self._draw()
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()

    def begin_epoch(self, number: int, steps_done: int) -> None:
        """Begins the bar of epoch `number`, from 1."""
        before = (number - 1) * self.steps_per_epoch
        if self._bar is None:
            self._introduce(before + steps_done)

        total, done = min(self.steps_per_epoch, self.steps - before) * self.batch, steps_done * self.batch
        title = f"{self.title} epoch {number}/{self.epochs}"
        self._bar = Bar(title, total, done=done, leave=True, clock=self._clock)

    def step(self, iteration: int, steps: int, *, loss: float, error_percent: float, rate: float) -> None:
        """Shows the epoch's loss and error so far. iteration: from 1, of all epochs; steps: since the last call."""
        now = self._clock()
        self._since = self._since or (now, iteration)
        seconds, done = now - self._since[0], iteration - self._since[1]
        left = tqdm.format_interval(seconds / done * (self.steps - iteration)) if done else "?"
        shown = {"loss": f"{loss:.3f}", "error": f"{error_percent:.1f}%", "lr": f"{rate:.2g}", "run": f"{left} left"}
        if self._in_pipe:
            shown = {"iteration": f"{iteration}/{self.steps}", **shown}
        assert self._bar is not None
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(steps * self.batch)

        # The first step has the time to get ready in it, so that it counts only where it is all that there is.
        if self._in_pipe and self._forecast_due and now - self._began >= FORECAST_AFTER:
            self._forecast_due = False
            self._forecast(seconds / done if done else (now - self._began) / (iteration - self._before), iteration)

        if iteration % EVENTS_EVERY < steps:
            values = {"loss": loss, "error_percent": error_percent, "learning_rate": rate}
            if done:
                values["images_per_second"] = done * self.batch / seconds
            self._add("train", values, iteration)

    def end_epoch(self, metrics: Metrics) -> None:
        """Ends the epoch's bar; its metrics go into metrics.jsonl, TensorBoard and curves.png."""
        assert self._bar is not None
        self._bar.close()
        self.history.append(dict(metrics))
        if self._in_pipe:
            say(self._line_of_epoch(metrics))
        with naming(self.out / METRICS), (self.out / METRICS).open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        values = {name: value for name, value in metrics.items() if name != "iteration"}
        self._add("epoch", values, int(metrics["iteration"]))
        self._undrawn = True
        if self._clock() >= self._draw_due:
            self._draw()

    def _draw(self) -> None:
        """Draws the curves, and puts the next time off by a multiple of what it took: epochs may be shorter."""
        started, self._undrawn = self._clock(), False
        with replacing(self.out / CURVES) as unfinished:
            draw(self.history, unfinished, title=self.title)
        ended = self._clock()
        self._draw_due = ended + DRAWING_SHARE * (ended - started)

    def _introduce(self, before: int) -> None:
        """Says what the run is made of, of which `before` iterations are done; its time counts from here."""
        self._before, self._began = before, self._clock()
        if self._size is None or not self._in_pipe:
            return
        size = self._size
        done = f", {before} are done" if before else ""
        epochs = f"{self.epochs} epoch{'s'[: self.epochs != 1]}"
        held_out = f"{size.held_out or 'no'} validation images"
        say(
            f"{self.title}: {size.images} training images of {size.classes} classes, {held_out}, "
            f"{self.steps} steps of {self.batch} in {epochs}{done}, on {size.device}"
        )

    def _forecast(self, seconds_per_step: float, iteration: int) -> None:
        """Says how long an epoch and the run take, and where that is more than LONG, what would take less."""
        if self._size is None:
            return
        of_validation = self._size.held_out / self.batch / 3  # in steps: a forward pass is a third of one
        epoch = seconds_per_step * (self.steps_per_epoch + of_validation)
        run = seconds_per_step * (self.steps - iteration) * (1 + of_validation / self.steps_per_epoch)
        advice = f"; for less: {self._size.shorter}" if run > LONG else ""
        takes = f"1 epoch takes about {say_seconds(epoch)} here, what is left about {say_seconds(run)}"
        say(f"{self.title}: {takes}{advice}")

    def _line_of_epoch(self, metrics: Metrics) -> str:
        """What an epoch came to, and the time that the others take by the rate so far."""
        epoch, iteration = int(metrics["epoch"]), int(metrics["iteration"])
        parts = [f"{self.title} epoch {epoch}/{self.epochs}: loss {metrics['loss']:.4g}"]
        for name, value in metrics.items():
            if name.endswith("_error_percent"):
                parts.append(f"{name.removesuffix('_error_percent').replace('_', ' ')} error {value:.2f} %")
        parts.append(f"learning rate {metrics['learning_rate']:.3g}")

        done, left = iteration - self._before, self.steps - iteration
        if done > 0 and left:
            parts.append(f"{tqdm.format_interval((self._clock() - self._began) / done * left)} left")
        return ", ".join(parts)

    def _add(self, group: str, values: Metrics, iteration: int) -> None:
        """Adds points to TensorBoard's curves, whose writer opens with the first."""
        if self._events is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # from what tensorboard itself imports
                from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._events = SummaryWriter(str(self.out / EVENTS), purge_step=iteration)
        for name, value in values.items():
            self._events.add_scalar(f"{group}/{name}", value, iteration)
        self._events.flush()


def run_size(recipe: Recipe, examples: Examples, held_out: Examples | None, peers: Peers) -> RunSize:
    """What a run is made of, with what would make one like it shorter."""
    shorter = [f"more GPUs by torchrun ({peers.world} now)"]
    if peers.device.type == "cpu":
        shorter = ["--device cuda" if torch.cuda.is_available() else "a machine with a GPU"]
    if recipe.fine_tune and recipe.train_layers != "last":
        shorter.append("--freeze features")
    shorter.append("--set iterations=N" if recipe.iterations else "--set epochs=N")

    return RunSize(
        images=len(examples.dataset.items),
        classes=len(examples.dataset.classes),
        held_out=len(held_out.dataset.items) if held_out is not None else 0,
        device=peers.device.type if peers.world == 1 else f"{peers.world} processes, {peers.device.type}",
        shorter=", ".join(shorter[:-1]) + f" or {shorter[-1]}",
    )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without a last one that was cut off. Raises MetricsError for what is none."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(read_file(path, MOST_BYTES, MetricsError).splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            metrics = msgspec.convert(json.loads(line), dict[str, int | float])  # whole numbers stay whole
            if not {"epoch", "iteration", "learning_rate", "loss"} <= metrics.keys():
                raise ValueError("no epoch, iteration, learning_rate or loss")
        except (ValueError, RecursionError) as error:
            raise MetricsError(
                f"{path}: line {number} is no metrics of a run ({error}), as a loss of power may leave it: remove the "
                "file, its curves begin anew where the run goes on"
            ) from None
        found.append(metrics)
    return found


def draw(history: Sequence[Metrics], path: Path, *, title: str) -> None:
    """Writes a PNG: loss and learning rate above, errors below, over the epochs."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches; a command's stderr is for errors
    from matplotlib.figure import Figure

    figure = Figure((7, 6), layout="constrained")
    losses, errors = figure.subplots(2, 1, sharex=True)
    epochs = [metrics["epoch"] for metrics in history]
    marker = "o" if len(history) < 40 else ""

    losses.semilogy(epochs, [metrics["loss"] for metrics in history], marker=marker, markersize=3, label="loss")
    rates = losses.twinx()
    rates.semilogy(epochs, [metrics["learning_rate"] or float("nan") for metrics in history], "--", color="0.6")
    rates.set_ylabel("learning rate (dashed)", color="0.4")
    losses.set(title=title, ylabel="training loss")

    for name in history[-1]:
        if name.endswith("_error_percent"):
            label = name.removesuffix("_error_percent").replace("_", " ")
            values = [metrics.get(name, float("nan")) for metrics in history]
            errors.plot(epochs, values, marker=marker, markersize=3, label=label)
    errors.set(xlabel="epoch", ylabel="error, percent")
    errors.legend(frameon=False)

    for axes in (losses, errors):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, format="png", dpi=100)
