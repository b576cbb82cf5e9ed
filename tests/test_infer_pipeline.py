"""`ahead`: the same items in order, made one ahead, errors in their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from infer.pipeline import ahead


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
