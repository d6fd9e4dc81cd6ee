"""The verb worth: its answer on engines of known curves, what is kept, and both ways to time batches on real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from known_curve import CurveEngine
from schema_check import validate

import nextn
from conftest import Q4, ROOT, TRUNKS
from nextn.cli import main
from nextn.engines.base import Launch
from nextn.engines.batches import BatchTimer, LibraryBatches, ServerBatches
from nextn.engines.llama_server import LlamaServer
from nextn.engines.options import ServerOptions
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import EngineFailed, UsageError
from nextn.gguf.files import open_model
from nextn.measure.batch_curve import SIZES, curve_at, time_curve
from nextn.measure.worth_bytes import body_bytes, estimated_draft, head_share
from nextn.measure.worth_store import kept_here, worth_folder
from nextn.results.sections import read_section
from nextn.verbs.plan import plan

SCHEMA = json.loads((ROOT / "src/nextn/schemas/worth.json").read_text())


def cheap(size: int) -> float:
    return 0.8 + 0.2 * size


def dear(size: int) -> float:
    return 1.3 * size - 0.3


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXTN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are timed a few times: that they settle before counts for figures only."""
    monkeypatch.setattr("nextn.engines.batches.SETTLE_S", 0.01)


def found_by(engine: Any, **options: Any) -> dict[str, Any]:
    made = nextn.worth(Q4, engine=engine, **options)
    found: dict[str, Any] = json.loads(json.dumps(made.to_json()))
    validate(found, SCHEMA)
    return found


# -- the answer -------------------------------------------------------------------------------------------------------


def test_a_model_without_a_block_has_an_answer() -> None:
    engine = CurveEngine(cheap)
    found = found_by(engine, threads=3)
    assert found["word"] == "can_pay" and found["sentence"].startswith("can pay from ")
    assert [(one["n_tokens"], one["cost"]) for one in found["curve"]] == [(k, pytest.approx(cheap(k))) for k in SIZES]
    assert found["draft"]["source"] == "estimated" and found["draft"]["per_token"] > 0
    draft, step = found["draft"], cheap(4)
    needed = step + 3 * draft["per_token"] + draft["catch_up"] * step - 1
    assert found["break_even"]["3"]["accepted_per_step"] == pytest.approx(needed, abs=1e-3)
    assert found["ceiling"]["speedup"] > 1 and set(found["best"]) == {"0.5", "0.7", "0.9"}
    (launch,) = engine.launches
    assert (launch.n_max, launch.threads, launch.timed) == (0, 3, True)


def test_where_nothing_can_pay_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = found_by(CurveEngine(dear))
    assert found["word"] == "cannot_pay" and found["ceiling"]["speedup"] < 1
    assert found["sentence"].startswith("cannot pay here: even a perfect draft reaches 0.")
    assert all(one["per_position"] is None for one in found["break_even"].values())


def test_the_answer_is_for_the_first_depth() -> None:
    engine = CurveEngine(cheap)
    found = found_by(engine, depths=(64, 0))
    assert engine.timer.depths == [64, 32] and list(found["sentences"]) == ["64", "0"]
    assert {one["depth"] for one in found["curve"]} == {0, 64}
    assert engine.launches[0].n_ctx > 64 + sum(SIZES)


def test_slots_and_arguments_reach_the_engine() -> None:
    engine = CurveEngine(cheap)
    found = found_by(engine, slots=2, engine_args=("-ngl", "9"))
    assert (engine.launches[0].slots, engine.launches[0].extra_args) == (2, ("-ngl", "9"))
    assert found["settings"]["slots"] == 2 and found["settings"]["engine_args"] == ["-ngl", "9"]


def test_people_see_a_table_and_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: CurveEngine(cheap))
    assert main(["worth", str(Q4)]) == 0
    out = capsys.readouterr().out
    assert "accepted drafts needed" in out and out.splitlines()[-1].startswith("answer: can pay from ")
    assert main(["worth", str(Q4), "-q"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("can pay from ") and out.count("\n") == 1 and not err


def test_a_busy_machine_gives_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: CurveEngine(cheap))
    monkeypatch.setattr("nextn.measure.batch_curve.disturbances", lambda usage, threads, cpus: ("others_busy",))
    assert main(["worth", str(Q4), "--patience", "0", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert found["word"] == "machine_busy" and found["ceiling"] is None and not found["curve"]
    assert found["n_disturbed"] == len(found["passes"]) > 0 and not kept_here(open_model(Q4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["--ctx-depths", "4x"], "--ctx-depths takes numbers of tokens such as 0,4k,16k, and '4x' is not one"),
        (["--ctx-depths", ","], "name depths of context"),
        (["--ctx-depths", "9999k"], "a depth of 10,238,976 tokens leaves no room in the "),
        (["--threads", "0"], "0 is out of range"),
    ],
)
def test_wrong_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: list[str], words: str
) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: CurveEngine(cheap))
    assert main(["worth", str(Q4), *call]) == 2
    assert words in capsys.readouterr().err


def test_threads_are_checked_in_python_too() -> None:
    with pytest.raises(UsageError, match="--threads is 0; it must be at least 1"):
        nextn.worth(Q4, engine=CurveEngine(cheap), threads=0)


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_plan_shows_what_was_measured_here() -> None:
    found_by(CurveEngine(cheap), threads=2)
    (answer,) = [text for text in plan(Q4, header_only=True).answers if text.startswith("drafting on this machine")]
    assert "can pay from" in answer and "known 1, 2 threads" in answer


def test_a_newer_measurement_takes_the_place_of_an_older_one(data_folder: Path) -> None:
    model = open_model(Q4)
    found_by(CurveEngine(cheap))
    found_by(CurveEngine(dear))
    (kept,) = kept_here(model)
    assert kept.word == "cannot_pay" and len(list(worth_folder(model).iterdir())) == 1
    found_by(CurveEngine(cheap), slots=2)
    assert len(kept_here(model)) == 2


def test_a_block_does_not_change_the_kind_of_model_and_another_type_does(tiny_models: Any) -> None:
    trunk, bundled = worth_folder(open_model(tiny_models.trunk)), worth_folder(open_model(tiny_models.bundled))
    assert trunk == bundled != worth_folder(open_model(Q4))


def test_another_machines_figures_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found_by(CurveEngine(cheap))
    monkeypatch.setattr("nextn.measure.bench_setup.cpu_name", lambda: "another one")
    assert not kept_here(open_model(Q4))


def test_damaged_figures_are_passed_over(data_folder: Path) -> None:
    found_by(CurveEngine(cheap))
    (path,) = worth_folder(open_model(Q4)).iterdir()
    path.write_text("{")
    assert not kept_here(open_model(Q4)) and plan(Q4, header_only=True).worth is None


def test_nothing_is_kept_unless_asked_for(data_folder: Path) -> None:
    nextn.worth(Q4, engine=CurveEngine(cheap), remember=False)
    assert not data_folder.exists()


def test_report_draws_the_curve(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(found_by(CurveEngine(cheap))))
    section = read_section(tmp_path / "w.json")
    (plot,) = section.plots
    assert plot["kind"] == "curve" and [one["n_tokens"] for one in plot["pays"]] == list(SIZES)
    (points,) = plot["series"].values()
    assert points[3]["cost"] == pytest.approx(cheap(4))
    assert plot["pays"][3]["cost"] < 4  # what drafting three tokens costs is left for them
    assert section.summary[0].startswith("On this machine drafting can pay from ")
    assert section.tables[1].head == ("n_max", "accepted drafts per step", "per position")


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_the_heads_share_of_a_token() -> None:
    model = open_model(Q4)  # tied: the embeddings are the head
    head = model.tensors["token_embd.weight"][1].computed_size_bytes
    body = sum(info.computed_size_bytes or 0 for _, info in model.items() if info.name.startswith("blk."))
    assert head is not None and head_share(model) == pytest.approx(head / (head + body))
    draft = estimated_draft(model)
    assert draft.catch_up == pytest.approx(body / 4 / (head + body))
    assert estimated_draft(model, "q4_0").per_token <= draft.per_token < 1


def test_only_the_experts_that_are_used_count() -> None:
    model = open_model(TRUNKS / "qwen35moe-BF16.gguf")
    used, count = model.arch_int("expert_used_count"), model.arch_int("expert_count")
    experts = sum(info.computed_size_bytes or 0 for _, info in model.items() if "_exps." in info.name)
    layers = sum(info.computed_size_bytes or 0 for _, info in model.items() if info.name.startswith("blk."))
    assert 0 < used < count
    assert body_bytes(model) == pytest.approx(layers - experts * (1 - used / count))


# -- servers ----------------------------------------------------------------------------------------------------------


class KnownServer:
    """Answers with timings: 1 ms per token of a batch, 2 ms per request, 1 ms per generated token."""

    session = None

    def __init__(self, cached: int | None = None) -> None:
        self.cached = cached
        self.asked: list[list[int]] = []
        self.held: list[int] = []

    def tokenize(self, text: str) -> list[int]:
        return list(range(len(text)))

    def prompt_seconds(self, prompts: list[list[int]]) -> list[tuple[int, float]]:
        out = []
        for prompt in prompts:
            shared = next((i for i, (a, b) in enumerate(zip(prompt, self.held, strict=False)) if a != b), None)
            shared = min(len(prompt), len(self.held)) if shared is None else shared
            n = max(1, len(prompt) - (shared if self.cached is None else self.cached))
            self.asked.append(prompt)
            self.held = prompt
            out.append((n, 0.002 + 0.001 * n))
        return out

    def generated(self, prompts: list[list[int]], n_predict: int) -> list[tuple[list[int], float]]:
        self.held = prompts[0] + [7] * (n_predict - 1)
        return [([7] * n_predict, 0.001) for _ in prompts]

    def stop(self) -> None:
        pass


def test_new_tokens_of_a_prompt_are_a_batch() -> None:
    server = KnownServer()
    with ServerBatches(server, Launch(Q4)) as timer:  # type: ignore[arg-type]
        timer.prefix("some text that is long enough" * 20, 32)
        found = timer.one_pass((1, 2, 4), 3, 0)
    assert found.seconds == {size: pytest.approx([0.001 * size] * 3) for size in (1, 2, 4)}
    assert not found.state_seconds


def test_a_server_without_a_cache_is_refused() -> None:
    server = KnownServer(cached=0)
    words = "batches cannot be timed by its prompt cache"
    with ServerBatches(server, Launch(Q4)) as timer, pytest.raises(EngineFailed, match=words):  # type: ignore[arg-type]
        timer.prefix("some text that is long enough" * 20, 32)
        timer.one_pass((1, 2), 1, 0)


def test_servers_decode_prompts_whole() -> None:
    options = ServerOptions("--ctx-checkpoints N\n--swa-full\n")
    assert options.whole_prompts() == ["--ctx-checkpoints", "0", "--swa-full"]
    assert ServerOptions("--port N\n").whole_prompts() == []


@pytest.mark.slow
def test_a_server_that_speaks_http(
    standin: LlamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextn.measure.batch_curve.disturbances", lambda usage, threads, cpus: ())
    assert main(["worth", str(Q4), "--engine", str(standin.binary), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    share = head_share(open_model(Q4))
    costs = {one["n_tokens"]: one["cost"] for one in found["curve"]}
    assert costs == {k: pytest.approx((0.5 * (1 + k) - share) / (1 - share), abs=1e-3) for k in SIZES}
    assert found["settings"]["timed"] == "server"


@pytest.mark.slow
def test_a_wheel_whose_library_cannot_be_called_is_asked_as_a_server(tmp_path: Path) -> None:
    settings = json.dumps({"die": "", "at": "", "help": ""})
    path = os.pathsep.join((str(ROOT / "tests" / "support" / "played_wheel"), os.environ["PYTHONPATH"]))
    env = {**os.environ, "PYTHONPATH": path, "PLAYED_WHEEL": settings, "NEXTN_DATA": str(tmp_path)}
    script = "import sys; from nextn.cli import main; from nextn.engines import batches; batches.SETTLE_S = 0.01; "
    done = subprocess.run(
        [sys.executable, "-c", script + "sys.exit(main())", "worth", str(Q4), "--patience", "0", "--json", "-q"],
        env=env, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 4) and not done.stderr  # 4: the machine was busy
    assert json.loads(done.stdout)["settings"]["timed"] == "server"


# -- real engines -----------------------------------------------------------------------------------------------------
# How fast anything is does not belong here: both ways must time the same batches. By how much their curves differ on a
# quiet machine is measured and kept by benchmarks/worth.py.


def timed_by(timer: BatchTimer, sizes: Sequence[int] = SIZES) -> None:
    with timer:
        timer.prefix("import os\nimport sys\n\n\ndef main():\n" * 20, 32)
        found = timer.one_pass(sizes, 2, 1)
        assert set(found.seconds) == set(sizes)
        assert all(len(values) == 2 and all(value >= 0 for value in values) for values in found.seconds.values())


@pytest.mark.engine
@pytest.mark.parametrize("slots", [1, 2])
def test_both_ways_time_the_same_batches(xllamacpp_engine: Xllamacpp, slots: int) -> None:
    """A server's batch is refused unless exactly that many tokens were decoded; the library decodes what it is told."""
    launch = Launch(Q4, n_ctx=2048, threads=1, slots=slots)
    library, server = xllamacpp_engine.batches(launch), xllamacpp_engine.server_batches(launch)
    assert isinstance(library, LibraryBatches) and isinstance(server, ServerBatches)
    timed_by(library)
    timed_by(server)


@pytest.mark.engine
def test_a_server_of_the_wheel(wheel_server: LlamaServer) -> None:
    timed_by(wheel_server.batches(Launch(Q4, n_ctx=2048, threads=1)))


# Full attention, sliding windows, latent attention with experts, recurrent state with snapshots and without.
FAMILIES = ("glm4moe", "mimo2", "deepseek3", "nemotronh", "qwen4exp")
ANY = ("qwen3next-BF16.gguf", *(f"families/{name}-Q8_0.gguf" for name in FAMILIES))


@pytest.mark.engine
@pytest.mark.parametrize("name", ANY)
def test_any_architecture(xllamacpp_engine: Xllamacpp, name: str) -> None:
    launch = Launch(TRUNKS / name, n_ctx=2048, threads=1)
    timed_by(xllamacpp_engine.batches(launch))
    timed_by(xllamacpp_engine.server_batches(launch), (1, 2, 7, 16))  # each is repeated until its time settles


@pytest.mark.engine
def test_recurrent_state_is_saved_where_the_engine_keeps_no_snapshots(xllamacpp_engine: Xllamacpp) -> None:
    for name, saves in (("qwen3next-BF16.gguf", True), ("tiny-qwen35-Q8_0.gguf", False)):
        with xllamacpp_engine.batches(Launch(TRUNKS / name, n_ctx=2048, threads=1)) as timer:
            timer.prefix("import os\n" * 20, 32)
            assert bool(timer.one_pass((1, 2), 2, 0).state_seconds) is saves


@pytest.mark.engine
def test_what_the_engine_says_of_a_file_that_it_refuses(
    xllamacpp_engine: Xllamacpp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worth", str(Q4), "--", "no_such=1"]) == 31
    assert "xllamacpp has no parameter 'no_such'" in capsys.readouterr().err


@pytest.mark.engine
def test_the_whole_way_with_a_block(
    xllamacpp_engine: Xllamacpp, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the machine is quiet is not what is tested.
    for module in ("batch_curve", "timed_run"):
        monkeypatch.setattr(f"nextn.measure.{module}.disturbances", lambda usage, threads, cpus: ())
    monkeypatch.setattr("nextn.measure.batch_curve.SLOW_REPEAT", 0.0)
    monkeypatch.setattr("nextn.measure.batch_curve.MOST_PASSES", 3)
    monkeypatch.setattr("nextn.verbs.worth.N_PREDICT", 16)
    found = json.loads(json.dumps(nextn.worth(tiny_models.bundled, engine=xllamacpp_engine, threads=1).to_json()))
    validate(found, SCHEMA)
    assert found["draft"]["source"] == "measured" and found["settings"]["timed"] == "library"
    assert {run["setup"] for run in found["runs"]} == {"off", "n_max 1", "n_max 4"}
    assert all(run["accepted"] > 0 for run in found["runs"] if run["setup"] == "n_max 1")


@pytest.mark.engine
def test_time_curve_on_an_engine(xllamacpp_engine: Xllamacpp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.measure.batch_curve.disturbances", lambda usage, threads, cpus: ())
    monkeypatch.setattr("nextn.measure.batch_curve.SLOW_REPEAT", 0.0)
    launch = Launch(Q4, n_ctx=2048, threads=1, timed=True)
    run, all_outputs = time_curve(xllamacpp_engine, launch, [32, 128], 0.0, lambda text: None, most_passes=3)
    assert all_outputs and all(curve_at(run.passes, depth, None) is not None for depth in (32, 128))
    assert all(one.usage.cpu_s and one.usage.cpu_s > 0 for one in run.passes)
