"""The batch curve: what verifying k tokens at once costs against one, measured in interleaved passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ..engines.base import Engine, Launch
from ..engines.batches import BatchTimer
from ..progress import Say
from ..schemas.base import filled
from ..schemas.worth import BatchPass, CurvePoint
from .cpu_watch import Usage, Watch, busy_cpus, n_cpus
from .stats import Spread, spread
from .tasks import shipped_tasks
from .timed_run import SLOW, SLOW_REPEAT, allowed_others, disturbances, wait_quiet

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
LEAST_PASSES = 3  # with fewer undisturbed passes there is no figure
MOST_PASSES = 7
PASSES_S = 15.0  # seconds after which no pass is added to the least, at each depth
LEAST_PASS_S = 0.3  # a pass repeats its batches for so long: what disturbs it is counted in ticks of 10 ms
_WAIT_S = 10.0
MIN_SLACK = 0.1  # a short look at the machine is not exact


@dataclass(frozen=True)
class TimedPass:
    """All sizes in turns, once or more often, after one prefix."""

    depth: int  # tokens of the prefix
    number: int  # of the pass, from 0
    attempt: int  # 0, plus 1 for each repetition of a disturbed pass
    seconds: dict[int, float]  # size -> median of the rounds
    state_s: float  # saving and restoring recurrent state; 0 where the engine need not
    n_rounds: int
    usage: Usage
    disturbed: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether its figures count."""
        return not self.disturbed

    @property
    def total_s(self) -> float:
        """All sizes once."""
        return sum(self.seconds.values())

    @property
    def document(self) -> BatchPass:
        """What --json prints of it."""
        return filled(
            BatchPass,
            self.usage,
            depth=self.depth,
            pass_no=self.number,
            attempt=self.attempt,
            n_rounds=self.n_rounds,
            seconds={str(size): round(value, 7) for size, value in self.seconds.items()},
            state_s=round(self.state_s, 7),
            disturbed=list(self.disturbed),
            used=self.good,
        )


@dataclass(frozen=True)
class DepthCurve:
    """The curve after a prefix of one length."""

    depth: int  # tokens
    token_s: float  # seconds of a batch of one token: with MTP off
    costs: dict[int, Spread]  # size of the batch per slot -> its seconds by those of one token
    state_cost: float = 0.0  # saving and restoring recurrent state once, by the seconds of one token

    def cost(self, size: float) -> float:
        """What a batch costs; between measured sizes interpolated."""
        below = max(known for known in self.costs if known <= size)
        if below == size:
            return self.costs[below].median
        above = min((known for known in self.costs if known > size), default=None)
        if above is None:
            raise ValueError(f"a batch of {size} tokens was not measured")
        share = (size - below) / (above - below)
        return (1 - share) * self.costs[below].median + share * self.costs[above].median

    @property
    def lengths(self) -> tuple[int, ...]:
        """The draft lengths whose verification was measured."""
        return tuple(size - 1 for size in sorted(self.costs) if size > 1)

    @property
    def document(self) -> list[CurvePoint]:
        """What --json prints of it."""
        return [
            CurvePoint(size, self.depth, round(one.median, 4), round(one.low, 4), round(one.high, 4), one.n)
            for size, one in sorted(self.costs.items())
        ]


@dataclass
class CurveRun:
    """Times passes until enough are undisturbed, or the patience is used up."""

    timer: BatchTimer
    threads: int | None
    budget_s: float  # total seconds that disturbances may cost
    say: Say = lambda text: None
    busy: Callable[[], float] = busy_cpus
    clock: Callable[[], float] = time.monotonic
    sizes: Sequence[int] = SIZES
    most_passes: int = MOST_PASSES
    passes: list[TimedPass] = field(default_factory=list)
    spent_s: float = 0.0

    def depth(self, text: str, depth: int) -> None:
        """Time all passes after `depth` tokens of `text`. Raises EngineFailed."""
        self.say(f"decoding a prefix of {depth:,} tokens")
        self.timer.prefix(text, depth)
        start = self.clock()
        self.timer.one_pass(self.sizes, 1, 0)  # pages the weights in
        started, number = self.clock(), 0
        rounds = max(1, math.ceil(LEAST_PASS_S / (started - start)))
        while number < self.most_passes:
            if number >= LEAST_PASSES and self.clock() - started - self.spent_s > PASSES_S:
                break
            self.say(f"timing batches after {depth:,} tokens, pass {number + 1}")
            self._pass(depth, number, rounds)
            number += 1
        self.passes = _mark_slow(self.passes)
        self.say(f"{number} passes in {self.clock() - start:.0f} s")

    def _pass(self, depth: int, number: int, rounds: int) -> None:
        attempt = 0
        while True:
            watch, start = Watch(self.timer.session), self.clock()
            times = self.timer.one_pass(self.sizes, rounds, 1 + number * rounds)
            usage, cpus = watch.since(), n_cpus()
            threads = self.threads or cpus
            state = median(times.state_seconds) if times.state_seconds else 0.0
            found = TimedPass(
                depth, number, attempt, {size: median(values) for size, values in times.seconds.items()}, state,
                rounds, usage, disturbances(usage, threads, cpus),
            )  # fmt: skip
            self.passes.append(found)
            if found.good:
                return
            self.spent_s += self.clock() - start
            if self.spent_s >= self.budget_s:
                return
            attempt += 1
            self._wait_quiet(threads, cpus)

    def _wait_quiet(self, threads: int, cpus: int) -> None:
        allowed, limit = allowed_others(threads, cpus) + MIN_SLACK, min(_WAIT_S, self.budget_s - self.spent_s)
        self.spent_s += wait_quiet(self.busy, allowed, limit, self.clock, self.say)


def is_quiet() -> bool:
    """Whether other programs leave the CPUs to a measurement with all threads."""
    cpus = n_cpus()
    return busy_cpus() <= allowed_others(cpus, cpus) + MIN_SLACK


def time_curve(
    engine: Engine,
    launch: Launch,
    depths: Sequence[int],
    patience_s: float,
    say: Say,
    *,
    sizes: Sequence[int] = SIZES,
    most_passes: int = MOST_PASSES,
) -> tuple[CurveRun, bool]:
    """The passes after prefixes of these lengths, and whether all rows passed through the output head.

    `patience_s`: total seconds that disturbances may cost. Raises EngineMissing, EngineRefused, EngineFailed.
    """
    say("loading the model")
    text = "\n".join(prompt for task in shipped_tasks(None) for prompt in task.prompts)
    with engine.batches(launch) as timer:
        run = CurveRun(timer, launch.threads, patience_s, say, sizes=sizes, most_passes=most_passes)
        for depth in dict.fromkeys(depths):
            run.depth(text, depth)
        return run, timer.all_outputs


def _mark_slow(passes: Sequence[TimedPass]) -> list[TimedPass]:
    """The passes, with those marked that were far slower than others after the same prefix."""
    best: dict[int, float] = {}
    for one in passes:
        if one.good:
            best[one.depth] = min(best.get(one.depth, math.inf), one.total_s)
    return [
        replace(one, disturbed=(*one.disturbed, SLOW)) if one.good and best[one.depth] < SLOW_REPEAT * one.total_s
        else one
        for one in passes
    ]  # fmt: skip


def curve_at(passes: Sequence[TimedPass], depth: int, head_share: float | None) -> DepthCurve | None:
    """The curve at one depth; None when too few passes were undisturbed. Pure.

    Each pass gives a ratio per size, since its batches took turns: what slows the machine down slowly slows both.
    `head_share`: where only the last row passed through the output head, the head's share of a token's work. All rows
    are then counted by its share: a body that takes B(k), with B(1) = 1 - share, belongs to a batch of
    B(k) / (1 - share). None: all rows passed.
    """
    good = [one for one in passes if one.depth == depth and one.good]
    if len(good) < LEAST_PASSES:
        return None
    share = head_share or 0.0
    costs = {}
    for size in good[0].seconds:
        ratios = [(one.seconds[size] / one.seconds[1] - share) / (1 - share) for one in good]
        found = spread(ratios)
        assert found is not None
        costs[size] = found
    state = median(one.state_s / one.seconds[1] for one in good)
    return DepthCurve(depth, median(one.seconds[1] for one in good), costs, state)
