"""What extract says: the block's file, runnable or not."""

from __future__ import annotations

from pathlib import Path

import pytest

import nextn
from conftest import CHECKPOINT
from nextn.cli import main
from nextn.gguf.files import open_model


def test_a_sidecar_and_the_block_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(CHECKPOINT), "-o", str(tmp_path / "mtp-a.gguf")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mtp-a.gguf'}\n"
    assert main(["extract", str(CHECKPOINT), "--block-only", "-o", str(tmp_path / "b.gguf"), "-q"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'b.gguf'}\n", "")
    sidecar, block = open_model(tmp_path / "mtp-a.gguf"), open_model(tmp_path / "b.gguf")
    assert "token_embd.weight" in sidecar.tensors and "token_embd.weight" not in block.tensors
    assert block.size_bytes < sidecar.size_bytes


def test_the_document_says_which(tmp_path: Path) -> None:
    made = [nextn.extract(CHECKPOINT, block_only=only, out=tmp_path / f"mtp-{only}.gguf") for only in (False, True)]
    assert [result.to_json()["layout"] for result in made] == ["sidecar", "donor"]
    assert {result.to_json()["kind"] for result in made} == {"extract"}
