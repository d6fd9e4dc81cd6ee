"""Reading while something else is done with what was read before."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items, each made by another thread while the one before it is used; two exist at a time.

    What making one raises is raised here. Close the iterator before what the items come from.
    """
    from concurrent.futures import ThreadPoolExecutor

    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "nextn-ahead") as pool:  # waits for the thread, however it is left
        waiting = pool.submit(next, source, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, source, end)
            yield item  # type: ignore[misc] # not `end`
            del item
