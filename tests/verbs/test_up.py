"""up: the whole way, what is kept, what is asked, what other programs get, and what is said when a step fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import standin_server
from faults import state
from hub_server import HubServer
from known_curve import CurveEngine, KnownTimer
from schema_check import validate
from shelves import in_lm_studio, in_ollama, own_home
from sick import rewrite
from terminal import on_a_terminal

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS, TinyModels
from nextn.engines.llama_server import LlamaServer, free_port
from nextn.errors import (
    DonorMismatch,
    EngineMissing,
    EngineRefused,
    NoBlock,
    NoConnection,
    UnsupportedModel,
    UsageError,
)
from nextn.gguf.files import open_model
from nextn.measure.made_from import is_made_from
from nextn.measure.verified_store import verified_on
from nextn.results.sections import read_section
from nextn.shell import shell
from nextn.verbs import up_estimates
from nextn.verbs.up_report import UpReport

SCHEMA = json.loads((ROOT / "src/nextn/schemas/up.json").read_text())
MODEL, SIDECAR = "tiny-qwen35-Q4_K_M.gguf", "mtp-tiny-qwen35-Q8_0.gguf"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_home(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether drafting can be faster is not measured, except where that is what is tested."""
    monkeypatch.setattr(up_estimates, "BRIEF_WORTH_S", 0.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model beside the checkpoint that it was made from."""
    shutil.copytree(CHECKPOINT, tmp_path / "m" / "tiny-qwen35-mtp")
    return Path(shutil.copy(Q4, tmp_path / "m" / MODEL))


def steps(report: UpReport) -> dict[str, str]:
    """Step -> its state; the document is checked against its schema."""
    document = json.loads(json.dumps(report.to_json()))
    validate(document, SCHEMA)
    return {each["step"]: each["state"] for each in document["steps"]}


def asked(questions: list[str]) -> Callable[[str], None]:
    """Agrees, and notes the questions."""
    return questions.append


def refusing(question: str) -> None:
    """Does not agree."""
    raise UsageError(f"refused: {question}")


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_done_and_the_second_time_everything_is_kept(model: Path, standin: LlamaServer) -> None:
    made = nextn.up(model, engine=standin, tune_s=1.0)
    assert steps(made) == {"attach": "done", "verify": "done", "tune": "done", "serve": "planned"}
    assert made.model == model and made.sidecar == model.with_name(SIDECAR) and made.sidecar.is_file()
    settings = model.with_name("tiny-qwen35-Q4_K_M.tune.json")
    drafts = not settings.exists() or json.loads(settings.read_text())["n_max"] != 0  # what was faster, busy or not
    assert made.serving is not None and made.serving.sidecar == (made.sidecar if drafts else None)
    assert made.address == "http://127.0.0.1:8080" and made.failed is None
    assert {"--port", "8080"} <= set(made.serving.command) and ("-md" in made.serving.command) == drafts
    assert verified_on(open_model(model), open_model(made.sidecar), standin) is not None
    if not settings.exists():  # too busy for a result
        settings.write_text('{"n_max": 2}')
    before = state(model.parent)
    again = nextn.up(model, engine=standin, tune_s=1.0)
    assert steps(again) == {"attach": "kept", "verify": "kept", "tune": "kept", "serve": "planned"}
    assert state(model.parent) == before and (again.model, again.sidecar) == (made.model, made.sidecar)


def test_a_dry_run_says_what_the_run_then_does(model: Path, standin: LlamaServer) -> None:
    before = state(model.parent)
    planned = nextn.up(model, engine=standin, tune_s=60.0, dry_run=True)
    assert steps(planned) == dict.fromkeys(("attach", "verify", "tune", "serve"), "planned")
    assert state(model.parent) == before and planned.serving is None
    assert all(each.seconds is not None for each in planned.steps)
    made = nextn.up(model, engine=standin)
    for name in ("fetch_bytes", "write_bytes"):
        assert getattr(planned.steps[0], name) == getattr(made.steps[0], name), name
    assert planned.steps[1].read_bytes == 5 * model.stat().st_size
    assert (planned.model, planned.sidecar, planned.address) == (made.model, made.sidecar, made.address)
    (path := model.parent.parent / "up.json").write_text(json.dumps(made.to_json()))
    section = read_section(path)
    assert [row[0] for row in section.tables[0].rows] == ["attach", "verify", "serve"] and not section.badge
    assert f"it answers at {made.address}" in section.summary and str(standin.binary) in section.commands[0]
    again = nextn.up(model, engine=standin, dry_run=True)
    assert steps(again) == {"attach": "kept", "verify": "kept", "serve": "planned"}


def test_what_a_dry_run_prints(model: Path, standin: LlamaServer, capsys: pytest.CaptureFixture[str]) -> None:
    from nextn.cli import main

    given = ["up", str(model), "--engine", str(standin.binary), "--dry-run", "--tune", "1m"]
    assert main(given) == 0
    out, err = capsys.readouterr()
    rows = [re.fullmatch(r"(\w+) +planned  (.*) \((.*)\)", line) for line in err.splitlines()]
    told = {row[1]: row[3] for row in rows if row is not None}
    assert out == "" and list(told) == ["attach", "verify", "tune", "serve"]  # no address: nothing answers there
    assert told["attach"] == "2.59 MB to read, 1.41 MB to write, a moment" and told["tune"] == "about 60 s"
    assert told["verify"] == "13 MB to read, a moment" and told["serve"] == "2.59 MB to read, a moment"
    last = err.splitlines()[-1]
    assert last == "in all: 18.1 MB to read, 1.41 MB to write, about 60 s; nothing was written or started"
    assert main([*given, "-q"]) == 0 and capsys.readouterr() == ("http://127.0.0.1:8080\n", "")


def test_what_a_run_prints(
    model: Path, standin: LlamaServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextn.cli import main

    monkeypatch.setattr("nextn.cli.serve.run_server", lambda serving: None)
    port = free_port()
    assert main(["up", str(model), "--engine", str(standin.binary), "--port", str(port)]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == f"http://127.0.0.1:{port}\n"
    assert next(line for line in lines if line.startswith("verify: ")) == "verify: comparing files"
    assert any(re.fullmatch(r"attach  done     the block of .* as a sidecar: .* \(2.59 MB read, .* written, .*\)", line)
               for line in lines)  # fmt: skip
    assert any(line.startswith(f"serve   next     llama-server {standin.version} on http") for line in lines)
    assert lines[-1] == (
        f"it starts now: programs that speak OpenAI's API use http://127.0.0.1:{port}/v1, a browser "
        f"http://127.0.0.1:{port}; Ctrl-C stops it"
    )


@pytest.mark.slow
def test_a_changed_file_is_verified_again(model: Path, standin: LlamaServer) -> None:
    nextn.up(model, engine=standin)
    os.utime(model, ns=(1, 1))
    assert steps(nextn.up(model, engine=standin))["verify"] == "done"


def test_a_model_that_has_its_block(tiny_models: TinyModels, standin: LlamaServer) -> None:
    made = nextn.up(tiny_models.bundled, engine=standin, donor=CHECKPOINT, verify=False)
    assert steps(made) == {"attach": "kept", "serve": "planned"} and made.sidecar is None
    assert any("so --from was not used" in note for note in made.notes)


def test_a_sidecar_that_is_named(model: Path, standin: LlamaServer, tmp_path: Path) -> None:
    for kind in ("q8_0", "q4_0"):
        nextn.attach(model, CHECKPOINT, out=model.with_name(f"mtp-tiny-qwen35-{kind}.gguf"), type=kind)
    own = model.with_name("mtp-tiny-qwen35-q4_0.gguf")
    made = nextn.up(model, sidecar=own, engine=standin, verify=False)
    assert steps(made)["attach"] == "kept" and made.sidecar == own and made.serving is not None
    assert made.serving.sidecar == own and str(own) in made.serving.command
    bundle = nextn.up(model, sidecar=own, for_program="lmstudio", engine=standin, verify=False)
    assert steps(bundle)["attach"] == "done" and bundle.model == model.with_name("tiny-qwen35-MTP-Q4_K_M.gguf")


@pytest.mark.slow
def test_the_server_answers_and_stops(model: Path, tmp_path: Path) -> None:
    binary, port = standin_server.write(tmp_path / "engine"), free_port()
    command = [sys.executable, "-m", "nextn", "up", str(model), "--engine", str(binary), "--port", str(port)]
    command.append("--no-worth")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            assert process.poll() is None, process.communicate()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail("no answer within a minute")
    finally:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[0] == f"http://127.0.0.1:{port}"
    lines = [line.split()[:2] for line in err.splitlines()]
    assert ["attach", "done"] in lines and ["verify", "done"] in lines and ["serve", "next"] in lines
    assert str(binary) in err


def test_json_starts_nothing(model: Path, run_nextn: Run, tmp_path: Path, home: Path) -> None:
    binary = standin_server.write(tmp_path / "engine")
    done = run_nextn("up", model, "--engine", binary, "--no-verify", "--no-worth", "--json", HOME=str(home))
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    validate(data, SCHEMA)
    assert data["command"][0] == str(binary) and [one["step"] for one in data["steps"]] == ["attach", "serve"]


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_of_lm_studio_and_ollama(
    home: Path, model: Path, standin: LlamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = in_lm_studio(home, "maker/Tiny-GGUF", Q4, MODEL)
    blob = in_ollama(home, "registry.ollama.ai/library/tiny/4b", Q4)
    before = state(home / ".ollama")
    for name, path in (("maker/tiny", listed), ("tiny:4b", blob)):
        said: list[str] = []
        made = nextn.up(name, donor=CHECKPOINT, engine=standin, verify=False, say=said.append)
        assert made.model == path and steps(made)["attach"] == "done", name
        assert str(path) in said[0] and name in said[0]
    assert state(home / ".ollama") == before  # nothing is put into another program's store
    assert made.sidecar is not None and "sidecars" in made.sidecar.parts
    again = nextn.up("tiny:4b", donor=CHECKPOINT, engine=standin, verify=False)
    assert steps(again)["attach"] == "kept" and again.sidecar == made.sidecar


@pytest.mark.parametrize("published", ["with its sidecar", "without"])
def test_a_model_on_the_hub_is_downloaded_once(
    hub: HubServer, tiny_models: TinyModels, standin: LlamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    published: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copy(Q4, folder / MODEL)
    if published == "with its sidecar":
        shutil.copy(tiny_models.sidecar, folder / SIDECAR)
    hub.add_folder("org/tiny-GGUF", folder)
    hub.add_folder("Qwen/tiny-qwen35", CHECKPOINT)
    planned = nextn.up("org/tiny-GGUF", engine=standin, dry_run=True)
    assert steps(planned) == dict.fromkeys(("get", "attach", "verify", "serve"), "planned")
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert planned.steps[0].fetch_bytes == total and not (tmp_path / "tiny-GGUF").exists()
    with pytest.raises(UsageError, match=r"refused: hf:org/tiny-GGUF: download .* into tiny-GGUF"):
        nextn.up("org/tiny-GGUF", engine=standin, agree=refusing)
    assert not (tmp_path / "tiny-GGUF").exists()
    questions: list[str] = []
    made = nextn.up("org/tiny-GGUF", engine=standin, donor=CHECKPOINT, verify=False, agree=asked(questions))
    attach = "kept" if published == "with its sidecar" else "done"
    assert steps(made) == {"get": "done", "attach": attach, "serve": "planned"} and len(questions) == 1
    assert made.model == Path("tiny-GGUF") / MODEL and made.steps[0].fetch_bytes == total
    again = nextn.up("org/tiny-GGUF", engine=standin, donor=CHECKPOINT, verify=False, agree=refusing)
    assert steps(again) == {"get": "kept", "attach": "kept", "serve": "planned"}
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # where nobody listens
    apart = nextn.up("org/tiny-GGUF", engine=standin, donor=CHECKPOINT, verify=False, quant="q4_k_m", agree=refusing)
    assert steps(apart) == steps(again) and apart.steps[0].what == f"{made.model} is here; the Hub cannot be reached"
    for more in ({"quant": "Q8_0"}, {"out": "elsewhere"}):
        with pytest.raises(NoConnection, match="refuses the connection"):
            nextn.up("org/tiny-GGUF", engine=standin, agree=refusing, **more)


# -- questions --------------------------------------------------------------------------------------------------------


def test_a_guess_is_asked_about(tmp_path: Path, standin: LlamaServer) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "m" / "download-1")
    model = Path(shutil.copy(Q4, tmp_path / "m" / MODEL))
    with pytest.raises(UsageError, match=r"refused: .*the donor is a guess: .*download-1.*: attach it"):
        nextn.up(model, engine=standin, agree=refusing)
    assert not model.with_name(SIDECAR).exists()
    questions: list[str] = []
    assert steps(nextn.up(model, engine=standin, verify=False, agree=asked(questions)))["attach"] == "done"
    assert len(questions) == 1


@pytest.mark.slow
def test_where_worth_says_that_it_cannot_pay(model: Path, tmp_path: Path, run_nextn: Run, home: Path) -> None:
    nextn.worth(model, engine=CurveEngine(lambda k: 1.3 * k))
    binary = standin_server.write(tmp_path / "engine")
    call = ("up", model, "--engine", binary, "--no-verify", "--json")
    done = run_nextn(*call, HOME=str(home))
    assert done.returncode == UsageError.exit_code and json.loads(done.stdout)["kind"] == "error"
    last = done.stderr.splitlines()[-1]
    assert "cannot pay here" in last and "attach a block all the same" in last and "so --yes is needed" in last
    assert not model.with_name(SIDECAR).exists()
    agreed = run_nextn(*call, "--yes", HOME=str(home))
    assert agreed.returncode == 0, agreed.stderr
    assert any("cannot pay here" in note for note in json.loads(agreed.stdout)["notes"])
    kept = run_nextn(*call, HOME=str(home))  # nothing is attached, so nothing is asked
    assert kept.returncode == 0, kept.stderr


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float], bool], None]:
    """`measured(cost, quiet)`: what a brief measurement finds, on a machine that is quiet or not."""

    def set_up(cost: Callable[[int], float], quiet: bool) -> None:
        monkeypatch.setattr(up_estimates, "BRIEF_WORTH_S", 20.0)
        monkeypatch.setattr("nextn.verbs.up_worth.is_quiet", lambda: quiet)
        monkeypatch.setattr("nextn.measure.batch_curve.disturbances", lambda *args: ())
        monkeypatch.setattr(LlamaServer, "batches", lambda self, launch: KnownTimer(cost), raising=False)

    return set_up


def test_it_says_whether_drafting_can_be_faster(
    model: Path, standin: LlamaServer, measured: Callable[[Callable[[int], float], bool], None]
) -> None:
    measured(lambda k: 0.8 + 0.2 * k, True)
    planned = nextn.up(model, engine=standin, dry_run=True)
    assert steps(planned) == dict.fromkeys(("worth", "attach", "verify", "serve"), "planned")
    first = planned.steps[0]
    assert first.read_bytes == model.stat().st_size and first.seconds is not None
    questions: list[str] = []
    made = nextn.up(model, engine=standin, verify=False, agree=asked(questions))
    assert steps(made) == {"worth": "done", "attach": "done", "serve": "planned"} and not questions
    assert made.steps[0].what.startswith("drafting on this machine can pay from ")
    again = nextn.up(model, engine=standin, verify=False)
    assert steps(again) == {"attach": "kept", "serve": "planned"}
    (note,) = (note for note in again.notes if note.startswith("drafting on this machine can pay from "))
    assert "measured on" in note


def test_what_was_measured_just_now_is_asked_about(
    model: Path, standin: LlamaServer, measured: Callable[[Callable[[int], float], bool], None]
) -> None:
    measured(lambda k: 1.3 * k, True)
    with pytest.raises(UsageError, match=r"refused: .*cannot pay here.*; attach a block all the same"):
        nextn.up(model, engine=standin, agree=refusing)
    assert not model.with_name(SIDECAR).exists()


def test_a_busy_machine_is_not_measured(
    model: Path, standin: LlamaServer, measured: Callable[[Callable[[int], float], bool], None]
) -> None:
    measured(lambda k: 1.3 * k, False)
    made = nextn.up(model, engine=standin, verify=False)
    assert steps(made) == {"worth": "skipped", "attach": "done", "serve": "planned"}
    assert f"cannot be measured on a busy machine; later: nextn worth {model}" in made.steps[0].what
    off = nextn.up(model, engine=standin, verify=False, worth=False)
    assert steps(off) == {"attach": "kept", "serve": "planned"}


def test_an_engine_that_cannot_time_batches(
    model: Path, standin: LlamaServer, measured: Callable[[Callable[[int], float], bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    measured(lambda k: k, True)

    def refused(self: LlamaServer, launch: object) -> None:
        raise EngineRefused("it does not load")

    monkeypatch.setattr(LlamaServer, "batches", refused)
    made = nextn.up(model, engine=standin, verify=False)
    assert steps(made) == {"worth": "skipped", "attach": "done", "serve": "planned"}
    assert "could not be measured: it does not load" in made.steps[0].what


def test_a_large_model_is_not_measured_on_the_way(model: Path, standin: LlamaServer) -> None:
    made = nextn.up(model, engine=standin, verify=False)
    said = f"whether drafting is faster here was not measured, which takes about 1 s: nextn worth {model}"
    assert said in made.notes and "worth" not in steps(made)
    assert up_estimates.measuring(10**9) < 20.0 < up_estimates.measuring(4 * 10**9)


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A trunk between two donors that fit equally well."""
    path = Path(shutil.copy(Q4, tmp_path / MODEL))
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q8_0.gguf", block_only=True)
    nextn.extract(CHECKPOINT, out=tmp_path / "tiny-qwen35-MTP-donor-Q4_0.gguf", block_only=True, type="q4_0")
    return path


@pytest.mark.slow
def test_doubt_is_a_question_on_a_terminal_and_one_sentence_elsewhere(
    doubtful: Path, tmp_path: Path, run_nextn: Run, home: Path
) -> None:
    binary = standin_server.write(tmp_path / "engine")
    call = ("up", doubtful, "--engine", binary, "--no-verify", "--no-worth", "--json")
    done = run_nextn(*call, "-q", HOME=str(home))
    assert done.returncode == UsageError.exit_code and done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["error"] == "Doubt"
    assert "2 files beside it hold a block that fits" in done.stderr and "--from" in done.stderr
    assert "left: attach, serve; to go on: nextn up " in done.stderr
    assert f" --from {doubtful.parent}/tiny-qwen35-MTP-donor-Q" in done.stderr  # run again, it goes on
    code, shown, out = on_a_terminal("1\n", *call)
    assert code == 0 and "which donor?" in shown, shown
    assert json.loads(out)["sidecar"].endswith("mtp-tiny-qwen35-Q4_0.gguf")


# -- other programs ---------------------------------------------------------------------------------------------------


def test_for_llama_cpp(model: Path, standin: LlamaServer) -> None:
    made = nextn.up(model, for_program="llama.cpp", engine=standin)
    assert steps(made) == {"attach": "done", "verify": "done", "hand over": "done"}
    assert made.needs == [f"llama-server -m {model} -md {model.with_name(SIDECAR)} --spec-type draft-mtp"]
    assert made.serving is None and made.address is None


def test_for_ik(model: Path) -> None:
    made = nextn.up(model, for_program="ik")
    bundle = model.with_name("tiny-qwen35-MTP-Q4_K_M.gguf")
    assert steps(made) == {"attach": "done", "verify": "skipped", "hand over": "done"}
    assert made.needs == [f"llama-server -m {bundle} --spec-type mtp"]
    assert any("no engine is here to verify with: ik_llama.cpp was not found" in note for note in made.notes)
    assert not any("leave out --engine" in note for note in made.notes)  # it was not given
    before = state(model.parent)
    assert steps(nextn.up(model, for_program="ik"))["attach"] == "kept" and state(model.parent) == before


@pytest.mark.slow
def test_for_lm_studio(home: Path, standin: LlamaServer) -> None:
    listed = in_lm_studio(home, "maker/tiny-GGUF", Q4, MODEL)
    made = nextn.up("maker/tiny", for_program="lmstudio", donor=CHECKPOINT, engine=standin)
    assert made.model == listed.with_name("tiny-qwen35-MTP-Q4_K_M.gguf")
    assert made.needs == ["LM Studio lists it as maker/tiny-GGUF; its MTP was not tried here"]
    before = state(home / ".lmstudio")
    again = nextn.up(listed, for_program="lmstudio", donor=CHECKPOINT, engine=standin)
    assert steps(again) == {"attach": "kept", "verify": "kept", "hand over": "done"}
    assert again.model == made.model and state(home / ".lmstudio") == before


def test_for_lm_studio_a_sidecar_is_the_donor(model: Path, standin: LlamaServer, home: Path) -> None:
    (home / ".lmstudio" / "models").mkdir(parents=True)
    sidecar = nextn.up(model, engine=standin, verify=False).sidecar
    shutil.rmtree(model.parent / "tiny-qwen35-mtp")
    made = nextn.up(model, for_program="lmstudio", engine=standin, verify=False)
    assert sidecar is not None and made.model is not None and made.sidecar is None
    assert made.model.parent == home / ".lmstudio" / "models" / "nextn" / "tiny-qwen35-MTP-GGUF"
    assert is_made_from(open_model(made.model), open_model(model))


def test_for_ollama(model: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    made = nextn.up(model, for_program="ollama")
    assert steps(made) == {"hand over": "done"} and made.model == model
    first, *rest = made.needs
    subprocess.run(["sh", "-c", first], cwd=tmp_path, check=True)
    assert (tmp_path / "Modelfile").read_text() == f"FROM {model}\n"
    assert rest[:2] == ["ollama create tiny-qwen35-Q4_K_M -f Modelfile", "ollama run tiny-qwen35-Q4_K_M"]
    bundled = Path(shutil.copy(tiny_models.bundled, tmp_path / tiny_models.bundled.name))
    planned = nextn.up(bundled, for_program="ollama", dry_run=True)
    assert steps(planned) == {"detach": "planned", "hand over": "planned"}
    off = nextn.up(bundled, for_program="ollama")
    assert steps(off) == {"detach": "done", "hand over": "done"} and off.model is not None
    assert off.model == planned.model and off.model.is_file()
    assert steps(nextn.up(bundled, for_program="ollama")) == {"detach": "kept", "hand over": "done"}


def test_a_name_means_the_same_model_after_a_bundle_was_made_beside_it(home: Path, standin: LlamaServer) -> None:
    listed = in_lm_studio(home, "maker/tiny-GGUF", Q4, MODEL)
    made = nextn.up("maker/tiny", for_program="lmstudio", donor=CHECKPOINT, engine=standin, verify=False)
    assert made.model is not None and made.model.parent == listed.parent
    before = state(home / ".lmstudio")
    again = nextn.up("maker/tiny", for_program="lmstudio", donor=CHECKPOINT, engine=standin, verify=False)
    assert steps(again)["attach"] == "kept" and again.model == made.model and state(home / ".lmstudio") == before


def test_another_disk_for_what_is_written(model: Path, standin: LlamaServer, tmp_path: Path) -> None:
    before, out = state(model.parent), tmp_path / "other disk"
    call = partial(nextn.up, model, for_program="lmstudio", engine=standin, verify=False, out=out)
    planned, made = call(dry_run=True), call()
    assert made.model == planned.model == out / "tiny-qwen35-MTP-Q4_K_M.gguf" and made.model.is_file()
    written = state(out)
    assert steps(call())["attach"] == "kept" and state(out) == written and state(model.parent) == before
    off = nextn.up(made.model, for_program="ollama", out=tmp_path / "third")
    assert off.model is not None and off.model.parent == tmp_path / "third" and off.model.is_file()


def test_what_ollama_has_needs_no_making(home: Path) -> None:
    in_ollama(home, "registry.ollama.ai/me/tiny/1b", Q4)
    assert nextn.up("me/tiny:1b", for_program="ollama").needs[0] == "ollama run me/tiny:1b"


def test_ollama_gets_a_name_that_it_takes(tmp_path: Path) -> None:
    model = Path(shutil.copy(Q4, tmp_path / "it's größer (v2).gguf"))
    first, *rest = nextn.up(model, for_program="ollama").needs
    assert rest[:2] == ["ollama create it-s-gr-er-v2 -f Modelfile", "ollama run it-s-gr-er-v2"]
    subprocess.run(["sh", "-c", first], cwd=tmp_path, check=True)
    assert (tmp_path / "Modelfile").read_text() == f"FROM {model}\n"


def test_an_adapter_of_ollama_is_not_forgotten(home: Path) -> None:
    in_ollama(home, "registry.ollama.ai/library/tiny/latest", Q4)
    manifest = home / ".ollama/models/manifests/registry.ollama.ai/library/tiny/latest"
    layers = json.loads(manifest.read_text())["layers"]
    layers.append({"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:" + "a" * 64, "size": 1})
    manifest.write_text(json.dumps({"layers": layers}))
    notes = nextn.up("tiny", for_program="ollama").notes
    assert any("applies the adapter" in note and "the model without it" in note for note in notes)


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_only_what_is_right_is_kept(model: Path, standin: LlamaServer, tiny_models: TinyModels) -> None:
    bundle = model.with_name("tiny-qwen35-MTP-Q4_K_M.gguf")
    made = nextn.attach(model, CHECKPOINT, layout="bundle", out=bundle)
    trunk = open_model(model)
    assert is_made_from(open_model(bundle), trunk)
    assert steps(nextn.up(model, engine=standin, verify=False))["attach"] == "kept"
    data = bytearray(bundle.read_bytes())
    other = rewrite(Q4, model.parent / "x" / "other.gguf", change={"token_embd.weight": lambda data: bytes(len(data))})
    assert not is_made_from(open_model(bundle), open_model(other))  # the same header, other data
    assert not is_made_from(open_model(model), trunk) and not is_made_from(open_model(tiny_models.bundled), trunk)
    bundle.write_bytes(data[: len(data) // 2])  # cut short: it is neither kept nor touched
    again = nextn.up(model, engine=standin, verify=False)
    assert steps(again)["attach"] == "done" and again.sidecar is not None
    assert bundle.stat().st_size == len(data) // 2 and made.entry == bundle


def test_shards_are_kept(tmp_path: Path, standin: LlamaServer) -> None:
    nextn.explode(Q4, max_tensors=20, out=tmp_path / "set")
    first = next((tmp_path / "set").glob("*-00001-of-*.gguf"))
    made = nextn.up(first, donor=CHECKPOINT, engine=standin, verify=False)
    assert made.model is not None and "-MTP-" in made.model.name and steps(made)["attach"] == "done"
    before = state(tmp_path)
    again = nextn.up(first, donor=CHECKPOINT, engine=standin, verify=False)
    assert steps(again)["attach"] == "kept" and again.model == made.model and state(tmp_path) == before


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_engine_that_dies_leaves_the_rest_and_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    bad = LlamaServer.find(standin_server.write(tmp_path / "bad", die="SIGSEGV", at="load"))
    made = nextn.up(model, engine=bad, port=8123)
    assert steps(made) == {"attach": "done", "verify": "failed", "serve": "left"}
    said = str(made.failed)
    assert "did not draft with it" in said and "SIGSEGV" in said and "; done: attach; left: serve; " in said
    assert "to go on, perhaps with another --engine: nextn up " in said and said.endswith(" --port 8123")
    assert "\n" not in said and made.exit_code == 4 and model.with_name(SIDECAR).is_file() and made.serving is None
    good = LlamaServer.find(standin_server.write(tmp_path / "good"))
    assert steps(nextn.up(model, engine=good)) == {"attach": "kept", "verify": "done", "serve": "planned"}


def test_a_failed_verification_starts_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nextn.cli import main
    from nextn.measure.engine_check import EngineReport

    failed = EngineReport("known", "1", "failed", ["the text diverges"], 3)
    monkeypatch.setattr("nextn.verbs.verify._on_engine", lambda *args: failed)
    binary = standin_server.write(tmp_path / "engine")
    assert main(["up", str(model), "--engine", str(binary), "--port", str(free_port())]) == 3
    out, err = capsys.readouterr()
    assert out == "" and "verify failed on llama-server" in err.splitlines()[-1]
    assert f"nextn serve {model} --n-max 0" in err and "serve   left" in err
    assert main(["up", str(model), "--engine", str(binary), "--json"]) == 3
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    validate(data, SCHEMA)
    assert [one["state"] for one in data["steps"]] == ["kept", "failed", "left"] and data["command"] == []


def test_no_donor(tmp_path: Path, standin: LlamaServer) -> None:
    model = rewrite(Q4, tmp_path / "m" / "x.gguf", put=[("general.architecture", "str", "llama")])
    with pytest.raises(UnsupportedModel, match=r"'nextn train MODEL' makes one.*; left: attach, verify, serve$"):
        nextn.up(model, engine=standin)  # the same command again would not help


def test_after_a_donor_that_does_not_fit_another_is_asked_for(tmp_path: Path, standin: LlamaServer) -> None:
    hub_tokens = [("tokenizer.ggml.tokens", "[str]", [str(number) for number in range(2048)])]
    model = rewrite(Q4, tmp_path / "m" / "x.gguf", put=hub_tokens)
    with pytest.raises(DonorMismatch, match=r"left: attach, serve; to go on: nextn up \S+ --from DONOR --engine"):
        nextn.up(model, donor=CHECKPOINT, engine=standin.binary, verify=False)


def test_an_interrupted_run_says_how_to_go_on(
    model: Path, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nextn.verbs.verify.verify", interrupted)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        nextn.up(model, engine=standin.binary, port=8090, say=said.append)
    command = shell("nextn", "up", model, "--engine", standin.binary, "--port", 8090)
    assert said[-1] == f"left: verify, serve; to go on: {command}"


def test_no_engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.engines.Xllamacpp.installed", lambda: False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = state(model.parent)
    with pytest.raises(EngineMissing, match=r"nothing was attached: 'nextn up --for llama\.cpp' prepares the files"):
        nextn.up(model)
    assert state(model.parent) == before
    made = nextn.up(model, for_program="llama.cpp")
    assert steps(made) == {"attach": "done", "verify": "skipped", "hand over": "done"}


def test_calls_that_make_no_sense(tmp_path: Path, tiny_models: TinyModels, standin: LlamaServer) -> None:
    with pytest.raises(UsageError, match="this file holds only an MTP block; name the model that it belongs to"):
        nextn.up(tiny_models.sidecar, engine=standin)
    with pytest.raises(UsageError, match="'kobold' is not a program to prepare for; choose one of lmstudio, ollama"):
        nextn.up(Q4, for_program="kobold")
    with pytest.raises(NoBlock):
        nextn.up(Path(shutil.copy(TRUNKS / "tiny-qwen35-Q8_0.gguf", tmp_path)), donor=Q4, engine=standin)


@pytest.mark.engine
def test_on_a_real_engine(model: Path, real_engine: Any) -> None:
    made = nextn.up(model, engine=real_engine)
    assert steps(made) == {"attach": "done", "verify": "done", "serve": "planned"}
    assert made.steps[1].what.startswith(f"passed on {real_engine.name}")
    assert steps(nextn.up(model, engine=real_engine))["verify"] == "kept"
