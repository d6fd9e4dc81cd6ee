"""The batch curve from passes of known times: medians, disturbed passes, the head's correction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from known_curve import TOKEN_S, KnownTimer

from nextn.measure import batch_curve
from nextn.measure.batch_curve import LEAST_PASSES, MOST_PASSES, SIZES, CurveRun, curve_at
from nextn.measure.cpu_watch import Usage
from nextn.measure.timed_run import OTHERS, SLOW


def linear(size: int) -> float:
    """A batch of k costs half as much per further token."""
    return 0.5 + 0.5 * size


def run_of(timer: KnownTimer, *, budget_s: float = 0.0, step_s: float = 0.01) -> CurveRun:
    ticks: Iterator[int] = count()
    return CurveRun(timer, 1, budget_s, busy=lambda: 0.0, clock=lambda: step_s * next(ticks))


def test_costs_are_those_of_the_batches() -> None:
    timer = KnownTimer(linear)
    run = run_of(timer)
    run.depth("text", 64)
    found = curve_at(run.passes, 64, None)
    assert found is not None and timer.depths == [64]
    assert {size: one.median for size, one in found.costs.items()} == pytest.approx({k: linear(k) for k in SIZES})
    assert found.token_s == TOKEN_S and found.lengths == (1, 2, 3, 4, 5, 6, 7, 8, 11, 15)
    assert found.costs[4].n == MOST_PASSES == len(timer.asked) - 1
    assert found.cost(10) == pytest.approx(linear(10))  # between measured sizes
    with pytest.raises(ValueError, match="17 tokens"):
        found.cost(17)


def test_every_pass_times_other_text() -> None:
    timer = KnownTimer(linear)
    run_of(timer).depth("text", 64)
    rounds = timer.asked[1][1]
    assert [start for _, _, start in timer.asked[1:]] == [1 + rounds * number for number in range(MOST_PASSES)]


def test_short_batches_are_repeated_within_a_pass() -> None:
    timer = KnownTimer(lambda size: linear(size) / 20)
    run = run_of(timer)
    run.depth("text", 64)
    assert run.passes[0].n_rounds * run.passes[0].total_s >= 0.3


def test_slow_machines_get_fewer_passes() -> None:
    timer = KnownTimer(linear)
    run_of(timer, step_s=20.0).depth("text", 64)
    assert len(timer.asked) - 1 == LEAST_PASSES


def test_a_pass_far_slower_than_the_others_is_not_used() -> None:
    timer = KnownTimer(linear)
    timer.slower = {2: 3.0}
    run = run_of(timer)
    run.depth("text", 64)
    assert [one.number for one in run.passes if SLOW in one.disturbed] == [1]
    found = curve_at(run.passes, 64, None)
    assert found is not None and found.costs[1].n == MOST_PASSES - 1


def test_disturbed_passes_are_repeated_and_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([(OTHERS,), (), (OTHERS,)] + [()] * 50)
    monkeypatch.setattr(batch_curve, "disturbances", lambda usage, threads, cpus: next(verdicts))
    run = run_of(KnownTimer(linear), budget_s=100.0)
    run.depth("text", 64)
    assert [(one.number, one.attempt, one.good) for one in run.passes[:4]] == [
        (0, 0, False), (0, 1, True), (1, 0, False), (1, 1, True),
    ]  # fmt: skip
    assert run.spent_s > 0


def test_without_patience_a_busy_machine_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_curve, "disturbances", lambda usage, threads, cpus: (OTHERS,))
    run = run_of(KnownTimer(linear))
    run.depth("text", 64)
    assert len(run.passes) == MOST_PASSES and curve_at(run.passes, 64, None) is None


def test_the_heads_rows_are_counted_where_only_the_last_was_computed() -> None:
    share = 0.25  # of a token's work is the head's; the body of k tokens costs as much as in `linear`
    timer = KnownTimer(lambda size: (1 - share) * linear(size) + share, all_outputs=False)
    run = run_of(timer)
    run.depth("text", 64)
    found = curve_at(run.passes, 64, share)
    assert found is not None
    assert {size: one.median for size, one in found.costs.items()} == pytest.approx({k: linear(k) for k in SIZES})


def test_recurrent_state_is_counted_in_tokens() -> None:
    run = run_of(KnownTimer(linear, state_s=0.2))
    run.depth("text", 64)
    found = curve_at(run.passes, 64, None)
    assert found is not None and found.state_cost == pytest.approx(0.2)


def test_depths_are_kept_apart() -> None:
    timer = KnownTimer(linear)
    run = run_of(timer)
    run.depth("text", 32)
    timer.cost = lambda size: 2 * linear(size) - 1
    run.depth("text", 4096)
    near, far = (curve_at(run.passes, depth, None) for depth in (32, 4096))
    assert near is not None and far is not None
    assert (near.cost(3), far.cost(3)) == pytest.approx((2.0, 3.0))


def test_raw_passes_hold_what_happened() -> None:
    run = run_of(KnownTimer(linear))
    run.depth("text", 64)
    one = run.passes[0].document
    assert one.pass_no == 0 and one.used and one.seconds["16"] == pytest.approx(TOKEN_S * linear(16))
    assert one.wall_s >= 0 and run.passes[0].usage == Usage(run.passes[0].usage.wall_s)
