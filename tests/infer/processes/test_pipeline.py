"""The same items in order, made ahead or worked on behind, by bounded numbers; errors in their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from infer.processes.pipeline import Budget, ahead, behind, one_behind, ordered


def test_items_keep_their_order() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter([]))) == []
    assert list(ahead(iter([None, 0, ""]))) == [None, 0, ""]


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    second_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_made.set()
        yield 2

    for item in ahead(items()):
        if item == 1:
            assert second_made.wait(10)


def test_an_error_comes_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [1]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_results_come_in_order_whoever_is_first(workers: int) -> None:
    def slow_when_even(number: int) -> int:
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    assert list(ordered(slow_when_even, range(50), workers)) == [n * n for n in range(50)]
    assert list(ordered(slow_when_even, [], workers)) == []


def test_no_more_is_held_than_was_allowed() -> None:
    """However slow the consumer is: memory stays flat."""
    made, used, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal made, most
        for number in range(100):
            made += 1
            most = max(most, made - used)
            yield number

    for _ in ordered(lambda number: number, items(), 2, ahead=3):
        used += 1
    assert (made, used) == (100, 100)
    assert 5 <= most <= 6  # those held, and the one being handed over


def test_an_error_of_a_worker_comes_where_its_result_would_and_stops_the_rest() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        if number == 4:
            raise ValueError("broken")
        return number

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for result in ordered(work, range(1000), 2, ahead=2):
            seen.append(result)
    assert seen == [0, 1, 2, 3]
    assert len(started) < 20


def test_work_behind_is_in_order_and_overlaps() -> None:
    done: list[int] = []
    second_asked = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_asked.set()
        yield 2

    def work(number: int) -> None:
        if number == 1:
            assert second_asked.wait(10)
        done.append(number)

    behind(items(), work)
    assert done == [1, 2]


def test_work_behind_finishes_what_was_made_before_an_error() -> None:
    done: list[int] = []

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        behind(items(), lambda number: (time.sleep(0.01), done.append(number))[1])
    assert done == [1]

    def full(number: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        behind(iter([1, 2, 3]), full)


def test_an_item_comes_when_the_next_has_been_made() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    assert [(item, len(made)) for item in one_behind(items())] == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(one_behind(iter([]))) == []


def test_what_was_made_comes_before_the_error() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in one_behind(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_a_budget_lets_items_in_in_their_order_and_never_too_many() -> None:
    budget, lock = Budget(100), threading.Lock()
    held: dict[int, int] = {}
    let_in: list[int] = []

    def work(number: int) -> int:
        if number % 7 == 0:  # held by one that came late, and by one that is larger than all
            time.sleep(0.005)
        size = 300 if number == 20 else 40
        budget.hold(number, size)
        with lock:
            let_in.append(number)
            held[number] = size
            assert sum(held.values()) <= 100 or list(held) == [20]
        time.sleep(0.001)
        with lock:
            held[number] = 30
        budget.hold(number, 30)
        return number

    for number in ordered(work, range(50), 6, ahead=3, budget=budget):
        with lock:
            del held[number]
        budget.let_go(number)
    assert sorted(let_in) == list(range(50))


@pytest.mark.parametrize("early", [True, False])
def test_nobody_waits_for_a_budget_that_was_closed(early: bool) -> None:
    budget = Budget(10)

    def work(number: int) -> int:
        if number == 3 and not early:
            raise ValueError("broken")
        budget.hold(number, 8)
        return number

    results = ordered(work, range(20), 4, ahead=2, budget=budget)
    if early:
        assert next(results) == 0  # number 1 waits for room that nobody makes
        results.close()  # type: ignore[attr-defined]
        return
    with pytest.raises(ValueError, match="broken"):
        for number in results:
            budget.let_go(number)
