"""The verb train: what it plans, what it refuses before hours of work, how stages resume, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafts import TRUNK, as_architecture
from schema_check import validate
from trained import answer

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TinyModels, need
from nextn.cli import main
from nextn.engines.llama_server import LlamaServer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import EngineMissing, NextnError, NoSpace, OutputExists, TrainingMissing, UsageError
from nextn.gguf.files import open_model
from nextn.schemas.train import FitMade
from nextn.training.fit import FitOptions
from nextn.training.states import States, StatesFolder, StatesManifest, Trunk
from nextn.training.write_states import StatesOptions
from nextn.verbs import train as verb

SCHEMA = json.loads((ROOT / "src/nextn/schemas/train.json").read_text())
PROMPTS = [f"def f{n}(x):\n    return x +" for n in range(12)]


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copyfile(Q4, folder / Q4.name)
    return folder / Q4.name


def checked(result: nextn.TrainResult) -> dict[str, Any]:
    """The document, which fits its schema."""
    found: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    validate(found, SCHEMA)
    return found


# -- a dry run --------------------------------------------------------------------------------------------------------


def test_a_dry_run_plans_and_writes_nothing(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", str(trunk), "--budget", "1h40m", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert (found["outcome"], found["draft"], found["before"]) == ("planned", "native", None)
    assert found["budget"] == {"states": 2400.0, "fit": 3000.0, "judge": 600.0}
    assert found["work"] == "tiny-qwen35-Q4_K_M.train" and found["files"] == [] and found["sidecar"] is None
    sizes = found["sizes"]
    assert sizes["n_tokens_most"] == 10 * 10**9 // sizes["bytes_per_token"] and sizes["bytes_per_token"] == 712
    assert main(["train", str(trunk), "--kind", "eagle3", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "layers 1, 2, 3" in err and "would train an EAGLE-3 draft for tiny-qwen35-Q4_K_M.gguf" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_one_stage_or_an_export(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = checked(nextn.train(trunk, export=tmp_path / "x", budget_s=100.0, dry_run=True))
    assert found["draft"] == "eagle3" and found["budget"] == {"states": 100.0, "fit": 0.0, "judge": 0.0}
    found = checked(nextn.train(trunk, stage="fit", budget_s=100.0, dry_run=True))
    assert found["draft"] == "native" and found["budget"] == {"states": 0.0, "fit": 100.0, "judge": 0.0}
    assert main(["train", str(trunk), "--export", "x", "--dry-run"]) == 0
    assert "budget: states 60 min; work folder" in capsys.readouterr().err


def test_what_is_there_is_what_has_to_be_beaten(trunk: Path, tiny_models: TinyModels) -> None:
    shutil.copyfile(tiny_models.sidecar, trunk.parent / "mtp-tiny-qwen35-Q8_0.gguf")
    assert nextn.train(trunk, dry_run=True).before == "mtp-tiny-qwen35-Q8_0.gguf"
    assert nextn.train(trunk, donor=CHECKPOINT, dry_run=True).before == CHECKPOINT.name
    assert nextn.train(tiny_models.bundled, dry_run=True).before == f"the block of {tiny_models.bundled.name}"


# -- what is refused --------------------------------------------------------------------------------------------------


def test_without_torch_it_is_one_sentence(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec

    def gone(name: str, package: str | None = None) -> object:
        return None if name in ("torch", "safetensors") else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", gone)
    assert main(["train", str(trunk), "--work", str(tmp_path / "w")]) == TrainingMissing.exit_code == 33
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"nextn: {trunk}: fitting a draft needs torch and safetensors")
    assert "pipx inject nextn torch safetensors' (in a virtual environment: pip install torch safetensors)" in err


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"stage": "teach"}, UsageError, "'teach' is not a stage; choose states, fit, judge"),
        ({"budget_s": 0.0}, UsageError, "--budget must be longer than no time"),
        ({"layout": "shards"}, UsageError, "not a layout of a trained draft"),
        ({"kind": "eagle3", "layout": "bundle"}, UsageError, "leave out --layout bundle"),
        ({"max_disk_bytes": 1000}, NoSpace, "the states of 1,000 tokens take 712,000 bytes"),
        ({"export": "x", "stage": "fit"}, UsageError, "leave out --stage"),
    ],
)
def test_wrong_calls(
    options: dict[str, Any], error: type[NextnError], says: str, trunk: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says) as caught:
        nextn.train(trunk, work=tmp_path / "w", dry_run=True, **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "w").exists()


def test_a_donor_of_another_kind(trunk: Path, tiny_models: TinyModels) -> None:
    with pytest.raises(UsageError, match="this is not an EAGLE-3 draft, so training cannot start from it"):
        nextn.train(trunk, kind="eagle3", donor=tiny_models.sidecar, dry_run=True)


def test_a_result_that_could_not_be_written_is_refused_first(trunk: Path, tmp_path: Path) -> None:
    (tmp_path / "mtp-x.gguf").touch()
    with pytest.raises(OutputExists):
        nextn.train(trunk, out=tmp_path / "mtp-x.gguf", dry_run=True)


def test_an_architecture_that_nothing_drafts_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trunk = as_architecture(TRUNK, tmp_path / "g.gguf", "gemma3")
    assert main(["train", str(trunk), "--dry-run"]) == 16
    assert capsys.readouterr().err.count("\n") == 1


# -- stages, with text and fit played ---------------------------------------------------------------------------------


class Played:
    """Takes the place of writing text and of fitting: files as both would leave them, from the shipped block."""

    def __init__(self, tiny: TinyModels) -> None:
        self.tiny = tiny
        self.asked: list[StatesOptions] = []
        self.fitted: list[FitOptions] = []

    def write_states(self, trunk: Path, out: Path, options: StatesOptions, progress: Callable[..., None]) -> States:
        self.asked.append(options)
        taps = None if options.native else list(options.taps or ())
        model = open_model(trunk)
        wanted = StatesManifest(
            Trunk("tiny", model.size_bytes, "ab" * 32), "qwen35", 256, 2048, taps, taps is None, "engine", None,
            "xllamacpp", options.seed, 4, 16, 0.0, 1.0, {"n": 3, "sha256": ""},
        )  # fmt: skip
        out.mkdir(exist_ok=True)
        folder = StatesFolder.start(out, wanted)
        if not folder.manifest.chunks:
            n_taps = 1 if taps is None else len(taps)
            folder.add(0, "held", [answer(0, 3, 9, n_taps)], 1.0)
            folder.add(0, "fit", [answer(1, 3, 30, n_taps)], 1.0)
        return States.open(out)

    def fit(self, trunk: Path, states: Path, out: Path, options: FitOptions, progress: Callable[..., None]) -> None:
        self.fitted.append(options)
        out.mkdir(exist_ok=True)
        names = {}
        for step in (100, 200):
            path = out / f"candidate-{step:06d}.gguf"
            shutil.copyfile(self.tiny.sidecar, path)
            names[path.name] = step / 1000
        curve = [
            {"step": step, "n_tokens": 40 * step, "seconds": step / 10, "loss": 2.0, "agreement": [0.5, 0.3, 0.1]}
            for step in (100, 200)
        ]
        told = {"version": 1, "kind": "fit", "step": 200, "n_tokens": 8000, "seconds": 20.0, "curve": curve}
        (out / "fit.json").write_text(json.dumps({**told, "candidates": names}))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tiny_models: TinyModels) -> Played:
    made = Played(tiny_models)
    monkeypatch.setattr("nextn.training.stages.write_states", made.write_states)
    monkeypatch.setattr("nextn.training.stages.fit", made.fit)
    monkeypatch.setattr(verb, "_need_torch", lambda model: None)
    monkeypatch.setattr(verb, "judging_prompts", lambda *_: PROMPTS)
    monkeypatch.setattr(verb._Run, "_wheel", lambda self: None)
    return made


@pytest.mark.slow
def test_all_stages_and_what_is_written(
    played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "w"
    made = nextn.train(trunk, engine=standin, budget_s=1000.0, work=work, seed=3, threads=1)
    found = checked(made)
    assert (found["outcome"], found["draft"]) == ("written", "native") and found["sentence"].startswith("better: ")
    sidecar = trunk.parent / "mtp-tiny-qwen35-Q8_0.gguf"
    assert found["sidecar"] == str(sidecar) and found["entry"] == str(trunk) and sidecar.is_file()
    header = open_model(sidecar).header
    assert header.get("nextn.trained.seed") == 3 and header.get("nextn.trained.n_tokens") == 30
    assert header.get("nextn.trained.text") == "its own answers to 1 prompt (shipped)"
    assert header.get("nextn.trained.start") == "nothing" and header.get("nextn.trained.n_tokens_seen") == 8000
    assert [point["n_tokens_seen"] for point in found["fit"]["curve"]] == [4000, 8000]
    assert found["states"]["n_tokens_held"] == 9 and found["judgement"]["word"] == "better"
    (asked,), (fitted,) = played.asked, played.fitted
    assert asked.native and asked.seconds == 400 and asked.tokens is None and asked.seed == fitted.seed == 3
    assert fitted.start is None and fitted.kind == "native"
    assert fitted.seconds == pytest.approx(900 - found["spent"]["states"], abs=1)  # what the states did not need

    from nextn.report.train import show

    show(made)
    out, err = capsys.readouterr()
    assert out == f"{sidecar}\n" and "nextn bench" in err and "because: there was no draft" in err
    assert nextn.verify(trunk, engine=standin, prompts=PROMPTS).verdict == "passed"
    share, per_step = header.get("nextn.trained.accepted_at_1"), header.get("nextn.trained.accepted_per_step")
    assert [told for name, told in _rows(sidecar) if name == "trained"] == [
        f"from nothing, 200 steps on its own answers to 1 prompt (shipped), for {trunk.name}: {share:.1%} accepted at "
        f"n_max 1, {per_step:.2f} accepted per step at n_max 3"
    ]

    again = nextn.train(trunk, engine=standin, budget_s=2000.0, work=work, seed=3, threads=1)
    document = checked(again)  # a longer budget; what was written is what has to be beaten now
    assert (document["outcome"], document["before"]) == ("not_better", sidecar.name)
    assert played.fitted[1].start is None and played.fitted[1].seconds is not None
    assert played.fitted[1].seconds > 1000


def _rows(path: Path) -> list[tuple[str, str]]:
    from nextn.report.inspect import _rows as rows_of

    return rows_of(nextn.inspect(path))


@pytest.mark.slow
def test_into_the_model(played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer) -> None:
    made = nextn.train(trunk, engine=standin, work=tmp_path / "w", layout="bundle", out=tmp_path / "b.gguf")
    assert made.outcome == "written" and made.entry == tmp_path / "b.gguf" and made.sidecar is None
    assert open_model(tmp_path / "b.gguf").header.get("nextn.trained.n_steps") == 200
    back = nextn.detach(tmp_path / "b.gguf", out=tmp_path / "back.gguf").entry
    assert back.read_bytes() == trunk.read_bytes()


@pytest.mark.slow
def test_what_only_guesses_is_not_written(
    played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: standin)
    work = tmp_path / "shuffled"  # by its name, the stand-in knows that drafts in it are useless
    assert main(["train", str(trunk), "--work", str(work), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    validate(found, SCHEMA)
    assert found["outcome"] == "not_better" and found["judgement"]["word"] == "useless"
    assert found["files"] == [] and list(trunk.parent.iterdir()) == [trunk]
    assert "nothing was written; the candidates are in" in found["sentence"]


@pytest.mark.slow
def test_the_published_block_is_not_beaten_by_itself(
    played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer
) -> None:
    made = nextn.train(trunk, engine=standin, work=tmp_path / "w", donor=CHECKPOINT)
    found = checked(made)
    assert found["outcome"] == "not_better" and found["before"] == CHECKPOINT.name
    assert [run["what"] for run in found["judgement"]["runs"]].count("published") == 1
    (fitted,) = played.fitted
    assert fitted.start == tmp_path / "w" / "before" / "mtp-before.gguf" and fitted.start.is_file()
    assert found["fit"]["start"] == CHECKPOINT.name


@pytest.mark.slow
def test_stages_one_by_one(played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer) -> None:
    def stage(name: str) -> nextn.TrainResult:
        return nextn.train(trunk, engine=standin, work=tmp_path / "w", stage=name, budget_s=1000.0)

    with pytest.raises(UsageError, match="nothing was fitted in this work folder yet; run --stage fit"):
        stage("judge")
    first = checked(stage("states"))
    assert first["outcome"] == "stage_done" and "next: --stage fit" in first["sentence"] and first["fit"] is None
    assert played.asked[0].seconds == pytest.approx(1000, abs=60)  # all that is left
    second = checked(stage("fit"))
    assert second["outcome"] == "stage_done" and second["states"] is None and second["fit"]["n_steps"] == 200
    assert len(played.asked) == 1
    assert stage("judge").outcome == "written" and len(played.fitted) == 1


def test_another_start_needs_another_folder(played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer) -> None:
    nextn.train(trunk, engine=standin, work=tmp_path / "w", stage="states")
    with pytest.raises(UsageError, match="was started from nothing, not from tiny-qwen35-mtp"):
        nextn.train(trunk, engine=standin, work=tmp_path / "w", stage="fit", donor=CHECKPOINT)


def test_an_export(played: Played, trunk: Path, tmp_path: Path, standin: LlamaServer) -> None:
    need("pyarrow", importlib.util.find_spec("pyarrow") is not None)
    made = nextn.train(trunk, kind="eagle3", engine=standin, work=tmp_path / "w", export=tmp_path / "x", budget_s=60.0)
    found = checked(made)
    assert found["outcome"] == "exported" and found["fit"] is None and not played.fitted
    assert played.asked[0].taps == (1, 2, 3, 4) and played.asked[0].seconds == 60
    assert (tmp_path / "x" / "data" / "hidden_states" / "hs_1.safetensors").is_file()
    assert any("speculators.train" in note for note in found["notes"])
    with pytest.raises(UsageError, match="--export is for EAGLE-3"):
        nextn.train(trunk, kind="native", engine=standin, work=tmp_path / "v", export=tmp_path / "y")


# -- for real ---------------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.slow
def test_a_tiny_draft_is_trained_and_judged(
    trunk: Path, tmp_path: Path, xllamacpp_engine: Xllamacpp, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torch", "safetensors"):
        need(name, importlib.util.find_spec(name) is not None)
    said: list[str] = []
    made = nextn.train(trunk, work=tmp_path / "w", budget_s=60.0, threads=1, say=said.append)
    found = checked(made)
    assert found["outcome"] in ("written", "not_better") and found["states"]["n_tokens"] > 500
    assert found["fit"]["n_steps"] >= 1 and found["judgement"]["word"] in ("better", "useless", "cannot_tell")
    assert any(text.startswith("states: ") for text in said) and any(text.startswith("fit: ") for text in said)


def test_without_an_engine(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(choice: object = None) -> None:
        raise EngineMissing("there is no engine")

    monkeypatch.setattr("nextn.engines.find_engine", none)
    monkeypatch.setattr(verb, "_need_torch", lambda model: None)
    with pytest.raises(EngineMissing):
        nextn.train(trunk, work=tmp_path / "w")


def test_a_fit_that_cannot_be_read(tmp_path: Path, trunk: Path) -> None:
    from nextn.errors import FormatError
    from nextn.training.stages import candidates_of, fit_made
    from nextn.training.work import Work

    work = Work(tmp_path / "w", open_model(trunk), "native", 0, None, dry_run=False)
    work.fit.mkdir()
    told = '{"kind": "fit", "seconds": 1'
    for text in ("[]", f"{told}}}", f'{told}, "curve": [1], "candidates": {{}}}}'):
        (work.fit / "fit.json").write_text(text)
        with pytest.raises(FormatError, match="not the curve of a fit"):
            fit_made(work, "nothing")
    unseen = FitMade("nothing", 5, 10, ["candidate-000005.gguf"], [])
    assert [one.step for one in candidates_of(work, unseen)] == [5]
