"""The one logger a process may give the library."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


class Messages:
    """What a library said since this was asked last, for error messages."""

    def __init__(self, trt: Any) -> None:
        said: list[str] = []

        def start(self: Any) -> None:
            trt.ILogger.__init__(self)

        def take(_: Any, severity: Any, message: str) -> None:
            if severity.name.endswith("ERROR"):
                said.append(" ".join(message.split()))
            elif severity.name == "WARNING":
                log.warning(message)

        self._said = said
        self.logger = type("Logger", (trt.ILogger,), {"__init__": start, "log": take})()

    def errors(self) -> str:
        text = "; ".join(self._said) or "it does not say why"
        self._said.clear()
        return text


_MESSAGES: dict[str, Messages] = {}


def messages(trt: Any) -> Messages:
    """The library keeps the logger of its first object for good, so there is one for the process."""
    if trt.__name__ not in _MESSAGES:
        _MESSAGES[trt.__name__] = Messages(trt)
    return _MESSAGES[trt.__name__]
