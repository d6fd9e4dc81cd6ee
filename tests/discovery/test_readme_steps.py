"""attach, verify, serve: the README's steps for models whose folders nothing may be written to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import small_disk, state

from conftest import CHECKPOINT, Q4, mounted
from nextn.engines.llama_server import free_port

pytestmark = pytest.mark.engine
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command line, from a folder of its own that has to stay empty."""
    (tmp_path / "here").mkdir()

    def call(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nextn", *map(str, args)]
        return subprocess.run(
            command, cwd=tmp_path / "here", capture_output=True, text=True, check=False, timeout=280
        )

    return call


def steps(run: Run, model: Path, tmp_path: Path) -> None:
    """The three steps, none of which names the sidecar."""
    made = run("attach", model, "--from", CHECKPOINT, "--json")
    assert made.returncode == 0, made.stderr
    sidecar = json.loads(made.stdout)["sidecar"]
    assert Path(sidecar).is_relative_to(os.environ["NEXTN_DATA"])
    again = run("attach", model)
    assert again.returncode == 14 and sidecar in again.stderr and again.stderr.count("\n") == 1
    verified = run("verify", model, "--json", "--threads", "1", "--n-predict", "24")
    assert verified.returncode == 0, verified.stderr
    verdict = json.loads(verified.stdout)
    assert verdict["verdict"] == "passed" and verdict["sidecar"] == sidecar and verdict["acceptance"]["1"][0] > 0.4
    assert completion(model, tmp_path)["timings"]["draft_n_accepted"] > 0
    assert list((tmp_path / "here").iterdir()) == []


def completion(model: Path, folder: Path) -> dict[str, dict[str, float]]:
    """One drafted answer of `nextn serve MODEL`."""
    port = free_port()
    command = [sys.executable, "-m", "nextn", "serve", str(model), "--engine", "xllamacpp", "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen([*command, "--threads", "1"], stdout=log, stderr=log, cwd=folder / "here")
    try:
        data = json.dumps({"prompt": "def read(self):\n", "n_predict": 24, "temperature": 0}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion", data, {"Content-Type": "application/json"}
        )
        for _ in range(480):
            assert server.poll() is None, (folder / "serve.log").read_text()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    found: dict[str, dict[str, float]] = json.load(answer)
                    return found
            except (urllib.error.URLError, ConnectionError):  # not yet there, or still loading
                time.sleep(0.25)
        raise AssertionError((folder / "serve.log").read_text())
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        finally:
            server.kill()


def test_a_model_in_the_hubs_cache(run: Run, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--M-GGUF"
    blob = repository / "blobs" / hashlib.sha256(Q4.read_bytes()).hexdigest()
    model = repository / "snapshots" / ("0" * 40) / "M-Q4_K_M.gguf"
    for path in (blob, model):
        path.parent.mkdir(parents=True)
    shutil.copy(Q4, blob)
    model.symlink_to(f"../../blobs/{blob.name}")
    before = state(repository)
    steps(run, model, tmp_path)
    assert completion(blob, tmp_path)["timings"]["draft_n_accepted"] > 0
    assert state(repository) == before


def test_a_model_in_a_read_only_folder(run: Run, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        disk = mounted(disk)
        shutil.copy(Q4, disk / "M-Q4_K_M.gguf")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        steps(run, disk / "M-Q4_K_M.gguf", tmp_path)
