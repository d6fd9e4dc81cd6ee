"""Bench: speed with and without MTP, interleaved, with raw values and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..measure.bench_report import BenchReport, summarize
from ..measure.engine_pool import Pool
from ..measure.patience import DEFAULT_S, Patience
from ..measure.slots import check_slots
from ..measure.stats import least_pairs
from ..measure.target import open_target
from ..measure.tasks import Task, read_task, shipped_tasks
from ..measure.timed_run import SHORT, Ask, TimedRun, TimedSetup, mark_slow
from ..progress import Say, heard
from ..schemas.base import EngineName
from ..writing.scratch import scratch_folder

if TYPE_CHECKING:
    from ..engines import EngineChoice
from ..measure.bench_compare import compare_all, comparisons_of, headline, left_open
from ..measure.bench_setup import (
    AGAINST,
    LEAST_REPEATS,
    context_for,
    draft_lengths,
    machine,
    setup_bytes,
    setups_of,
    typed_setups,
)


def bench(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    against: str | Path | None = None,
    against_sidecar: str | Path | None = None,
    n_max: Sequence[int] | None = None,
    p_min: float = 0.0,
    tasks: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    repeats: int | None = None,
    n_predict: int = 96,
    temperature: float = 0.0,
    threads: int | None = None,
    types: Sequence[str] = (),
    donor: str | Path | None = None,
    embd_type: str = "q4_0",
    engine: EngineChoice = None,
    engine_args: Sequence[str] = (),
    n_ctx: int | None = None,
    slots: int = 1,
    patience_s: float = DEFAULT_S,
    side_by_side: bool = True,
    say: Say | None = None,
) -> BenchReport:
    """Time a model with MTP off and with drafts of each of `n_max` tokens, in interleaved passes.

    `against` is another model (a bundle, a trunk with its sidecar, another quant) that is timed in the same passes.
    `types` compares blocks of these types, taken from `donor` or requantized from the model's own; they are temporary
    sidecars whose embeddings and head have type `embd_type`. `prompts` is the user's own file, used instead of `tasks`.
    `repeats` None: 3, or as many as the test needs to show a difference. `temperature` 0 is greedy. `patience_s`
    limits the total seconds that disturbances may cost. With `slots`, that many prompts of a task are answered at a
    time, and the speed is their combined speed.

    Raises UsageError, NoBlock, EngineMissing, EngineRefused, EngineFailed, and what opening and making files raises.
    """
    say = heard(say)
    if donor is not None and not types:
        raise UsageError("--from names the source of blocks of other types: name those types with --types.")
    chosen = draft_lengths(n_max, types)
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}; it must be at least 1.")
    if not 0.0 <= p_min < 1.0:
        raise UsageError(f"p_min must be a probability below 1, and {p_min:g} is not.")
    asked = (read_task(prompts),) if prompts is not None else shipped_tasks(tasks)
    target = open_target(model, sidecar, needs_block=against is None and donor is None)
    other = None if against is None else open_target(against, against_sidecar, needs_block=False)
    from ..engines import find_engine

    judge = find_engine(engine)
    check_slots(judge, slots)
    with ExitStack() as stack:
        setups = setups_of(target, chosen, p_min, threads, "")
        if types:
            folder = stack.enter_context(scratch_folder("bench"))
            setups = setups[:1] + typed_setups(target, donor, types, chosen, p_min, threads, embd_type, folder, say)
        if other is not None:
            setups += setups_of(other, chosen, p_min, threads, AGAINST)
        pairs = comparisons_of(setups)
        n_prompts = sum(len(task.prompts) for task in asked)
        passes = repeats or max(LEAST_REPEATS, math.ceil(least_pairs(len(pairs)) / n_prompts))
        notes = [*(target.notes if donor is None else ()), *(other.notes if other is not None else ())]
        if pairs and passes * n_prompts < least_pairs(len(pairs)):
            notes.append(
                f"{passes * n_prompts} pairs of runs cannot tell {len(pairs)} setups apart: --repeats "
                f"{math.ceil(least_pairs(len(pairs)) / n_prompts)} can"
            )
        context = n_ctx or context_for(asked, n_predict)
        pool = stack.enter_context(
            Pool(judge, context, engine_args, asked[0].prompts[0], side_by_side=side_by_side, slots=slots)
        )
        patience = Patience(pool, patience_s, say)
        runs = _passes(patience, setups, asked, passes, n_predict, temperature, slots, say)
        sizes = {one.id: setup_bytes(one, target, other) for one in setups}
    if patience.used_up:
        notes.append(f"disturbances took {patience.spent_s:.0f} s, after which disturbed runs were not repeated")
    if any(SHORT in run.disturbed for run in runs):
        notes.append("some answers were too short to be timed; those prompts are left out")
    names = [task.name for task in asked]
    comparisons = compare_all(setups, pairs, runs, names, other is not None)
    notes += left_open(comparisons)
    return BenchReport(
        model=str(target.model.entry),
        sidecar=None if target.sidecar_path is None else str(target.sidecar_path),
        against=None if other is None else str(other.model.entry),
        engine=EngineName(judge.name, judge.version),
        machine=machine(),
        settings={
            "tasks": {task.name: len(task.prompts) for task in asked},
            "repeats": passes,
            "n_predict": n_predict,
            "temperature": temperature,
            "threads": threads,
            "n_ctx": context,
            "slots": slots,
            "engine_args": list(engine_args),
            "loads": "side by side" if pool.side_by_side else "one at a time",
        },
        rows=[summarize(one, runs, names, pool.memory.get(one.id), sizes[one.id]) for one in setups],
        runs=runs,
        comparisons=comparisons,
        verdict=headline(comparisons),
        notes=notes,
    )


def _passes(
    patience: Patience,
    setups: Sequence[TimedSetup],
    tasks: Sequence[Task],
    passes: int,
    n_predict: int,
    temperature: float,
    slots: int,
    say: Say,
) -> list[TimedRun]:
    """All runs. Every second pass runs the setups in reverse order, so that drift favours none of them."""
    for number in range(passes):
        asks = [
            Ask(
                task.name, index, prompt, n_predict, temperature, seed=1000 * number + index,
                beside=tuple(task.prompts[(index + n) % len(task.prompts)] for n in range(1, slots)),
            )
            for task in tasks
            for index, prompt in enumerate(task.prompts)
        ]  # fmt: skip
        order = list(setups) if number % 2 == 0 else list(reversed(setups))
        if not patience.pool.side_by_side:
            steps = [(one, ask) for one in order for ask in asks]
        else:
            steps = [(one, ask) for ask in asks for one in order]
        for done, (one, ask) in enumerate(steps):
            say(f"pass {number + 1} of {passes}, {done + 1} of {len(steps)}: {one.id}, {ask.task}")
            patience.run(one, ask, number)
        if temperature == 0.0:
            patience.repeat_slow(steps, number, f"pass {number + 1}")
    return mark_slow(patience.runs) if temperature == 0.0 else list(patience.runs)
