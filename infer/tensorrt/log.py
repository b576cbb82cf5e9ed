"""The one logger that a process gives a TensorRT library, for its builder and its runtimes alike.

The library keeps the logger of the first object that is made and ignores all later ones. A process that builds a plan
and then runs it (`export.to_trt --verify`) therefore has one logger for both.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)


class Messages:
    """The messages of a library: its errors since they were asked for last, and all lines of a build.

    Outside of a build warnings go to Python's logging, and lesser messages nowhere.
    """

    def __init__(self, trt: Any) -> None:
        self.lines: list[str] = []  # of the last build
        self._errors: list[str] = []
        self._recording = False

        def start(logger: Any) -> None:
            trt.ILogger.__init__(logger)

        def take(_: Any, severity: Any, message: str) -> None:
            self._take(severity.name, message)

        self.logger = type("Logger", (trt.ILogger,), {"__init__": start, "log": take})()

    def _take(self, severity: str, message: str) -> None:
        if severity.endswith("ERROR"):
            self._errors.append(" ".join(message.split()))
        if self._recording:
            self.lines += message.splitlines()
        elif severity == "WARNING":
            log.warning(message)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keeps every line that is said meanwhile in `lines`, in place of those of the build before."""
        self.lines.clear()
        self._errors.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def said(self) -> str:
        """The library's own words where it failed, as one line, and forgets them; "" where it said nothing."""
        text = "; ".join(self._errors)
        self._errors.clear()
        return text

    def errors(self) -> str:
        """The words of `said`, or that there are none: for the end of a message."""
        return self.said() or "it does not say why"


_MESSAGES: dict[str, Messages] = {}
"""By the name of the library's module."""


def messages(trt: Any) -> Messages:
    """The messages of a library's module, with the process's only logger for it."""
    if trt.__name__ not in _MESSAGES:
        _MESSAGES[trt.__name__] = Messages(trt)
    return _MESSAGES[trt.__name__]
