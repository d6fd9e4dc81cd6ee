"""Writing chunks of states until there is enough: which prompts are next, several workers, limits and progress."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TypeAlias

from .answers import Job, StatesReader, WrittenAnswer, job_seed
from .prompts import Tokenized
from .states import Split, StatesFolder

HELD_SHARE = 0.05  # of the answers: little text is lost to training, and the held-out figures are steady
LEAST_CHUNK = 4  # prompts
_TABLE_BYTES = 2048  # of a chunk beside its arrays, its entry in the manifest included
_HELD_CHUNK = 32  # most held-out prompts per chunk
_SLOW_TPS = 50.0  # tokens per second that any machine may be expected to write
_WAIT_S = 0.5
_GOLDEN = 0.6180339887498949  # multiples of it, without their whole parts, spread evenly


@dataclass(frozen=True)
class StatesProgress:
    """How far the stage is."""

    step: str  # what is being done, in a few words
    n_tokens: int = 0  # written, in all
    target: int | None = None  # of tokens
    rate: float = 0.0  # tokens per second of this call
    left_s: float | None = None  # seconds left, by the rate and the limits
    n_bytes: int = 0  # in the folder

    @property
    def words(self) -> str:
        """As a line."""
        if not self.n_tokens:
            return self.step
        goal = "" if self.target is None else f" of {self.target:,}"
        left = "" if self.left_s is None else f", {_clock(self.left_s)} left"
        return f"{self.step}: {self.n_tokens:,}{goal} tokens, {self.rate:,.0f} per second{left}"


Report: TypeAlias = Callable[[StatesProgress], None]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Limits:
    """Until when text is written; None: no limit."""

    tokens: int | None
    until: float | None  # on the monotonic clock
    n_bytes: int | None


@dataclass(frozen=True)
class How:
    """How prompts are answered."""

    n_predict: int
    temperature: float
    greedy_share: float
    seed: int


@dataclass(frozen=True)
class _Block:
    split: Split
    first: int
    jobs: list[Job]
    n_expected: int  # tokens


@dataclass
class ChunkWriter:
    """Writes chunks into a folder."""

    folder: StatesFolder
    texts: Sequence[Tokenized]
    how: How
    limits: Limits
    n_most: int  # prompts per chunk
    report: Report
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _taken: dict[Split, set[int]] = field(init=False)  # places that are written or being written
    _expected: int = 0  # tokens of the chunks that are being written
    _n_new: int = 0  # tokens that this call wrote

    def __post_init__(self) -> None:
        self._taken = {"held": set(), "fit": set()}
        for one in self.folder.manifest.chunks:
            self._taken[one.split].update(range(one.first, one.first + one.n_asked))
        self._before = self.folder.n_tokens
        self._began = time.monotonic()
        self._held = [one for one in self.texts if one.held]
        self._fit = [one for one in self.texts if not one.held] or self._held

    def wants_more(self) -> bool:
        """Whether no limit is reached."""
        enough = self.limits.tokens is not None and self.folder.n_tokens >= self.limits.tokens
        return not enough and self._room() >= LEAST_CHUNK and not self._is_late()

    def _room(self) -> int:
        """Tokens that the disk's limit leaves."""
        left = self._room_bytes()
        return 1 << 62 if left is None else left // self.folder.manifest.token_bytes

    def _room_bytes(self) -> int | None:
        """Bytes that it leaves for the answers of the next chunk."""
        most, n_chunks = self.limits.n_bytes, len(self.folder.manifest.chunks)
        return None if most is None else most - self.folder.n_bytes - _TABLE_BYTES * (2 + n_chunks)

    def _is_late(self) -> bool:
        return self.limits.until is not None and time.monotonic() >= self.limits.until

    # -- what is next -------------------------------------------------------------------------------------------------

    def _length(self) -> float:
        """Tokens that a prompt with its answer is expected to have."""
        written = self.folder.manifest.chunks
        if n := sum(one.n_sequences for one in written):
            return max(1.0, self.folder.n_tokens / n)
        return sum(len(one.ids) for one in self._fit) / len(self._fit) + 0.8 * self.how.n_predict

    def _next(self, n_workers: int) -> _Block | None:
        """The prompts of the next chunk; None when what is being written will be enough."""
        length = self._length()
        left = float(self._room() - self._expected)
        if self.limits.tokens is not None:
            left = min(left, self.limits.tokens - self.folder.n_tokens - self._expected)
        if left <= 0:
            return None
        n_left = ceil(left / length)
        n = self._n_held(n_left, length)
        split: Split = "held" if n else "fit"
        places = self._free(split, n or min(self.n_most, max(LEAST_CHUNK, ceil(n_left / n_workers))))
        jobs = [self._job(self._held[place], 0.0, place) if n else self._job_at(place) for place in places]
        block = _Block(split, places[0], jobs, round(len(jobs) * length))
        self._taken[split].update(places)
        self._expected += block.n_expected
        return block

    def _n_held(self, n_left: int, length: float) -> int:
        """Prompts of a held-out chunk that is due; 0 when none is. The first one is small where time is short."""
        held, fit = len(self._taken["held"]), len(self._taken["fit"])
        if held >= min(len(self._held), max(1, HELD_SHARE * (held + fit))):
            return 0
        n = max(LEAST_CHUNK, min(_HELD_CHUNK, round(HELD_SHARE * n_left)))
        if not held and self.limits.until is not None:
            seconds = self.limits.until - time.monotonic()
            n = max(LEAST_CHUNK, min(n, round(HELD_SHARE * seconds * _SLOW_TPS / length)))
        return min(n, len(self._held) - held)

    def _free(self, split: Split, n: int) -> list[int]:
        """Up to `n` places in a row that nothing was written for."""
        taken = self._taken[split]
        places = [next(place for place in range(1 << 62) if place not in taken)]
        while len(places) < n and places[-1] + 1 not in taken:
            places.append(places[-1] + 1)
        return places

    def _job_at(self, place: int) -> Job:
        """The prompt at a place; once all were answered they come again, and those answers are never greedy."""
        turn, at = divmod(place, len(self._fit))
        greedy = turn == 0 and ((place + self.how.seed) * _GOLDEN) % 1.0 < self.how.greedy_share
        return self._job(self._fit[at], 0.0 if greedy else self.how.temperature, place)

    def _job(self, text: Tokenized, temperature: float, place: int) -> Job:
        return Job(text.number, text.ids, self.how.n_predict, temperature, job_seed(self.how.seed, place))

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, reader: StatesReader) -> None:
        """Write until a limit is reached. Raises what the reader raises, NoSpace and StorageError."""
        finished: queue.Queue[tuple[_Block, list[WrittenAnswer], float] | BaseException] = queue.Queue()

        def tick(n: int) -> bool:
            with self._lock:
                self._n_new += n
            return self._stop.is_set()

        def work() -> None:
            try:
                while not self._stop.is_set():
                    with self._lock:
                        block = self._next(reader.n_workers)
                    if block is None:
                        return
                    start = time.monotonic()
                    answers = reader.write(block.jobs, tick)
                    block = self._written(block, answers)
                    finished.put((block, answers, time.monotonic() - start))
            except BaseException as error:  # for the thread that waits
                finished.put(error)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(reader.n_workers)]
        for worker in workers:
            worker.start()
        try:
            while True:
                alive = any(worker.is_alive() for worker in workers)
                try:
                    found = finished.get(timeout=_WAIT_S)
                except queue.Empty:
                    if not alive:
                        return
                else:
                    if isinstance(found, BaseException):
                        raise found
                    self._add(*found)
                if self._is_late():
                    self._stop.set()
                self._say(reader)
        finally:
            self._stop.set()
            for worker in workers:
                worker.join()

    def _written(self, block: _Block, answers: Sequence[WrittenAnswer]) -> _Block:
        """The block with what it really has: until it is in the folder, that is what others must count with."""
        n_tokens = sum(answer.n_tokens for answer in answers)
        with self._lock:
            self._expected += n_tokens - block.n_expected
        return replace(block, n_expected=n_tokens)

    def _add(self, block: _Block, answers: list[WrittenAnswer], seconds: float) -> None:
        """Keep the answers for which there is room; not those that ended before they began."""
        room, kept = self._room_bytes(), []
        for answer in answers:
            if answer.n_tokens > answer.n_prompt and (room is None or answer.n_bytes <= room):
                room = None if room is None else room - answer.n_bytes
                kept.append(answer)
        with self._lock:
            self._expected -= block.n_expected
            if kept:
                self.folder.add(block.first, block.split, kept, seconds, len(block.jobs))

    def _say(self, reader: StatesReader) -> None:
        n, spent = self._before + self._n_new, time.monotonic() - self._began
        rate = self._n_new / spent if spent > 0 else 0.0
        target, until = self.limits.tokens, self.limits.until
        left = [] if target is None or not rate else [max(0.0, target - n) / rate]
        left += [] if until is None else [max(0.0, until - time.monotonic())]
        step = f"writing text ({reader.name})"
        self.report(StatesProgress(step, n, target, rate, min(left, default=None), self.folder.n_bytes))
