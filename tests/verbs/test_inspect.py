"""What inspect says: one fact per line, and its document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT
from nextn.cli import main
from nextn.errors import EXIT_PROBLEMS

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "inspect.json").read_text())


def test_its_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "b.gguf").entry
    for path, shape, n_nextn in ((Q4, "trunk-only", 0), (bundled, "bundled", 1), (CHECKPOINT, "checkpoint", 1)):
        assert main(["inspect", str(path), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        validate(data, SCHEMA)
        assert (data["shape"], data["n_layer_trunk"], data["n_layer_nextn"]) == (shape, 4, n_nextn)
    assert nextn.inspect(bundled).to_json()["provenance"]["donor"] == CHECKPOINT.name


def test_counts_agree_with_their_nouns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="shards", out=tmp_path)
    assert main(["inspect", str(made.entry)]) == 0
    assert " in 2 shards, 70 tensors\n" in capsys.readouterr().out
    assert main(["inspect", str(Q4)]) == 0
    assert " in 1 file, 55 tensors\n" in capsys.readouterr().out


def test_a_set_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="shards", out=tmp_path)
    next(path for path in made.files if path != made.entry).unlink()
    assert main(["inspect", str(made.entry)]) == EXIT_PROBLEMS
    assert "problem" in capsys.readouterr().out
