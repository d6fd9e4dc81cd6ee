"""Questions about the disk, each answered once while many models are looked at.

A folder of a thousand quants is listed once and not a thousand times, and a sidecar that could belong to each of them
is opened once. Where one model is looked at, every question goes to the disk: see `each_time`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from ..errors import NextnError
from ..gguf.files import Model
from ..sources.checkpoint import Checkpoint

P = ParamSpec("P")
R = TypeVar("R")
_PER_TENSOR, _PER_ITEM = 64, 256  # bytes that an answer keeps besides headers, roughly
_CHECKPOINT = 32 << 20  # the same of a checkpoint: its index and its tokens, once they were read


class Asking(Protocol):
    """Calls `act` with the arguments, or gives its answer to the same ones before. Raises what `act` raises."""

    def __call__(self, act: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer."""


def each_time(act: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Asks the disk."""
    return act(*args, **kwargs)


class _Answer:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None
        self.error: NextnError | None = None
        self.size_bytes = 0  # 0: not known yet


class Once:
    """An `Asking` that keeps answers, errors included, up to a number of bytes; those not used for longest go first.

    Threads may ask at the same time; only the first one with a question goes to the disk.
    """

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._most, self._held = most_bytes, 0
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[Any, ...], _Answer] = OrderedDict()

    def __call__(self, act: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer. Raises what `act` raises."""
        key = (act, args, tuple(sorted(kwargs.items())))
        with self._lock:
            answer = self._answers.setdefault(key, _Answer())
            self._answers.move_to_end(key)
        with answer.lock:
            if not answer.size_bytes:
                try:
                    answer.value = act(*args, **kwargs)
                except NextnError as error:
                    answer.error = error
                answer.size_bytes = _weight(answer.value)
                self._make_room(answer.size_bytes)
        if answer.error is not None:
            raise answer.error
        found: R = answer.value
        return found

    def _make_room(self, size_bytes: int) -> None:
        with self._lock:
            self._held += size_bytes
            for key, old in list(self._answers.items())[:-1]:
                if self._held <= self._most:
                    break
                if old.size_bytes:
                    self._held -= old.size_bytes
                    del self._answers[key]


def _weight(value: object) -> int:
    """About how many bytes an answer keeps."""
    if isinstance(value, Model):
        return value.header_bytes + _PER_TENSOR * len(value.table)
    if isinstance(value, Checkpoint):
        return _CHECKPOINT
    return _PER_ITEM * (1 + (len(value) if isinstance(value, list | tuple | dict) else 0))
