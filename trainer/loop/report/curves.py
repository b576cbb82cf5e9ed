"""The curves of a run over its epochs, as figures of a page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from infer.drawing.figures import MUTED, SERIES, draw_svg

from ..progress import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (4.7, 3.3)
SUFFIX = "_error_percent"
FEW = 40
"""Epochs, each of which has a marker."""
FAR = 5
"""The largest of some values over the smallest, from which on their axis is logarithmic."""


def loss_curve(history: Sequence[Metrics], kept: int) -> str:
    """The losses, on a logarithmic axis where they fall far; `kept`: the epoch that is the result, 0 for none."""
    names = {"loss": "training", "validation_loss": "validation"}

    def draw(axes: Axes) -> None:
        found = [_draw_line(axes, history, name, label, place) for place, (name, label) in enumerate(names.items())]
        values = [value for line in found for value in line]
        axes.set_ylabel("loss (log)" if _marked_logarithmic(axes, values) else "loss")

    return _curve("loss", history, kept, draw, legend=any("validation_loss" in metrics for metrics in history))


def error_curve(history: Sequence[Metrics], kept: int) -> str:
    """The errors in percent, of training and each of validation."""
    names = list(dict.fromkeys(name for metrics in history for name in metrics if name.endswith(SUFFIX)))

    def draw(axes: Axes) -> None:
        for place, name in enumerate(names):
            _draw_line(axes, history, name, _title(name), place)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("error %")

    return _curve("errors", history, kept, draw, legend=True)


def rate_curve(history: Sequence[Metrics]) -> str:
    """The learning rate of the last step of each epoch, on a logarithmic axis where it falls far."""

    def draw(axes: Axes) -> None:
        is_log = _marked_logarithmic(axes, _draw_line(axes, history, "learning_rate", "", 0))
        axes.set_ylabel("learning rate (log)" if is_log else "learning rate")

    return _curve("rate", history, 0, draw, legend=False)


def _curve(
    name: str, history: Sequence[Metrics], kept: int, draw_lines: Callable[[Axes], None], *, legend: bool
) -> str:
    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        draw_lines(axes)
        if kept:
            axes.axvline(kept, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(kept, 1.02, "kept", transform=axes.get_xaxis_transform(), ha="center", color=MUTED)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, max(metrics["epoch"] for metrics in history) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        if legend:
            figure.legend(loc="outside lower left", ncols=3, fontsize=9)

    return draw_svg(name, SIZE_INCHES, draw)


def _draw_line(axes: Axes, history: Sequence[Metrics], name: str, label: str, place: int) -> list[float]:
    """Draws a metric over the epochs that have it; returns its numbers."""
    points = [(metrics["epoch"], metrics[name]) for metrics in history if math.isfinite(metrics.get(name, math.nan))]
    if points:
        marker = "o" if len(history) < FEW else ""
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=SERIES[place], marker=marker, markersize=3.5, linewidth=1.6, label=label)
    return [value for _, value in points]


def _title(name: str) -> str:
    """`validation top-1` from validation_top1_error_percent."""
    return re.sub(r"(top)(\d)", r"\1-\2", name.removesuffix(SUFFIX).replace("_", " "))


def _marked_logarithmic(axes: Axes, values: Sequence[float]) -> bool:
    """Makes the axis of these values logarithmic where they fall by FAR or more, marked 1, 2, 5, 10 ...

    Where they do not, it begins at 0.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min((value for value in values if value > 0), default=0.0), max(values, default=0.0)
    if not low or high < FAR * low:
        axes.set_ylim(bottom=0)
        return False
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low / 1.6, high * 1.6)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True
