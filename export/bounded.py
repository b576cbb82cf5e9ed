"""Guards against strangers' files: a bound on memory, and a process of its own for what may crash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class ChildDied(Exception):
    """A child process that ended without an answer, by a crash of native code."""


@contextlib.contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """Lets allocations fail that would make the process grow by `more_bytes`: a MemoryError, or a library's own error.

    Linux only; elsewhere nothing is bounded.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more_bytes
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_in_child(work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
    """The result of `work` in a process of its own. Raises what `work` raises, ChildDied where the process ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments, **options).result()
        except BrokenProcessPool:
            raise ChildDied from None
