"""All that the report of a run says of a score table, counted in one pass, so that each table is decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .class_order import FirstAnswers
from .fusion import fuse, in_step
from .metrics import ErrorCounts
from .table import OK, Scores


@dataclass(slots=True)
class TableSummary:
    """Counts of one table: its metadata, images, errors and first answers; unreadable: why, for an image's name."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    images: int = 0
    errors: ErrorCounts = field(default_factory=ErrorCounts)  # top-1, top-5
    answers: FirstAnswers = field(default_factory=FirstAnswers)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, part: Scores) -> None:
        self.metadata = part.metadata
        self.images += len(part.images)
        self.errors.add(part)
        self.answers.add(part)
        for name, status in zip(part.images, part.statuses, strict=True):
            if status != OK:
                self.unreadable[name] = status


def summary_of(parts: Iterable[Scores]) -> TableSummary:
    summary = TableSummary()
    for part in parts:
        summary.add(part)
    return summary


def summarise(
    paths: Sequence[Path], fusions: Sequence[tuple[str, Sequence[int]]] = ()
) -> tuple[list[TableSummary], list[TableSummary]]:
    """Summaries of tables of the same images, and of fusions: each a name and the places of its members in `paths`.

    Holds one part of every table. Raises ScoresError.
    """
    of_tables = [TableSummary() for _ in paths]
    of_fusions = [TableSummary() for _ in fusions]

    for parts in in_step(paths):
        for summary, part in zip(of_tables, parts, strict=True):
            summary.add(part)
        for summary, (name, places) in zip(of_fusions, fusions, strict=True):
            summary.add(fuse([parts[place] for place in places], name))
    return of_tables, of_fusions
