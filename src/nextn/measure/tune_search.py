"""The search: one race after another, each starting from the winner of the one before, then a final against MTP off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..errors import EngineRefused
from ..progress import Say
from .bench_report import ALL_TASKS, Compared, compare_setups, overall_tps
from .bench_setup import LEAST_REPEATS
from .candidate_sidecars import Maker, possible
from .patience import Patience
from .stats import Spread, least_pairs
from .timed_run import Ask, TimedRun, TimedSetup
from .tune_race import Race, race
from .tune_space import AS_IS, Point, Space

KEEP = 0.90  # draft lengths at least this share of the best one's speed are tried again with another type of the head
NEAR = 0.97  # a setting at least this share of the leader's speed goes to the final with it
# Where the best drafts reach less than this share of the speed without MTP, no other types and limits are tried.
GIVE_UP = 0.85
SAME = 0.99  # of finalists with at least this share of the fastest one's speed, the nearest to what the user has wins
LAST = 0.95  # finalists below this share of the best after a complete pass run no further
MAX_FINALISTS = 3
SCREEN_SHARE = 2  # how many times shorter the races' answers are than the final's
LEAST_TOKENS = 24

@dataclass
class Trial:
    """One setting and what became of it."""

    point: Point
    stages: list[str] = field(default_factory=list)  # the races it ran in
    relative: float | None = None  # speed over that of MTP off in its last race; None: no undisturbed run
    outcome: str = "beaten"  # "winner", "finalist", "beaten", "stopped", "refused", or "not tried" (a dry run)
    why: str | None = None  # why it was refused


@dataclass
class Final:
    """How the final ended."""

    word: str  # "mtp", "off", or "machine_busy"
    point: Point
    compared: Compared
    runs: list[TimedRun]


class Search:
    """Finds the fastest point of a space. Runs are kept in `patience.runs`."""

    def __init__(
        self,
        space: Space,
        maker: Maker,
        patience: Patience,
        asks: Sequence[Ask],
        *,
        repeats: int | None = None,
        budget_s: float | None = None,
        say: Say = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._space, self._maker, self._patience, self._say, self._clock = space, maker, patience, say, clock
        self._asks = list(asks)
        self._screen = screen_asks(asks)
        self._repeats = repeats
        self._deadline = None if budget_s is None else clock() + budget_s
        self._setups: dict[str, TimedSetup] = {}
        self._pass = 0
        self.trials: dict[str, Trial] = {}
        self.notes: list[str] = []
        self._refusals: dict[str, EngineRefused] = {}

    # ---- the races ------------------------------------------------------------------------------------------------

    def run(self) -> Final | None:
        """Race, then decide. None: the machine was too busy to rank anything. Raises EngineRefused, EngineFailed."""
        space = self._space
        best = self._lengths()
        if best is None:
            return None
        best = self._stage("head", best, space.with_heads(best), needs_hope=False)
        best = self._stage("embeddings", best, space.with_embds(best))
        best = self._stage("block", best, space.with_blocks(best))
        if not best.artifact.as_is:  # a cheaper draft may be faster at another length
            best = self._stage("n_max again", best, self._close_lengths(best))
        best = self._stage("p_min", best, space.with_p_min(best))
        off = space.off
        others = space.with_threads(best)
        if others and self._time_left("threads"):
            self._race("threads", [best, off, *others])
            off = self._fastest([one for one in (off, *others) if not one.n_max]) or off
            best = self._fastest([one for one in (best, *others) if one.n_max]) or best
        return self._final(best, off)

    def _lengths(self) -> Point | None:
        space = self._space
        like = replace(space.off, n_max=1)
        self._race("n_max", [space.off, *space.lengths(like)])
        best = self._fastest(space.lengths(like))
        if best is None:
            self._raise_if_refused(space.lengths(like))
            return None
        near = space.near(best, [0, *space.n_max])
        return self._stage("n_max between", best, near) if near else best

    def _stage(self, title: str, best: Point, others: Sequence[Point], *, needs_hope: bool = True) -> Point:
        """The best of a race between the leader and `others`; the leader if there is nothing to race."""
        if not others or (needs_hope and not self._hopeful(best)) or not self._time_left(title):
            return best
        fresh = []
        for one in others:
            why = possible(self._maker, one.artifact)
            if why is None:
                fresh.append(one)
            else:
                self.trials[self._name(one)] = Trial(one, [title], None, "refused", why)
                self.notes.append(f"{one.id} was not tried: {why}")
        if not fresh:
            return best
        self._race(title, [best, *fresh])
        found = self._fastest([best, *fresh]) or best
        lead = self.trials[self._name(found)].relative or 0.0
        own = self.trials[self._name(best)].relative
        return best if own is not None and own >= SAME * lead else found

    def _close_lengths(self, best: Point) -> list[Point]:
        first = [t for t in self.trials.values() if t.point.artifact == AS_IS and t.point.n_max and not t.point.p_min]
        lead = max((trial.relative or 0.0 for trial in first), default=0.0)
        near = {trial.point.n_max for trial in first if (trial.relative or 0.0) >= KEEP * lead}
        near |= {trial.point.n_max for trial in first if abs(trial.point.n_max - best.n_max) == 1}
        return [replace(best, n_max=n) for n in sorted(near - {best.n_max})]

    def _race(self, title: str, points: Sequence[Point]) -> None:
        points = list(dict.fromkeys(points))
        ids = {self._name(one): one for one in points}
        self._pass += 1
        number = self._pass
        loads = self._patience.pool.n_loads

        def measure(one: str, at: int) -> TimedRun | None:
            self._say(f"{title}, prompt {at + 1} of {len(self._screen)}: {one}")
            return self._run(ids[one], self._screen[at], number, title)

        def side_by_side() -> bool:
            pool = self._patience.pool  # reloaded for every run: two do not fit
            return pool.side_by_side and pool.n_loads - loads <= len(ids)

        found = race(
            list(ids),
            len(self._screen),
            measure,
            group=lambda one: bool(ids[one].n_max),
            side_by_side=side_by_side,
            time_left=lambda: self._time_left(None),
        )
        figures = self._figures(found, list(ids))
        for one, point in ids.items():
            trial = self.trials.setdefault(one, Trial(point))
            trial.stages.append(title)
            if one not in found.refused:
                trial.relative = figures[one]
                trial.outcome = "stopped" if one in found.stopped else "beaten"

    def _figures(self, found: Race, ids: Sequence[str]) -> dict[str, float | None]:
        """Speeds over that of MTP off, by way of the leader where MTP off did not run or was disturbed."""
        off = self._name(self._space.off)
        known = {one: trial.relative for one in ids if (trial := self.trials.get(one)) and trial.relative}
        bases = [(off, 1.0), *known.items(), *((one, 1.0) for one in found.ranking(ids))]
        for base, factor in bases:
            figures = {one: found.relative(one, base) for one in ids}
            if any(figures.values()):
                return {one: None if figure is None else figure * (factor or 1.0) for one, figure in figures.items()}
        return dict.fromkeys(ids)

    def _run(self, point: Point, ask: Ask, number: int, title: str) -> TimedRun | None:
        name = self._name(point)
        try:
            setup = self._setup(point)
            return self._patience.run(setup, ask, number)
        except EngineRefused as error:
            if not point.n_max:
                raise
            self._refusals[name] = error
            self.trials[name] = Trial(point, [], None, "refused", str(error))
            self.notes.append(f"{name} was not tried: {error}")
            self._patience.pool.drop(name)
            return None

    def _setup(self, point: Point) -> TimedSetup:
        name = self._name(point)
        if name not in self._setups:
            model = self._maker.model
            sidecar = self._maker.sidecar(point.artifact) if point.n_max else None
            self._setups[name] = point.setup(name, model, sidecar)
        return self._setups[name]

    def _name(self, point: Point) -> str:
        return point.named(self._space.threads[0])

    def _fastest(self, points: Sequence[Point]) -> Point | None:
        """Those still in the last race first."""
        known = [
            (trial.outcome != "stopped", trial.relative, one)
            for one in points
            if (trial := self.trials.get(self._name(one))) and trial.relative is not None
        ]
        return max(known, key=lambda item: item[:2])[2] if known else None

    def _hopeful(self, best: Point) -> bool:
        own = self.trials[self._name(best)].relative
        return own is None or own >= GIVE_UP

    def _raise_if_refused(self, points: Sequence[Point]) -> None:
        found = [self.trials[self._name(one)] for one in points]
        if all(trial.outcome == "refused" for trial in found) and found:
            raise self._refusals[self._name(points[0])]

    # ---- time -----------------------------------------------------------------------------------------------------

    def _time_left(self, title: str | None) -> bool:
        """Whether a race may go on: the final needs its share of the budget."""
        if self._deadline is None:
            return True
        walls = [run.wall_s for run in self._patience.runs if not run.disturbed]
        a_run = SCREEN_SHARE * sum(walls) / len(walls) if walls else 0.0
        if self._deadline - self._clock() > 2 * a_run * len(self._asks) * passes_for(1, len(self._asks), self._repeats):
            return True
        if title is not None:
            self.notes.append(f"the time budget left no room for: {title}")
        return False

    # ---- the final ------------------------------------------------------------------------------------------------

    def _final(self, best: Point, off: Point) -> Final:
        finalists = self._finalists(best)
        points = [off, *finalists]
        n_tests = len(finalists)
        passes = passes_for(n_tests, len(self._asks), self._repeats, sure=not self._hopeful(best))
        start = len(self._patience.runs)
        alive = list(points)
        for number in range(passes):
            self._pass += 1
            order = alive if number % 2 == 0 else list(reversed(alive))
            steps = [(one, ask) for ask in self._asks for one in order]
            if not self._patience.pool.side_by_side:
                steps = [(one, ask) for one in order for ask in self._asks]
            for done, (one, ask) in enumerate(steps, start=1):
                self._say(f"final, pass {number + 1} of {passes}, {done} of {len(steps)}: {self._name(one)}")
                self._patience.run(self._setup(one), ask, self._pass)
            if not any(ask.temperature for ask in self._asks):
                again = [(self._setup(one), ask) for one, ask in steps]
                self._patience.repeat_slow(again, self._pass, "final", since=start)
            alive = self._leading(alive, start)
        runs = self._patience.runs[start:]
        speeds = self._speeds(alive, start)
        for one in points:
            trial = self.trials.setdefault(self._name(one), Trial(one))
            trial.stages.append("final")
            trial.outcome = "finalist"
        timed = [(one, speed.median) for one in alive if one.n_max and (speed := speeds[one]) is not None]
        lead = max((speed for _, speed in timed), default=0.0)
        close = [one for one, speed in timed if speed >= SAME * lead]
        winner = min(close, key=lambda one: one.n_changes) if close else best
        compared = compare_setups(
            self._setup(winner), self._setup(off), runs, ALL_TASKS, n_tests=n_tests,
            words=(f"MTP ({self._name(winner)})", "MTP off"),
        )  # fmt: skip
        word = {"faster": "mtp", "machine_busy": "machine_busy"}.get(compared.result.word, "off")
        answer = winner if word == "mtp" else off
        if word != "machine_busy":
            self.trials[self._name(answer)].outcome = "winner"
        return Final(word, answer, compared, runs)

    def _finalists(self, best: Point) -> list[Point]:
        """The leader, the user's own file at the same length, and whatever came close to the leader in any race."""
        if not self._hopeful(best):
            return [best]
        lead = self.trials[self._name(best)].relative or 1.0
        close = sorted(
            (t for t in self.trials.values() if t.point.n_max and t.outcome == "beaten" and t.point != best),
            key=lambda trial: -(trial.relative or 0.0),
        )
        plain = replace(best, p_min=0.0, artifact=AS_IS)
        own = [trial.point for trial in close if trial.point == plain and (trial.relative or 0.0) >= KEEP * lead]
        near = [trial.point for trial in close if (trial.relative or 0.0) >= NEAR * lead]
        return list(dict.fromkeys([best, *own, *near]))[:MAX_FINALISTS]

    def _speeds(self, points: Sequence[Point], start: int) -> dict[Point, Spread | None]:
        runs = self._patience.runs[start:]
        return {one: overall_tps([run for run in runs if run.setup == self._name(one)]) for one in points}

    def _leading(self, alive: Sequence[Point], start: int) -> list[Point]:
        speeds = self._speeds(alive, start)
        lead = max((speed.median for one, speed in speeds.items() if one.n_max and speed is not None), default=0.0)
        return [one for one in alive if not one.n_max or (speed := speeds[one]) is None or speed.median >= LAST * lead]


def screen_asks(asks: Sequence[Ask]) -> list[Ask]:
    """What the races run: the first prompt of each task (or the first three), with shorter answers."""
    first: dict[str, Ask] = {}
    for ask in asks:
        first.setdefault(ask.task, ask)
    chosen = list(first.values()) if len(first) > 1 else list(asks[:3])
    return [replace(ask, n_predict=max(LEAST_TOKENS, ask.n_predict // SCREEN_SHARE)) for ask in chosen]


def passes_for(n_tests: int, n_prompts: int, repeats: int | None, *, sure: bool = False) -> int:
    """Passes of the final: as many as the test needs to tell `n_tests` comparisons apart, and at least 3.

    With the fewest pairs, a single prompt on which MTP is not faster would hide what it gains on all others; only a
    `sure` outcome is confirmed with so few.
    """
    needed = math.ceil(least_pairs(n_tests) / n_prompts)
    return repeats or (needed if sure else max(LEAST_REPEATS, needed))
