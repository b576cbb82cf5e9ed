"""infer/processes/bounded.py: a bound on memory that no lower limit contradicts, and how a process ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from infer.errors import Refused
from infer.processes.bounded import Died, bounded_memory, in_its_own_process

resource = pytest.importorskip("resource")
FREE = resource.RLIM_INFINITY


@pytest.mark.parametrize("limits", [(FREE, FREE), (10**12, 2 * 10**12), (10**9, FREE), (FREE, 10**9), (10**9, 10**9)])
def test_no_limit_of_the_process_is_raised(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system's hard limit (ulimit -v) may be below what an import may take; nobody may raise it."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: asked.append(both))
    with bounded_memory(6 * 10**9):
        pass
    (soft, hard), restored = asked
    assert restored == limits and hard == limits[1]
    own = [limit for limit in limits if limit != FREE]
    assert 0 < soft <= min([*own, 10**13])
    assert (own and min(own) < 10**10) or soft > 6 * 10**9  # beside what is mapped already


def end(how: int) -> None:
    os.kill(os.getpid(), how)


def leave(status: int) -> None:
    os._exit(status)


def refuse(text: str) -> None:
    raise Refused(text)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("work", "argument", "message"),
    [
        (end, signal.SIGKILL, "was ended by SIGKILL, as the system does where memory is short"),
        (end, signal.SIGABRT, "was ended by SIGABRT, as for memory it did not get"),
        (end, signal.SIGSEGV, "was ended by SIGSEGV"),
        (leave, 3, "ended with status 3"),
    ],
)
def test_a_process_that_dies_says_how(work: Callable[[int], None], argument: int, message: str) -> None:
    with pytest.raises(Died, match=f"^{message}$"):
        in_its_own_process(work, argument)


@pytest.mark.processes
def test_results_and_refusals_come_back() -> None:
    work: Any = sum
    assert in_its_own_process(work, (1, 2)) == 3
    with pytest.raises(Refused, match="not this"):
        in_its_own_process(refuse, "not this")
