"""A race of setups: prompt by prompt in turns, and who falls too far behind the leader is stopped early.

Pure but for the run itself, which is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from .trial import Ask, Run, Setup

FLOORS = (0.75, 0.85, 0.92, 0.96)
"""The least share of the leader's speed that keeps a setup in the race, after 1, 2, ... prompts."""
LAST_FLOOR = 0.98
"""After all further ones."""

TimeRun = Callable[[Setup, Ask, int], Run]


@dataclass
class Lane:
    """One setup in a race."""

    setup: Setup
    logs: dict[int, float] = field(default_factory=dict)
    """Number of the prompt -> logarithm of tokens per second; disturbed runs are not there."""
    dropped_after: int | None = None
    """Prompts after which it was stopped; None: it ran to the end."""
    share: float | None = None
    """Speed by the leader's, over the prompts that both ran undisturbed. Above 1 where a kept one is the fastest."""


@dataclass(frozen=True)
class Race:
    """How a race ended."""

    lanes: tuple[Lane, ...]
    """The fastest first; setups without an undisturbed run last."""

    @property
    def winner(self) -> Setup | None:
        """The fastest one, None when no run was undisturbed."""
        best = self.lanes[0]
        return best.setup if best.logs else None

    def best_of(self, ids: Collection[str]) -> Lane | None:
        """The fastest among some, None when none of them has a figure."""
        return next((lane for lane in self.lanes if lane.setup.id in ids and lane.logs), None)


def race(
    setups: Sequence[Setup],
    asks: Sequence[Ask],
    time_run: TimeRun,
    *,
    stage: int = 0,
    keep: Collection[str] = (),
    go_on: Callable[[], bool] = lambda: True,
) -> Race:
    """Run `setups` on `asks` until one is left, or the prompts are used up.

    Those in `keep` are never stopped, stop nobody, and do not hold up the end. `go_on` is asked before each prompt but
    the first. Every second prompt takes the setups in reverse, so that a drift of the machine favours none.
    """
    lanes = [Lane(setup) for setup in setups]
    alive = list(lanes)
    for n, ask in enumerate(asks):
        if n and (sum(lane.setup.id not in keep for lane in alive) <= 1 or not go_on()):
            break
        for lane in alive if n % 2 == 0 else reversed(alive):
            run = time_run(lane.setup, ask, stage)
            if run.good:
                lane.logs[n] = math.log(run.decode_tps)
        leader = _leader([lane for lane in alive if lane.setup.id not in keep]) or _leader(alive)
        if leader is None:
            continue
        floor = FLOORS[n] if n < len(FLOORS) else LAST_FLOOR
        for lane in alive:
            lane.share = _share(lane, leader)
            if lane.share is not None and lane.share < floor and lane.setup.id not in keep:
                lane.dropped_after = n + 1
        alive = [lane for lane in alive if lane.dropped_after is None]
    return Race(tuple(sorted(lanes, key=_rank)))


def _rank(lane: Lane) -> tuple[bool, float, float]:
    """Those that ran to the end first, by their share; then those that were stopped, the later the better."""
    return (not lane.logs, -(lane.dropped_after or math.inf), -(lane.share or 0.0))


def _leader(lanes: Sequence[Lane]) -> Lane | None:
    """The fastest over the prompts that all have in common, else over its own."""
    known = [lane for lane in lanes if lane.logs]
    if not known:
        return None
    common = set.intersection(*(set(lane.logs) for lane in known))
    if common:
        return max(known, key=lambda lane: sum(lane.logs[n] for n in common))
    return max(known, key=lambda lane: fmean(lane.logs.values()))


def _share(lane: Lane, leader: Lane) -> float | None:
    common = lane.logs.keys() & leader.logs.keys()
    return math.exp(fmean(lane.logs[n] - leader.logs[n] for n in common)) if common else None
