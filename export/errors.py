"""Refusals that several rooms share, and a file's name put before those that lack it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from infer.errors import Refused


class ModelError(Refused):
    """An input that no engine can be built from as asked; one line."""


@contextlib.contextmanager
def naming(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Puts the name of the file before refusals of these kinds, which do not say it themselves."""
    try:
        yield
    except kinds as error:
        raise ModelError(f"{path}: {error}") from None
