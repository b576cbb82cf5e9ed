"""The one base of everything that a command refuses: a text for its user, not a traceback."""

from __future__ import annotations


class Refused(Exception):
    """Input or a request that cannot be used. Its text is one line: what was got, what was expected, what to do."""


class UsageError(Refused):
    """A command line that asks for what cannot be: exit status 2, where every other refusal has 1."""
