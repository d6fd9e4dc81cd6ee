"""The verb tune: the search on an engine whose speeds are known, and its plumbing on the real one."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from known_curve import KnownTimer
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT, need
from nextn.cli import main
from nextn.engines.base import Completion, Launch
from nextn.engines.llama_server import LlamaServer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import EngineFailed, EngineRefused, OutputExists, UsageError
from nextn.gguf.files import open_model
from nextn.measure.candidate_sidecars import Maker
from nextn.measure.target import open_target
from nextn.measure.timed_run import OTHERS
from nextn.measure.tune_space import Artifact, Point
from nextn.results.sections import read_section
from nextn.verbs.tune import command_line

SCHEMA = json.loads((ROOT / "src/nextn/schemas/tune.json").read_text())
Speed = Callable[[Launch], float]


class FakeRunning:
    """Answers at a speed that is known."""

    session = None
    alive = True
    memory: list[Any] = []  # noqa: RUF012

    def __init__(self, tps: float) -> None:
        self.tps, self.log = tps, Path("log")

    def complete(self, prompt: str, n_predict: int, **kwargs: Any) -> Completion:
        share = 1 + len(prompt) % 7 / 10  # prompts differ
        return Completion([1] * n_predict, "", self.tps * share, 900.0, 0, 0, 0, None, [])

    def stop(self) -> None:
        pass


class FakeEngine:
    """Speeds by launch; implements `Engine`."""

    name, version = "fake", "1"

    def __init__(self, speed: Speed, cost: Callable[[int], float] = lambda size: 0.9 + 0.1 * size) -> None:
        self.speed, self.launches, self.cost = speed, list[Launch](), cost

    def start(self, launch: Launch) -> Any:
        self.launches.append(launch)
        return FakeRunning(self.speed(launch))

    def batches(self, launch: Launch) -> KnownTimer:
        return KnownTimer(self.cost)


def head_type(launch: Launch) -> str:
    """Of the head that this launch drafts with."""
    tensors = open_model(launch.sidecar or launch.model).tensors
    heads = [name for name in tensors if name.endswith("shared_head_head.weight")]
    return tensors[heads[0] if heads else "token_embd.weight"][1].type_name


def mtp_wins(launch: Launch) -> float:
    if not launch.n_max:
        return 100.0
    speed = {1: 110.0, 2: 125.0, 3: 130.0, 4: 131.5, 5: 133.0, 6: 80.0}.get(launch.n_max, 50.0)
    return speed * (1.1 if head_type(launch) == "q4_0" else 1.0) * (0.9 if launch.p_min else 1.0)


def mtp_loses(launch: Launch) -> float:
    if not launch.n_max:
        return 23.6
    return {1: 18.5, 2: 18.0, 3: 17.8}.get(launch.n_max, 10.0) * (1.1 if head_type(launch) == "q4_0" else 1.0)


@pytest.fixture
def bundle(tiny_models: Any, tmp_path: Path) -> Path:
    path = tmp_path / "m" / "tiny-MTP-Q8_0.gguf"
    path.parent.mkdir()
    path.symlink_to(tiny_models.bundled)
    return path


def tuned(model: Path, speed: Speed, **options: Any) -> tuple[dict[str, Any], FakeEngine]:
    engine = FakeEngine(speed)
    report = nextn.tune(model, engine=engine, threads=[1], **options)
    found = json.loads(json.dumps(report.to_json()))
    validate(found, SCHEMA)
    return found, engine


def test_mtp_wins_with_another_head(bundle: Path) -> None:
    found, _ = tuned(bundle, mtp_wins)
    assert found["answer"]["word"] == "mtp" and found["comparison"]["word"] == "faster"
    assert (found["n_max"], found["p_min"], found["answer"]["head_type"]) == (5, 0.0, "q4_0")
    assert found["comparison"]["ratio"] == pytest.approx(1.463, rel=0.01)
    side = bundle.parent / "mtp-tiny-tuned.gguf"
    assert found["sidecar"] == str(side) and side.is_file()
    assert sorted(path.name for path in bundle.parent.iterdir()) == [
        "mtp-tiny-tuned.gguf", "tiny-MTP-Q8_0.gguf", "tiny-MTP-Q8_0.tune.json",
    ]  # fmt: skip
    written = json.loads((bundle.parent / "tiny-MTP-Q8_0.tune.json").read_text())
    assert written == found
    outcomes = {one["id"]: one["outcome"] for one in found["candidates"]}
    assert outcomes["n_max 5, head q4_0"] == "winner" and outcomes["n_max 6"] == "stopped"
    assert "nextn serve" in found["command"] and str(side) in found["command"]
    assert "n_max 5" in read_section(bundle.parent / "tiny-MTP-Q8_0.tune.json").summary[0]


@pytest.mark.engine
def test_serve_takes_what_tune_found(bundle: Path, tmp_path: Path) -> None:
    tuned(bundle, mtp_wins)
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    chosen = nextn.serve(bundle, engine="xllamacpp")
    assert (chosen.n_max, chosen.p_min, chosen.threads, chosen.layout) == (5, 0.0, 1, "sidecar")
    side = bundle.parent / "mtp-tiny-tuned.gguf"
    assert chosen.sidecar == side
    assert nextn.serve(bundle, engine="xllamacpp", n_max=0).sidecar is None
    side.unlink()
    alone = nextn.serve(bundle, engine="xllamacpp")
    assert alone.layout == "bundled" and any("is missing" in note for note in alone.notes)


@pytest.mark.engine
def test_arguments_of_another_engine_are_left_out(bundle: Path) -> None:
    tuned(bundle, mtp_wins, engine_args=("swa_full=true",))
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    chosen = nextn.serve(bundle, engine="xllamacpp")
    assert "swa_full" not in chosen.shell and any("are for fake" in note for note in chosen.notes)


@pytest.mark.engine
def test_off_wins(bundle: Path) -> None:
    found, engine = tuned(bundle, mtp_loses)
    assert found["answer"]["word"] == "off" and found["n_max"] == 0 and found["sidecar"] is None
    assert found["answer"]["sentence"].startswith("Leave MTP off: MTP (n_max 1, head q4_0) is slower")
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["tiny-MTP-Q8_0.gguf", "tiny-MTP-Q8_0.tune.json"]
    assert len({(one.n_max, one.p_min, one.sidecar) for one in engine.launches}) < found["settings"]["n_grid"] / 3
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    assert nextn.serve(bundle, engine="xllamacpp").n_max == 0


def test_off_also_when_equal(bundle: Path) -> None:
    found, _ = tuned(bundle, lambda launch: 101.0 if launch.n_max else 100.0)
    assert found["answer"]["word"] == "off" and found["comparison"]["word"] == "not_distinguishable"
    assert "not distinguishable" in found["answer"]["sentence"]


def test_nothing_is_written_for_a_type_that_does_not_pay(bundle: Path) -> None:
    found, _ = tuned(bundle, lambda launch: 100.0 + 20 * launch.n_max if launch.n_max < 4 else 60.0)
    assert found["n_max"] == 3 and found["answer"]["head_type"] is None and found["sidecar"] is None
    assert [Path(path).name for path in found["files"]] == ["tiny-MTP-Q8_0.tune.json"]


def test_lengths_that_cannot_win_are_not_raced(bundle: Path) -> None:
    engine = FakeEngine(mtp_wins, lambda size: 1.0 + 2.5 * (size > 1) if size < 4 else 1.5)
    report = nextn.tune(bundle, engine=engine, threads=[1], head_types=[], types=[], p_min=[])
    assert {launch.n_max for launch in engine.launches} == {0, 3, 4, 5, 6} and report.word == "mtp"
    assert [note for note in report.notes if "was not raced" in note][1].startswith("n_max 2 was not raced: even a")
    assert [one.outcome for one in report.candidates() if one.n_max in (1, 2)] == ["not tried", "not tried"]
    validate(json.loads(json.dumps(report.to_json())), SCHEMA)


def test_where_not_even_a_perfect_draft_pays_nothing_is_raced(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(mtp_wins, lambda size: 1.2 * size)
    report = nextn.tune(bundle, engine=engine, threads=[1])
    assert not engine.launches and (report.word, report.point.n_max if report.point else None) == ("off", 0)
    assert report.sentence.startswith("Leave MTP off: even a perfect draft would reach 0.")
    found = json.loads((bundle.parent / "tiny-MTP-Q8_0.tune.json").read_text())
    validate(found, SCHEMA)
    assert found["n_max"] == 0 and found["comparison"] is None and not found["runs"]
    assert "Leave MTP off" in read_section(bundle.parent / "tiny-MTP-Q8_0.tune.json").summary[0]
    assert nextn.tune(bundle, engine=engine, threads=[1], from_curve=False, out=bundle.parent / "x").word == "mtp"


def test_without_a_curve_all_lengths_are_raced(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeEngine, launch: Launch) -> KnownTimer:
        raise EngineFailed("keeps no cache of prompts")

    monkeypatch.setattr(FakeEngine, "batches", refuse)
    found, engine = tuned(bundle, mtp_wins, n_max=[1, 2], types=[], head_types=[])
    assert {launch.n_max for launch in engine.launches} == {0, 1, 2}
    assert "all lengths were raced, since batches could not be timed: keeps no cache of prompts" in found["notes"]


def test_a_refused_setting_is_passed_over(bundle: Path) -> None:
    def speed(launch: Launch) -> float:
        if launch.sidecar is not None:
            raise EngineRefused("no sidecars here", line="no")
        return 100.0 + 20 * launch.n_max if launch.n_max < 4 else 60.0

    found, _ = tuned(bundle, speed)
    assert found["n_max"] == 3 and any("no sidecars here" in note for note in found["notes"])
    assert {one["outcome"] for one in found["candidates"] if one["head_type"]} == {"refused"}
    with pytest.raises(EngineRefused):
        tuned(bundle, lambda launch: speed(Launch(Q4, Q4) if launch.n_max else launch), out=bundle.parent / "x")


def test_threads_count_with_mtp_and_without(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.verbs.tune.allowed_cpus", lambda: 8)
    engine = FakeEngine(lambda launch: (100 + 10 * launch.n_max) * (1.5 if launch.threads == 4 else 1.0))
    found = nextn.tune(bundle, engine=engine, threads=[8, 4], n_max=[1, 2], types=[], head_types=[]).to_json()
    assert (found["n_max"], found["threads"]) == (2, 4)
    assert found["comparison"]["base"] == "off, threads 4"
    with pytest.raises(UsageError, match="9 threads are more than the 8 CPUs"):
        nextn.tune(bundle, engine=engine, threads=[9], out=bundle.parent / "x")


def test_a_model_without_a_block_and_a_donor(tiny_models: Any, tmp_path: Path) -> None:
    model = tmp_path / "t" / "tiny-Q8_0.gguf"
    model.parent.mkdir()
    shutil.copy(tiny_models.trunk, model)
    found, _ = tuned(model, mtp_wins, donor=CHECKPOINT)
    assert found["answer"]["word"] == "mtp" and found["n_max"] == 5
    assert Path(found["sidecar"]).is_file() and Path(found["sidecar"]).parent == model.parent


def test_a_trunk_with_its_sidecar(tiny_models: Any, tmp_path: Path) -> None:
    model = tmp_path / "t" / "tiny-Q8_0.gguf"
    model.parent.mkdir()
    shutil.copy(tiny_models.trunk, model)
    shutil.copy(tiny_models.sidecar, model.parent / "mtp-tiny-Q8_0.gguf")

    def speed(launch: Launch) -> float:  # the sidecar has a head of q4_0 already, and one of q8_0 is no faster
        return 100.0 if not launch.n_max else 140.0 if head_type(launch) == "q4_0" else 130.0

    found, _ = tuned(model, speed, n_max=[1, 2])
    assert found["n_max"] == 1 and found["sidecar"] == str(model.parent / "mtp-tiny-Q8_0.gguf")
    made = [one for one in found["candidates"] if one["head_type"]]
    assert {(one["head_type"], one["outcome"]) for one in made} >= {("q8_0", "beaten")}


def test_a_budget_ends_the_races(bundle: Path) -> None:
    found, _ = tuned(bundle, mtp_wins, budget_s=1e-6)
    assert any(note.startswith("the time budget left no room for: head") for note in found["notes"])
    assert found["answer"]["head_type"] is None


def test_outputs_are_never_replaced(bundle: Path) -> None:
    (bundle.parent / "tiny-MTP-Q8_0.tune.json").write_text("mine")
    engine = FakeEngine(mtp_wins)
    with pytest.raises(OutputExists):
        nextn.tune(bundle, engine=engine)
    assert not engine.launches and (bundle.parent / "tiny-MTP-Q8_0.tune.json").read_text() == "mine"


def test_a_dry_run_starts_and_writes_nothing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["tune", str(bundle), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert found["dry_run"] and {one["outcome"] for one in found["candidates"]} == {"not tried"}
    assert 0 < found["planned_runs"]["least"] < found["planned_runs"]["most"]
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
    assert main(["tune", str(bundle), "--dry-run"]) == 0
    assert "n_max 6" in capsys.readouterr().err


@pytest.mark.engine
@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (["--n-max", "1.5"], 2, "whole numbers"),
        (["--n-max", "0"], 2, "MTP off is always timed"),
        (["--p-min", "1"], 2, "below 1"),
        (["--p-min", "x"], 2, "--p-min"),
        (["--types", "q9_9"], 2, "q9_9"),
        (["--threads", "0"], 2, "--threads is 0"),
        (["--threads", "4096"], 2, "CPUs that this process may use"),
        (["--budget", "soon"], 2, "--budget"),
        (["--from", str(CHECKPOINT)], 2, "there is a block already"),
    ],
)
def test_wrong_calls(
    bundle: Path, capsys: pytest.CaptureFixture[str], call: list[str], code: int, words: str
) -> None:
    capsys.readouterr()
    assert main(["tune", str(bundle), *call]) == code
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_busy_machine_gives_no_answer_and_no_file(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: FakeEngine(mtp_wins))
    monkeypatch.setattr("nextn.measure.timed_run.disturbances", lambda usage, threads, cpus: (OTHERS,))
    capsys.readouterr()
    assert main(["tune", str(bundle), "--patience", "0", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert found["answer"]["word"] == "machine_busy" and found["n_max"] is None and found["n_disturbed"] > 0
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_people_see_tables_and_scripts_the_command(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: FakeEngine(mtp_wins))
    capsys.readouterr()
    assert main(["tune", str(bundle), "--threads", "1", "-o", str(bundle.parent / "x" / "mtp-mine.gguf")]) == 0
    out, err = capsys.readouterr()
    side = bundle.parent / "x" / "mtp-mine.gguf"
    assert out == f"nextn serve {bundle} --n-max 5 --p-min 0 --sidecar {side} --threads 1\n" and side.is_file()
    assert "Use MTP with n_max 5, head q4_0" in err and f"wrote {side.with_name('tiny-MTP-Q8_0.tune.json')}" in err
    assert main(["tune", str(bundle), "--threads", "1", "--n-max", "1", "--head-types", "", "-q"]) == 0
    assert capsys.readouterr() == (f"nextn serve {bundle} --n-max 1 --p-min 0 --threads 1\n", "")


def test_the_command_of_a_llama_server() -> None:
    words = "--spec-type draft-mtp --spec-draft-n-max N --spec-draft-p-min P -md FILE"
    server = LlamaServer(Path("/opt/llama-server"), "1", "\n".join(f"--{w}" for w in words.split(" --")), {"A": "b c"})
    point = Point(2, 0.5, threads=3)
    assert command_line(server, Path("/m.gguf"), Path("/mtp-m.gguf"), point, ["-ngl", "9"]) == (
        "A='b c' /opt/llama-server -m /m.gguf --spec-type draft-mtp --spec-draft-n-max 2 --spec-draft-p-min 0.5 "
        "-md /mtp-m.gguf -t 3 -ngl 9"
    )
    assert command_line(server, Path("/m.gguf"), None, Point(0), []) == "A='b c' /opt/llama-server -m /m.gguf"


@pytest.mark.engine
def test_a_head_of_another_type_than_the_embeddings(tiny_models: Any, tmp_path: Path) -> None:
    made = Maker(open_target(tiny_models.bundled), None, tmp_path).write(
        Artifact("q8_0", "q4_0", "q8_0"), tmp_path / "mtp-a.gguf"
    )
    kinds = {name: info.type_name for name, (_, info) in open_model(made).tensors.items()}
    assert (kinds["blk.4.nextn.shared_head_head.weight"], kinds["token_embd.weight"]) == ("q4_0", "q8_0")
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    with Xllamacpp.find().start(Launch(tiny_models.bundled, made, 2, threads=1)) as running:
        answer = running.complete("import os\nimport sys\n\n\nclass Parser:\n    def __init__(self, stream):\n", 32)
    assert answer.draft_n_accepted > 0.3 * answer.draft_n > 0


def test_of_equals_the_users_own_file_is_taken(bundle: Path) -> None:
    def speed(launch: Launch) -> float:  # another head is faster by 2 %
        return 100.0 if not launch.n_max else 153.0 if launch.sidecar else 150.0

    found, _ = tuned(bundle, speed, n_max=[2], embd_types=[], types=[], head_types=["q4_0"])
    assert found["answer"]["head_type"] == "q4_0"
    found, _ = tuned(bundle, lambda one: 150.5 if one.sidecar else 150.0 if one.n_max else 100.0, n_max=[2],
                     types=[], out=bundle.parent / "again")  # fmt: skip
    assert found["answer"]["head_type"] is None and found["n_max"] == 2


def test_a_close_length_gets_into_the_final(bundle: Path) -> None:
    found, _ = tuned(bundle, lambda one: {0: 100.0, 2: 150.0, 3: 148.0}.get(one.n_max, 90.0), p_min=[],
                     types=[], head_types=[])  # fmt: skip
    outcomes = {one["id"]: one["outcome"] for one in found["candidates"]}
    assert outcomes["n_max 2"] == "winner" and outcomes["n_max 3"] == "finalist"


@pytest.mark.engine
def test_on_the_real_engine(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    capsys.readouterr()
    call = ["--n-max", "2", "--p-min", "0", "--types", "", "--head-types", "q4_0", "--embd-types", "", "--threads", "1"]
    code = main(["tune", str(bundle), *call, "--tasks", "code", "--n-predict", "32", "--patience", "0", "--race-all",
                 "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert code == (4 if found["answer"]["word"] == "machine_busy" else 0)
    assert {run["n_tokens"] for run in found["runs"]} <= {24, 32}
    drafted = {run["setup"] for run in found["runs"] if run["accepted"]}
    assert "n_max 2" in drafted and "off" not in drafted
    wrote = (bundle.parent / "tiny-MTP-Q8_0.tune.json").exists()
    assert wrote == (code == 0)
