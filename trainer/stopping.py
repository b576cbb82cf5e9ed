"""Ctrl-C and SIGTERM as a wish: the step that is under way ends, and nothing of the run is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Wish:
    """Which signal asked the run to stop; 0: none has."""

    signal: int = 0


@contextlib.contextmanager
def wish_to_stop() -> Iterator[Wish]:
    """Takes both signals while it lives. A second one interrupts at once, as it would without this.

    In another thread than the main one signals cannot be taken, and nothing is wished.
    """
    wish = Wish()

    def take(number: int, frame: FrameType | None) -> None:
        if wish.signal:
            raise KeyboardInterrupt
        wish.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
