"""Which of a bench's comparisons decides its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bench_report import ALL_TASKS, Compared, compare_setups
from .timed_run import TimedRun, TimedSetup

if TYPE_CHECKING:
    pass
from .bench_setup import AGAINST, OFF


def comparisons_of(setups: Sequence[TimedSetup]) -> list[tuple[TimedSetup, TimedSetup]]:
    """Pairs to compare: each setup with MTP off on the same model, and with its counterpart on the other model."""
    by_id = {one.id: one for one in setups}
    out = []
    for one in setups:
        mark = AGAINST if one.id.startswith(AGAINST) else ""
        if one.n_max:
            out.append((one, by_id[f"{mark}{OFF}"]))
        if not mark and f"{AGAINST}{one.id}" in by_id:
            out.append((one, by_id[f"{AGAINST}{one.id}"]))
    return out


def compare_all(
    setups: Sequence[TimedSetup],
    pairs: Sequence[tuple[TimedSetup, TimedSetup]],
    runs: Sequence[TimedRun],
    tasks: Sequence[str],
    two: bool,
) -> list[Compared]:
    """All comparisons; those over all tasks share one error rate, those of single tasks each stand on their own."""
    out = []
    for one, base in pairs:
        words = (_called(one, two), _called(base, two))
        out.append(compare_setups(one, base, runs, ALL_TASKS, n_tests=len(pairs), words=words))
        if len(tasks) > 1:
            out += [compare_setups(one, base, runs, task, n_tests=1, words=words) for task in tasks]
    return out


def _called(setup: TimedSetup, two: bool) -> str:
    what = "MTP off" if not setup.n_max else f"MTP with n_max {setup.n_max}"
    if setup.type is not None:
        what += f" and the block in {setup.type}"
    if not two:
        return what
    return f"{what} on {setup.model.name if setup.sidecar is None or not setup.n_max else setup.sidecar.name}"


def headline(comparisons: Sequence[Compared]) -> Compared | None:
    """The comparison that counts, of those over all tasks.

    Those with another model come first if there are any. Of these, only ratios that the test found different from 1
    are ranked, the highest first; if there are none, one that is not distinguishable comes before one without figures.
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
    overall = [one for one in comparisons if one.task == ALL_TASKS and not one.setup.startswith(AGAINST)]
    return [one for one in overall if one.base.startswith(AGAINST)] or overall
