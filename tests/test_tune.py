"""tune: races on speeds that are told, decisions that have to be right, and the whole verb on an engine."""

from __future__ import annotations

import importlib.util
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TinyModels, need
from nextn.errors import NoBlock, OutputExists, UsageError
from nextn.gguf.files import open_model
from nextn.measure.race import race
from nextn.measure.target import open_target
from nextn.measure.tasks import shipped_tasks
from nextn.measure.trial import CPU_WAIT, Ask, Run, Setup
from nextn.measure.tune import Search, asks_of, tune
from nextn.measure.tune_report import TuneReport
from nextn.measure.tune_space import Artifact, Maker, Point, Space, checked_space, maker_of
from nextn.serve import choose

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "tune.json").read_text())
Speed = Callable[[Setup, Ask], float]


def checked(data: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(json.dumps(data)), SCHEMA)


def run_of(setup: Setup, ask: Ask, stage: int, tps: float, disturbed: tuple[str, ...] = ()) -> Run:
    return Run(setup.id, ask.task, ask.prompt_index, stage, 0, 64, tps, 1000.0, 0, 0, 64, None, 1.0, None, None, None,
               None, None, None, disturbed)  # fmt: skip


def asks(n: int) -> list[Ask]:
    return [Ask("own", index, f"prompt {index}", 32) for index in range(n)]


def setups(*ids: str) -> list[Setup]:
    return [Setup(ident, Path("model.gguf")) for ident in ids]


# -- races ------------------------------------------------------------------------------------------------------------


def test_slow_ones_are_stopped_early_and_the_fastest_wins() -> None:
    speeds = {"a": 100.0, "b": 98.5, "c": 90.0, "d": 50.0}
    seen: list[str] = []

    def time_run(setup: Setup, ask: Ask, stage: int) -> Run:
        seen.append(setup.id)
        return run_of(setup, ask, stage, speeds[setup.id])

    ended = race(setups("d", "c", "b", "a"), asks(6), time_run)
    assert ended.winner is not None and ended.winner.id == "a"
    assert [lane.setup.id for lane in ended.lanes] == ["a", "b", "c", "d"]
    assert seen.count("d") == 1 and seen.count("c") == 3 and seen.count("a") == 6
    assert ended.lanes[-1].share == pytest.approx(0.5)


def test_turns_are_taken_in_reverse_every_second_time() -> None:
    seen: list[tuple[str, int]] = []

    def time_run(setup: Setup, ask: Ask, stage: int) -> Run:
        seen.append((setup.id, ask.prompt_index))
        return run_of(setup, ask, stage, 1.0)

    race(setups("a", "b"), asks(2), time_run)
    assert seen == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]


def test_one_that_is_kept_stops_nobody_and_is_not_stopped() -> None:
    speeds = {"off": 200.0, "a": 100.0, "b": 95.0}
    ended = race(
        setups("off", "a", "b"), asks(4), lambda setup, ask, stage: run_of(setup, ask, stage, speeds[setup.id]),
        keep=["off"],
    )  # fmt: skip
    lanes = {lane.setup.id: lane for lane in ended.lanes}
    assert lanes["off"].dropped_after is None and lanes["a"].dropped_after is None and lanes["b"].dropped_after == 4
    assert lanes["off"].share == pytest.approx(2.0)
    best = ended.best_of(["a", "b"])
    assert best is not None and best.setup.id == "a"


def test_disturbed_runs_do_not_count() -> None:
    def time_run(setup: Setup, ask: Ask, stage: int) -> Run:
        starved = setup.id == "a" and ask.prompt_index % 2 == 0
        return run_of(setup, ask, stage, 5.0 if starved else 100.0, (CPU_WAIT,) if starved else ())

    slower = {"a": 1.0, "b": 0.99}
    ended = race(
        setups("a", "b"), asks(4),
        lambda setup, ask, stage: time_run(setup, ask, stage) if setup.id == "a"
        else run_of(setup, ask, stage, 100.0 * slower["b"]),
    )  # fmt: skip
    assert ended.winner is not None and ended.winner.id == "a"
    nothing = race(setups("a", "b"), asks(2), lambda s, a, n: run_of(s, a, n, 5.0, (CPU_WAIT,)))
    assert nothing.winner is None


# -- the search -------------------------------------------------------------------------------------------------------


class Machine:
    """A machine of which all speeds are known; a Patience for the search."""

    def __init__(self, speed: Speed, disturbed: bool = False) -> None:
        self.speed, self.disturbed, self.runs = speed, disturbed, []  # type: ignore[var-annotated]

    def run(self, setup: Setup, ask: Ask, number: int = 0) -> Run:
        noise = 1 + 0.004 * (zlib.crc32(f"{setup.id} {ask} {number}".encode()) % 7 - 3)
        run = run_of(setup, ask, number, self.speed(setup, ask) * noise, (CPU_WAIT,) if self.disturbed else ())
        self.runs.append(run)
        return run


def search(speed: Speed, tmp_path: Path, bundled: Path, space: Space | None = None, **more: Any) -> TuneReport:
    target = open_target(bundled)
    report = TuneReport(target, checked_space(space or Space(threads=(2, 1))), tmp_path / "x.tune.json", {})
    machine: Any = Machine(speed, **more)
    made = maker_of(target.model, target.block_origin, None)
    Search(report, made, machine, tmp_path, asks_of(shipped_tasks(), 64, 0.0), lambda text: None).run()
    report.engine, report.machine = {"name": "told", "version": "1"}, {"n_cpus": 2}
    checked(report.to_json())
    return report


def told(setup: Setup, off: float, peak: int, gain: float) -> float:
    """Speed with a best draft length; one thread is half as fast."""
    threads = 0.5 if setup.threads == 1 else 1.0
    if not setup.n_max:
        return off * threads
    return off * gain * (1 - 0.06 * abs(setup.n_max - peak)) * threads * (0.9 if setup.p_min else 1.0)


@pytest.mark.parametrize("peak", [1, 2, 3, 4])
def test_it_finds_what_pays(peak: int, tmp_path: Path, tiny_models: TinyModels) -> None:
    report = search(lambda setup, ask: told(setup, 100, peak, 1.3), tmp_path, tiny_models.bundled)
    assert report.decision == "mtp" and report.winner is not None
    assert (report.winner.n_max, report.winner.p_min, report.winner.threads) == (peak, 0.0, 2)
    assert report.comparison is not None and report.comparison.ratio == pytest.approx(1.3, rel=0.02)
    assert len(report.runs) < 0.34 * 6 * report.space.n_grid


def test_it_says_leave_it_off(tmp_path: Path, tiny_models: TinyModels) -> None:
    report = search(lambda setup, ask: told(setup, 100, 2, 0.85), tmp_path, tiny_models.bundled)
    assert report.decision == "off" and report.winner is not None and report.winner.n_max == 0
    assert report.sentence.startswith("leave MTP off: the best found with it, n_max 2")
    equal = search(lambda setup, ask: told(setup, 100, 2, 1.0), tmp_path, tiny_models.bundled)
    assert equal.decision == "off" and "not distinguishable" in equal.sentence


def test_it_tries_nothing_more_where_it_is_hopeless(tmp_path: Path, tiny_models: TinyModels) -> None:
    report = search(lambda setup, ask: told(setup, 100, 2, 0.4), tmp_path, tiny_models.bundled)
    assert report.decision == "off" and any("types were not tried" in note for note in report.notes)
    assert not any("q4_0" in one.point.id for one in report.tried)


def test_a_cheaper_head_is_found_and_made(tmp_path: Path, tiny_models: TinyModels) -> None:
    def speed(setup: Setup, ask: Ask) -> float:
        return told(setup, 100, 2, 1.2) * (1.15 if "draft head q4_0" in setup.id else 1.0)

    report = search(speed, tmp_path, tiny_models.bundled)
    assert report.winner is not None and report.winner.artifact == Artifact(draft_head="q4_0")
    sidecar = next(path for path in tmp_path.glob("mtp-q4_0*.gguf"))
    assert "blk.4.nextn.shared_head_head.weight" in open_model(sidecar).tensors


def test_threads_are_tuned_without_mtp_as_well(tmp_path: Path, tiny_models: TinyModels) -> None:
    def speed(setup: Setup, ask: Ask) -> float:  # one thread is faster, and MTP off then beats everything
        base = 100.0 if not setup.n_max else 110.0
        return base * (1.5 if setup.threads == 1 and not setup.n_max else 1.0)

    report = search(speed, tmp_path, tiny_models.bundled)
    assert report.decision == "off" and report.winner == Point(0, threads=1)


def test_a_busy_machine_gets_no_verdict(tmp_path: Path, tiny_models: TinyModels) -> None:
    report = search(lambda setup, ask: 100.0, tmp_path, tiny_models.bundled, disturbed=True)
    assert report.decision == "cannot_tell" and "too busy" in report.sentence
    assert report.runs and not any(run.good for run in report.runs)


def test_a_type_that_cannot_be_made_is_passed_over(
    tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Maker, artifact: Artifact, folder: Path) -> Path:
        raise UsageError("no such thing.")

    monkeypatch.setattr(Maker, "make", refuse)
    report = search(lambda setup, ask: told(setup, 100, 2, 1.3), tmp_path, tiny_models.bundled)
    assert report.decision == "mtp" and any("was not tried: no such thing" in note for note in report.notes)


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_the_space_and_writes_nothing(tiny_models: TinyModels, tmp_path: Path) -> None:
    report = tune(tiny_models.bundled, out=tmp_path / "out", dry_run=True)
    data = report.to_json()
    checked(data)
    assert data["dry_run"] and data["decision"] is None and data["space"]["n_grid"] > 50
    assert not (tmp_path / "out").exists()


def test_wrong_calls_are_sentences(tiny_models: TinyModels, tmp_path: Path) -> None:
    for space in (Space(n_max=()), Space(n_max=(0,)), Space(p_min=(1.0,)), Space(threads=(0,))):
        with pytest.raises(UsageError):
            tune(tiny_models.bundled, space=space, dry_run=True)
    trunk = tmp_path / Q4.name
    trunk.symlink_to(Q4)
    with pytest.raises(NoBlock):
        tune(trunk, dry_run=True)
    (tmp_path / f"{tiny_models.bundled.stem}.tune.json").write_text("{}")
    with pytest.raises(OutputExists, match=r"tune\.json"):
        tune(tiny_models.bundled, out=tmp_path)


def test_on_the_engine_and_into_serve(tiny_models: TinyModels, tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    trunk = tmp_path / Q4.name
    trunk.symlink_to(Q4)
    space = Space((1, 2), (0.0,), (None,), (None, "q4_0"), (None,), (1,))
    report = nextn.tune(trunk, donor=CHECKPOINT, space=space, n_predict=24, patience_s=2, out=tmp_path / "out")
    data = report.to_json()
    checked(data)
    assert {run["setup"] for run in data["runs"]} >= {"off, 1 thread"} and report.tried
    assert not list(tmp_path.glob("*.gguf.tmp"))
    if report.decision == "cannot_tell":
        assert report.written == []
        return
    assert json.loads(report.note.read_text())["decision"] == report.decision
    chosen = choose(trunk, tuned=report.note)
    assert chosen.n_max == data["n_max"] and chosen.threads == data["threads"]
    if data["sidecar"]:
        assert chosen.sidecar == Path(data["sidecar"])


def test_serve_takes_the_tuned_sidecar(tiny_models: TinyModels, tmp_path: Path) -> None:
    note = tmp_path / "x.tune.json"
    note.write_text(json.dumps({"version": 1, "n_max": 2, "sidecar": str(tiny_models.sidecar)}))
    assert choose(tiny_models.trunk, tuned=note).sidecar == tiny_models.sidecar
    moved = tmp_path / tiny_models.sidecar.name
    moved.write_bytes(tiny_models.sidecar.read_bytes())
    note.write_text(json.dumps({"version": 1, "n_max": 2, "sidecar": f"/nowhere/{moved.name}"}))
    assert choose(tiny_models.trunk, tuned=note).sidecar == moved
    note.write_text(json.dumps({"version": 1, "n_max": 0, "sidecar": None}))
    assert choose(tiny_models.trunk, tuned=note).n_max == 0
