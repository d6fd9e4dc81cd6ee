"""Tune: the fastest setting of a model's MTP block on this machine, or the word to leave it off.

One dimension after the other, each a race in which the slow ones are stopped early: draft length, least probability,
types of the block, draft length once more (a cheaper draft may be longer), threads. The last word has a paired test
against MTP off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..destinations.local import execute
from ..durable import write_file
from ..errors import NextnError, OutputExists
from .bench import context_for, machine
from .race import Race, race
from .stats import Comparison, compare, least_pairs
from .target import Target, open_target
from .tasks import Task, read_task, shipped_tasks
from .trial import Ask, Run, Setup
from .trial_patience import DEFAULT_S, Patience
from .trial_pool import Pool
from .trial_target import scratch_folder
from .tune_report import CANNOT_TELL, MTP, OFF_WINS, Tried, TuneReport
from .tune_space import Artifact, Maker, Point, Space, checked_space, maker_of

if TYPE_CHECKING:
    from ..engines.base import Engine

SCREEN = 6
"""Prompts that one race may take at most."""
MOST_PAIRS = 18
"""Pairs of runs of the last comparison at most."""
HOPELESS = 0.6
"""Below this share of the speed without MTP, by the best draft length, nothing else is tried."""

Say = Callable[[str], None]


def tune(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    donor: str | Path | None = None,
    space: Space | None = None,
    tasks: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    n_predict: int = 64,
    temperature: float = 0.0,
    budget_s: float | None = None,
    out: str | Path | None = None,
    dry_run: bool = False,
    llama_server: str | Path | None = None,
    engine: Engine | None = None,
    engine_args: Sequence[str] = (),
    patience_s: float = DEFAULT_S,
    side_by_side: bool = True,
    progress: Say | None = None,
) -> TuneReport:
    """Find the fastest of `space` for `model` on this machine.

    `donor`: where blocks of other types are made from (default: the block that the model has). `budget_s` bounds the
    races; the last comparison with MTP off is always made. `out`: the folder of the winning sidecar and of
    NAME.tune.json, by default the model's. With `dry_run` nothing is run and nothing written.

    Raises UsageError, NoBlock, OutputExists, EngineMissing, EngineRefused, EngineFailed, and what attaching raises.
    """
    from ..api import open_block

    say = progress or (lambda text: None)
    asked = (read_task(prompts),) if prompts is not None else shipped_tasks(tasks)
    target = open_target(model, sidecar, needs_block=donor is None)
    with ExitStack() as stack:
        block = None if donor is None else stack.enter_context(open_block(donor)).block
        maker = maker_of(target.model, target.block_origin if target.has_block else None, block)
        grid = maker.allowed(checked_space(space or Space()))
        folder = Path(out) if out is not None else target.model.entry.parent
        note = folder / f"{target.model.base_name}.tune.json"
        if note.exists() and not dry_run:
            raise OutputExists(f"{note}: this file is already there; move it, or choose another folder with -o.")
        report = TuneReport(target, grid, note, {"n_predict": n_predict, "temperature": temperature})
        if dry_run:
            return report
        if engine is None:
            from ..engines import find_engine

            engine = find_engine(None if llama_server is None else str(llama_server))
        report.engine = {"name": engine.name, "version": engine.version}
        report.machine = machine()
        scratch = Path(stack.enter_context(scratch_folder()))
        pool = stack.enter_context(
            Pool(engine, context_for(asked, n_predict), engine_args, asked[0].prompts[0], side_by_side=side_by_side)
        )
        search = Search(
            report, maker, Patience(pool, patience_s, say), scratch, asks_of(asked, n_predict, temperature), say,
            deadline=None if budget_s is None else time.monotonic() + budget_s,
        )  # fmt: skip
        search.run()
        report.args = tuple(engine_args)
        _write(report, maker, folder)
    return report


def _write(report: TuneReport, maker: Maker, folder: Path) -> None:
    """The winning block, where the user does not have it yet, and the settings. Nothing when nothing was told."""
    won = report.winner
    if report.decision == CANNOT_TELL or won is None:
        return
    if won.n_max:
        report.sidecar = report.target.sidecar_path
    if won.n_max and not won.artifact.is_users:
        plan = maker.plan(won.artifact, folder)
        assert plan.sidecar is not None
        if plan.sidecar.exists():
            plan = maker.plan(won.artifact, plan.sidecar.with_name(f"{plan.sidecar.stem}-tuned.gguf"))
        report.sidecar = execute(plan).plan.sidecar
        report.written += [report.sidecar] if report.sidecar is not None else []
    report.written.append(report.note)
    write_file(report.note, report.encode())


def asks_of(tasks: Sequence[Task], n_predict: int, temperature: float) -> list[Ask]:
    """Prompts in turns: one of each task, then the next of each."""
    longest = max(len(task.prompts) for task in tasks)
    return [
        Ask(task.name, index, task.prompts[index], n_predict, temperature, seed=index)
        for index in range(longest)
        for task in tasks
        if index < len(task.prompts)
    ]


@dataclass
class Search:
    """The races, and what they told."""

    report: TuneReport
    maker: Maker
    patience: Patience
    scratch: Path
    asks: list[Ask]
    say: Say
    deadline: float | None = None
    _made: dict[Artifact, Path | None] = field(default_factory=dict)
    _stage: int = 0

    @property
    def target(self) -> Target:
        """What is tuned."""
        return self.report.target

    def run(self) -> None:
        """All races, the last comparison, and the decision."""
        space, threads = self.report.space, self.report.space.threads
        base = Artifact() if self.target.has_block else Artifact(embd_type="q4_0")
        off = Point(0, threads=threads[0])
        best = Point(space.n_max[0], threads=threads[0], artifact=base)
        raced = self._race("draft length", [off, *(best.but(n_max=n) for n in space.n_max)], keep=[off])
        best = self._best(raced, best)
        if not self._hopeless(raced, off, best):
            probabilities = [best.but(p_min=p) for p in space.p_min]
            best = self._best(self._race("least probability", probabilities), best)
            before = best.artifact
            for name in ("draft_heads", "types", "embd_types"):
                best = self._types(name, best)
            if best.artifact != before:
                near = [n for n in space.n_max if abs(space.n_max.index(n) - space.n_max.index(best.n_max)) <= 1]
                best = self._best(self._race("draft length again", [best.but(n_max=n) for n in near]), best)
            if len(threads) > 1:
                best = self._best(self._race("threads", [best.but(threads=n) for n in threads]), best)
        if len(threads) > 1:
            off = self._best(self._race("threads without MTP", [off.but(threads=n) for n in threads]), off)
        self._decide(off, best)

    # -- one race -----------------------------------------------------------------------------------------------------

    def _types(self, name: str, best: Point) -> Point:
        key = {"draft_heads": "draft_head", "types": "type", "embd_types": "embd_type"}[name]
        wanted = [kind for kind in getattr(self.report.space, name) if kind is not None]
        if not wanted:
            return best
        points = [best]
        for kind in wanted:
            point = best.but(artifact=Artifact(**{**best.artifact.to_json(), key: kind}))
            if point not in points:
                points.append(point)
        return self._best(self._race(key.replace("_", " "), points), best)

    def _race(self, what: str, points: Sequence[Point], keep: Iterable[Point] = ()) -> Race | None:
        setups = [setup for point in dict.fromkeys(points) if (setup := self._setup(point)) is not None]
        if len(setups) < 2 or self._late():
            return None
        self._stage += 1
        stage = self._stage

        def time_run(setup: Setup, ask: Ask, number: int) -> Run:
            self.say(f"{what}: {setup.id}, {ask.task}")
            return self.patience.run(setup, ask, number)

        ended = race(
            setups, self.asks[:SCREEN], time_run, stage=stage, keep=[point.id for point in keep],
            go_on=lambda: not self._late(),
        )  # fmt: skip
        by_id = {point.id: point for point in points}
        for lane in ended.lanes:
            self.report.tried.append(Tried(what, by_id[lane.setup.id], lane.share, len(lane.logs), lane.dropped_after))
        return ended

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _best(self, raced: Race | None, before: Point) -> Point:
        """The fastest with MTP (or without, among such), the point of before when the race told nothing."""
        if raced is None:
            return before
        same = [one.point for one in self.report.tried if bool(one.point.n_max) == bool(before.n_max)]
        lane = raced.best_of({point.id for point in same})
        return before if lane is None else next(point for point in same if point.id == lane.setup.id)

    def _hopeless(self, raced: Race | None, off: Point, best: Point) -> bool:
        if raced is None:
            return False
        lanes = {lane.setup.id: lane for lane in raced.lanes}
        one, other = lanes[best.id].share, lanes[off.id].share
        if one is None or other is None or one >= HOPELESS * other:
            return False
        self.report.notes.append(
            f"the best draft length reaches {100 * one / other:.0f} % of the speed without MTP: types were not tried"
        )
        return True

    def _setup(self, point: Point) -> Setup | None:
        """How to run a point; None when its file cannot be made."""
        made = self.target.sidecar_path
        if point.n_max and not point.artifact.is_users:
            if point.artifact not in self._made:
                self.say(f"making a sidecar: {point.artifact.words}")
                try:
                    self._made[point.artifact] = self.maker.make(point.artifact, self.scratch)
                except NextnError as error:
                    self.report.notes.append(f"{point.artifact.words} was not tried: {str(error).rstrip('.')}")
                    self._made[point.artifact] = None
            made = self._made[point.artifact]
            if made is None:
                return None
        return point.setup(self.target.model.entry, made)

    # -- the last word ------------------------------------------------------------------------------------------------

    def _decide(self, off: Point, best: Point) -> None:
        """A paired test of the best with MTP against MTP off, in turns; MTP has to win it."""
        report = self.report
        one, other = self._setup(best), self._setup(off)
        assert other is not None
        result = Comparison("machine_busy", None, None, None, None, 0)
        if one is not None:
            self._stage += 1
            result = self._compare(one, other)
        report.comparison = result
        report.winner = best if result.word == "faster" else off
        report.candidate, report.baseline = best, off
        if result.word == "machine_busy" or result.n_pairs < least_pairs():
            report.decision = CANNOT_TELL
            report.winner = off
        else:
            report.decision = MTP if result.word == "faster" else OFF_WINS
        report.runs = list(self.patience.runs)
        if self._late():
            report.notes.append("the budget of time was used up before all races were run")

    def _compare(self, one: Setup, other: Setup) -> Comparison:
        ours: list[float] = []
        theirs: list[float] = []
        result = Comparison("machine_busy", None, None, None, None, 0)
        for n in range(MOST_PAIRS):
            ask = self.asks[n % len(self.asks)]
            number = self._stage + n // len(self.asks)
            self.say(f"against MTP off: {n + 1} of up to {MOST_PAIRS}")
            order = (one, other) if n % 2 == 0 else (other, one)
            runs = {setup.id: self.patience.run(setup, ask, number) for setup in order}
            if runs[one.id].good and runs[other.id].good:
                ours.append(runs[one.id].decode_tps)
                theirs.append(runs[other.id].decode_tps)
                result = compare(ours, theirs)
            # Looked at once when it can tell, and once more at the end: looking after every pair would find what is
            # not there.
            if len(ours) == least_pairs() + 2 and result.word in ("faster", "slower"):
                break
        return result


__all__ = ["Search", "TuneReport", "tune"]
