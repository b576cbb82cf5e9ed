"""Work that overlaps, in threads: decoding ahead of the engine, writing behind it. Order never changes.

Decoding, rescaling and running an engine release Python's lock. An exception comes in the place of its item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Items in their order; the next is made in a thread while the caller still uses this one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def one_behind(items: Iterator[T]) -> Iterator[T]:
    """Items in their order, each when the next has been made: work that making one starts has time to go on."""
    made: deque[T] = deque()
    failed: Exception | None = None
    while failed is None:
        try:
            made.append(next(items))
        except StopIteration:
            break
        except Exception as error:  # comes after what was made before
            failed = error
        if len(made) > 1:
            yield made.popleft()

    yield from made
    if failed is not None:
        raise failed


def ordered(function: Callable[[T], R], items: Iterable[T], workers: int, *, ahead: int = 1) -> Iterator[R]:
    """Results of `function` for every item, in order, by `workers` threads; at most `workers` + `ahead` are held."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == workers + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def behind(items: Iterable[T], work: Callable[[T], None]) -> None:
    """Does `work` on every item, in order, in a thread while the next item is made.

    An item that was made is worked on, whatever fails afterwards.
    """
    with ThreadPoolExecutor(1) as pool:
        pending: Future[None] | None = None
        for item in items:
            if pending is not None:
                pending.result()
            pending = pool.submit(work, item)
        if pending is not None:
            pending.result()
