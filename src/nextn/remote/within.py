"""A call with a time limit, although nothing inside it accepts a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TooSlow(Exception):
    """The time limit was exceeded."""


class First:
    """The first step of a call, which has a shorter limit of its own; whoever acts reports `began` and `done`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = self.done = False
        self.over = threading.Event()  # done, or the call ended

    def finish(self) -> None:
        """The step succeeded."""
        self.done = True
        self.over.set()


class _Call(Generic[T]):
    def __init__(self, act: Callable[[], T], drop: Callable[[T], None], over: Callable[[], None]) -> None:
        self._act, self._drop, self._over = act, drop, over
        self._lock = threading.Lock()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._left = False  # nobody is waiting any more
        self.thread = threading.Thread(target=self._run, daemon=True, name="nextn-within")

    def _run(self) -> None:
        try:
            result = self._act()
        except BaseException as error:  # the caller's to handle
            self._error = error
            return
        finally:
            self._over()
        with self._lock:
            if not self._left:
                self._result.append(result)
                return
        self._drop(result)

    def leave(self) -> None:
        with self._lock:
            self._left = True
            late = self._result
            self._result = []
        for result in late:
            self._drop(result)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


def within(seconds: float, act: Callable[[], T], drop: Callable[[T], None], first: First | None = None) -> T:
    """The result of `act`, run in its own thread; `drop` gets a result that arrives when nobody is waiting any more.

    Raises TooSlow after `seconds`, or when the first step has begun and is not done after its own seconds; the thread
    then ends whenever it ends, and blocks nothing.
    """
    call = _Call(act, drop, first.over.set if first is not None else lambda: None)
    call.thread.start()
    try:
        if first is not None and not first.over.wait(min(first.seconds, seconds)) and first.began:
            call.leave()
            raise TooSlow
        call.thread.join(seconds)
    except BaseException:
        call.leave()
        raise
    if call.thread.is_alive():
        call.leave()
        raise TooSlow
    return call.result()
