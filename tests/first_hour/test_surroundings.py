"""What the machine or the network lacks: engines, libraries, a connection, access."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from all_verbs import run
from hub_server import HubServer
from newcomer import ON_A_MODEL, REMOTE, TAKE_ENGINES, says, work_folder
from sick import rewrite

import nextn
from conftest import CHECKPOINT, Q4
from nextn.absent import whose
from nextn.engines import LlamaServer, llama_server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a newcomer works."""
    return work_folder(tmp_path, monkeypatch)


# -- engines -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an engine."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith(("xllamacpp", "skulk")) else find(name)
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(llama_server.PATH_VARIABLE, raising=False)


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_no_engine(folder: Path, no_engine: None, verb: str) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    says(run(verb, Q4.name, *({"--print"} if verb == "serve" else ())), 30, "pipx inject nextn xllamacpp", "--engine")


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_another_engine_than_the_one_that_is_here(
    folder: Path, no_engine: None, verb: str, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    monkeypatch.setenv(llama_server.PATH_VARIABLE, str(standin.binary))
    ran = run(verb, Q4.name, "--engine", "xllamacpp", *(("--print",) if verb == "serve" else ()))
    says(ran, 30, "xllamacpp is not installed", f"a llama-server that works is {standin.binary}")


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_an_engine_that_is_nearly_right(folder: Path, verb: str) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    says(run(verb, Q4.name, "--engine", "lama-server"), 2, "'lama-server' is not an engine; did you mean llama-server?")


@pytest.mark.parametrize("verb", ("serve", "up"))
def test_a_port_that_is_in_use(
    folder: Path, verb: str, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    given = (verb, Q4.name, "--engine", standin.binary, "--port")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run(*given, port)
        says(ran, 2, f"--port: {port} is in use on 127.0.0.1, perhaps by a server that still runs")
        assert "verify" not in ran.err  # it is refused first
        more = () if verb == "serve" else ("--no-verify", "--no-worth")
        assert run(*given, port, *more, "--json").code == 0  # starts nothing
        if verb == "up":
            dry = run(*given, port, *more, "--dry-run")
            assert dry.code == 0 and f"note: it would be refused now: --port: {port} is in use" in dry.err
    says(run(*given, port, "--host", "192.0.2.7"), 2, "--host: 192.0.2.7 is not an address of this machine")

    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    says(run(*given, port, "--host", "here"), 2, "--host: 'here' is not an address; write 127.0.0.1")


# -- whose files they are ----------------------------------------------------------------------------------------------


def test_files_that_a_run_with_sudo_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert whose(tmp_path / "gone") == f" ({tmp_path} belongs to {owner}, and you are user 54321)"

    def refused(path: object, *flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nextn.oscalls.open_file", refused)
    said = says(run("inspect", Q4.name), 22, "cannot open it: Permission denied")
    assert said.endswith(f"belongs to {owner}, and you are user 54321).")


def test_a_file_in_a_folder_that_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = os.lstat

    def refused(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("x.gguf"):
            raise PermissionError(13, "Permission denied")
        return lstat(path, **more)

    monkeypatch.setattr(os, "lstat", refused)
    says(run("inspect", "closed/x.gguf"), 22, "closed/x.gguf: whether it is there cannot be seen: a folder above it")


# -- the Hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Without network; the seconds that were slept."""

    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")  # its default is read when the library is loaded
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def test_an_endpoint_that_is_no_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "mirror.test")
    says(run("up", "nobody/nothing"), 2, "HF_ENDPOINT: 'mirror.test' is not an address; write https://HOST")


@pytest.mark.parametrize(
    ("error", "words"),
    [(ImportError("socksio"), "SOCKS proxy, which needs the package 'socksio'"),
     (ValueError("Unknown scheme for proxy http://me:secret@x"), "hold no valid address; write http://HOST:PORT")],
)  # fmt: skip
def test_proxy_settings_that_cannot_be_used(
    folder: Path, error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def session() -> None:
        raise error

    monkeypatch.setattr("nextn.remote.http.get_session", session)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "secret" not in says(run("up", "nobody/nothing"), 23, "hf:nobody/nothing: the proxy settings", words)


@pytest.mark.parametrize("verb", [*REMOTE, "pull", "attach --from", "train --from"])
def test_no_network(folder: Path, verb: str, waited: list[float]) -> None:
    if verb.endswith(" --from"):
        ran = run(verb.partition(" ")[0], Q4.name, "--from", "nobody/nothing")
    elif verb == "pull":
        ran = run("pull", "nobody/nothing", "-o", "out")
    else:
        ran = run(verb, "nobody/nothing", *ON_A_MODEL[verb])
    says(ran, 23, "no connection to huggingface.co", "check the network", "or name a local file")
    assert sum(waited) < 2


@pytest.mark.parametrize("verb", [*REMOTE, "pull"])
def test_a_gated_repository(folder: Path, verb: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_folder("org/tiny", Q4.parent if verb in ("pull", "up") else CHECKPOINT)
    hub.repo("org/tiny").gated_for = "hf_x"
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = ("pull", "org/tiny", "-o", "out") if verb == "pull" else (verb, "org/tiny", *ON_A_MODEL[verb])
    says(run(*given), 23, "gated: accept its conditions at", "log")
    if verb == "attach":
        says(run("train", Q4.name, "--from", "org/tiny"), 23, "gated: accept its conditions at", "log")


def test_a_scan_without_network(folder: Path, waited: list[float]) -> None:
    kvs = [("general.base_model.0.repo_url", "str", "https://huggingface.co/org/nothing")]
    alone = Path(os.environ["HOME"]) / "models" / "other"  # far from the checkpoint
    rewrite(Q4, alone / "other-Q4_K_M.gguf", put=kvs)
    ran = run("scan", alone, "--only")
    assert ran.code == 0 and "other-Q4_K_M" in ran.out and sum(waited) < 2, (ran.err, waited)
    assert "the Hub was not asked further: " in ran.err + ran.out and "huggingface.co" in ran.err + ran.out


@pytest.mark.parametrize("verb", ["pull", "up"])
def test_a_checkpoint_on_the_hub_as_model(
    folder: Path, verb: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = ("-o", "out") if verb == "pull" else ON_A_MODEL[verb]
    says(run(verb, "org/tiny", *given), 2, "hf:org/tiny: there is no GGUF model in this", "only a checkpoint", "; name")


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "module"), [((), "torch"), (("--stage", "fit"), "safetensors")])
def test_training_without_what_it_needs(
    folder: Path, stage: tuple[str, ...], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, there = importlib.util.find_spec, {"torch", "safetensors"} - {module}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find("json" if name in there else name)
    )
    text = says(run("train", Q4.name, *stage), 33, f"{Q4.name}: fitting a draft needs {module}, not installed here")
    assert f"add it with 'pipx inject nextn {module}' (in a virtual environment: pip install {module})" in text


def test_training_on_a_machine_without_an_engine(folder: Path, no_engine: None) -> None:
    says(run("train", Q4.name, "--stage", "states"), 30, "pipx inject nextn xllamacpp", "--engine")


def test_training_starts_only_from_what_can_be_used(folder: Path) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    given = ("train", Q4.name, "--dry-run")
    sidecar = "mtp-tiny-qwen35-Q8_0.gguf"
    assert run(*given, "--from", sidecar).code == run(*given, "--from", CHECKPOINT.name).code == 0
    says(run(*given, "--from", Q4.name), 15, f"{Q4.name}: there is no MTP block in this model")
    for donor in (sidecar, Q4.name):
        says(run(*given, "--kind", "eagle3", "--from", donor), 2, f"{donor}: this is not an EAGLE-3 draft", "leave out")
    says(run(*given, "--kind", "eagle3", "--from", CHECKPOINT.name), 2, "--from is for checkpoints of EAGLE-3")
    assert not (folder / "tiny-qwen35-Q4_K_M.train").exists()


def test_prompts_and_places_are_checked_before_training(folder: Path) -> None:
    given = ("train", Q4.name)
    (folder / "empty.txt").write_text("\n")
    (folder / "chats.jsonl").write_text('{"messages": []}\n')
    says(run(*given, "--prompts", "empty.txt"), 2, "empty.txt: this file has no prompts; write one per line")
    says(run(*given, "--prompts", Q4.name), 10, f"{Q4.name}, byte", "not UTF-8 text; name a text or JSONL file")
    says(run(*given, "--prompts", CHECKPOINT.name), 22, "not a regular file but a folder; name a file in it")
    says(run(*given, "--chats", "chats.jsonl"), 10, "chats.jsonl, line 1: there is no message of the user")
    says(run(*given, "--work", Q4.name), 20, f"{Q4.name}: this is a file, not a folder; choose another --work")
    says(run(*given, "--work", f"{Q4.name}/x"), 22, "cannot create the folder", "choose another --work")
    says(run(*given, "-o", f"{Q4.name}/x.gguf"), 20, f"{Q4.name}: this is a file, not a folder; choose another -o")
    says(run(*given, "-o", f"{Q4.name}/x/y.gguf"), 22, "cannot create the folder", "choose another -o")
    assert not (folder / "tiny-qwen35-Q4_K_M.train").exists()
