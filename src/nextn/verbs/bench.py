"""Bench: speed with and without MTP, interleaved, with raw values and a verdict."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..gguf.types import parse_type_name
from ..measure.bench_report import ALL_TASKS, BenchReport, Compared, compare_setups, summarize
from ..measure.stats import least_pairs
from ..measure.target import Target, open_target
from ..measure.tasks import Task, read_task, shipped_tasks
from ..measure.trial import SHORT, Ask, Run, Say, Setup, mark_slow
from ..measure.trial_patience import DEFAULT_S, Patience
from ..measure.trial_pool import Pool
from ..measure.trial_target import loaded_bytes, scratch_folder, typed_sidecar
from ..measure.trial_watch import cpu_name, n_cpus
from ..memory.answers import this_machine

if TYPE_CHECKING:
    from ..engines.base import Engine

N_MAX = (1, 2, 3)
"""Draft lengths by default; 3 is what engines take when they are not told."""
TYPES_N_MAX = (2,)
"""By default where types are compared: one row a type."""
LEAST_REPEATS = 3
SAMPLED_TEMPERATURE = 0.8
"""The engines' own default."""
_OFF = "off"
_AGAINST = "against "
"""Before the id of each setup of the other model."""
_CONTEXT_TOKENS = 1024
_TOKENS_A_BYTE = 0.6
"""More than text of any kind takes; only bounds the context."""



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
    llama_server: str | Path | None = None,
    engine: Engine | None = None,
    engine_args: Sequence[str] = (),
    n_ctx: int | None = None,
    patience_s: float = DEFAULT_S,
    side_by_side: bool = True,
    progress: Say | None = None,
) -> BenchReport:
    """Time a model with MTP off and with drafts of each of `n_max` tokens, in interleaved passes.

    `against` is another model (a bundle, a trunk with its sidecar, another quant) that is timed in the same passes.
    `types` compares blocks of these types, taken from `donor` or requantized from the model's own; they are temporary
    sidecars whose embeddings and head are of `embd_type`. `prompts` is a file of the user's own, instead of `tasks`.
    `repeats` None: 3, or as many as the test needs to tell anything apart. `temperature` 0 is greedy. `patience_s`
    bounds what disturbances may cost, in seconds.

    Raises UsageError, NoBlock, EngineMissing, EngineRefused, EngineFailed, and what opening and making files raises.
    """
    say = progress or (lambda text: None)
    if donor is not None and not types:
        raise UsageError("--from names where blocks of other types come from: say which with --types.")
    chosen = _lengths(n_max, types)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are none: name 1 or more.")
    if not 0.0 <= p_min < 1.0:
        raise UsageError(f"p_min is a probability below 1, and {p_min:g} is not.")
    asked = (read_task(prompts),) if prompts is not None else shipped_tasks(tasks)
    target = open_target(model, sidecar, needs_block=against is None and donor is None)
    other = None if against is None else open_target(against, against_sidecar, needs_block=False)
    if engine is None:
        from ..engines import find_engine

        engine = find_engine(None if llama_server is None else str(llama_server))
    with ExitStack() as stack:
        setups = _setups(target, chosen, p_min, threads, "")
        if types:
            folder = Path(stack.enter_context(scratch_folder()))
            setups = setups[:1] + _typed(target, donor, types, chosen, p_min, threads, embd_type, folder, say)
        if other is not None:
            setups += _setups(other, chosen, p_min, threads, _AGAINST)
        pairs = _comparisons(setups)
        n_prompts = sum(len(task.prompts) for task in asked)
        passes = repeats or max(LEAST_REPEATS, math.ceil(least_pairs(len(pairs)) / n_prompts))
        notes = [*target.notes, *(other.notes if other is not None else ())]
        if pairs and passes * n_prompts < least_pairs(len(pairs)):
            notes.append(
                f"{passes * n_prompts} pairs of runs cannot tell {len(pairs)} setups apart: --repeats "
                f"{math.ceil(least_pairs(len(pairs)) / n_prompts)} can"
            )
        context = n_ctx or context_for(asked, n_predict)
        pool = stack.enter_context(
            Pool(engine, context, engine_args, asked[0].prompts[0], side_by_side=side_by_side)
        )
        patience = Patience(pool, patience_s, say)
        runs = _passes(patience, setups, asked, passes, n_predict, temperature, say)
        sizes = {one.id: _size(one, target, other) for one in setups}
    if patience.used_up:
        notes.append(f"disturbances cost {patience.spent_s:.0f} s, after which disturbed runs were not repeated")
    if any(SHORT in run.disturbed for run in runs):
        notes.append("some answers were too short to be timed; those prompts are left out")
    names = [task.name for task in asked]
    comparisons = _compare(setups, pairs, runs, names, other is not None)
    notes += left_open(comparisons)
    return BenchReport(
        model=str(target.model.entry),
        sidecar=None if target.sidecar_path is None else str(target.sidecar_path),
        against=None if other is None else str(other.model.entry),
        engine={"name": engine.name, "version": engine.version},
        machine=machine(),
        settings={
            "tasks": {task.name: len(task.prompts) for task in asked},
            "repeats": passes,
            "n_predict": n_predict,
            "temperature": temperature,
            "threads": threads,
            "n_ctx": context,
            "engine_args": list(engine_args),
            "loads": "side by side" if pool.side_by_side else "one at a time",
        },
        rows=[summarize(one, runs, names, pool.memory.get(one.id), sizes[one.id]) for one in setups],
        runs=runs,
        comparisons=comparisons,
        verdict=headline(comparisons),
        notes=notes,
    )


def machine() -> dict[str, Any]:
    """The machine, as far as it explains a speed."""
    return {
        "cpu": cpu_name(),
        "n_cpus": n_cpus(),
        "memory_bytes": this_machine().ram_bytes,
        "system": f"{platform.system()} {platform.release()}",
    }


def _lengths(n_max: Sequence[int] | None, types: Sequence[str]) -> tuple[int, ...]:
    for name in types:
        parse_type_name(name)
    lengths = tuple(sorted(set(n_max))) if n_max is not None else TYPES_N_MAX if types else N_MAX
    if any(length < 0 for length in lengths):
        raise UsageError(f"n_max {min(lengths)} is below 0: name how many tokens to draft at most, or 0 for MTP off.")
    return tuple(length for length in lengths if length)


def _setups(target: Target, lengths: Sequence[int], p_min: float, threads: int | None, mark: str) -> list[Setup]:
    entry = target.model.entry
    out = [Setup(f"{mark}{_OFF}", entry, threads=threads)]
    if target.has_block:
        out += [Setup(f"{mark}n_max {n}", entry, target.sidecar_path, n, p_min, threads) for n in lengths]
    return out


def _typed(
    target: Target,
    donor: str | Path | None,
    types: Sequence[str],
    lengths: Sequence[int],
    p_min: float,
    threads: int | None,
    embd_type: str,
    folder: Path,
    say: Say,
) -> list[Setup]:
    out = []
    for name in dict.fromkeys(parse_type_name(one).name.lower() for one in types):
        say(f"making a block in {name}")
        made = typed_sidecar(target, donor, name, folder, embd_type)
        for length in lengths:
            title = name if len(lengths) == 1 else f"{name} n_max {length}"
            out.append(Setup(title, target.model.entry, made, length, p_min, threads, name))
    return out


def context_for(tasks: Sequence[Task], n_predict: int) -> int:
    """Tokens of context that every prompt and its answer fit into."""
    longest = max(len(prompt.encode()) for task in tasks for prompt in task.prompts)
    need = int(longest * _TOKENS_A_BYTE) + n_predict + 64
    return max(_CONTEXT_TOKENS, -(-need // 256) * 256)


def _passes(
    patience: Patience,
    setups: Sequence[Setup],
    tasks: Sequence[Task],
    passes: int,
    n_predict: int,
    temperature: float,
    say: Say,
) -> list[Run]:
    """All runs. Every second pass takes the setups in reverse, so that a drift favours none."""
    for number in range(passes):
        asks = [
            Ask(task.name, index, prompt, n_predict, temperature, seed=1000 * number + index)
            for task in tasks
            for index, prompt in enumerate(task.prompts)
        ]
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


def _comparisons(setups: Sequence[Setup]) -> list[tuple[Setup, Setup]]:
    """Which setup is compared with which: with MTP off of the same model, and with its like of the other model."""
    by_id = {one.id: one for one in setups}
    out = []
    for one in setups:
        mark = _AGAINST if one.id.startswith(_AGAINST) else ""
        if one.n_max:
            out.append((one, by_id[f"{mark}{_OFF}"]))
        if not mark and f"{_AGAINST}{one.id}" in by_id:
            out.append((one, by_id[f"{_AGAINST}{one.id}"]))
    return out


def _compare(
    setups: Sequence[Setup], pairs: Sequence[tuple[Setup, Setup]], runs: Sequence[Run], tasks: Sequence[str], two: bool
) -> list[Compared]:
    """All comparisons; those over all tasks share one error rate, those of single tasks stand each for itself."""
    out = []
    for one, base in pairs:
        words = (_called(one, two), _called(base, two))
        out.append(compare_setups(one, base, runs, ALL_TASKS, n_tests=len(pairs), words=words))
        if len(tasks) > 1:
            out += [compare_setups(one, base, runs, task, n_tests=1, words=words) for task in tasks]
    return out


def _called(setup: Setup, two: bool) -> str:
    what = "MTP off" if not setup.n_max else f"MTP with n_max {setup.n_max}"
    if setup.type is not None:
        what += f" and the block in {setup.type}"
    if not two:
        return what
    return f"{what} on {setup.model.name if setup.sidecar is None or not setup.n_max else setup.sidecar.name}"


def headline(comparisons: Sequence[Compared]) -> Compared | None:
    """Of the comparisons over all tasks the one that counts.

    Those with another model come first if there are any. Of these, only ratios that the test found different from 1
    are ranked, the highest first; without any, one that is not distinguishable comes before one without figures.
    """
    considered = _considered(comparisons)
    found = [one for one in considered if one.result.word in ("faster", "slower")]
    if found:
        return max(found, key=lambda one: one.result.ratio or 0.0)
    undecided = [one for one in considered if one.result.word == "not_distinguishable"]
    return next(iter(undecided or considered), None)


def left_open(comparisons: Sequence[Compared]) -> list[str]:
    """What a verdict of "slower" does not cover: setups that might still be as fast, one sentence each."""
    verdict = headline(comparisons)
    if verdict is None or verdict.result.word != "slower":
        return []
    words = ("not_distinguishable", "machine_busy")
    return [one.sentence for one in _considered(comparisons) if one.result.word in words]


def _considered(comparisons: Sequence[Compared]) -> list[Compared]:
    overall = [one for one in comparisons if one.task == ALL_TASKS and not one.setup.startswith(_AGAINST)]
    return [one for one in overall if one.base.startswith(_AGAINST)] or overall


def _size(setup: Setup, target: Target, other: Target | None) -> int:
    of = other if other is not None and setup.id.startswith(_AGAINST) else target
    return loaded_bytes(of.model, setup.sidecar if setup.n_max else None)


__all__ = ["BenchReport", "bench", "headline", "left_open"]
