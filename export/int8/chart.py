"""What each layer alone loses in INT8, and the steps of mending, accuracy against bytes, as a figure."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infer.errors import one_line
from infer.files import replacing

from ..proof.chart import NAMES, SMALLEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .losses import LayerLoss

BLUE, RED, GREY = "#2a6f97", "#b3261e", "#777777"


def draw_mending(
    losses: Sequence[LayerLoss], steps: Sequence[Mapping[str, Any]], single_bytes: int, name: str, path: Path
) -> None:
    """Writes an SVG. `steps` are as in the sidecar (making.Step.as_json), the last one is the model."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches; stderr is for errors
    import matplotlib  # late: it takes a second
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.hashsalt": "int8", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    with matplotlib.rc_context({**style, "axes.spines.right": False, "axes.spines.top": False}):
        figure = Figure((max(7.0, 0.22 * min(len(losses), NAMES) + 3), 6), layout="constrained")
        figure.suptitle(one_line(f"{name} in INT8"), fontsize=10)
        above, below = figure.subplots(2, 1)
        _draw_losses(above, losses, set(steps[-1]["half"]))
        _draw_steps(below, steps, single_bytes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    with replacing(path) as unfinished:
        unfinished.write_text(file.getvalue(), encoding="utf-8")


def _draw_losses(axes: Axes, losses: Sequence[LayerLoss], half: set[str]) -> None:
    """A bar for each layer, the worst first; those that are back in half are red."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    shown = losses[:NAMES]
    heights = [max(one.loss, SMALLEST) if math.isfinite(one.loss) else 1.0 for one in shown]
    axes.bar(range(len(shown)), heights, color=[RED if one.layer in half else BLUE for one in shown])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("loss of class scores, alone")
    axes.set_xticks(range(len(shown)), [one_line(one.layer) for one in shown], rotation=90, fontsize=7)
    axes.grid(axis="y", linewidth=0.5, color="#dddddd")
    if half:
        axes.set_title("red: back in half", fontsize=8, color=RED, loc="right")


def _draw_steps(axes: Axes, steps: Sequence[Mapping[str, Any]], single_bytes: int) -> None:
    """A point for each step with its 95 % interval, and FP32's size."""
    megabytes = [step["bytes"] / 1e6 for step in steps]
    if "top1_difference_percent" in steps[0]:
        label = "top-1 error, points more than FP32"
        values = [step["top1_difference_percent"] for step in steps]
        reach = [
            [value - step["interval95"][0] for value, step in zip(values, steps, strict=True)],
            [step["interval95"][1] - value for value, step in zip(values, steps, strict=True)],
        ]
        axes.errorbar(megabytes, values, reach, fmt="o-", color=BLUE, capsize=3, linewidth=1, markersize=4)
    else:
        label = "largest difference of a box, of the crop"
        values = [step["largest_box_difference"] for step in steps]
        axes.plot(megabytes, values, "o-", color=BLUE, linewidth=1, markersize=4)
    axes.plot([single_bytes / 1e6], [0], "s", color=GREY, markersize=5)
    axes.annotate("FP32", (single_bytes / 1e6, 0), (0, 6), textcoords="offset points", ha="center", color=GREY)
    axes.set_xlim(0, None)
    for place, (x, y, step) in enumerate(zip(megabytes, values, steps, strict=True)):
        text = f"{len(step['half'])} in half" if step["half"] else "INT8"
        axes.annotate(text, (x, y), (6, 4 + 9 * (place % 2)), textcoords="offset points", fontsize=7)
    axes.set_xlabel("MB")
    axes.set_ylabel(label)
    axes.grid(linewidth=0.5, color="#dddddd")
