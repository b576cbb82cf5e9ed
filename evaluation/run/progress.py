"""A run as it goes on: a bar for people, JSON lines for machines (`--log-json`)."""

from __future__ import annotations

import json
import time
from typing import Any

from tqdm import tqdm

LEAST_SECONDS = 1.0
"""Least time between two lines of progress."""


class Watch:
    """A display of how far a run of `total` images is; `done` of them were done before.

    With `log_json`, each event is one line on stdout: {"event": "begin" | "progress" | "end", "images", "of", …}.
    """

    def __init__(self, total: int, done: int, *, log_json: bool) -> None:
        self._total, self._before, self._done, self._log_json = total, done, done, log_json
        self._error: float | None = None
        self._started = self._said = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc="evaluation", unit="img", disable=True if log_json else None)
        self.say("begin", images=done, of=total)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.close()

    def images(self, count: int) -> None:
        """Counts so many more as done."""
        self._done += count
        self._bar.update(count)

        now = time.monotonic()
        if now - self._said >= LEAST_SECONDS or self._done == self._total:
            self._said = now
            rate = (self._done - self._before) / max(now - self._started, 1e-9)
            self.say(
                "progress",
                images=self._done,
                of=self._total,
                images_per_second=round(rate, 3),
                seconds_left=round((self._total - self._done) / rate, 1),
                top1_error_percent=self._error,
            )

    def error(self, top1_percent: float | None) -> None:
        """Takes note of the error of the first table, over what is committed."""
        self._error = None if top1_percent is None else round(top1_percent, 3)
        if top1_percent is not None:
            self._bar.set_postfix_str(f"top-1 error {top1_percent:.1f} %", refresh=False)

    def say(self, event: str, **content: Any) -> None:
        if self._log_json:
            print(json.dumps({"event": event, **content}), flush=True)
