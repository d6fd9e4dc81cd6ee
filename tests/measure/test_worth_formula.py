"""What follows from a curve: the figures of known curves, and the published formula where batches cost one token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextn.measure.batch_curve import DepthCurve
from nextn.measure.draft_cost import measured_draft, step_cost
from nextn.measure.stats import Spread
from nextn.measure.timed_run import TimedRun
from nextn.measure.worth_formula import DraftCost, Payoff, accepted_at, rate_for, sentence

# Measured on two cores with SmolLM2-135M: size of the batch -> cost
Q8_0 = {1: 1.0, 2: 1.45, 3: 2.07, 4: 2.12, 6: 2.80, 8: 3.42}
Q4_1 = {1: 1.0, 2: 1.69, 3: 2.54, 4: 2.92, 6: 4.26, 8: 5.38}
Q4_0 = {1: 1.0, 2: 1.55, 3: 2.30, 4: 2.12, 6: 3.17, 8: 3.85}
FREE = DraftCost("estimated", 0.0)


def curve(costs: dict[int, float], state_cost: float = 0.0) -> DepthCurve:
    return DepthCurve(0, 0.01, {size: Spread(cost, cost, cost, 3) for size, cost in costs.items()}, state_cost)


def test_break_even_is_what_the_verification_costs_more() -> None:
    found = Payoff(curve(Q8_0), FREE).break_even(3)
    assert found.accepted_per_step == pytest.approx(1.12)
    assert found.per_position is not None and accepted_at(found.per_position, 3) == pytest.approx(1.12)
    with_draft = Payoff(curve(Q8_0), DraftCost("measured", 0.2, 0.1, 0.05)).break_even(3)
    assert with_draft.accepted_per_step == pytest.approx(1.12 + 3 * 0.2 + 0.1 + 0.05 * 2.12)


def test_a_kink_makes_the_longer_draft_better_whatever_is_accepted() -> None:
    payoff = Payoff(curve(Q4_0), FREE)
    assert [(one.n_tokens, one.cheaper_than) for one in payoff.kinks] == [(4, 3)]
    for rate in (0.1, 0.5, 0.9):
        assert payoff.speedup(3, accepted_at(rate, 3)) > payoff.speedup(2, accepted_at(rate, 2))
    assert not Payoff(curve(Q4_1), FREE).kinks


def test_the_ceiling_accepts_all_drafts() -> None:
    found = Payoff(curve(Q8_0), FREE).ceiling
    assert (found.n_max, found.speedup) == (7, pytest.approx(8 / 3.42))
    dear = Payoff(curve({1: 1.0, 2: 2.5, 3: 3.2}), FREE)
    assert dear.ceiling.speedup == pytest.approx(3 / 3.2) and dear.easiest is None
    assert sentence(dear).startswith("cannot pay here: even a perfect draft reaches 0.94 times the speed without MTP")


@given(st.floats(0.01, 0.99), st.integers(1, 15), st.floats(0.0, 0.5))
def test_where_batches_cost_one_token_it_is_the_published_formula(rate: float, n: int, cost: float) -> None:
    flat = Payoff(curve(dict.fromkeys(range(1, 17), 1.0)), DraftCost("measured", cost))
    published = (1 - rate ** (n + 1)) / ((1 - rate) * (n * cost + 1))
    assert flat.speedup(n, accepted_at(rate, n)) == pytest.approx(published)


@given(st.floats(0.0, 1.0), st.integers(1, 15))
def test_the_rate_gives_the_accepted_drafts_back(rate: float, n: int) -> None:
    found = rate_for(accepted_at(rate, n), n)
    assert found is not None and accepted_at(found, n) == pytest.approx(accepted_at(rate, n), abs=1e-6)


def test_more_than_all_drafts_is_never() -> None:
    assert rate_for(2.01, 2) is None and rate_for(2.0, 2) == pytest.approx(1.0) and rate_for(0.0, 2) < 1e-9  # type: ignore[operator]


def test_at_the_break_even_both_are_equally_fast() -> None:
    payoff = Payoff(curve(Q8_0, 0.03), DraftCost("measured", 0.1, 0.02))
    for n in (1, 2, 3):
        assert payoff.speedup(n, payoff.break_even(n).accepted_per_step) == pytest.approx(1.0)


def test_the_best_length_grows_with_acceptance() -> None:
    payoff = Payoff(curve(Q8_0), DraftCost("measured", 0.1))
    assert payoff.best(0.3).n_max < payoff.best(0.95).n_max
    assert payoff.predicted([0.8, 0.6, 0.5]) == pytest.approx(2.9 / (2.12 + 0.3))


def test_the_sentence_names_the_length_that_pays_first() -> None:
    said = sentence(Payoff(curve(Q8_0), FREE))
    assert said.startswith("can pay from 45 % acceptance per position at n_max 1 (a perfect draft reaches 2.34 times")
    hard = sentence(Payoff(curve({1: 1.0, 2: 1.95, 3: 2.95}), FREE))
    assert hard.startswith("can hardly pay here: only from 95 % acceptance per position at n_max 1")


def test_a_drafts_cost_comes_out_as_it_went_in() -> None:
    known, seen = DraftCost("measured", 0.15, 0.07), curve(Q8_0, 0.04)
    steps = [(n, Payoff(seen, known).step(n)) for n in (1, 3)]
    found = measured_draft(seen, steps)
    assert found is not None and (found.per_token, found.per_step) == pytest.approx((0.15, 0.07))
    assert measured_draft(seen, []) is None
    alone = measured_draft(seen, steps[1:])
    assert alone is not None and Payoff(seen, alone).step(3) == pytest.approx(steps[1][1])


def run(
    setup: str, n_tokens: int, tps: float, steps: int, drafted: int = 0, *, pass_no: int = 0,
    disturbed: tuple[str, ...] = (),
) -> TimedRun:
    return TimedRun(
        setup, "code", 0, pass_no, 0, n_tokens, tps, 100.0, drafted, 0, steps, None, 1.0, None, None, None, None, None,
        None, disturbed,
    )  # fmt: skip


def test_a_step_is_timed_against_a_token_of_the_same_pass() -> None:
    runs = [
        run("off", 49, 100.0, 0), run("n_max 1", 49, 80.0, 30, 29),
        run("off", 49, 50.0, 0, pass_no=1), run("n_max 1", 49, 40.0, 30, 28, pass_no=1),
        run("n_max 1", 49, 1.0, 30, 3, pass_no=2, disturbed=("cpu_wait",)),
    ]  # fmt: skip
    assert step_cost(runs, "n_max 1", "off") == pytest.approx((57 / 60, 48 / 80 / 30 * 100))
    assert step_cost(runs, "n_max 4", "off") is None
