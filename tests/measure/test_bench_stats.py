"""Bench's judgement without an engine: the test on synthetic samples, disturbed runs, the verdict."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from nextn.engines.base import Completion
from nextn.measure.bench_compare import headline, left_open
from nextn.measure.bench_report import ALL_TASKS, Compared, acceptance_of, compare_setups, overall_tps
from nextn.measure.cpu_watch import Usage, Watch
from nextn.measure.patience import ATTEMPTS, Patience
from nextn.measure.stats import Comparison, Word, compare, hodges_lehmann, least_pairs, signed_rank_p, spread
from nextn.measure.timed_run import (
    CPU_WAIT,
    OTHERS,
    SHORT,
    SLOW,
    STEAL,
    Ask,
    TimedRun,
    TimedSetup,
    disturbances,
    judged_run,
    mark_slow,
)

OFF, ON = TimedSetup("off", Path("m.gguf"), threads=1), TimedSetup("n_max 2", Path("m.gguf"), n_max=2, threads=1)
QUIET = Usage(1.0, 1.0, 0.0, 0.0, 0.0, 0)


def noisy(n: int, factor: float, sigma: float, seed: int) -> tuple[list[float], list[float]]:
    """`n` pairs of speeds, the first `factor` times the second but for log-normal noise on both."""
    draw = random.Random(seed)
    ours = [100 * factor * draw.lognormvariate(0, sigma) for _ in range(n)]
    return ours, [100 * draw.lognormvariate(0, sigma) for _ in range(n)]


def by_enumeration(values: list[float]) -> float:
    """The p of the signed-rank test from all sign patterns, written down as its definition says; no ties."""
    order = sorted(range(len(values)), key=lambda at: abs(values[at]))
    rank = {at: place + 1 for place, at in enumerate(order)}
    positive = sum(rank[at] for at, value in enumerate(values) if value > 0)
    middle = sum(rank.values()) / 2
    sums = [
        sum(r for r, sign in zip(rank.values(), signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(values))
    ]
    return sum(abs(one - middle) >= abs(positive - middle) for one in sums) / len(sums)


@pytest.mark.parametrize(("factor", "word"), [(1.4, "faster"), (1 / 1.4, "slower")])
def test_a_clear_difference_is_called_one(factor: float, word: str) -> None:
    for seed in range(20):
        found = compare(*noisy(18, factor, 0.04, seed), n_tests=3)
        assert found.word == word and found.n_pairs == 18
        assert found.ratio == pytest.approx(factor, rel=0.05)
        assert found.low is not None and found.high is not None and found.ratio is not None
        assert found.low <= found.ratio <= found.high
        assert (found.low > 1) if word == "faster" else (found.high < 1)


@pytest.mark.parametrize("n", [6, 9, 18, 70])
def test_noise_is_seldom_called_a_difference(n: int) -> None:
    words = [compare(*noisy(n, 1.0, 0.2, seed)).word for seed in range(400)]
    assert 400 - words.count("not_distinguishable") <= 0.08 * 400  # 5 % by construction; the seeds are fixed


@pytest.mark.parametrize("n", [6, 12, 70])
def test_the_interval_holds_as_often_as_it_says(n: int) -> None:
    holds = 0
    for seed in range(400):
        found = compare(*noisy(n, 1.2, 0.1, seed))
        assert found.low is not None and found.high is not None
        holds += found.low <= 1.2 <= found.high
    assert holds >= 0.93 * 400


@pytest.mark.parametrize(("n", "n_tests"), [(6, 1), (9, 1), (12, 3), (40, 3), (61, 1), (80, 3)])
def test_test_and_interval_agree(n: int, n_tests: int) -> None:
    for seed in range(60):
        found = compare(*noisy(n, 1.08, 0.1, seed), n_tests=n_tests, min_effect=0.0)
        assert found.low is not None and found.high is not None and found.p is not None
        if abs(found.p - 0.05) > 0.01:  # the two approximations for many pairs round differently at the border
            assert (found.p < 0.05) == (not found.low <= 1 <= found.high), (seed, found)


def test_one_wild_value_does_not_change_the_word() -> None:
    ours, theirs = noisy(18, 1.4, 0.02, 1)
    ours[3] /= 40  # a spinning engine with a neighbour
    found = compare(ours, theirs)
    assert found.word == "faster" and found.ratio == pytest.approx(1.4, rel=0.05)


def test_a_small_effect_is_not_called_one_however_certain() -> None:
    found = compare(*noisy(60, 1.02, 0.001, 1))
    assert found.word == "not_distinguishable"
    assert found.p is not None and found.p < 1e-6


@pytest.mark.parametrize("n_tests", [1, 3, 7])
def test_too_few_pairs_tell_nothing_and_give_no_ratio(n_tests: int) -> None:
    n = least_pairs(n_tests)
    few, enough = (compare([200.0 + k for k in range(m)], [100.0] * m, n_tests=n_tests) for m in (n - 1, n))
    assert few.word == "not_distinguishable"
    assert (few.ratio, few.low, few.high) == (None, None, None)
    assert enough.word == "faster"


def test_how_few_is_too_few() -> None:
    assert [least_pairs(n) for n in (1, 2, 3)] == [6, 7, 7]
    assert compare([], []).word == "machine_busy"


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_p_is_that_of_all_sign_patterns(n: int) -> None:
    for seed in range(10):
        values = [random.Random(100 * n + seed).uniform(-1, 1) + 0.1 * at for at in range(n)]
        assert signed_rank_p(values) == pytest.approx(by_enumeration(values))


def test_p_with_ties_and_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signed_rank_p([0.0, 0.0]) == 1.0 == signed_rank_p([])
    assert signed_rank_p([1.0, 1.0, 1.0, 0.0]) == pytest.approx(2 / 8)
    values = [1.0 + k if k % 3 else -1.0 - k for k in range(60)]
    exact = signed_rank_p(values)
    monkeypatch.setattr("nextn.measure.stats._EXACT_UP_TO", 59)
    assert exact != signed_rank_p(values) == pytest.approx(exact, rel=0.1)  # the approximation for many pairs


def test_the_estimate_is_the_median_of_pairwise_means() -> None:
    middle, low, high = hodges_lehmann([1.0, 2.0, 3.0, 4.0, 5.0, 100.0])
    assert middle == 3.5  # of 1, 1.5, 2, 2, 2.5, ... 51, 51.5, 52, 52.5, 100
    assert (low, high) == (1.0, 100.0)  # six pairs: only the widest interval holds with 95 %
    assert spread([]) is None


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (QUIET, ()),
        (Usage(1.0), ()),  # nothing is known
        (Usage(1.0, 0.9, 0.1, 0.0, 0.0, 40), (CPU_WAIT,)),
        (Usage(1.0, 0.99, 0.01, 0.0, 0.0, 40), ()),
        (Usage(1.0, 1.0, 0.0, 1.0, 0.0, 0), (OTHERS,)),
        (Usage(1.0, 1.0, 0.0, 0.25, 0.0, 0), ()),  # the second CPU is not used
        (Usage(1.0, 1.0, 0.0, 0.0, 0.5, 0), (STEAL,)),
        (Usage(1.0, 0.5, 0.5, 1.0, 0.5, 9), (CPU_WAIT, OTHERS, STEAL)),
        (Usage(0.02, 0.02, 0.0, 1.0, 0.0, 0), ()),  # too short for ticks of 10 ms to mean anything
    ],
)
def test_disturbances_by_injected_figures(usage: Usage, found: tuple[str, ...]) -> None:
    assert disturbances(usage, 1, 2) == found


def test_with_a_thread_on_every_cpu_less_is_allowed() -> None:
    usage = Usage(1.0, 2.0, 0.0, 0.25, 0.0, 0)
    assert disturbances(usage, 2, 2) == (OTHERS,)
    waiting = Usage(1.0, 2.0, 2.0, 0.0, 0.0, 0)
    assert disturbances(waiting, 4, 2) == ()  # more threads than CPUs wait for each other
    assert disturbances(waiting, 2, 2) == (CPU_WAIT,)


@contextmanager
def spinning(cpu: int) -> Iterator[int]:
    """A process in a session of its own that spins on one CPU; the session's number."""
    code = (
        f"import os, time; os.sched_setaffinity(0, {{{cpu}}}); print('on', flush=True)\n"
        "end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no schedstat here")
def test_a_real_spinning_neighbour_is_seen() -> None:
    cpu = min(os.sched_getaffinity(0))
    with spinning(cpu) as engine, spinning(cpu):  # one CPU for both, whatever else the machine does
        watch = Watch(engine)
        time.sleep(0.5)
        usage = watch.since()
    assert usage.wait_share is not None and usage.wait_share > 0.2
    assert usage.cpu_s is not None and 0 < usage.cpu_s < usage.wall_s
    assert usage.others_cpus is not None and usage.others_cpus > 0.1
    assert CPU_WAIT in disturbances(usage, 1, 2)


def run(
    setup: str, tps: float, pass_no: int = 0, prompt: int = 0, disturbed: tuple[str, ...] = (), n: int = 50
) -> TimedRun:
    """A run with these figures."""
    return TimedRun(
        setup, "code", prompt, pass_no, 0, n, tps, 900.0, 0, 0, 0, None, 1, 1, 1, 0, 0, 0, 0, disturbed=disturbed
    )


def test_a_repeat_far_slower_than_the_others_is_marked() -> None:
    runs = [run("off", 100), run("off", 96, 1), run("off", 60, 2), run("n_max 2", 60), run("off", 50, 0, 1)]
    assert [one.disturbed for one in mark_slow(runs)] == [(), (), (SLOW,), (), ()]


def test_disturbed_runs_are_never_averaged_in() -> None:
    runs = [run("off", 100), run("off", 2, 1, disturbed=(CPU_WAIT,)), run("off", 110, 2)]
    found = overall_tps(runs)
    assert found is not None and (found.low, found.high, found.n) == (100, 110, 2)
    assert overall_tps([*runs, run("off", 3, 0, 1, (OTHERS,))]) is None, "a prompt without a figure is missing"
    assert overall_tps([*runs, run("off", 3, 0, 1, (SHORT,))]) == found


def test_prompts_are_weighed_by_their_tokens() -> None:
    found = overall_tps([run("off", 10, prompt=0, n=10), run("off", 100, prompt=1, n=300)])
    assert found is not None and found.median == pytest.approx(310 / (1 + 3))


def test_acceptance_is_weighed_by_steps() -> None:
    runs = [
        judged_run(ON, Ask("code", 0, "", 9), Completion([1] * 9, "", 9, 9, 9, 4, steps, rates, []), QUIET, 0, 0)
        for steps, rates in ((10, [0.5, 0.1]), (30, [0.9]))
    ]
    assert acceptance_of(runs) == [0.8, 0.025]
    assert acceptance_of([]) is None


def paired(n_good: int, n_busy: int) -> Compared:
    """n_max 2 at twice the speed of off in `n_good` passes; in `n_busy` more it was disturbed."""
    runs = [run("off", 100 + k, k) for k in range(n_good + n_busy)]
    runs += [run("n_max 2", 200 + k, k, disturbed=() if k < n_good else (CPU_WAIT,)) for k in range(n_good + n_busy)]
    return compare_setups(ON, OFF, runs, ALL_TASKS, n_tests=1, words=("MTP", "MTP off"))


def test_a_busy_machine_gives_no_number() -> None:
    busy = paired(3, 7)
    assert busy.result == Comparison("machine_busy", None, None, None, None, 3)
    assert busy.sentence == (
        "MTP cannot be compared with MTP off: the machine was too busy with other work, "
        "3 of 10 pairs of runs were undisturbed."
    )
    quiet = paired(8, 2)
    assert quiet.result.word == "faster" and quiet.result.n_pairs == 8
    assert "faster than MTP off: 1.9" in quiet.sentence
    few = paired(4, 0)
    assert few.sentence == "MTP is not distinguishable from MTP off: 4 pairs of runs are too few to tell."


def compared(setup: str, word: Word, ratio: float | None, base: str = "off", task: str = ALL_TASKS) -> Compared:
    """A comparison with this outcome."""
    return Compared(setup, base, task, Comparison(word, ratio, ratio, ratio, 0.5, 9), f"{setup} {word}")


def test_the_verdict_takes_no_ratio_that_is_not_significant() -> None:
    lucky = compared("n_max 3", "not_distinguishable", 1.6)
    sure, surer = compared("n_max 1", "faster", 1.1), compared("n_max 2", "faster", 1.2)
    busy, slower = compared("n_max 4", "machine_busy", None), compared("n_max 5", "slower", 0.8)
    assert headline([lucky, sure, surer, busy, slower]) is surer
    assert left_open([lucky, sure, surer, busy, slower]) == []
    assert headline([busy, lucky, slower]) is slower
    assert left_open([busy, lucky, slower]) == ["n_max 4 machine_busy", "n_max 3 not_distinguishable"]
    assert headline([busy, lucky]) is lucky
    assert headline([busy]) is busy and headline([]) is None


def test_the_verdict_is_over_all_tasks_and_the_other_model_first() -> None:
    single = compared("n_max 1", "faster", 3.0, task="code")
    off = compared("n_max 1", "faster", 2.0)
    crossed = compared("n_max 1", "slower", 0.9, base="against n_max 1")
    theirs = compared("against n_max 1", "faster", 9.0, base="against off")
    assert headline([single, off, theirs]) is off
    assert headline([single, off, crossed, theirs]) is crossed


class Machine:
    """A pool, a clock and a busy machine that becomes quiet after `n_busy` runs of 1 s each."""

    def __init__(self, n_busy: int) -> None:
        self.n_busy, self.now, self.n_runs = n_busy, 0.0, 0

    def get(self, setup: TimedSetup) -> None:
        """The engine is of no matter here."""

    def note_memory(self, setup: TimedSetup) -> None:
        """Nor its memory."""

    def time_run(self, running: Any, setup: TimedSetup, ask: Ask, pass_no: int, attempt: int) -> TimedRun:
        """One run, disturbed while the machine is busy."""
        self.now += 1
        self.n_runs += 1
        usage = Usage(1.0, 0.5, 0.5, 1.0, 0.0, 9) if self.n_runs <= self.n_busy else QUIET
        answer = Completion([1] * 9, "", 5.0 if usage is not QUIET else 100.0, 9, 0, 0, 0, None, [])
        return judged_run(setup, ask, answer, usage, pass_no, attempt)

    def busy(self) -> float:
        """A look at the machine, half a second long."""
        self.now += 0.5
        return 0.0

    def patience(self, budget_s: float) -> Patience:
        """Patience that lives on this machine."""
        return Patience(
            cast(Any, self), budget_s, time_run=self.time_run, busy=self.busy, clock=lambda: self.now
        )


def test_a_disturbed_run_is_repeated_and_kept() -> None:
    machine = Machine(2)
    patience = machine.patience(60)
    last = patience.run(OFF, Ask("code", 0, "", 9))
    assert last.good and last.attempt == 2
    assert [(one.good, one.decode_tps) for one in patience.runs] == [(False, 5.0), (False, 5.0), (True, 100.0)]
    assert patience.spent_s == 3.0  # two runs and two looks


def test_patience_has_an_end() -> None:
    machine = Machine(1000)
    patience = machine.patience(60)
    assert not patience.run(OFF, Ask("code", 0, "", 9)).good
    assert machine.n_runs == ATTEMPTS
    hurried = Machine(1000).patience(1.0)
    assert not hurried.run(OFF, Ask("code", 0, "", 9)).good
    assert len(hurried.runs) == 1 and hurried.used_up


def test_waiting_is_said_once() -> None:
    machine, said = Machine(1), list[str]()
    loads = iter([9.0, 9.0, 9.0])
    patience = Patience(
        cast(Any, machine), 60, time_run=machine.time_run, busy=lambda: next(loads, 0.0), clock=lambda: machine.now,
        say=said.append,
    )  # fmt: skip
    assert patience.run(OFF, Ask("code", 0, "", 9)).good and next(loads, None) is None
    assert said == ["waiting: other processes are using the CPU"]
