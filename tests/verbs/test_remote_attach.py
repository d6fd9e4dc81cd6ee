"""The whole way from a repository to an attached block, with bytes counted on the server's side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import running
from runs import attach

import nextn
from conftest import CHECKPOINT, Q4

REPO = "org/tiny"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["bundle", "sidecar"])
def test_a_block_from_a_repository_equals_the_local_one(layout: str, tmp_path: Path) -> None:
    local = nextn.attach(Q4, CHECKPOINT, layout=layout, out=tmp_path / "local")
    assert local.outcome is not None
    with running() as hub:
        commit = hub.add_folder(REPO, CHECKPOINT)
        args = ("attach", Q4, "--from", REPO, "--layout", layout, "--json", "-o")
        dry = attach(hub.endpoint, tmp_path, *args, tmp_path / "dry", "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert not (tmp_path / "dry").exists()
        assert any("bytes to fetch from" in note for note in json.loads(dry.stdout)["notes"])
        done = attach(hub.endpoint, tmp_path, *args, tmp_path / "one")
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        assert data["tensor_sha256"] == local.outcome.hashes
        header = nextn.inspect(data["sidecar"] or data["entry"]).model.header
        assert header.get("nextn.donor_revision") == commit and REPO in header.get("nextn.donor")
        block_bytes = 1_968_896
        assert hub.file_bytes() < 1.02 * block_bytes + 2 * 65_536 + 200_000  # headers, config, tokenizer
        hub.reset()
        again = attach(hub.endpoint, tmp_path, *args, tmp_path / "two")
        assert again.returncode == 0 and hub.file_bytes() == 0


def test_a_repository_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with running() as hub:
        done = attach(hub.endpoint, tmp_path, "attach", Q4, "--from", "org/none", "-o", tmp_path / "out")
    assert done.returncode == 23 and done.stderr.count("\n") == 1 and "org/none" in done.stderr
    assert not (tmp_path / "out").exists()
