"""Figures of scores, as infer.drawing.figures makes them: errors over time, rate and scale, and how sure a model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from infer.drawing.figures import MUTED, PAPER, SERIES, draw_svg

from ..scores.metrics import BINS, Details, error_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"


class Point(NamedTuple):
    """A result to draw: `mark` has one marker, `color` is a place in SERIES; a hollow one is seen where others lie.

    Points of one `series` have a line in the legend. `label` stands beside the marker.
    """

    series: str
    mark: str
    x: float
    percent: float
    interval95: tuple[float, float]
    hollow: bool = False
    color: int = 0
    label: str = ""


def error_against_time(points: Sequence[Point]) -> str:
    """Top-1 error over milliseconds an image, and the line below which nothing lies (Pareto); `mark`: protocol.

    Nothing for a single point, which would only say what a table does.
    """
    if len(points) < 2:
        return ""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.percent)):
        if not front or point.percent < front[-1].percent:
            front.append(point)

    def draw(axes: Axes) -> None:
        steps = [*front, front[-1]._replace(x=max(point.x for point in points))]
        ys = [point.percent for point in steps]
        axes.step([point.x for point in steps], ys, where="post", color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for point in points:
            _error_bar(axes, point, *_look(points, point))
        axes.set_xscale("log")
        _plain_numbers(axes, [point.x for point in points])
        axes.set_xlabel("engine time, ms per image (log)")

    return _error_figure("time", points, draw, wide=True)


def error_against_rate(points: Sequence[Point]) -> str:
    """Top-1 error over images a second, and a line that joins the points that no other beats in both (Pareto).

    `mark`: protocol. A single point is drawn, too: no table has its rate.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.x, point.percent)):
        if not front or point.percent < front[-1].percent:
            front.append(point)

    def draw(axes: Axes) -> None:
        xs, ys = [point.x for point in front], [point.percent for point in front]
        axes.plot(xs, ys, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for point in points:
            _error_bar(axes, point, *_look(points, point))
            at = point.x, point.percent
            axes.annotate(point.label, at, (5, 4), textcoords="offset points", fontsize=8, color=MUTED)
        axes.set_xscale("log")
        _plain_numbers(axes, [point.x for point in points])
        axes.set_xlabel("images per second (log)")

    return _error_figure("rate", points, draw, wide=True)


def error_against_scale(points: Sequence[Point], scales: Sequence[str]) -> str:
    """Top-1 error over scales, `x` being a place in `scales`; single scales of one series are joined."""
    pairs = list(dict.fromkeys(point[:2] for point in points))

    def draw(axes: Axes) -> None:
        for place, pair in enumerate(pairs):
            # beside each other, so that intervals do not hide each other
            shift = 0.3 * (place / max(1, len(pairs) - 1) - 0.5)
            own = sorted(point._replace(x=point.x + shift) for point in points if point[:2] == pair)
            color, marker = _look(points, own[0])
            for point in own:
                _error_bar(axes, point, color, marker)
            single = [point for point in own if "," not in scales[round(point.x - shift)]]
            axes.plot([point.x for point in single], [point.percent for point in single], color=color, linewidth=1)
        axes.set_xticks(range(len(scales)), scales)
        axes.set_xlim(-0.5, len(scales) - 0.5)
        axes.set_xlabel("Q, the shorter side in px (several: their mean)")

    return _error_figure("scale", points, draw)


def _error_figure(name: str, points: Sequence[Point], draw: Callable[[Axes], None], *, wide: bool = False) -> str:
    """Top-1 errors of all points over what `draw` has on the x axis, with a legend."""

    def draw_all(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw(axes)
        low, high = min(p.interval95[0] for p in points), max(p.interval95[1] for p in points)
        margin = 0.05 * (high - low) + 0.01
        axes.set_ylim(max(0, low - margin), high + margin)
        axes.set_ylabel("top-1 error %")
        _legend(figure, points)

    return draw_svg(name, (5.2 if wide else 4.7, 3.5 + 0.1 * sum(map(len, _series_and_marks(points)))), draw_all)


def _series_and_marks(points: Sequence[Point]) -> tuple[list[str], list[str]]:
    """Names of all series and of all marks, in the order of the points."""
    return list(dict.fromkeys(point.series for point in points)), list(dict.fromkeys(point.mark for point in points))


def _look(points: Sequence[Point], point: Point) -> tuple[str, str]:
    """(color, marker) of one of the points."""
    _, marks = _series_and_marks(points)
    return SERIES[point.color % len(SERIES)], MARKERS[marks.index(point.mark) % len(MARKERS)]


def reliability(found: Details) -> str:
    """Accuracy over confidence with 95 % intervals, and the share of answers that were that sure."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))

        # accuracy over confidence, beside the line of a calibrated model
        upper.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for images, sure, right in zip(found.bin_images, found.bin_confidence, found.bin_accuracy, strict=True):
            if images:
                rate = error_rate(round(float(right * images)), int(images))
                point = Point("", "", 100 * float(sure), rate.percent, rate.interval95_percent)
                _error_bar(upper, point, SERIES[0], "o")
        upper.set(xlim=(0, 102), ylim=(0, 102), ylabel="accuracy %")

        # how many answers were that sure
        edges = 100 * np.arange(BINS) / BINS
        shares = 100 * found.bin_images / found.bin_images.sum()
        lower.bar(edges, shares, width=100 / BINS, align="edge", color=SERIES[0], edgecolor=PAPER, linewidth=0.8)
        lower.set(xlabel="posterior of the first answer, %", ylabel="answers %")
        figure.align_ylabels()

    return draw_svg("reliability", (4.7, 4.3), draw)


def _error_bar(axes: Axes, point: Point, color: str, marker: str) -> None:
    axes.plot([point.x, point.x], point.interval95, color=color, linewidth=1.2, alpha=0.55, solid_capstyle="butt")
    axes.plot([point.x], [point.percent], marker, color=color, **_sign(point.hollow))


def _sign(hollow: bool) -> dict[str, Any]:
    return {"markerfacecolor": "none", "markersize": 8} if hollow else {"markeredgecolor": PAPER, "markersize": 6.5}


def _plain_numbers(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis marked 1, 2, 5, 10 ..., wide enough to have two marks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values) / 1.5, max(values) * 1.5
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 3000 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    def handle(name: str, color: str, marker: str, hollow: bool = False) -> Line2D:
        return Line2D([], [], color=color, marker=marker, linestyle="", label=name, **_sign(hollow))

    series, marks = _series_and_marks(points)
    first = {point.series: point for point in reversed(points)}
    handles = [handle(name, SERIES[first[name].color % len(SERIES)], "o", first[name].hollow) for name in series]
    handles += [handle(name, MUTED, MARKERS[i % len(MARKERS)]) for i, name in enumerate(marks)]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=9, columnspacing=1, handletextpad=0.2)
