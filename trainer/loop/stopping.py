"""Ctrl-C and SIGTERM as a wish: the step that is under way ends, and nothing of the run is lost."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

PATIENCE_SECONDS = 1.0
"""A terminal's Ctrl-C reaches a process once, but also through what started it."""


@dataclass(slots=True)
class Wish:
    """The signal that asked the run to stop; 0: none has."""

    signal: int = 0


@contextlib.contextmanager
def wish_to_stop() -> Iterator[Wish]:
    """Takes both signals while it lives.

    A Ctrl-C that comes a second or more after the first signal interrupts at once; another SIGTERM does not, since
    `timeout`, schedulers and torchrun send it more than once. Outside the main thread signals cannot be taken, and
    nothing is wished.
    """
    wish, first = Wish(), math.inf

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if number == signal.SIGINT and now - first > PATIENCE_SECONDS:
            raise KeyboardInterrupt
        first, wish.signal = min(first, now), wish.signal or number

    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
