"""What bench found: each setup's figures, the comparisons and the verdict, as JSON and CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ..schemas.base import Documented, EngineName, filled
from ..schemas.bench import BenchDocument, BenchSetup
from ..schemas.timing import SetupComparison, SpreadFigures
from .engine_pool import LoadedMemory
from .stats import Comparison, Spread, compare, spread
from .timed_run import SHORT, TimedRun, TimedSetup

ALL_TASKS = "all"
N_POSITIONS = 8  # columns of the CSV for acceptance by position


@dataclass(frozen=True)
class SetupFigures:
    """The figures of one setup."""

    setup: TimedSetup
    decode_tps: Spread | None  # generated tokens per second, all tasks; None: some prompt has no undisturbed run
    by_task: dict[str, Spread | None]
    prompt_tps: Spread | None
    # Share of verification steps in which the 1st, 2nd, ... drafted token was accepted; None: unknown.
    acceptance: list[float] | None
    acceptance_by_task: dict[str, list[float]]
    drafted: int
    accepted: int
    mean_length: float | None  # tokens per verification step, including the target's own; None without drafts
    memory: LoadedMemory | None
    size_bytes: int  # bytes of the files it loads

    @property
    def document(self) -> BenchSetup:
        """What --json prints of it."""
        one = self.setup
        return filled(
            BenchSetup,
            self,
            **{name: getattr(one, name) for name in ("id", "model", "n_max", "p_min", "threads", "type")},
            sidecar=one.sidecar if one.n_max else None,
            decode_tps=spread_figures(self.decode_tps),
            decode_tps_by_task={task: spread_figures(value) for task, value in self.by_task.items()},
            prompt_tps=spread_figures(self.prompt_tps),
            memory=None if self.memory is None else self.memory.document,
        )


@dataclass(frozen=True)
class Compared:
    """One setup against another, on one task or all."""

    setup: str
    base: str
    task: str
    result: Comparison
    sentence: str

    @property
    def document(self) -> SetupComparison:
        """What --json prints of it."""
        result = self.result
        return filled(
            SetupComparison,
            self,
            word=result.word,
            ratio=_round(result.ratio),
            ratio_low=_round(result.low),
            ratio_high=_round(result.high),
            p=_round(result.p, 6),
            n_pairs=result.n_pairs,
        )


@dataclass(frozen=True)
class BenchReport(Documented):
    """Everything that bench found."""

    model: str
    sidecar: str | None
    against: str | None
    engine: EngineName
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[SetupFigures]
    runs: list[TimedRun]
    comparisons: list[Compared]
    verdict: Compared | None  # the decisive comparison; None when there was nothing to compare
    notes: list[str] = field(default_factory=list)

    @property
    def n_disturbed(self) -> int:
        """Runs that were disturbed and therefore not used."""
        return sum(1 for run in self.runs if not run.good)

    @property
    def document(self) -> BenchDocument:
        """What --json prints."""
        return filled(
            BenchDocument,
            self,
            setups=[row.document for row in self.rows],
            comparisons=[one.document for one in self.comparisons],
            verdict=None if self.verdict is None else self.verdict.document,
            runs=[run.document for run in self.runs],
        )

    def to_csv(self) -> str:
        """One row per setup; with several block types one row per type (and n_max), and MTP off as a column."""
        typed = any(row.setup.type for row in self.rows)
        tasks = list(self.settings["tasks"])
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            [
                *("model", "sidecar", "engine", "setup", "type", "n_max", "p_min", "temperature"),
                *("decode_tps", "decode_tps_low", "decode_tps_high", "prompt_tps"),
                *("ratio", "ratio_low", "ratio_high", "verdict"),
                *("drafted", "accepted", "mean_length"),
                *(f"acceptance_{position}" for position in range(1, N_POSITIONS + 1)),
                *(f"decode_tps_{task}" for task in tasks),
                *(f"acceptance_{task}" for task in tasks),
                *("rss_anon_bytes", "rss_file_bytes", "rss_peak_bytes", "size_bytes"),
            ]
        )
        for row in self.rows:
            if not typed or row.setup.type:
                writer.writerow(self._csv_row(row, tasks))
        return out.getvalue()

    def _csv_row(self, row: SetupFigures, tasks: Sequence[str]) -> list[Any]:
        one, all_tps = row.setup, row.decode_tps
        known = next((c for c in self.comparisons if c.setup == one.id and c.task == ALL_TASKS), None)
        rates = (row.acceptance or [])[:N_POSITIONS]
        seen = None if row.memory is None else row.memory.resident
        return [
            *(one.model, one.sidecar if one.n_max else None, self.engine.name),
            *(one.id, one.type, one.n_max, one.p_min, self.settings["temperature"]),
            *((all_tps.median, all_tps.low, all_tps.high) if all_tps else (None, None, None)),
            row.prompt_tps.median if row.prompt_tps else None,
            *((known.result.ratio, known.result.low, known.result.high, known.result.word) if known else [None] * 4),
            *(row.drafted, row.accepted, row.mean_length),
            *(rates + [None] * (N_POSITIONS - len(rates))),
            *(tps.median if (tps := row.by_task.get(task)) else None for task in tasks),
            *(next(iter(row.acceptance_by_task.get(task, [])), None) for task in tasks),
            *((seen.anon_bytes, seen.file_bytes, seen.peak_bytes) if seen is not None else [None] * 3),
            row.size_bytes,
        ]


def summarize(
    setup: TimedSetup, runs: Iterable[TimedRun], tasks: Sequence[str], memory: LoadedMemory | None, size_bytes: int
) -> SetupFigures:
    """The figures of one setup; runs of other setups in `runs` are ignored."""
    own = [run for run in runs if run.setup == setup.id]
    drafted, accepted, steps = (sum(getattr(run, name) for run in own) for name in ("drafted", "accepted", "steps"))
    return SetupFigures(
        setup,
        overall_tps(own),
        {task: overall_tps([run for run in own if run.task == task]) for task in tasks},
        spread([run.prompt_tps for run in own if run.good and run.prompt_tps > 0]),
        acceptance_of(own),
        {task: rates for task in tasks if (rates := acceptance_of([run for run in own if run.task == task]))},
        drafted,
        accepted,
        round(1 + accepted / steps, 3) if steps else None,
        memory,
        size_bytes,
    )


def overall_tps(runs: Sequence[TimedRun]) -> Spread | None:
    """Tokens per second over all prompts: total tokens over total time, with the median good run of each prompt.

    Low and high take the slowest and the fastest good run of every prompt; `n` is the smallest number of good runs of
    any prompt. None when a prompt has no good run, because its share of the mix is then missing.
    """
    cells: dict[tuple[str, str, int], list[TimedRun]] = {}
    for run in runs:
        if SHORT not in run.disturbed:
            cells.setdefault(run.cell, []).append(run)
    good = [[run for run in cell if run.good] for cell in cells.values()]
    if not good or not all(good):
        return None
    tokens = [median(run.n_tokens for run in cell) for cell in good]
    rates = [spread([run.decode_tps for run in cell]) for cell in good]

    def overall(name: str) -> float:
        seconds: float = sum(n / getattr(rate, name) for n, rate in zip(tokens, rates, strict=True))
        return sum(tokens) / seconds

    return Spread(overall("median"), overall("low"), overall("high"), min(len(cell) for cell in good))


def acceptance_of(runs: Sequence[TimedRun]) -> list[float] | None:
    """Acceptance by position over runs, each weighted by its verification steps.

    Disturbed runs count too: what slows an engine down does not change what it accepts.
    """
    sums: list[float] = []
    steps = 0
    for run in runs:
        if run.acceptance is None or not run.steps:
            continue
        steps += run.steps
        sums += [0.0] * (len(run.acceptance) - len(sums))
        for position, rate in enumerate(run.acceptance):
            sums[position] += rate * run.steps
    return [round(total / steps, 4) for total in sums] if steps else None


def compare_setups(
    setup: TimedSetup, base: TimedSetup, runs: Sequence[TimedRun], task: str, *, n_tests: int, words: tuple[str, str]
) -> Compared:
    """`setup` against `base` on `task`, by pairs of undisturbed runs of the same prompt in the same pass.

    `words`: what the sentence calls the two. If disturbances left fewer than half of the pairs, no figure is given.
    """
    pairs, n_wanted = _pairs(setup.id, base.id, runs, task)
    if 2 * len(pairs) < n_wanted or not pairs:
        result = Comparison("machine_busy", None, None, None, None, len(pairs))
    else:
        result = compare([one for one, _ in pairs], [other for _, other in pairs], n_tests=n_tests)
    return Compared(setup.id, base.id, task, result, sentence(result, *words, n_wanted))


def _pairs(setup: str, base: str, runs: Sequence[TimedRun], task: str) -> tuple[list[tuple[float, float]], int]:
    """Speeds of both on the same prompt in the same pass, and how many such pairs were requested."""
    speeds: dict[str, dict[tuple[str, int, int], float]] = {setup: {}, base: {}}
    asked: set[tuple[str, int, int]] = set()
    for run in runs:
        if run.setup not in speeds or task not in (ALL_TASKS, run.task):
            continue
        place = (run.task, run.prompt, run.pass_no)
        if SHORT not in run.disturbed:
            asked.add(place)
        if run.good:
            speeds[run.setup][place] = run.decode_tps
    shared = sorted(speeds[setup].keys() & speeds[base].keys())
    return [(speeds[setup][place], speeds[base][place]) for place in shared], len(asked)


def sentence(result: Comparison, one: str, other: str, n_wanted: int) -> str:
    """The comparison in one sentence."""
    if result.word == "machine_busy":
        if n_wanted == 0:
            return f"{one} cannot be compared with {other}: no prompt gave an answer long enough to be timed."
        return (
            f"{one} cannot be compared with {other}: the machine was too busy with other work, "
            f"{result.n_pairs} of {n_wanted} pairs of runs were undisturbed."
        )
    if result.ratio is None or result.low is None or result.high is None:
        return f"{one} is not distinguishable from {other}: {result.n_pairs} pairs of runs are too few to tell."
    interval = f"{result.low:.2f} to {result.high:.2f} times its speed, {result.n_pairs} pairs"
    if result.word == "not_distinguishable":
        return f"{one} is not distinguishable from {other} ({interval})."
    size = f"{result.ratio:.2f} times as fast" if result.word == "faster" else f"only {result.ratio:.2f} times as fast"
    return f"{one} is {result.word} than {other}: {size} ({interval})."


def spread_figures(value: Spread | None) -> SpreadFigures | None:
    """What --json prints of a spread."""
    if value is None:
        return None
    return SpreadFigures(round(value.median, 3), round(value.low, 3), round(value.high, 3), value.n)


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
