"""nextn.sources.ahead: items made one ahead by another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from nextn.sources.ahead import one_ahead


def test_all_items_come_in_order_from_another_thread():
    threads = set()

    def items() -> Iterator[int]:
        for i in range(20):
            threads.add(threading.get_ident())
            yield i

    assert list(one_ahead(items())) == list(range(20))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_the_next_item_is_made_while_one_is_used_and_none_before_that():
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert made[1].wait(60) and not made[2].is_set()
    assert next(ahead) == 1
    assert made[2].wait(60) and not made[3].is_set()
    ahead.close()


def test_an_error_is_raised_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_closing_waits_for_the_item_that_is_being_made():
    at_work, goes_on, done = threading.Event(), threading.Event(), []

    def items() -> Iterator[int]:
        yield 1
        at_work.set()
        goes_on.wait(60)
        done.append(2)
        yield 2

    ahead = one_ahead(items())
    assert next(ahead) == 1 and at_work.wait(60)
    threading.Timer(0.2, goes_on.set).start()
    ahead.close()
    assert done == [2]


def test_nothing_gives_nothing():
    assert list(one_ahead([])) == []
