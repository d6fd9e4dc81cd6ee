"""One timed run of one setup, and whether something disturbed it.

Engines spin: each of their threads waits for the others in a busy loop, so another process that takes a
single CPU away can make a run forty times slower. A disturbed run is therefore recognised, marked and repeated; it
is never averaged in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..engines.base import Completion, Launch, Running
from ..progress import Say
from ..schemas.base import filled
from ..schemas.timing import RawRun
from .cpu_watch import Usage, Watch, n_cpus
from .slots import ask_all, together

MAX_WAIT_SHARE = 0.05  # if more of the wanted CPU time was not granted, another process had it
MAX_OTHERS_SHARE = 0.15  # share of the machine's CPUs that others may use, if the engine leaves that many free
MIN_OTHERS_CPUS = 0.1  # what others may always use: a machine is never completely idle
MAX_STEAL_CPUS = 0.05  # CPUs that a hypervisor may take away on average
TICK_ERROR_S = 0.03  # how far off the kernel's busy time, counted in 10 ms ticks per CPU, may be over one run
# A greedy run does the same work as its repeats: below this share of the fastest one's speed, it was disturbed.
SLOW_REPEAT = 0.75
SHORTEST_TOKENS = 4  # a run of fewer generated tokens measures nothing

CPU_WAIT, OTHERS, STEAL, SLOW, SHORT = "cpu_wait", "others_busy", "cpu_stolen", "slower_than_repeats", "too_short"


@dataclass(frozen=True)
class TimedSetup:
    """One way to run a model, to be timed."""

    id: str  # short and unique: "off", "n_max 2", ...
    model: Path
    sidecar: Path | None = None
    n_max: int = 0
    p_min: float = 0.0
    threads: int | None = None  # None: the engine's default
    type: str | None = None  # type of the block, where several are compared
    extra_args: tuple[str, ...] = ()  # arguments for this setup only, after those for all

    def launch(self, n_ctx: int, extra_args: Sequence[str] = ()) -> Launch:
        """How to start it."""
        return Launch(
            self.model,
            self.sidecar if self.n_max else None,
            self.n_max,
            n_ctx,
            self.threads,
            (*extra_args, *self.extra_args),
            p_min=self.p_min,
            timed=True,
        )

    def same_load(self, other: TimedSetup) -> bool:
        """Whether one engine can serve both."""
        return replace(self, id="", type=None) == replace(other, id="", type=None)


@dataclass(frozen=True)
class Ask:
    """What a run is asked."""

    task: str
    prompt_index: int  # number of the prompt within its task
    prompt: str
    n_predict: int  # maximum number of tokens to generate
    temperature: float = 0.0  # 0 is greedy
    seed: int = 0
    beside: tuple[str, ...] = ()
    """Prompts that other slots answer at the same time."""

    def cell(self, setup: TimedSetup) -> tuple[str, str, int]:
        """What `TimedRun.cell` will be for this question on `setup`."""
        return setup.id, self.task, self.prompt_index


@dataclass(frozen=True)
class TimedRun:
    """One timed run, raw."""

    setup: str
    task: str
    prompt: int
    pass_no: int  # number of the pass over all setups, from 0
    attempt: int  # 0, plus 1 for each repetition of a disturbed run
    n_tokens: int  # generated tokens
    decode_tps: float  # generated tokens per second, by the engine's clock
    prompt_tps: float  # prompt tokens per second, by the engine's clock
    drafted: int
    accepted: int
    steps: int  # verification steps
    # Share of steps in which the 1st, 2nd, ... drafted token was accepted; None: unknown.
    acceptance: tuple[float, ...] | None
    wall_s: float  # from question to answer, including the prompt
    cpu_s: float | None  # CPU seconds of the engine in that time; None here and below: unknown
    cpu_ratio: float | None  # `cpu_s` by wall time and threads
    wait_share: float | None  # share of the CPU time that the engine wanted and did not get
    others_cpus: float | None  # CPUs that other processes kept busy on average
    steal_cpus: float | None  # CPUs that a hypervisor took away on average
    n_involuntary: int | None  # involuntary context switches of the engine's threads
    disturbed: tuple[str, ...] = ()  # what disturbed it; empty: nothing was noticed

    @property
    def cell(self) -> tuple[str, str, int]:
        """Runs of one cell do the same work."""
        return self.setup, self.task, self.prompt

    @property
    def good(self) -> bool:
        """Whether its speed counts."""
        return not self.disturbed and self.decode_tps > 0

    @property
    def document(self) -> RawRun:
        """What --json prints of it."""
        rounded = {name: round(value, 5) for name, value in vars(self).items() if isinstance(value, float)}
        return filled(RawRun, self, **rounded, used=self.good)



def timed_run(running: Running, setup: TimedSetup, ask: Ask, pass_no: int = 0, attempt: int = 0) -> TimedRun:
    """Ask once, and watch the machine meanwhile. Raises EngineFailed."""
    watch = Watch(running.session)
    prompts = (ask.prompt, *ask.beside)
    answers = ask_all(running, prompts, ask.n_predict, len(prompts), seed=ask.seed, temperature=ask.temperature)
    answer = together(answers)
    return judged_run(setup, ask, answer, watch.since(), pass_no, attempt)


def judged_run(setup: TimedSetup, ask: Ask, answer: Completion, usage: Usage, pass_no: int, attempt: int) -> TimedRun:
    """A run from an answer and what happened meanwhile. Pure."""
    disturbed = disturbances(usage, setup.threads or n_cpus(), n_cpus())
    if len(answer.tokens) < SHORTEST_TOKENS:
        disturbed = (*disturbed, SHORT)
    return TimedRun(
        setup.id,
        ask.task,
        ask.prompt_index,
        pass_no,
        attempt,
        len(answer.tokens),
        answer.decode_tps,
        answer.prompt_tps,
        answer.draft_n,
        answer.draft_n_accepted,
        answer.draft_steps,
        None if answer.acceptance_per_pos is None else tuple(answer.acceptance_per_pos),
        usage.wall_s,
        usage.cpu_s,
        usage.cpu_ratio(setup.threads),
        usage.wait_share,
        usage.others_cpus,
        usage.steal_cpus,
        usage.n_involuntary,
        disturbed,
    )


def disturbances(usage: Usage, threads: int, cpus: int) -> tuple[str, ...]:
    """What disturbed a run of `threads` engine threads on `cpus` CPUs; nothing where nothing is known."""
    if usage.cpu_s is None:
        return ()
    found = []
    if (usage.wait_share or 0.0) > MAX_WAIT_SHARE and threads <= cpus:
        found.append(CPU_WAIT)
    if usage.others_cpus is not None:
        excess_s = (usage.others_cpus - allowed_others(threads, cpus)) * usage.wall_s
        if excess_s > TICK_ERROR_S * cpus:
            found.append(OTHERS)
    if usage.steal_cpus is not None and (usage.steal_cpus - MAX_STEAL_CPUS) * usage.wall_s > TICK_ERROR_S * cpus:
        found.append(STEAL)
    return tuple(found)


def allowed_others(threads: int, cpus: int) -> float:
    """CPUs that others may keep busy beside `threads` engine threads."""
    return max(MIN_OTHERS_CPUS, min(cpus - threads, MAX_OTHERS_SHARE * cpus))


def wait_quiet(
    busy: Callable[[], float], allowed: float, limit_s: float, clock: Callable[[], float], say: Say
) -> float:
    """Wait until others keep no more than `allowed` CPUs busy, at most `limit_s`; the seconds that were waited.

    `busy` takes a moment to look; `say` is called once if there is anything to wait for.
    """
    start, has_told = clock(), False
    while busy() > allowed and clock() - start < limit_s:
        if not has_told:
            say("waiting: other processes are using the CPU")
        has_told = True
    return clock() - start


def mark_slow(runs: Sequence[TimedRun]) -> list[TimedRun]:
    """The runs, with those marked that were far slower than repeats of the same work. For greedy runs only."""
    best: dict[tuple[str, str, int], float] = {}
    for run in runs:
        if run.good:
            best[run.cell] = max(best.get(run.cell, 0.0), run.decode_tps)
    return [
        replace(run, disturbed=(*run.disturbed, SLOW))
        if run.good and run.decode_tps < SLOW_REPEAT * best[run.cell]
        else run
        for run in runs
    ]
