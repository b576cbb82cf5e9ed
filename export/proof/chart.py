"""Where half precision is lost, as a figure: the error and the share of half's range of each layer."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infer.errors import one_line
from infer.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .layers import LayerError

NAMES = 40
"""Layers whose names stand below the figure; of more, every second or third one's does."""
SMALLEST = 1e-9
"""Errors and shares below this, zeros too, are drawn at this height."""


def draw_layers(found: Sequence[LayerError], title: str, path: Path) -> None:
    """Writes an SVG. A layer without a finite error is marked at the top; beyond the line at 1 half overflows."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches; stderr is for errors
    import matplotlib  # late: it takes a second
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.hashsalt": "layers", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    with matplotlib.rc_context({**style, "axes.spines.right": False, "axes.spines.top": False}):
        figure = Figure((max(7.0, 0.22 * min(len(found), 3 * NAMES)), 5.5), layout="constrained")
        figure.suptitle(one_line(title), fontsize=10)
        above, below = figure.subplots(2, 1, sharex=True)
        _draw(above, [one.relative for one in found], "error relative to FP32")
        _draw(below, [one.range_used for one in found], "share of half's range")
        below.axhline(1, color="#b3261e", linewidth=1)

        step = math.ceil(len(found) / NAMES)
        places = range(0, len(found), step)
        below.set_xticks(list(places), [one_line(found[place].layer) for place in places], rotation=90, fontsize=7)
        below.set_xlim(-1, len(found))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    with replacing(path) as unfinished:
        unfinished.write_text(file.getvalue(), encoding="utf-8")


def _draw(axes: Axes, values: Sequence[float], label: str) -> None:
    """Values on a logarithmic axis; those that are no numbers or infinite as crosses at its top."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    finite = {place: max(value, SMALLEST) for place, value in enumerate(values) if math.isfinite(value)}
    lost = [place for place in range(len(values)) if place not in finite]
    axes.plot(list(finite), list(finite.values()), "o-", color="#2a6f97", markersize=3, linewidth=1)
    axes.set_yscale("log")
    low, high = (limit(finite.values(), default=1.0) for limit in (min, max))
    axes.set_ylim(low / 3, high * 3)  # never within one power of ten
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(label)
    axes.grid(axis="y", linewidth=0.5, color="#dddddd")
    if lost:
        transform = axes.get_xaxis_transform()
        axes.plot(lost, [0.98] * len(lost), "x", color="#b3261e", transform=transform, label="no finite number")
        axes.legend(loc="upper left", fontsize=8)
