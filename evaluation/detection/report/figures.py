"""Figures of detection: precision over recall of each class, and what became of the surest detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infer.drawing.figures import MUTED, SERIES, draw_svg
from infer.errors import one_line

from ..mistakes import KINDS
from .values import ClassValues, SystemValues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 8
"""Classes with a colour of their own: all, or the best and the worst half of so many."""
POINTS = 101
BARS = ("right", *KINDS)
COLORS = dict(zip(BARS, (SERIES[2], SERIES[4], SERIES[3], SERIES[0], SERIES[7]), strict=True))


def precision_recall(classes: Sequence[ClassValues]) -> str:
    """Precision over recall, the envelope that is averaged; nothing without a class that has an object.

    Classes beyond NAMED are thin lines without a name, but for the best and the worst.
    """
    known = sorted((one for one in classes if one.objects), key=lambda one: -one.ap)
    if not known:
        return ""
    named = known if len(known) <= NAMED else [*known[: NAMED // 2], *known[-NAMED // 2 :]]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for one in known:
            if one not in named:
                axes.step(*envelope(one), where="pre", color=MUTED, alpha=0.25, linewidth=0.6)
        for place, one in enumerate(named):
            label = one_line(f"{one.words} {100 * one.ap:.1f}")
            axes.step(*envelope(one), where="pre", color=SERIES[place % len(SERIES)], linewidth=1.4, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision (at this recall or more)")
        figure.legend(loc="outside lower center", ncols=2)

    return draw_svg("precision-recall", (4.7, 4.2 + 0.12 * len(named)), draw)


def envelope(one: ClassValues) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(recalls, the best precision at each or beyond), of at most POINTS recalls, then down to 0."""
    recall, precision = one.curve.recall, one.curve.precision
    if not len(recall):
        return np.array([0.0, 0.0]), np.array([0.0, 0.0])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    asked = np.linspace(0, recall[-1], POINTS)
    places = np.minimum(np.searchsorted(recall, asked), len(recall) - 1)
    return np.append(asked, recall[-1]), np.append(best[places], 0.0)


def outcomes(systems: Sequence[SystemValues]) -> str:
    """Shares of what the surest detections are, a bar for each system; nothing where no system has any."""
    totals = [sum(system.counts[kind] for kind in BARS) for system in systems]
    if not any(totals):
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        left = np.zeros(len(systems))
        for kind, color in COLORS.items():
            counts = np.array([system.counts[kind] for system in systems])
            shares = 100 * counts / np.maximum(totals, 1)
            axes.barh(range(len(systems)), shares, 0.6, left=left, color=color, label=kind)
            left += shares
        names = [one_line(system.name) for system in systems]
        axes.set_yticks(range(len(systems)), [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
        axes.set(xlim=(0, 100), ylim=(len(systems) - 0.4, -0.6), xlabel="% of the surest detections")
        axes.grid(False, axis="y")
        figure.legend(loc="outside lower center", ncols=3)

    return draw_svg("outcomes", (4.7, 1.6 + 0.4 * len(systems)), draw)
