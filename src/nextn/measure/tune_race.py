"""Racing: settings run side by side, prompt by prompt; those far behind are stopped. Pure except for the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .timed_run import TimedRun

# After the 1st, 2nd, 3rd prompt: what is slower than this share of the fastest is stopped.
STOP_BELOW = (0.70, 0.85, 0.90)

Measure = Callable[[str, int], "TimedRun | None"]
"""(id, prompt number) -> the run; None: the engine refused this setting."""


@dataclass
class Race:
    """What one race saw."""

    # Id -> number of the prompt -> the run; only runs whose speed counts.
    runs: dict[str, dict[int, TimedRun]] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)  # id -> after how many prompts it was stopped
    refused: list[str] = field(default_factory=list)

    def relative(self, one: str, other: str) -> float | None:
        """Speed of `one` over that of `other` on the prompts that both have a run for; None: there are none."""
        shared = self.runs.get(one, {}).keys() & self.runs.get(other, {}).keys()
        if not shared:
            return None
        return self._rate(one, shared) / self._rate(other, shared)

    def _rate(self, one: str, prompts: set[int]) -> float:
        runs = [self.runs[one][at] for at in prompts]
        return sum(run.n_tokens for run in runs) / sum(run.n_tokens / run.decode_tps for run in runs)

    def ranking(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that have a figure, the fastest first; stopped ones come after those that were not stopped."""
        known = [one for one in ids if self.runs.get(one)]
        if not known:
            return []
        most = max(known, key=lambda one: len(self.runs[one]))
        figures = {one: self.relative(one, most) for one in known}
        return sorted(
            (one for one in known if figures[one] is not None),
            key=lambda one: (one in self.stopped, -(figures[one] or 0.0)),
        )


def race(
    ids: Sequence[str],
    n_prompts: int,
    measure: Measure,
    *,
    group: Callable[[str], object] = lambda one: None,
    side_by_side: Callable[[], bool] = lambda: True,
    time_left: Callable[[], bool] = lambda: True,
) -> Race:
    """Time `ids` on prompts 0, 1, ... and stop those that fall behind; the fastest of each `group` always goes on.

    While `side_by_side`, all run prompt by prompt; otherwise each runs all its prompts before the next, which is then
    stopped by comparison with those before it. Ends early, after at least one prompt, when there is no `time_left`.
    """
    found = Race()
    alive = list(dict.fromkeys(ids))

    def one_run(one: str, at: int) -> None:
        if at in found.runs.get(one, {}) or one in found.refused:
            return
        run = measure(one, at)
        if run is None:
            found.refused.append(one)
            found.runs.pop(one, None)
        elif run.good:
            found.runs.setdefault(one, {})[at] = run

    for at in range(n_prompts):
        if at and not time_left():
            break
        if not side_by_side():
            return _one_by_one(found, alive, range(at, n_prompts), one_run, group)
        for one in alive if at % 2 == 0 else list(reversed(alive)):  # so that drift favours none
            one_run(one, at)
        alive = [one for one in alive if one not in found.refused]
        for one in _behind(found, alive, STOP_BELOW[min(at, len(STOP_BELOW) - 1)], group):
            found.stopped[one] = at + 1
            alive.remove(one)
    return found


def _one_by_one(
    found: Race,
    alive: Sequence[str],
    prompts: range,
    one_run: Callable[[str, int], None],
    group: Callable[[str], object],
) -> Race:
    done: list[str] = []
    for one in alive:
        for at in prompts:
            one_run(one, at)
            if one in _behind(found, [*done, one], STOP_BELOW[min(at, len(STOP_BELOW) - 1)], group):
                found.stopped[one] = at + 1
                break
        done.append(one)
    return found


def _behind(found: Race, alive: Sequence[str], share: float, group: Callable[[str], object]) -> list[str]:
    ranked = found.ranking([one for one in alive if one not in found.stopped])
    if not ranked:
        return []
    first: dict[object, str] = {}
    for one in ranked:
        first.setdefault(group(one), one)
    leader = ranked[0]
    out = []
    for one in ranked:
        relative = found.relative(one, leader)
        if relative is not None and relative < share and one not in first.values():
            out.append(one)
    return out
