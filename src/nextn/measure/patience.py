"""Repeating disturbed runs, within bounds: a machine that never becomes idle must not block a command forever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..progress import Say
from .cpu_watch import busy_cpus, n_cpus
from .engine_pool import Pool
from .timed_run import SHORT, Ask, TimedRun, TimedSetup, allowed_others, mark_slow, timed_run, wait_quiet

DEFAULT_S = 120.0  # total seconds that disturbances may cost: disturbed runs, and waiting for an idle machine
ATTEMPTS = 4  # how many times one run is tried
_LONGEST_WAIT_S = 10.0

@dataclass
class Patience:
    """Runs setups of a pool, and repeats what was disturbed until the patience is used up."""

    pool: Pool
    budget_s: float = DEFAULT_S
    say: Say = lambda text: None
    time_run: Callable[..., TimedRun] = timed_run
    busy: Callable[[], float] = busy_cpus
    clock: Callable[[], float] = time.monotonic
    runs: list[TimedRun] = field(default_factory=list)  # every run in order, including disturbed ones
    spent_s: float = 0.0

    @property
    def used_up(self) -> bool:
        """Whether disturbed runs are no longer repeated."""
        return self.spent_s >= self.budget_s

    def run(self, setup: TimedSetup, ask: Ask, pass_no: int = 0) -> TimedRun:
        """Time one setup on one prompt until a run is undisturbed, and return the last one."""
        attempt = sum(1 for run in self.runs if (run.cell, run.pass_no) == (ask.cell(setup), pass_no))
        last = attempt + ATTEMPTS
        while True:
            running = self.pool.get(setup)
            start = self.clock()
            run = self.time_run(running, setup, ask, pass_no, attempt)
            self.pool.note_memory(setup)
            self.runs.append(run)
            attempt += 1
            if not run.disturbed:
                return run
            self.spent_s += self.clock() - start
            if attempt >= last or self.used_up:
                return run
            self._wait_quiet(setup)

    def repeat_slow(self, steps: Iterable[tuple[TimedSetup, Ask]], pass_no: int, title: str, *, since: int = 0) -> None:
        """Repeat runs that turned out far slower than other runs of the same work, whatever the counters said.

        For greedy runs, whose repeats do the same work. `title`: what it is part of, to show to the user. `since`: only
        runs from this index on are compared.
        """
        self.runs[since:] = mark_slow(self.runs[since:])
        last = {(run.cell, run.pass_no): run for run in self.runs[since:]}
        for setup, ask in steps:
            run = last.get((ask.cell(setup), pass_no))
            if run is not None and run.disturbed and SHORT not in run.disturbed and not self.used_up:
                self.say(f"{title}, again: {setup.id}, {ask.task}")
                self.run(setup, ask, pass_no)

    def _wait_quiet(self, setup: TimedSetup) -> None:
        cpus = n_cpus()
        allowed = allowed_others(setup.threads or cpus, cpus) + 0.1  # a short sample is not exact
        limit = min(_LONGEST_WAIT_S, self.budget_s - self.spent_s)
        self.spent_s += wait_quiet(self.busy, allowed, limit, self.clock, self.say)
