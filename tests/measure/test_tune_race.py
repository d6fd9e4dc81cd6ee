"""Tune's racing without an engine: an injected clock and speeds that are known."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from nextn.cli.common import seconds
from nextn.errors import UsageError
from nextn.measure.cpu_watch import n_cpus
from nextn.measure.timed_run import OTHERS, TimedRun
from nextn.measure.tune_cpus import allowed_cpus, physical_cores, thread_counts
from nextn.measure.tune_race import race
from nextn.measure.tune_space import AS_IS, Artifact, Point, Space

BASE = TimedRun("", "code", 0, 0, 0, 48, 100.0, 900.0, 0, 0, 0, None, 1, 1, 1, 0, 0, 0, 0)


class Speeds:
    """Runs at given speeds, counted."""

    def __init__(self, tps: dict[str, float], noise: float = 0.0, busy: tuple[str, ...] = ()) -> None:
        self.tps, self.busy, self.calls = tps, busy, list[tuple[str, int]]()
        self.draw, self.noise = random.Random(1), noise

    def __call__(self, one: str, at: int) -> TimedRun | None:
        self.calls.append((one, at))
        if self.tps[one] == 0:
            return None
        speed = self.tps[one] * (1 + 0.3 * at) * self.draw.lognormvariate(0, self.noise)  # prompts differ
        return replace(BASE, setup=one, prompt=at, decode_tps=speed, disturbed=(OTHERS,) if one in self.busy else ())


def test_bad_settings_are_stopped_early_and_the_best_is_found() -> None:
    speeds = Speeds({"a": 100, "b": 60, "c": 80, "d": 95, "e": 30}, noise=0.01)
    found = race(list(speeds.tps), 3, speeds)
    assert found.stopped == {"b": 1, "e": 1, "c": 2}
    assert found.ranking(list(speeds.tps)) == ["a", "d", "c", "b", "e"]
    assert len(speeds.calls) == 5 + 3 + 2
    assert found.relative("d", "a") == pytest.approx(0.95, rel=0.05)


def test_the_fastest_of_each_group_goes_on() -> None:
    speeds = Speeds({"off": 100, "m1": 50, "m2": 60})
    found = race(list(speeds.tps), 3, speeds, group=lambda one: one == "off")
    assert found.stopped == {"m1": 1} and len(found.runs["m2"]) == 3


def test_one_after_the_other_where_two_do_not_fit() -> None:
    speeds = Speeds({"a": 100, "b": 60, "c": 120})
    found = race(list(speeds.tps), 3, speeds, side_by_side=lambda: False)
    assert [one for one, _ in speeds.calls] == ["a", "a", "a", "b", "c", "c", "c"]
    assert found.stopped == {"b": 1} and found.ranking(["a", "b", "c"])[0] == "c"


def test_disturbed_runs_rank_nothing_and_refused_ones_are_not_asked_again() -> None:
    speeds = Speeds({"a": 100, "b": 500, "c": 0}, busy=("b",))
    found = race(list(speeds.tps), 2, speeds)
    assert found.ranking(["a", "b", "c"]) == ["a"] and found.refused == ["c"]
    assert speeds.calls.count(("c", 0)) == 1 and ("c", 1) not in speeds.calls


def test_a_race_ends_when_time_is_up() -> None:
    speeds = Speeds({"a": 100, "b": 99})
    race(list(speeds.tps), 3, speeds, time_left=lambda: False)
    assert len(speeds.calls) == 2


def test_what_the_user_has_is_not_made_again() -> None:
    space = Space(own=Artifact("q8_0", "q4_0", "q4_0"))
    best = Point(2)
    assert [one.artifact for one in space.with_heads(best)] == [Artifact(None, "q8_0", "q8_0")]
    assert [one.artifact for one in space.with_blocks(best)] == [Artifact("q4_0", "q4_0", "q4_0")]
    assert space.with_embds(best) == [] and space.near(replace(best, n_max=6), [0, *space.n_max])[0].n_max == 5
    assert space.with_embds(Point(2, artifact=Artifact(None, "q8_0", "q8_0")))[0].id == (
        "n_max 2, head q8_0, embeddings q4_0"
    )


def test_the_grid_has_every_combination_once() -> None:
    space = Space((1, 2), False, (0.0, 0.5), ("q4_0",), (), ("q4_0",), own=Artifact("q8_0", "q8_0", "q8_0"))
    grid = space.grid()
    assert len(grid) == len(set(grid)) == 1 + 2 * 2 * 4 and grid[0].n_max == 0
    assert {one.artifact for one in grid} >= {AS_IS, Artifact("q4_0", "q4_0", "q4_0")}


def test_threads_never_exceed_what_may_be_used(tmp_path: Path) -> None:
    assert max(thread_counts()) <= allowed_cpus() <= n_cpus()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert allowed_cpus(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert allowed_cpus(tmp_path) == n_cpus()
    for cpu in range(64):
        where = tmp_path / f"cpu{cpu}" / "topology"
        where.mkdir(parents=True)
        (where / "physical_package_id").write_text("0\n")
        (where / "core_id").write_text("7\n")
    assert physical_cores(tmp_path) == 1, "all hardware threads of one core"
    assert physical_cores(tmp_path / "absent") == n_cpus()


def test_budgets() -> None:
    assert [seconds(text, "--budget") for text in ("90", "90s", "15m", "1.5h")] == [90, 90, 900, 5400]
    for text in ("", "soon", "0", "-3", "3d"):
        with pytest.raises(UsageError, match="--budget"):
            seconds(text, "--budget")
