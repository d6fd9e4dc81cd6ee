"""Engines: reading logs, holding processes, and both real engines."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nextn.engines import Engine, Launch, LlamaServer, MemoryUse, child, find_engine, llama_server, logs
from nextn.engines import process as process_module
from nextn.engines.http import Client
from nextn.engines.process import EngineProcess
from nextn.errors import EngineFailed, EngineMissing, EngineRefused

PROMPT = "def read(self):\n"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")


def session(leader: int) -> list[int]:
    """Live processes of a guard's session, the guard's own first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(sid) == leader and state != "Z":
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: (pid != leader, pid))


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# ---- logs: pure functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            "0.00.029.280 W llama_init_from_model: context type MTP requested but model doesn't contain MTP layers\n"
            "0.00.029.281 E common_speculative_init_result: failed to create MTP context\n"
            "0.00.029.282 E srv    load_model: failed to create MTP context\n",
            "context type MTP requested but model doesn't contain MTP layers",
        ),
        (
            "0.00.010.000 E llama_model_load: error loading model: missing tensor 'blk.4.attn_norm.weight'\n"
            "0.00.010.001 E llama_model_load_from_file_impl: failed to load model\n",
            "missing tensor 'blk.4.attn_norm.weight'",
        ),
        (
            "llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; expected 71, got 70",
            "wrong number of tensors; expected 71, got 70",
        ),
        (
            "0.00.010.000 E llama_model_load: error loading model: error loading model hyperparameters: key "
            "qwen35.rope.dimension_sections has wrong array length; expected 4, got 3\nfailed to load model",
            "key qwen35.rope.dimension_sections has wrong array length; expected 4, got 3",
        ),
        (
            "/src/llama-model.cpp:12: GGML_ASSERT(n_layer_nextn == 1) failed\nnextn: the engine was ended by signal 6",
            "GGML_ASSERT(n_layer_nextn == 1) failed",
        ),
        (
            "0.1 I llama_model_loader: - kv 20: tokenizer.chat_template str = missing tensor 'x' error\n"
            "0.1 E srv    load_model: failed to load model, 'x.gguf'\n0.2 E odd_thing: the moon is in the way\n",
            "the moon is in the way",
        ),
        ("0.1 E srv    load_model: failed to load model, 'x.gguf'\n", "failed to load model, 'x.gguf'"),
        ("nextn: this xllamacpp cannot use a sidecar\n", "this xllamacpp cannot use a sidecar"),
        ("error: invalid argument: --nonsense\n", "invalid argument: --nonsense"),
        (
            "Detected incompatible DeepSeek model without a known way to fix it.\n"
            "/src/llama-hparams.cpp:1097: Fatal error\n"
            "0x00007fdef72f1bd3 in __GI___wait4 (pid=14216) at ../sysdeps/unix/sysv/linux/wait4.c:30\n"
            "30\t../sysdeps/unix/sysv/linux/wait4.c: No such file or directory.\n"
            "#1  0x00007fdef741ebd8 in ggml_abort () from libggml.so\n",
            "Detected incompatible DeepSeek model without a known way to fix it.",
        ),
        (
            "/src/llama-hparams.cpp:7: Fatal error\n#1  0x00007f in ggml_abort () from libggml.so\n",
            "/src/llama-hparams.cpp:7: Fatal error",
        ),
        ("all is well\n", ""),
        ("", ""),
    ],
)
def test_decisive_line(log, line):
    assert logs.decisive_line(log) == line


def test_acceptance_lines():
    log = (
        "0.1 I slot print_timing: id  0 | task 0 | draft acceptance = 0.74138 (   43 accepted /    58 generated), "
        "mean len =  3.15\n0.1 I slot print_timing: id  0 | task 0 |      acc per pos = (0.900, 0.650, 0.600)\n"
        "0.2 I slot print_timing: id  0 | task 9 | draft acceptance = 0.00000 (    0 accepted /     3 generated), "
        "mean len =  1.00\n0.2 I slot print_timing: id  0 | task 9 |      acc per pos = ()\n"
        "draft acceptance rate = 0.50000 (    1 accepted /     2 generated)\n"
    )
    assert logs.acceptance_lines(log) == [(43, 58, [0.9, 0.65, 0.6]), (0, 3, []), (1, 2, None)]


@pytest.mark.parametrize(
    ("counts", "n_max", "steps"),
    [((18, 13, 12), 3, 20), ((0, 0, 0), 3, 7), ((29,), 1, 34), ((7, 1), 2, 311), ((1, 1, 1), 3, 1)],
)
def test_verification_steps_come_back_from_rounded_shares(counts, n_max, steps):
    shares = [float(f"{count / steps:.3f}") for count in counts]
    assert logs.verification_steps(sum(counts), steps * n_max, n_max, shares) == steps


def test_verification_steps_without_shares():
    assert logs.verification_steps(3, 7, 3, None) == 3
    assert logs.verification_steps(0, 0, 3, None) == 0
    assert logs.verification_steps(5, 6, 3, [0.111, 0.222]) == 2  # inconsistent: as few as can be


def test_memory_use_adds_models_and_contexts():
    log = (
        "0.1 I load_tensors:   CPU_Mapped model buffer size =     7.55 MiB\n"
        "0.1 I load_tensors:          AMX model buffer size =     1.00 MiB\n"
        "0.1 I load_tensors:        CUDA0 model buffer size =   100.00 MiB\n"
        "0.1 I llama_context: constructing llama_context\n"
        "0.1 I llama_context:  CUDA_Host  output buffer size =     0.01 MiB\n"
        "0.1 I llama_kv_cache:      CUDA0 KV buffer size =     0.50 MiB\n"
        "0.1 I llama_memory_recurrent:        CPU RS buffer size =     0.62 MiB\n"
        "0.1 I sched_reserve:        CPU compute buffer size =     8.02 MiB\n"
        "0.1 I load_tensors:   CPU_Mapped model buffer size =     2.88 MiB\n"
        "0.1 I llama_context: constructing llama_context\n"
        "0.1 I sched_reserve:        CPU compute buffer size =     6.02 MiB\n"
        "0.1 I sched_reserve:        CPU compute buffer size =     6.02 MiB\n"
    )
    assert logs.memory_use(log) == [MemoryUse("Host", 11.43, 0.63, 14.04), MemoryUse("CUDA0", 100.0, 0.5, 0.0)]
    assert logs.memory_use("") == []


# ---- processes ------------------------------------------------------------------------------------------------


@linux_only
def test_a_group_that_ignores_sigterm_is_killed_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(process_module, "STOP_GRACE_S", 0.3)
    script = "trap '' TERM; (trap '' TERM; sleep 60) & echo up; sleep 60; sleep 60"
    held = EngineProcess(["/bin/sh", "-c", script], log=tmp_path / "log")
    assert eventually(lambda: "up" in held.read_log())
    assert eventually(lambda: len(session(held.pid)) >= 4)
    held.stop()
    assert session(held.pid) == []
    held.stop()
    assert held.ended() == "signal 9 (SIGKILL)"


@linux_only
def test_an_engine_dies_with_its_guard(tmp_path):
    held = EngineProcess(["/bin/sleep", "60"], log=tmp_path / "log")
    assert eventually(lambda: len(session(held.pid)) == 2)
    os.kill(held.pid, signal.SIGKILL)
    assert eventually(lambda: session(held.pid) == [])
    held.stop()


@linux_only
def test_what_an_engine_leaves_behind_is_killed(tmp_path):
    held = EngineProcess(["/bin/sh", "-c", "sleep 60 & exit 7"], log=tmp_path / "log")
    assert held.wait_ended(10) == "exit code 7"
    assert session(held.pid) == []


def test_a_command_that_cannot_be_run(tmp_path):
    held = EngineProcess([tmp_path / "nothing"], log=tmp_path / "log")
    assert held.wait_ended(10) == "exit code 126"
    assert logs.decisive_line(held.read_log()) == f"cannot run {tmp_path / 'nothing'}: No such file or directory"


def test_a_signal_is_named(tmp_path):
    held = EngineProcess(["/bin/sh", "-c", "kill -ABRT $$"], log=tmp_path / "log")
    assert held.wait_ended(10) == "signal 6 (SIGABRT)"
    assert "signal 6 (SIGABRT)" in held.read_log()


# ---- finding engines ------------------------------------------------------------------------------------------


def test_no_llama_server_there(tmp_path):
    with pytest.raises(EngineMissing, match="there is no llama-server at"):
        LlamaServer.find(tmp_path / "llama-server")


def test_a_llama_server_without_execute_permission(tmp_path):
    (tmp_path / "llama-server").write_text("#!/bin/sh\n")
    with pytest.raises(EngineMissing, match="is not executable: chmod"):
        LlamaServer.find(tmp_path / "llama-server")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\necho hello\n", "does not report a llama-server version: hello"),
        ("no program at all", "cannot be run: Exec format error"),
    ],
)
def test_something_else_than_a_llama_server(tmp_path, text, says):
    other = tmp_path / "llama-server"
    other.write_text(text)
    other.chmod(0o755)
    with pytest.raises(EngineMissing, match=says):
        find_engine(str(other))


def test_a_llama_server_that_knows_no_mtp(tmp_path):
    old = tmp_path / "llama-server"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "version: 4242 (abc)"\n')
    old.chmod(0o755)
    server = LlamaServer.find(old)
    assert (server.version, server.kind) == ("4242 (abc)", "")
    with pytest.raises(EngineMissing, match="cannot draft with MTP blocks"):
        server.start(Launch(tmp_path / "x.gguf", n_max=1))


def test_an_engine_that_ends_without_a_word_is_asked_again(tmp_path):
    """llama.cpp may end before its log is written."""
    silent = tmp_path / "llama-server"
    silent.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "version: 1" && exit\n[ "$1" = --help ] && exit\n'
        f"echo >> '{tmp_path}/tries'; [ $(wc -l < '{tmp_path}/tries') = 2 ] && echo 'error: invalid argument: x'\n"
        "exit 1\n"
    )
    silent.chmod(0o755)
    refused_with(LlamaServer.find(silent), Launch(tmp_path / "x.gguf"), "invalid argument: x")
    assert (tmp_path / "tries").read_text() == "\n\n"


def test_options_follow_the_help_text():
    ik = LlamaServer(Path("/ik"), "4", "--no-warmup\n--webui NAME\n--spec-type SPEC  e.g. mtp:n_max=1,p_min=0.0")
    args = ik._arguments(Launch(Path("m.gguf"), Path("s.gguf"), n_max=2, threads=3, extra_args=("-ngl", "0")), 99)
    assert ik.kind == "ik_llama.cpp"
    assert " ".join(args) == (
        "-m m.gguf --host 127.0.0.1 --port 99 -c 1024 -np 1 -t 3 --no-warmup --webui none "
        "--spec-type mtp:n_max=2,p_min=0 -md s.gguf -ngl 0"
    )


def test_no_engine_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(llama_server.PATH_VARIABLE, raising=False)
    with pytest.raises(EngineMissing, match="no llama-server was found"):
        find_engine()
    with pytest.raises(EngineMissing, match="xllamacpp is not installed"):
        find_engine("xllamacpp")


def test_an_older_wheel_with_other_attributes():
    class Params(SimpleNamespace):
        pass

    def older() -> Params:
        return Params(
            model=SimpleNamespace(path=""), n_ctx=0, webui=True, hostname="", speculative=SimpleNamespace(type=0)
        )

    setup = {"model": "m", "sidecar": None, "n_max": 0, "p_min": 0.0, "n_ctx": 64, "threads": 2, "extra": []}
    wheel = SimpleNamespace(CommonParams=older)
    params = child.configure(wheel, setup)
    assert (params.model.path, params.n_ctx, params.webui, params.hostname) == ("m", 64, False, "127.0.0.1")
    assert not hasattr(params, "load_mtp")
    with pytest.raises(SystemExit):
        child.configure(wheel, {**setup, "n_max": 1})


# ---- engines, the stand-in among them ------------------------------------------------------------------------------


def test_text_without_mtp(engine: Engine, tiny_models):
    assert engine.version and engine.version[0].isdigit()
    with engine.start(Launch(tiny_models.trunk, threads=1)) as running:
        one = running.complete(PROMPT, 24, n_probs=5)
        again = running.complete(running.tokenize(PROMPT), 24)
        assert running.alive
        assert len(one.tokens) == 24 and one.text
        assert again.tokens == one.tokens and again.top == []
        assert [len(top) for top in one.top] == [5] * 24
        assert all(top[0][0] == token for top, token in zip(one.top, one.tokens, strict=True))
        assert all(0 >= top[0][1] >= top[-1][1] for top in one.top)
        assert one.decode_tps > 0 and one.prompt_tps > 0
        assert (one.draft_n, one.draft_steps, one.acceptance_per_pos) == (0, 0, None)
        assert running.memory[0].model_mib > 1 and running.memory[0].compute_mib > 0
    assert not running.alive


@pytest.mark.parametrize("shape", ["bundled", "sidecar", "shards"])
def test_drafting(engine: Engine, tiny_models, shape):
    model, sidecar = getattr(tiny_models, shape), None
    if shape == "sidecar":
        model, sidecar = tiny_models.trunk, tiny_models.sidecar
    for n_max in (1, 3):
        with engine.start(Launch(model, sidecar, n_max, threads=1)) as running:
            answer = running.complete(PROMPT, 48)
            rates = answer.acceptance_per_pos
            assert rates is not None and len(rates) == n_max
            assert 0 < answer.draft_n_accepted < answer.draft_n <= n_max * answer.draft_steps
            assert sum(rate * answer.draft_steps for rate in rates) == pytest.approx(answer.draft_n_accepted, abs=0.2)
            assert rates == sorted(rates, reverse=True)


def test_n_max_of_a_request_is_not_obeyed(engine: Engine, tiny_models):
    """The reason for one load per n_max; should this fail one day, one load will do."""
    with engine.start(Launch(tiny_models.bundled, n_max=3, threads=1)) as running:
        own = running.complete(PROMPT, 48)
        client = running._client
        asked = {"prompt": PROMPT, "n_predict": 48, "temperature": 0, "cache_prompt": False, "speculative.n_max": 1}
        assert client.post("/completion", asked)["timings"]["draft_n"] == own.draft_n > own.draft_steps


def test_odd_paths(engine: Engine, tiny_models, tmp_path, monkeypatch):
    folder = tmp_path / "ein Modell – 模型"
    folder.mkdir()
    (folder / "tiny ü.gguf").symlink_to(tiny_models.bundled)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LLAMA_ARG_N_PARALLEL", "nonsense")
    with engine.start(Launch(Path("tiny ü.gguf"), n_max=1, threads=1, log=Path("a log"))) as running:
        assert running.complete("Ärger", 4).tokens
    assert (folder / "a log").stat().st_size > 0


@linux_only
def test_a_clean_stop_leaves_nothing(engine: Engine, tiny_models):
    with engine.start(Launch(tiny_models.trunk, threads=1)) as running:
        guard, port = running._process.pid, running._client.port
        assert len(session(guard)) == 2
        assert running.log.exists()
    assert session(guard) == []
    assert not running.log.exists()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass
    with pytest.raises(EngineFailed, match="has been stopped"):
        running.complete(PROMPT, 1)


@pytest.mark.slow
@linux_only
def test_an_interrupt_stops_the_engine(engine: Engine, tiny_models, monkeypatch):
    with pytest.raises(KeyboardInterrupt), engine.start(Launch(tiny_models.trunk, threads=1)) as running:
        raise KeyboardInterrupt
    assert session(running._process.pid) == []

    started = []
    start = EngineProcess.__init__
    monkeypatch.setattr(
        EngineProcess, "__init__", lambda self, *a, **k: (start(self, *a, **k), started.append(self))[0]
    )
    monkeypatch.setattr(Client, "healthy", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        engine.start(Launch(tiny_models.trunk, threads=1))
    assert started[0].ended() is not None and session(started[0].pid) == []


def header_u32(model: bytes, key: str, value: int) -> bytes:
    at = model.index(key.encode()) + len(key) + 4
    return model[:at] + value.to_bytes(4, "little") + model[at + 4 :]


BROKEN = {
    "cut in half": (lambda model: model[: len(model) // 2], "data is not within the file bounds"),
    "cut in the header": (lambda model: model[:1000], "failed to read"),
    "no gguf": (lambda model: b"no model" * 100, "invalid magic"),
    "a tensor has another name": (
        lambda model: model.replace(b"blk.4.attn_norm.weight", b"blk.4.attn_nerm.weight"),
        "blk.4.attn_norm.weight",
    ),
    "another shape": (lambda model: header_u32(model, "qwen35.embedding_length", 3), "has wrong shape; expected 3"),
    "nine blocks promised, which aborts": (
        lambda model: header_u32(model, "qwen35.nextn_predict_layers", 9),
        "GGML_ASSERT(",
    ),
}


@pytest.mark.engine
@pytest.mark.parametrize("what", list(BROKEN))
def test_refusals_quote_the_decisive_line(real_engine: Engine, tiny_models, tmp_path, what):
    change, line = BROKEN[what]
    model = tmp_path / "broken.gguf"
    model.write_bytes(change(tiny_models.bundled.read_bytes()))
    refused_with(real_engine, Launch(model, n_max=1, threads=1), line)


def test_a_trunk_alone_does_not_draft(engine: Engine, tiny_models):
    line = "context type MTP requested but model doesn't contain MTP layers"
    error = refused_with(engine, Launch(tiny_models.trunk, n_max=2, threads=1), line)
    assert error.line == line


def test_a_missing_file(engine: Engine, tmp_path):
    refused_with(engine, Launch(tmp_path / "none.gguf"), "No such file or directory")


def test_an_extra_argument_the_engine_does_not_know(engine: Engine, tiny_models):
    refused_with(engine, Launch(tiny_models.trunk, extra_args=("--nonsense=1",)), "--nonsense")


def refused_with(engine: Engine, launch: Launch, line: str) -> EngineRefused:
    with pytest.raises(EngineRefused) as caught:
        engine.start(launch)
    error = caught.value
    assert isinstance(error, EngineFailed) == line.startswith("GGML_ASSERT")  # which ends the process by SIGABRT
    assert line in error.line and error.line in str(error) and "\n" not in str(error)
    assert error.log is not None and str(error.log) in str(error) and error.log.stat().st_size > 0
    error.log.unlink()
    return error


def test_extra_arguments_reach_the_engine(engine: Engine, tiny_models):
    more = ("n_ctx=256",) if engine.name == "xllamacpp" else ("-c", "256")
    with engine.start(Launch(tiny_models.trunk, threads=1, extra_args=more)) as running:
        assert len(running.complete(PROMPT, 400).tokens) < 300


def test_a_refused_request_is_quoted_and_the_engine_lives_on(engine: Engine, tiny_models):
    with engine.start(Launch(tiny_models.trunk, n_ctx=256, threads=1)) as running:
        with pytest.raises(EngineFailed, match=r"answered HTTP 400: .*context size") as caught:
            running.complete([7] * 600, 1)
        assert running.alive and running.complete(PROMPT, 2).tokens
    assert caught.value.log == running.log and running.log.exists()
    running.log.unlink()


@linux_only
def test_killed_while_answering(engine: Engine, tiny_models):
    with engine.start(Launch(tiny_models.trunk, threads=1)) as running:
        inner = session(running._process.pid)[-1]
        os.kill(inner, signal.SIGSTOP)  # so that the request is under way for certain
        threading.Timer(0.2, os.kill, (inner, signal.SIGKILL)).start()
        with pytest.raises(EngineFailed, match=r"died while answering: signal 9 \(SIGKILL\)") as caught:
            running.complete(PROMPT, 8)
        assert not running.alive
    assert caught.value.line == "signal 9 (SIGKILL)" and running.log.exists()
    running.log.unlink()


def test_deadlines(engine: Engine, tiny_models):
    with pytest.raises(EngineFailed, match=r"had not loaded .* after 0 s") as caught:
        engine.start(Launch(tiny_models.trunk, threads=1, start_timeout_s=0))
    assert caught.value.log is not None
    caught.value.log.unlink()
    hurried = Launch(tiny_models.trunk, threads=1, answer_timeout_s=0.001)
    no_answer = r"gave no answer within 0\.001 s"
    with engine.start(hurried) as running, pytest.raises(EngineFailed, match=no_answer):
        running.complete(PROMPT, 900)
    running.log.unlink()


@linux_only
def test_a_killed_nextn_leaves_no_engine(engine: Engine, tiny_models):
    found = "Xllamacpp.find()" if engine.name == "xllamacpp" else f"LlamaServer.find({str(engine.binary)!r})"
    script = (
        "import sys, time; from pathlib import Path; from nextn.engines import Launch, LlamaServer, Xllamacpp\n"
        f"engine = {found}\n"
        "running = engine.start(Launch(Path(sys.argv[1]), n_max=1, threads=1))\n"
        "print(running._process.pid, running.log, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, tiny_models.bundled], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    guard, log = parent.stdout.readline().split()
    assert len(session(int(guard))) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: session(int(guard)) == [])
    Path(log).unlink()


@pytest.mark.parametrize("server", [pytest.param("wheel_server", marks=pytest.mark.engine), "standin"])
def test_a_port_taken_meanwhile(request, server, tiny_models, monkeypatch):
    chosen = request.getfixturevalue(server)
    real = llama_server.free_port
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = [other.getsockname()[1]]
        monkeypatch.setattr(llama_server, "free_port", lambda: ports.pop() if ports else real())
        with chosen.start(Launch(tiny_models.trunk, threads=1)) as running:
            assert not ports and running.complete(PROMPT, 2).tokens
