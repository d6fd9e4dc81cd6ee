"""Batches of k tokens after a prefix, timed on a running engine: in xllamacpp's library, or by a server's own timings.

A server has no request for a batch. But k new tokens after a prompt that it has in its cache are one batch of
k, and its answer says how long that took (`prompt_n`, `prompt_ms`). Two things differ from a verification: only the
last row passes through the output head (see `all_outputs`), and the time includes what the server does for a request
besides decoding: by how much a request of one token exceeds a generated token is taken off all of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Protocol

from nextn.engines.base import Engine, Launch
from nextn.engines.running import RunningServer
from nextn.errors import EngineFailed

N_SNAPSHOTS = 8  # of recurrent state in the library's context: as many as MTP with an n_max of 8 keeps
AGAIN_BELOW_S = 0.05
"""A batch that takes less is run again until it has settled. llama.cpp builds a graph whenever the number of tokens
changes, which it does here and does not while drafting; and a model that fits into the processor's cache is slower for
tens of batches after larger ones (measured: 45 MB, from 8.4 ms a token to 4.4 ms in 100 ms)."""
SETTLE_S = 0.15
_MOST_APPENDED = 96  # tokens of batches of one size on a server that cannot cut back, whose context grows with each
_NEAR = 512  # tokens of prefix that may be decoded again for every round
_GENERATED = 9  # tokens generated per round, of which the first comes with the prompt
_GENERATED_SHORT = 33  # where tokens are short


@dataclass(frozen=True)
class PassTimes:
    """Seconds of the batches of one pass."""

    seconds: dict[int, list[float]]  # size of the batch per slot -> one value per round
    state_seconds: list[float]  # saving and restoring recurrent state, per round; empty where the engine need not


def settled(timed: Callable[[], float], settle_s: float, most: int | None = None) -> float:
    """Seconds of a batch: of its first run where it is long, else of the later ones in `settle_s`, at most `most`."""
    first = timed()
    if first >= AGAIN_BELOW_S:
        return first
    times, spent = [timed()], first
    while spent < settle_s and (most is None or len(times) < most):
        times.append(timed())
        spent += times[-1]
    return median(times[len(times) // 2 :])


class BatchTimer(Protocol):
    """An engine that times batches, and a context manager that stops it."""

    @property
    def all_outputs(self) -> bool:
        """Whether every token of a batch passes through the output head, as in a verification."""

    @property
    def session(self) -> int:
        """See `Running.session`."""

    def prefix(self, text: str, depth: int) -> None:
        """Decode `depth` tokens of `text`, after which batches are timed. Raises EngineFailed."""

    def one_pass(self, sizes: Sequence[int], repeats: int, start: int) -> PassTimes:
        """Time batches of `sizes` tokens, 1 among them, in turns. `start` chooses the text of the batches.

        Raises EngineFailed.
        """

    def __enter__(self) -> BatchTimer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LibraryBatches(RunningServer):
    """xllamacpp's library in its process (`engines.batch_child`); implements `BatchTimer`."""

    all_outputs = True

    def prefix(self, text: str, depth: int) -> None:
        """See `BatchTimer.prefix`."""
        self._post("/prefix", {"text": text, "depth": depth})

    def one_pass(self, sizes: Sequence[int], repeats: int, start: int) -> PassTimes:
        """See `BatchTimer.one_pass`."""
        answer = self._post("/pass", {"sizes": list(sizes), "repeats": repeats, "start": start})
        return PassTimes(dict(zip(sizes, answer["seconds"], strict=True)), answer["state_seconds"])

    def __enter__(self) -> LibraryBatches:
        return self


class ServerBatches:
    """The timings of a server with a prompt cache; implements `BatchTimer`."""

    all_outputs = False

    def __init__(self, running: RunningServer, launch: Launch) -> None:
        self._running, self._launch = running, launch
        self._text: list[list[int]] = []  # of each slot: the prefix, and what batches are made of
        self._held: list[list[int]] = []  # of each slot: what is in its cache
        self._depth = 0
        self._cuts_back = False  # whether the server keeps the start of a prompt whose end changes

    @property
    def session(self) -> int:
        """See `Running.session`."""
        return self._running.session

    @property
    def log(self) -> Path:
        """See `Running.log`."""
        return self._running.log

    def prefix(self, text: str, depth: int) -> None:
        """See `BatchTimer.prefix`."""
        tokens = self._running.tokenize(text)
        while len(tokens) < 2 * depth + 256:
            tokens += tokens
        self._depth = depth
        # Slots are chosen by the longest common start, so each has a text of its own.
        self._text = [tokens[7 * slot :] + tokens[: 7 * slot] for slot in range(self._launch.slots)]
        self._held = []
        self._cuts_back = False
        self._rewind()
        self._append(1, 0)
        self._cuts_back = self._rewind() == 1

    def one_pass(self, sizes: Sequence[int], repeats: int, start: int) -> PassTimes:
        """See `BatchTimer.one_pass`."""
        found: dict[int, list[float]] = {size: [] for size in sizes}
        tokens = []
        for number in range(repeats):
            if not self._cuts_back and (self._depth <= _NEAR or len(self._held[0]) > self._depth + _NEAR):
                self._rewind()
            tokens.append(self._token_s(17 * (start + number)))
            for size in sizes if (start + number) % 2 == 0 else list(reversed(sizes)):
                found[size].append(self._batch_s(size, 17 * (start + number)))
        beside = max(0.0, median(found[1]) - median(tokens))
        batches = {size: [max(0.0, one - beside) for one in seconds] for size, seconds in found.items()}
        return PassTimes({**batches, 1: tokens}, [])

    def _batch_s(self, size: int, number: int) -> float:
        text = count(number, 5)
        most = None if self._cuts_back else _MOST_APPENDED // size
        return settled(lambda: self._append(size, next(text)), SETTLE_S, most)

    def _token_s(self, number: int) -> float:
        """Seconds of a generated token: what a request costs beside decoding is not in it."""
        seconds = self._generate(_GENERATED, number)
        if seconds < AGAIN_BELOW_S:
            for more in (1, 2):  # the first settles
                seconds = self._generate(_GENERATED_SHORT, number + more)
        return seconds

    def _generate(self, n_tokens: int, number: int) -> float:
        prompts = self._longer(1, number)  # a prompt that is all in the cache would be decoded again from its start
        answers = self._running.generated(prompts, n_tokens)
        self._held = [prompt + tokens[:-1] for prompt, (tokens, _) in zip(prompts, answers, strict=True)]
        return max(seconds for _, seconds in answers)

    def _rewind(self) -> int:
        """Back to the prefix; the number of its tokens that were decoded again in a slot."""
        wanted = [text[: self._depth] for text in self._text]
        seen = self._running.prompt_seconds(wanted) if wanted[0] else [(0, 0.0)]
        self._held = wanted
        return seen[0][0]

    def _append(self, size: int, number: int) -> float:
        """Seconds for `size` new tokens in every slot at once, after the prefix or else what is in its cache."""
        prompts = self._longer(size, number)
        seen = self._running.prompt_seconds(prompts)
        self._held = prompts
        for n_tokens, _ in seen:
            if n_tokens != size:
                raise EngineFailed(
                    f"{self._launch.model}: the server decoded {n_tokens} tokens of a prompt of which {size} were new, "
                    "so batches cannot be timed by its prompt cache; choose another --engine."
                )
        return max(seconds for _, seconds in seen)

    def _longer(self, size: int, number: int) -> list[list[int]]:
        """What each slot keeps, and `size` more tokens of its text, other ones for each `number`.

        A server that can cut back keeps the prefix, so every batch has the same depth. The first new token must then
        differ from the one in its place: what is alike at the start is not decoded.
        """
        out = []
        for held, text in zip(self._held, self._text, strict=True):
            room = max(1, len(text) - self._depth - size)
            kept = held[: self._depth] if self._cuts_back else held
            offsets = [self._depth + (number + more) % room for more in range(room)]
            alike = held[len(kept)] if len(held) > len(kept) else None
            at = next((one for one in offsets if text[one] != alike), offsets[0])
            out.append(kept + text[at : at + size])
        return out

    def __enter__(self) -> ServerBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.stop()


def server_batches(engine: Engine, launch: Launch, whole_prompts: Sequence[str]) -> ServerBatches:
    """Start `engine` as a server whose prompt timings are read.

    `whole_prompts`: the arguments with which it decodes all new tokens of a prompt as one batch, after those it has.
    Raises what `Engine.start` raises.
    """
    running = engine.start(replace(launch, extra_args=(*whole_prompts, *launch.extra_args)))
    assert isinstance(running, RunningServer)
    return ServerBatches(running, launch)
