"""Learning rate as a function of the share of training that is done."""

from __future__ import annotations

import math


def cosine(done: float, *, warmup: float) -> float:
    """Factor in [0, 1] at `done` in [0, 1]: linear up to `warmup`, then half a cosine down to zero."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
