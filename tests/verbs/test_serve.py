"""Serve: what is chosen, what is printed, and that the server gets signals, gives its exit code, and is never left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS, need
from nextn.cli import main
from nextn.engines.llama_server import free_port
from nextn.engines.options import ServerOptions
from nextn.errors import DonorMismatch, EngineMissing, FormatError, OutputExists, UsageError
from nextn.verbs.preset import preset_text, write_preset

PROMPT = "def read(self):\n"
HELP = "-md, --model-draft FNAME\n--spec-type none,draft-mtp\n--spec-draft-n-max N\n--draft-p-min P\n"
IK_HELP = "--spec-type SPEC  e.g. mtp:n_max=1,p_min=0.0\n-md FNAME\n"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")


def fake(folder: Path, help_text: str = HELP, run: str = "exit 0") -> Path:
    """A llama-server that only says what it can do, and runs `run` when it is started."""
    binary = folder / "a server" / "llama-server"
    binary.parent.mkdir(exist_ok=True)
    (binary.parent / "help").write_text(help_text)
    binary.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "version: 7" && exit\n'
        f'[ "$1" = --help ] && cat "$(dirname "$0")/help" && exit\n{run}\n'
    )
    binary.chmod(0o755)
    return binary


# ---- what a server can do ---------------------------------------------------------------------------------------


def test_options_are_spelled_as_the_server_spells_them():
    new = ServerOptions(
        HELP + "--rpc SERVERS\n--models-preset PATH\n--draft-max N   the argument has been removed. use x\n"
    )
    assert new.drafting(2, 0.5, Path("s.gguf")) == [
        *("--spec-type", "draft-mtp", "--spec-draft-n-max", "2", "--draft-p-min", "0.5", "-md", "s.gguf"),
    ]
    assert new.features() == dict.fromkeys(("mtp", "n_max", "p_min", "sidecar", "rpc", "presets"), True)
    old = ServerOptions("--spec-type draft-mtp\n--draft, --draft-max N  number of tokens\n")
    assert old.drafting(2, 0.5, None) == ["--spec-type", "draft-mtp", "--draft-max", "2"]
    assert not old.features()["rpc"] and not old.features()["sidecar"]
    ik = ServerOptions(IK_HELP)
    assert ik.drafting(None, None, None) == ["--spec-type", "mtp"]
    assert ik.drafting(3, 0.25, None) == ["--spec-type", "mtp:n_max=3,p_min=0.25"]
    gone = ServerOptions("--draft-max N   the argument has been removed. use\n      --spec-draft-n-max\n")
    assert (gone.kind, gone.has("--draft-max")) == ("", False)


@pytest.mark.engine
def test_features_of_a_real_server(wheel_server):
    options = wheel_server.options
    assert all(options.features().values())
    assert (options.spelling("n_max"), options.spelling("p_min")) == ("--spec-draft-n-max", "--spec-draft-p-min")


# ---- what is chosen -------------------------------------------------------------------------------------------


def test_flags_follow_the_layout(tiny_models, tmp_path):
    binary = fake(tmp_path)
    start = [str(binary), "-m"]
    end = ["--host", "127.0.0.1", "--port", "8080"]
    for shape in ("bundled", "shards"):
        model = getattr(tiny_models, shape)
        chosen = nextn.serve(model, engine=binary)
        assert (chosen.layout, chosen.sidecar, chosen.n_max) == (shape, None, None)
        assert list(chosen.command) == [*start, str(model), "--spec-type", "draft-mtp", *end]
    chosen = nextn.serve(
        tiny_models.trunk, sidecar=tiny_models.sidecar, engine=binary, n_max=2, p_min=0.25, threads=3,
        engine_args=("-ngl", "7"),
    )  # fmt: skip
    assert list(chosen.command) == [
        *(*start, str(tiny_models.trunk), "--spec-type", "draft-mtp", "--spec-draft-n-max", "2"),
        *("--draft-p-min", "0.25", "-md", str(tiny_models.sidecar), "-t", "3", *end, "-ngl", "7"),
    ]
    assert chosen.shell.startswith(f"'{binary}' -m '{tiny_models.trunk}' --spec-type")
    validate(chosen.to_json(), json.loads((ROOT / "src/nextn/schemas/serve.json").read_text()))


def test_a_trunk_alone_is_served_without_mtp_and_told_how(tmp_path):
    shutil.copy(Q4, tmp_path / "a b.gguf")
    chosen = nextn.serve(tmp_path / "a b.gguf", engine=fake(tmp_path))
    assert (chosen.layout, chosen.n_max) == ("none", 0) and "--spec-type" not in chosen.command
    assert f"nextn attach '{tmp_path}/a b.gguf' --from DONOR'" in chosen.notes[-1]


def test_the_sidecar_beside_is_found_by_name_and_fit(tiny_models, tmp_path):
    folder = tmp_path / "repo" / "Q8"
    folder.mkdir(parents=True)
    model = folder / "tiny-qwen35-Q8_0.gguf"
    model.symlink_to(tiny_models.trunk.resolve())
    (folder / "mtp-other-Q8_0.gguf").symlink_to(TRUNKS / "qwen35-dense-F32.gguf")
    (folder / "mtp-broken-Q8_0.gguf").write_bytes(b"GGUF")
    (folder / "sidecar-Q8_0.gguf").symlink_to(tiny_models.sidecar)
    chosen = nextn.serve(model, engine=fake(tmp_path))
    assert chosen.layout == "none"
    assert [note.split(":")[0] for note in chosen.notes[:2]] == [
        "ignored mtp-broken-Q8_0.gguf",
        "ignored mtp-other-Q8_0.gguf",
    ]
    above = tmp_path / "repo" / "mtp-tiny-Q8_0.gguf"
    above.symlink_to(tiny_models.sidecar)
    assert nextn.serve(model, engine=fake(tmp_path)).sidecar == above
    nearer = folder / "mtp-tiny-Q4_0.gguf"
    nearer.symlink_to(tiny_models.sidecar)
    assert nextn.serve(model, engine=fake(tmp_path)).sidecar == nearer


def test_what_cannot_be_served(tiny_models, tmp_path, monkeypatch):
    binary = fake(tmp_path)
    with pytest.raises(UsageError, match="holds only an MTP block; name the model"):
        nextn.serve(tiny_models.sidecar, engine=binary)
    with pytest.raises(DonorMismatch, match="hidden size"):
        nextn.serve(TRUNKS / "qwen35-dense-F32.gguf", sidecar=tiny_models.sidecar, engine=binary)
    with pytest.raises(EngineMissing, match="cannot draft with MTP blocks: use a newer build, or --n-max 0"):
        nextn.serve(tiny_models.bundled, engine=fake(tmp_path, "--help\n"))
    assert nextn.serve(tiny_models.bundled, engine=fake(tmp_path, "--help\n"), n_max=0).layout == "bundled"
    with pytest.raises(EngineMissing, match=r"not a llama-server of ik_llama\.cpp"):
        monkeypatch.setenv("NEXTN_IK_SERVER", str(fake(tmp_path)))
        nextn.serve(tiny_models.bundled, engine="ik")
    with pytest.raises(UsageError, match="'vllm' is not an engine; choose xllamacpp, llama-server, ik, or the path"):
        nextn.serve(tiny_models.bundled, engine="vllm")
    assert main(["serve", str(tiny_models.bundled), "--engine", "vllm"]) == 2


def test_ik_gets_its_own_flags_and_no_sidecar_of_this_family(tiny_models, tmp_path):
    binary = fake(tmp_path, IK_HELP)
    chosen = nextn.serve(tiny_models.bundled, engine=binary, n_max=2)
    assert chosen.engine == "ik_llama.cpp" and "mtp:n_max=2" in chosen.command
    shutil.copy(tiny_models.trunk, tmp_path / "t.gguf")
    shutil.copy(tiny_models.sidecar, tmp_path / "mtp-t.gguf")
    chosen = nextn.serve(tmp_path / "t.gguf", engine=binary)
    assert chosen.layout == "none" and "ik_llama.cpp refuses it up to 8337e4cd" in chosen.notes[0]
    assert "--layout bundle" in chosen.notes[1]
    with pytest.raises(UsageError, match="has no router"):
        preset_text(chosen)


def test_tuned_settings(tiny_models, tmp_path):
    binary, model = fake(tmp_path), tmp_path / "m-MTP-Q8_0.gguf"
    model.symlink_to(tiny_models.bundled)
    beside = tmp_path / "m-MTP-Q8_0.tune.json"
    beside.write_text(json.dumps({"version": 1, "n_max": 2, "p_min": 0.5, "threads": 3, "args": ["-fa", "on"]}))
    chosen = nextn.serve(model, engine=binary, engine_args=("-c", "99"))
    assert (chosen.n_max, chosen.p_min, chosen.threads) == (2, 0.5, 3)
    assert chosen.command[-4:] == ("-fa", "on", "-c", "99")
    assert nextn.serve(model, engine=binary, n_max=4).n_max == 4
    other = tmp_path / "off.json"
    other.write_text('{"n_max": 0}')
    off = nextn.serve(model, engine=binary, tuned=other)
    assert "--spec-type" not in off.command and off.notes[-1] == "MTP is left off, as off.json says"
    for text, says in (
        ("no json", "not settings that 'nextn tune' wrote"),
        ("[]", "Expected 'object', got 'array'"),
        ('{"version": 2}', r"Invalid enum value 2 - at '\$.version'"),
        ('{"n_max": "3"}', r"Expected 'int | null', got 'str' - at '\$.n_max'"),
        ('{"n_max": 2000}', r"Expected 'int' <= 1024 - at '\$.n_max'"),
        ('{"args": [1]}', r"Expected 'str', got 'int' - at '\$.args\[0\]'"),
    ):
        other.write_text(text)
        with pytest.raises(FormatError, match=says):
            nextn.serve(model, engine=binary, tuned=other)


# ---- presets --------------------------------------------------------------------------------------------------


def test_a_preset_never_replaces_a_file(tiny_models, tmp_path, capsys):
    binary, out = fake(tmp_path), tmp_path / "preset.ini"
    call = ["serve", str(tiny_models.bundled), "--engine", str(binary), "--preset", str(out)]
    assert main([*call, "--print"]) == 0 and not out.exists()
    printed = capsys.readouterr().out
    assert main(call) == 0 and out.read_text() == printed
    assert capsys.readouterr().out == f"{out}\n"
    out.write_text("mine")
    assert main(call) == OutputExists.exit_code and out.read_text() == "mine"


def test_what_a_preset_cannot_hold(tiny_models, tmp_path):
    model = tmp_path / "a;b.gguf"
    model.symlink_to(tiny_models.bundled)
    with pytest.raises(UsageError, match="cannot be written"):
        write_preset(nextn.serve(model, engine=fake(tmp_path)), tmp_path / "p.ini")
    for args, says in ((("-x", "1", "2"), "is not an option"), (("-c=1", "y"), "is not an option")):
        with pytest.raises(UsageError, match=says):
            preset_text(nextn.serve(tiny_models.bundled, engine=fake(tmp_path), engine_args=args))
    chosen = nextn.serve(
        tiny_models.bundled, engine=fake(tmp_path), engine_args=("--jinja", "--temp", "-1", "-c", "5")
    )
    assert preset_text(chosen).endswith("\njinja = true\ntemp = -1\nc = 5\n")


@pytest.mark.engine
def test_the_router_takes_the_preset_and_drafts(tiny_models, wheel_server, tmp_path):
    server = wheel_server
    preset = tmp_path / "preset.ini"
    call = ["serve", str(tiny_models.trunk), "--sidecar", str(tiny_models.sidecar), "--n-max", "2", "--threads", "1"]
    call += ["--engine", str(server.binary), "--preset", str(preset), "--", "-c", "512"]
    assert main(call) == 0
    port = free_port()
    router = [sys.executable, "-c", "import sys; from nextn.engines.foreground import run_foreground\n"
              "sys.exit(run_foreground(sys.argv[1:]))", str(server.binary)]  # fmt: skip
    with started([*router, "--models-preset", str(preset), "--port", str(port)], port, server.env):
        answer = ask(port, {"model": tiny_models.trunk.stem, "prompt": PROMPT, "n_predict": 24, "temperature": 0})
        assert answer["timings"]["draft_n"] > answer["timings"]["draft_n_accepted"] > 0


# ---- running --------------------------------------------------------------------------------------------------


def ask(port: int, payload: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def descendants(pid: int) -> list[int]:
    """Live processes below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found, wave = [], {pid}
    while wave:
        wave = {child for child, parent in parents.items() if parent in wave}
        found += wave
    return found


def alive(pids: list[int]) -> list[int]:
    """Those of `pids` that still run."""
    left = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                left.append(pid)
    return left


def until(holds, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def started(command: list[str], port: int, env=None) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stderr=subprocess.DEVNULL)
    below: list[int] = []
    try:
        assert until(lambda: healthy(port) or process.poll() is not None) and process.poll() is None
        below = descendants(process.pid)
        yield process
    finally:
        process.terminate()
        process.wait(30)
        assert until(lambda: not alive(below), 20)


def serving(*args: object) -> list[str]:
    return [sys.executable, "-m", "nextn", "serve", *map(str, args)]


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serving_and_stopping(tiny_models, engine, how):
    which = ["--engine", "xllamacpp" if engine.name == "xllamacpp" else engine.binary]
    port = free_port()
    common = [*which, "--n-max", 2, "--threads", 1, "--port", port]
    with started(serving(tiny_models.trunk, "--sidecar", tiny_models.sidecar, *common), port) as nextn:
        answer = ask(port, {"prompt": PROMPT, "n_predict": 24, "temperature": 0})
        assert answer["timings"]["draft_n"] > answer["timings"]["draft_n_accepted"] > 0
        below = descendants(nextn.pid)
        assert len(below) == 2  # the guard and the server
        nextn.send_signal(how)
        assert nextn.wait(30) == 0
        assert alive(below) == []


def test_ctrl_c_while_a_model_is_loaded():
    script = (
        "import os, sys, time, types\n"
        "from nextn.engines import child\n"
        "def load(params):\n    os.write(1, b'loading')\n    time.sleep(60)\n"
        "sys.modules['xllamacpp'] = types.SimpleNamespace(Server=load)\n"
        "child.configure = lambda *_: None\n"
        "child.main(['{}'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(7) == b"loading"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"") and process.returncode == -signal.SIGINT


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("server", [pytest.param("wheel_server", marks=pytest.mark.engine), "standin"])
def test_a_killed_nextn_leaves_no_server(request, server, tiny_models):
    port = free_port()
    which = ["--engine", request.getfixturevalue(server).binary, "--threads", 1, "--port", port]
    with started(serving(tiny_models.bundled, *which), port) as nextn:
        below = descendants(nextn.pid)
        nextn.kill()
        nextn.wait()
        assert until(lambda: not alive(below), 20)


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_as_they_are(tiny_models, tmp_path, how):
    """A server that answers a signal with an exit code of its own, the second time."""
    name = how.name.removeprefix("SIG")
    run = (
        f"""cd '{tmp_path}'; n=0\ntrap 'n=$((n+1)); echo {name} >> got; [ $n = 2 ] && exit 9' {name}\n"""
        "echo up > up; while :; do sleep 0.05; done"
    )
    binary = fake(tmp_path, run=run)
    nextn = subprocess.Popen(serving(tiny_models.bundled, "--engine", binary), stderr=subprocess.DEVNULL)
    try:
        assert until((tmp_path / "up").exists, 20)
        nextn.send_signal(how)
        assert until((tmp_path / "got").exists, 20) and nextn.poll() is None
        nextn.send_signal(how)
        assert nextn.wait(20) == 9
        assert (tmp_path / "got").read_text() == f"{name}\n{name}\n"
    finally:
        nextn.kill()
        nextn.wait()


CONTAINED = ["unshare", "--pid", "--fork", "--mount-proc"]  # the kernel drops what the first process does not handle


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize(("verb", "code"), [("serve", 0), ("up", 130)])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_first_process_of_a_container_can_be_stopped(tiny_models, tmp_path, verb, code, how):
    """`up` while it verifies, `serve` while the server runs."""
    can = shutil.which("unshare") is not None and not subprocess.run([*CONTAINED, "true"], check=False).returncode
    need("root, or the right to make a namespace of processes,", can)
    run = f"trap 'exit 0' TERM INT; cd '{tmp_path}'; echo up > up; while :; do sleep 0.05; done"
    command = [*CONTAINED, *serving(tiny_models.bundled, "--engine", fake(tmp_path, run=run))]
    command[command.index("serve")] = verb
    outer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        assert until((tmp_path / "up").exists)
        first, *_ = descendants(outer.pid)
        os.kill(first, how)
        assert outer.wait(60) == code
        assert until(lambda: not alive([first]), 5)
    finally:
        for pid in (*descendants(outer.pid)[:1], outer.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        outer.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("run", "code"), [("exit 7", 7), ("exit 0", 0), ("kill -ABRT $$", 134)])
def test_the_exit_code_is_the_servers(tiny_models, tmp_path, run, code):
    done = subprocess.run(
        serving(tiny_models.bundled, "--engine", fake(tmp_path, run=f"echo served; {run}")),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code and done.stdout == "served\n"
    assert str(tiny_models.bundled) in done.stderr and "Traceback" not in done.stderr


def test_print_only_prints(tiny_models, tmp_path, capsys):
    binary = fake(tmp_path, run=f"touch '{tmp_path}/ran'")
    assert main(["serve", str(tiny_models.bundled), "--engine", str(binary), "--print"]) == 0
    line = capsys.readouterr().out.strip()
    assert not (tmp_path / "ran").exists()
    assert subprocess.run(line, shell=True, check=False).returncode == 0 and (tmp_path / "ran").exists()
    assert CHECKPOINT.name not in line
