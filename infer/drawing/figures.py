"""Figures as SVG to stand in a page with page.css. Text stays text, and colours are the page's own (light or dark).

The bytes depend on the data and matplotlib's version alone.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010201", "#010202", "#010203", "#010204"
SERIES = tuple(f"#01030{i}" for i in range(1, 9))
COLORS = dict(zip(("ink", "muted", "grid", "paper"), (INK, MUTED, GRID, PAPER), strict=True)) | {
    f"c{i}": color for i, color in enumerate(SERIES, 1)
}
"""Names of the page's colours (page.css), each with the colour that stands for it while a figure is drawn."""

_STYLE: dict[Any, Any] = {
    **dict.fromkeys((f"{part}.labelcolor" for part in ("axes", "legend", "xtick", "ytick")), INK),
    "text.color": INK,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon"), False),
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "font.family": "DejaVu Sans",  # matplotlib's own: laid out alike on every machine; the page's font is drawn
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may have a $ in its name
}


def confusion(names: Sequence[str], counts: NDArray[np.int64], images: NDArray[np.int64]) -> str:
    """Shares of each true class (rows) by their first answer (columns), in percent of the row's `images`.

    Right answers have another colour. What is answered by a class that is not shown, or not at all, is the last column.
    """
    others = images - counts.sum(1)
    columns = [*names, *(["others"] if others.any() else [])]
    shown = np.column_stack([counts, others])[:, : len(columns)]
    shares = shown / np.maximum(images, 1)[:, None]  # [true class, answer]
    is_right = np.eye(*shares.shape, dtype=np.bool_)
    most = max(1e-9, float(shares[~is_right].max(initial=0)))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (i, j), share in np.ndenumerate(shares):
            if share:
                strength = 0.1 + 0.2 * share if is_right[i, j] else 0.15 + 0.6 * share / most
                color = MUTED if is_right[i, j] else SERIES[1]
                axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], color=color, alpha=strength, linewidth=0)
                text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8.5)

        short = [name if len(name) <= 16 else f"{name[:15]}…" for name in columns]
        rows = [
            f"{name} ({count})" if count else f"{name} (no images)" for name, count in zip(short, images, strict=False)
        ]
        axes.set_xticks(np.arange(len(columns)) + 0.5, short, rotation=90)
        axes.set_yticks(np.arange(len(names)) + 0.5, rows)
        axes.set(xlim=(0, len(columns)), ylim=(len(names), 0), xlabel="first answer", ylabel="true class (images)")
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_aspect("equal")

    return draw_svg("confusion", (4.7, 4.7), draw)


def draw_svg(name: str, size_inches: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """A figure of this size that `draw` fills, as an SVG element; `name` keeps its ids apart from other figures'."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its caches; a command's stderr is for errors
    import matplotlib  # late: who does not draw should not wait for it
    from matplotlib.figure import Figure

    # the salt keeps the bytes the same from run to run
    file = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's fonts draw the text
        figure = Figure(size_inches, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_page(file.getvalue())


def _for_page(svg: str) -> str:
    """The figure without what an HTML page has no use for: declarations, namespaces, sizes, the names of groups."""
    svg = svg[svg.index("<svg") :]
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    opening = f'<svg class="chart" viewBox="0 0 {width} {height}" aria-hidden="true">'
    svg = re.sub(r"^<svg[^>]*>", opening, svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, flags=re.DOTALL)  # it would be the whole page's
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")

    # the page's colours
    for name, color in COLORS.items():
        svg = svg.replace(f": {color}", f": var(--{name})")
    return svg.strip()
