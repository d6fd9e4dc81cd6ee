"""What cache shows and clears."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import HubServer

import nextn
from conftest import CHECKPOINT


@pytest.mark.slow
def test_shown_and_cleared(
    hub: HubServer,
    run_nextn: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    assert run_nextn("inspect", "org/tiny").returncode == 0
    folder = tmp_path / "own"
    monkeypatch.setenv("NEXTN_CACHE", str(folder))
    (entry,) = nextn.cache().entries
    assert entry.name.startswith("hf:org/tiny@") and entry.size_bytes > 0
    assert nextn.cache(["org/other"]).entries == ()
    said = run_nextn("cache")
    assert entry.name in said.stdout and f"in {folder}; 'nextn cache --clear' removes it" in said.stderr
    data = json.loads(run_nextn("cache", "--json").stdout)
    assert (data["kind"], data["folder"], data["freed_bytes"]) == ("cache", str(folder), 0)
    assert data["entries"][0]["used"].endswith("Z") and data["entries"][0]["path"] == entry.path
    done = nextn.cache(["org/tiny"], clear=True)
    assert (done.entries, done.freed_bytes) == ((), entry.size_bytes)
    assert run_nextn("cache", "org/tiny").stderr == f"nothing is kept in {folder} of that name\n"
