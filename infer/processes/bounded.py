"""Guards against strangers' files: a bound on memory, and a process of its own for code that may crash."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from .owned import end_with_parent

Result = TypeVar("Result")


class Died(Exception):
    """A process that ended without a result; the text is how."""


@contextlib.contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """Lets allocations fail that would make the process grow by `more_bytes`: a MemoryError, or a library's own error.

    What is mapped already does not count, and a lower limit that the process has stays. Linux only; elsewhere nothing
    is bounded.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more_bytes
    for own in (soft, hard):
        if own != resource.RLIM_INFINITY:
            limit = min(limit, own)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def keep_reserves_small() -> None:
    """Makes threads reserve little address space, of which each may take 64 MB that it never uses.

    For a process below `bounded_memory` on a machine of many CPUs: glibc's arenas (M_ARENA_MAX, mallopt(3)).
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, 2)


def in_its_own_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `work`, or its exception, from a new process. Raises Died where the process ends before that."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError:
        process.join()
        raise Died(how_ended(process.exitcode or 0)) from None
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join(5)
        if process.is_alive():  # within a library
            process.kill()
            process.join()

    if isinstance(outcome, BaseException):
        raise outcome
    result: Result = outcome
    return result


def _answer(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Does the work in the new process, which ends, its files removed, when it is told to; Ctrl-C is told to us all."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome: Any = work(*arguments)
    except KeyboardInterrupt:
        return
    except Exception as error:
        outcome = error
    pipe.send(outcome)
    pipe.close()


def how_ended(code: int) -> str:
    """A process's end in words: by a signal, of which the kernel's own is for want of memory."""
    if code >= 0:
        return f"ended with status {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        reasons = {"SIGKILL": ", as the system does where memory is short", "SIGABRT": ", as for memory it did not get"}
        return f"was ended by {name}{reasons.get(name, '')}"
    return f"was ended by signal {-code}"
