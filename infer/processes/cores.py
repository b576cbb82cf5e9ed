"""How many CPU cores a process may use: less than the machine has in a container, or in a cluster's job."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of CPU time, as Linux's control groups have it: "200000 100000" is two cores, or "max ..."."""


def usable_cores() -> int:
    """The cores that this process may run on, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


def _quota(otherwise: int) -> int:
    try:
        allowed, period = QUOTA.read_text().split()
        return -(-int(allowed) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # none, or no Linux
        return otherwise
