"""The display of a run while it trains: a progress bar, metrics.jsonl, TensorBoard's events and curves.png."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from tqdm import tqdm

from infer.errors import Refused
from infer.files import naming, read_file, replacing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"
EVENTS_EVERY = 20
"""Iterations between points of TensorBoard's curves."""

MOST_BYTES = 1 << 26
"""The largest metrics.jsonl that is read: 100,000 epochs have a tenth of it."""

Metrics = Mapping[str, float]
"""A line of metrics.jsonl: epoch, iteration, learning_rate, loss, and errors in percent. No times: runs repeat."""


class MetricsError(Refused):
    """A metrics.jsonl that is none; one line."""


class TrainingProgress(contextlib.AbstractContextManager["TrainingProgress"]):
    """The display of one run, of which `done` epochs are behind: their lines of metrics.jsonl stay, later ones go."""

    def __init__(self, out: Path, title: str, steps: int, steps_per_epoch: int, batch: int, done: int) -> None:
        self.out, self.title, self.batch = out, title, batch
        self.steps, self.steps_per_epoch = steps, steps_per_epoch

        self.history = [metrics for metrics in read_metrics(out / METRICS) if metrics["epoch"] <= done]
        with replacing(out / METRICS) as unfinished:
            unfinished.write_text("".join(json.dumps(metrics) + "\n" for metrics in self.history))

        self._bar: tqdm[Any] | None = None
        self._events: SummaryWriter | None = None
        self._since: tuple[float, int] | None = None  # when the first step shown was done, and its iteration

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()

    def begin_epoch(self, number: int, steps_done: int) -> None:
        """Begins the bar of epoch `number`, from 1."""
        epochs = -(-self.steps // self.steps_per_epoch)
        of_epoch = min(self.steps_per_epoch, self.steps - (number - 1) * self.steps_per_epoch)
        title, total, done = f"{self.title} epoch {number}/{epochs}", of_epoch * self.batch, steps_done * self.batch
        self._bar = tqdm(desc=title, total=total, initial=done, unit="image", disable=None)

    def step(self, iteration: int, steps: int, *, loss: float, error_percent: float, rate: float) -> None:
        """Shows the epoch's loss and error so far. iteration: from 1, of all epochs; steps: since the last call."""
        now = time.monotonic()
        self._since = self._since or (now, iteration)
        seconds, done = now - self._since[0], iteration - self._since[1]
        left = tqdm.format_interval(seconds / done * (self.steps - iteration)) if done else "?"
        shown = {"loss": f"{loss:.3f}", "error": f"{error_percent:.1f}%", "lr": f"{rate:.2g}", "run": f"{left} left"}
        assert self._bar is not None
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(steps * self.batch)

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
        with naming(self.out / METRICS), (self.out / METRICS).open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        values = {name: value for name, value in metrics.items() if name != "iteration"}
        self._add("epoch", values, int(metrics["iteration"]))
        with replacing(self.out / CURVES) as unfinished:
            draw(self.history, unfinished, title=self.title)

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
