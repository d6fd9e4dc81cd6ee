"""Worth: whether drafting can pay on this machine, from what batches of the trunk cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines.base import Launch
from ..errors import EngineFailed, EngineRefused, StorageError, UsageError
from ..measure.batch_curve import LEAST_PASSES, MOST_PASSES, SIZES, DepthCurve, curve_at, time_curve
from ..measure.bench_setup import OFF, machine
from ..measure.draft_cost import LENGTHS, N_PREDICT, measured_draft, step_cost, time_steps
from ..measure.engine_pool import Pool
from ..measure.patience import DEFAULT_S, Patience
from ..measure.slots import check_slots
from ..measure.target import MeasuredModel, open_target
from ..measure.tasks import shipped_tasks
from ..measure.timed_run import Ask, TimedRun, TimedSetup
from ..measure.worth_bytes import estimated_draft, head_share
from ..measure.worth_formula import DraftCost
from ..measure.worth_report import WorthReport
from ..measure.worth_store import keep
from ..progress import Say, heard
from ..schemas.base import EngineName

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..engines.base import Engine

LEAST_PREFIX = 32  # tokens that are always in front of a batch: nobody drafts in an empty context
_ROOM = 1536  # tokens after the prefix: all batches of a pass one after the other, for servers that cannot cut back
_N_ASKS = 2  # prompts that the draft is timed on


def worth(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    depths: Sequence[int] = (0,),
    slots: int = 1,
    threads: int | None = None,
    engine: EngineChoice = None,
    engine_args: Sequence[str] = (),
    patience_s: float = DEFAULT_S,
    side_by_side: bool = True,
    time_draft: bool = True,
    brief: bool = False,
    remember: bool = True,
    say: Say | None = None,
) -> WorthReport:
    """Time batches of 1 to 16 tokens of a model, with a block or without, and say from when on drafting is faster.

    `depths`: tokens of context in front of the batches; the answer is for the first. With `slots`, batches are those of
    that many sequences together. The cost of a draft is measured if the model has a block (or `sidecar`) and
    `time_draft` is true, otherwise computed from the bytes of a block of one layer. `brief`: only as many passes as a
    figure needs. `remember`: keep the figures in
    nextn's data folder, where plan finds them. `patience_s` limits the total seconds that disturbances may cost.

    Raises UsageError, EngineMissing, EngineRefused, EngineFailed, StorageError, and what opening files raises.
    """
    say = heard(say)
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}; it must be at least 1.")
    target = open_target(model, sidecar, needs_block=False)
    wanted = _checked(depths, target)
    from ..engines import find_engine

    judge = find_engine(engine)
    check_slots(judge, slots)
    notes = list(target.notes)
    n_ctx = max(wanted) + LEAST_PREFIX + _ROOM
    launch = Launch(target.model.entry, None, 0, n_ctx, threads, tuple(engine_args), timed=True, slots=slots)
    run, all_outputs = time_curve(
        judge, launch, [max(depth, LEAST_PREFIX) for depth in wanted], patience_s, say,
        most_passes=LEAST_PASSES if brief else MOST_PASSES,
    )  # fmt: skip
    share = None if all_outputs else head_share(target.model)
    found = {depth: curve_at(run.passes, max(depth, LEAST_PREFIX), share) for depth in wanted}
    curves = [DepthCurve(depth, one.token_s, one.costs, one.state_cost) for depth, one in found.items() if one]
    notes += [f"no figure at a depth of {depth:,}: the machine was too busy" for depth, one in found.items() if not one]
    draft: DraftCost | None = None
    runs: list[TimedRun] = []
    first = next((one for one in curves if one.depth == wanted[0]), None)
    if target.has_block and time_draft and first is not None:
        draft, runs, why = _measure_draft(
            judge, target, first, slots, threads, engine_args, patience_s - run.spent_s, side_by_side, say
        )
        notes += [] if why is None else [why]
    report = WorthReport(
        model=str(target.model.entry),
        sidecar=None if target.sidecar_path is None else str(target.sidecar_path),
        measured=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        engine=EngineName(judge.name, judge.version),
        machine=machine(),
        settings={
            "depths": list(wanted),
            "sizes": list(SIZES),
            "slots": slots,
            "threads": threads,
            "n_ctx": n_ctx,
            "engine_args": list(engine_args),
            "timed": "library" if all_outputs else "server",
        },
        curves=curves,
        draft=draft or estimated_draft(target.model, draft=target.draft),
        passes=run.passes,
        runs=runs,
        notes=notes,
    )
    if remember and report.first is not None:
        try:
            keep(target.model, report)
        except StorageError as error:
            report.notes.append(f"the figures were not kept: {error}")
    return report


def _checked(depths: Sequence[int], target: MeasuredModel) -> tuple[int, ...]:
    """Depths without repetitions. Raises UsageError."""
    wanted = tuple(dict.fromkeys(depths))
    if not wanted or min(wanted) < 0:
        raise UsageError("name depths of context of 0 tokens or more, such as 0,4k,16k.")
    trained = target.model.arch_int("context_length")
    if trained and max(wanted) + LEAST_PREFIX + max(SIZES) > trained and max(wanted):
        raise UsageError(
            f"{target.model.entry}: a depth of {max(wanted):,} tokens leaves no room in the {trained:,} that the model "
            "was trained on; choose a smaller one."
        )
    return wanted


def _measure_draft(
    judge: Engine,
    target: MeasuredModel,
    curve: DepthCurve,
    slots: int,
    threads: int | None,
    engine_args: Sequence[str],
    patience_s: float,
    side_by_side: bool,
    say: Say,
) -> tuple[DraftCost | None, list[TimedRun], str | None]:
    """The draft's cost, the runs it comes from, and why there is none."""
    entry = target.model.entry
    off = TimedSetup(OFF, entry, threads=threads)
    setups = [off, *(TimedSetup(f"n_max {n}", entry, target.sidecar_path, n, 0.0, threads) for n in LENGTHS)]
    task = shipped_tasks(("code",))[0]
    asks = [
        Ask(
            task.name, index, prompt, N_PREDICT, seed=index,
            beside=tuple(task.prompts[(index + n) % len(task.prompts)] for n in range(1, slots)),
        )
        for index, prompt in enumerate(task.prompts[:_N_ASKS])
    ]  # fmt: skip
    n_ctx = LEAST_PREFIX + _ROOM
    with ExitStack() as stack:
        pool = stack.enter_context(
            Pool(judge, n_ctx, engine_args, asks[0].prompt, side_by_side=side_by_side, slots=slots)
        )
        patience = Patience(pool, max(0.0, patience_s), say)
        try:
            time_steps(patience, setups, asks)
        except EngineFailed:
            raise
        except EngineRefused as error:
            return None, patience.runs, f"the draft's cost is estimated: {error}"
    steps = [cost for n in LENGTHS if (cost := step_cost(patience.runs, f"n_max {n}", OFF)) is not None]
    draft = measured_draft(curve, steps)
    busy = "the draft's cost is estimated: the machine was too busy to measure it"
    return draft, patience.runs, None if draft is not None else busy


