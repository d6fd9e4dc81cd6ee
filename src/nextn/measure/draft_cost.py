"""The cost of a draft, measured: steps of two draft lengths beside tokens with MTP off, on the engine that drafts.

How many drafts are accepted does not matter: a step takes its time either way. What the curve says about the
verification is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .batch_curve import DepthCurve
from .patience import Patience
from .timed_run import Ask, TimedRun, TimedSetup
from .worth_formula import DraftCost

LENGTHS = (1, 4)
N_PREDICT = 48
REPEATS = 3


def time_steps(patience: Patience, setups: Sequence[TimedSetup], asks: Sequence[Ask], repeats: int = REPEATS) -> None:
    """Time MTP off and each length in turns; the runs are in `patience.runs`. Raises EngineRefused, EngineFailed."""
    for number in range(repeats):
        for one in setups if number % 2 == 0 else list(reversed(setups)):
            for ask in asks:
                patience.say(f"timing the draft, pass {number + 1} of {repeats}: {one.id}")
                patience.run(one, ask, number)


def step_cost(runs: Sequence[TimedRun], setup: str, off: str) -> tuple[float, float] | None:
    """What a step of `setup` drafts and costs: mean number of tokens, and seconds by those of a token of `off`.

    The number is below n_max where the engine stops early, as in the last step of an answer. Runs of the same prompt in
    the same pass are compared. None without undisturbed runs of both.
    """
    tokens = {(run.prompt, run.pass_no): 1 / run.decode_tps for run in runs if run.setup == off and run.good}
    good = [
        run
        for run in runs
        if run.setup == setup and run.good and run.drafted and (run.prompt, run.pass_no) in tokens
    ]
    if not good:
        return None
    n_drafted = sum(run.drafted for run in good) / sum(run.steps for run in good)
    return n_drafted, median(_step_s(run) / tokens[run.prompt, run.pass_no] for run in good)


def _step_s(run: TimedRun) -> float:
    """Seconds of a verification step: the first token comes with the prompt."""
    return (run.n_tokens - 1) / run.decode_tps / run.steps


def measured_draft(curve: DepthCurve, steps: Sequence[tuple[float, float]]) -> DraftCost | None:
    """The draft's cost from what steps with these mean numbers of drafted tokens cost; None without any.

    With two lengths, what each token costs and what each step costs; with one, all of it is counted per token.
    """
    beside = {n: cost - curve.cost(n + 1) - curve.state_cost for n, cost in steps}
    if not beside:
        return None
    short, long = min(beside), max(beside)
    if short == long:
        return DraftCost("measured", max(0.0, beside[short] / short))
    per_token = max(0.0, (beside[long] - beside[short]) / (long - short))
    return DraftCost("measured", per_token, beside[short] - short * per_token)
