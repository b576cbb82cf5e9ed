"""What a run, a score table and a report can fail of."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run that cannot start or, with --strict, go on; one line."""


class ScoresError(ValueError):
    """A file that is not a score table, or tables that do not belong together; one line."""


class ReportError(ValueError):
    """A folder without the report of an evaluation; one line."""
