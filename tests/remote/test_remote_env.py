"""The client's own settings, from the environment, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from conftest import CHECKPOINT
from nextn.errors import RemoteError

REPO = "org/tiny-qwen35-mtp"


SCRIPT = """
import json, sys
from nextn.block.from_checkpoint import block_from_checkpoint
from nextn.errors import NextnError
from nextn.remote.http import Options
from nextn.remote.snapshot import open_remote
from nextn.remote.address import parse_source
try:
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else None
    with open_remote(parse_source(sys.argv[1]), options=Options(limit_rate=rate)) as remote:
        block = block_from_checkpoint(remote.checkpoint)
        moved = remote.fetch(block.ranges)
        print(json.dumps({"moved": moved, "revision": remote.revision, "requests": remote.traffic.n_requests}))
except NextnError as error:
    print(json.dumps({"error": str(error), "code": error.exit_code}))
"""


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(source: str = REPO, **more: str) -> dict[str, Any]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
        env["NEXTN_DATA"] = os.environ["NEXTN_DATA"]
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NEXTN_CACHE": str(tmp_path / "own")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, source], env=env | more, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.mark.slow
def test_endpoint_and_offline_from_the_environment(hub: HubServer, run: Callable[..., dict[str, Any]]) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    refused = run(HF_HUB_OFFLINE="1")
    assert refused["code"] == RemoteError.exit_code and "HF_HUB_OFFLINE" in refused["error"]
    assert hub.requests() == []
    first = run()
    assert first["moved"] > 0 and first["revision"] == commit
    hub.reset()
    assert run(HF_HUB_OFFLINE="1") == {"moved": 0, "revision": commit, "requests": 0}
    assert hub.requests() == []


@pytest.mark.slow
def test_token_goes_to_the_hub_alone(hub: HubServer, run: Callable[..., dict[str, Any]]) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    hub.repo(REPO).token = "hf_secret"
    refused = run()
    assert refused["code"] == RemoteError.exit_code
    assert "or it is private" in refused["error"] and "hf auth login" in refused["error"]
    assert "no local" in refused["error"]
    hub.reset()
    assert run(HF_TOKEN="hf_secret")["moved"] > 0
    assert all(seen.headers.get("authorization") == "Bearer hf_secret" for seen in hub.requests("^hub.*org/"))
    assert hub.requests("^cdn") and not any("authorization" in seen.headers for seen in hub.requests("^cdn"))


@pytest.mark.slow
def test_gated_repository(hub: HubServer, run: Callable[..., dict[str, Any]]) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    hub.repo(REPO).gated_for = "hf_accepted"
    for more in ({}, {"HF_TOKEN": "hf_other"}):
        refused = run(**more)
        assert refused["code"] == RemoteError.exit_code
        assert f"accept its conditions at {hub.endpoint}/{REPO}" in refused["error"]
    assert run(HF_TOKEN="hf_accepted")["moved"] > 0


@pytest.mark.slow
def test_the_users_hub_cache_is_read_and_left_alone(
    hub: HubServer, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    script = "import sys, huggingface_hub as h\nfor name in sys.argv[2:]: h.hf_hub_download(sys.argv[1], name)"
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run(
        [sys.executable, "-c", script, REPO, "config.json", "model.safetensors"],
        env=env, check=True, capture_output=True, timeout=60,
    )  # fmt: skip

    def state() -> dict[str, tuple[int, int]]:
        found = (tmp_path / "hf" / "hub").rglob("*")
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}

    before = state()
    hub.reset()
    assert run()["moved"] == 0
    assert [seen.path for seen in hub.requests("org/")] == [f"/api/models/{REPO}/revision/main"]
    assert run(HF_HUB_OFFLINE="1", NEXTN_CACHE=str(tmp_path / "other")) == {
        "moved": 0, "revision": commit, "requests": 0
    }  # fmt: skip
    assert state() == before


@pytest.mark.slow
def test_a_killed_run_goes_on(hub: HubServer, run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
    env["NEXTN_CACHE"] = str(tmp_path / "own")
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT, REPO, "1e6"], env=env, stdout=subprocess.DEVNULL)
    notes = tmp_path / "own"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [path.read_bytes().count(b"\n") for path in notes.rglob(".model.safetensors.nextn-extents")]
        if found and found[0] >= 4:  # what it is, the header in two steps, and a first part of the block
            break
        time.sleep(0.02)
    killed.kill()
    assert killed.wait(timeout=20) == -9
    whole = 1_968_896
    left = run()["moved"]
    assert 0 < left < whole
    assert run()["moved"] == 0
