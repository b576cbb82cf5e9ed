"""GoogLeNet's results on ILSVRC-2014's detection task as data: Tables 4 and 5 of arXiv 1409.4842."""

from __future__ import annotations

from dataclasses import dataclass

TASK_CLASSES = 200
"""Classes of ILSVRC's detection task."""


@dataclass(frozen=True, slots=True)
class PublishedDetection:
    """A team's mean average precision in percent; nets: how many it averaged, None where it is not told."""

    team: str
    mean_percent: float
    source: str
    year: int = 2014
    nets: int | None = None

    @property
    def is_googlenet(self) -> bool:
        return self.team == "GoogLeNet"


TABLE_4 = (
    PublishedDetection("UvA-Euvision", 22.6, "GoogLeNet Table 4", year=2013),
    PublishedDetection("Deep Insight", 40.5, "GoogLeNet Table 4", nets=3),
    PublishedDetection("CUHK DeepID-Net", 40.7, "GoogLeNet Table 4"),
    PublishedDetection("GoogLeNet", 43.9, "GoogLeNet Table 4", nets=6),
)
"""What the teams submitted."""
TABLE_5 = (
    PublishedDetection("Trimps-Soushen", 31.6, "GoogLeNet Table 5", nets=1),
    PublishedDetection("Berkeley Vision", 34.5, "GoogLeNet Table 5", nets=1),
    PublishedDetection("UvA-Euvision", 35.4, "GoogLeNet Table 5", nets=1),
    PublishedDetection("CUHK DeepID-Net2", 37.7, "GoogLeNet Table 5", nets=1),
    PublishedDetection("GoogLeNet", 38.02, "GoogLeNet Table 5", nets=1),
    PublishedDetection("Deep Insight", 40.2, "GoogLeNet Table 5", nets=1),
)
"""Single nets."""


def is_det(kind: str, classes: int) -> bool:
    """True for ILSVRC's detection task itself: its layout and its number of classes, which no miniature has."""
    return kind == "ilsvrc-det" and classes == TASK_CLASSES


def rows_beside(nets: int) -> tuple[PublishedDetection, ...]:
    """The table that a system of so many nets stands beside: 5 for a single net, 4 for several that are averaged."""
    return TABLE_5 if nets == 1 else TABLE_4
