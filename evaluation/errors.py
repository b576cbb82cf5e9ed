"""Errors of a run, a score table and a report."""

from __future__ import annotations

from infer.errors import Refused


class RunError(Refused):
    """A run that cannot start or, with --strict, go on; one line."""


class ScoresError(Refused):
    """A file that is not a score table, or tables that do not belong together; one line."""


class NothingInCommon(ScoresError):
    """Two tables of the same images, none of which was scored by both; one line."""


class ReportError(Refused):
    """A folder without the report of an evaluation; one line."""
