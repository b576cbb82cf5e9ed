"""Work that overlaps, in threads: decoding ahead of the engine, writing behind it. Order never changes.

Decoding, rescaling and running an engine release Python's lock. An exception comes in the place of its item.
"""

from __future__ import annotations

import threading
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


class Budget:
    """Bytes that may be held at once by items numbered from 0, which are let in one by one, in their order.

    An item that is larger than all of it is let in alone. Whoever makes the items closes it in the end.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._next, self._closed = most_bytes, 0, False
        self._held: dict[int, int] = {}
        self._changed = threading.Condition()

    def hold(self, number: int, size_bytes: int) -> None:
        """Waits until item `number` may hold so many bytes. One that was let in says so that it holds fewer by now."""
        with self._changed:
            if number not in self._held:
                self._changed.wait_for(lambda: self._closed or self._admits(number, size_bytes))
                self._next = number + 1
            self._held[number] = size_bytes
            self._changed.notify_all()

    def let_go(self, number: int) -> None:
        """Takes an item out, which its consumer has."""
        with self._changed:
            del self._held[number]
            self._changed.notify_all()

    def close(self) -> None:
        """Lets everyone in: nobody waits for room that nobody makes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _admits(self, number: int, size_bytes: int) -> bool:
        held = sum(self._held.values())
        return number == self._next and (held == 0 or held + size_bytes <= self._most)


def ordered(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, ahead: int = 1, budget: Budget | None = None
) -> Iterator[R]:
    """Results of `function` for every item, in order, by `workers` threads; at most `workers` + `ahead` are held.

    budget: one that `function` waits for; it is closed before its threads are waited for.
    """
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
            if budget is not None:
                budget.close()


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
